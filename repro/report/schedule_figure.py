"""The figure of a recipe: its learning rate against epochs. Draws on matplotlib's objects; knows no recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from repro.optim.schedules import Schedule
from repro.report.drawing import DPI, house_style, write_figure
from repro.report.format import label
from repro.report.palette import HUES
from repro.report.schedule_trace import is_logarithmic, milestones

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 6.0, 3.2  # inches
SAMPLES = 4000
TITLE_WIDTH = 80  # characters of a line


def draw_schedule(schedule: Schedule, steps_per_epoch: int, path: Path, title: str, subtitle: str) -> None:
    """Write the figure as PNG, SVG or PDF, by the suffix; an older file stays whole until the new one is.

    Args:
        schedule: of the whole run.
        steps_per_epoch: optimiser steps of one epoch.
        path: where it is written; its folder must exist. OSError is raised where it cannot be.
        title: names the recipe.
        subtitle: says what the schedule is; two lines at most are shown.
    """
    with house_style():
        write_figure(make_figure(schedule, steps_per_epoch, title, subtitle), path)


def make_figure(schedule: Schedule, steps_per_epoch: int, title: str, subtitle: str) -> Figure:
    """Draw the rate of every step that matters; a schedule that multiplies has a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    steps = _sampled(schedule)
    rates = [schedule(step) for step in steps]
    axes.plot([step / steps_per_epoch for step in steps], rates, color=HUES[0])
    if schedule.warmup:
        axes.axvspan(0, schedule.warmup / steps_per_epoch, color=HUES[0], alpha=0.12, linewidth=0, label="warm-up")
        axes.legend(frameon=False, loc="upper right")
    _scale(axes, schedule, rates)
    axes.set_xlim(0, schedule.total / steps_per_epoch)
    axes.set_xlabel("epoch")
    axes.set_ylabel("learning rate")
    axes.grid(color="#eeeeee")
    axes.set_title(f"{label(title, TITLE_WIDTH)}\n{label(subtitle, TITLE_WIDTH)}", fontsize=10)
    return figure


def _sampled(schedule: Schedule) -> list[int]:
    """Choose steps evenly, and both sides of everything that jumps."""
    last = schedule.total - 1
    even = {round(index * last / SAMPLES) for index in range(SAMPLES + 1)}
    jumps = {step + side for step in (schedule.warmup, *milestones(schedule)) for side in (-1, 0)}
    return sorted(step for step in even | jumps if 0 <= step <= last)


def _scale(axes: Axes, schedule: Schedule, rates: list[float]) -> None:
    """A warm-up from zero does not stretch a logarithmic axis: it begins below the lowest rate after it."""
    if not is_logarithmic(schedule):
        axes.set_ylim(0, 1.06 * max(rates))
        return
    axes.set_yscale("log")
    lowest = min(schedule(step) for step in _sampled(schedule) if step >= schedule.warmup)
    axes.set_ylim(lowest / 1.5, 1.5 * max(rates))
