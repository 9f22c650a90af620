"""A learning-rate schedule at the steps that tell its shape, and as one line of blocks. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from repro.optim.schedules import Schedule

BLOCKS = "▁▂▃▄▅▆▇█"
_QUARTERS = {1: "1/4", 2: "1/2", 3: "3/4"}


@dataclass(frozen=True)
class Point:
    """The learning rate of one optimiser step (from 0 on; `epoch` is that step's), and why it is shown."""

    step: int
    epoch: float
    lr: float
    at: str


def trace(schedule: Schedule, steps_per_epoch: int) -> list[Point]:
    """Return start, end of the warm-up, both sides of each milestone, the quarters of the run and its last step."""
    marks: dict[int, list[str]] = {}
    for step, why in _marks(schedule):
        if 0 <= step < schedule.total and why not in marks.setdefault(step, []):
            marks[step].append(why)
    return [Point(step, step / steps_per_epoch, schedule(step), ", ".join(marks[step])) for step in sorted(marks)]


def _marks(schedule: Schedule) -> list[tuple[int, str]]:
    found = [(0, "start")]
    if schedule.warmup:
        constant = schedule.config.warmup_shape == "constant"
        found += [(schedule.warmup - 1, "last of the warm-up")] if constant else []
        found += [(schedule.warmup, "end of the warm-up")]
    for index, milestone in enumerate(milestones(schedule), start=1):
        found += [(milestone - 1, f"before milestone {index}"), (milestone, f"milestone {index}")]
    found += [(round(schedule.total * part / 4), name) for part, name in _QUARTERS.items()]
    return [*found, (schedule.total - 1, "last step")]


def milestones(schedule: Schedule) -> tuple[int, ...]:
    """Return the steps at which the schedule really changes; only a stepwise one has any."""
    return schedule.milestones if schedule.config.name == "step" else ()


def is_logarithmic(schedule: Schedule) -> bool:
    """Whether the schedule multiplies, so that only a logarithmic axis shows all of it."""
    return schedule.config.name in ("step", "exponential")


def sparkline(schedule: Schedule, width: int = 60) -> str:
    """Draw the run as `width` blocks, each the rate in the middle of its part; the axis as `is_logarithmic` says."""
    rates = [schedule(int((index + 0.5) * schedule.total / width)) for index in range(width)]
    if not is_logarithmic(schedule):
        return _blocks(rates, 0.0, max(rates))
    positive = [math.log(rate) for rate in rates if rate > 0]
    logs = [math.log(rate) if rate > 0 else min(positive) for rate in rates]
    return _blocks(logs, min(positive), max(positive))


def _blocks(heights: Sequence[float], low: float, high: float) -> str:
    top = len(BLOCKS) - 1
    return "".join(BLOCKS[round(top * (height - low) / (high - low)) if high > low else top] for height in heights)
