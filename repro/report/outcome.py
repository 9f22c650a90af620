"""What one run contributes to a page: its value where it finished, else why there is none. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from repro.results import Result

RunStatus = Literal["finished", "diverged", "failed", "missing"]
STATUSES: tuple[RunStatus, ...] = ("finished", "diverged", "failed", "missing")


@dataclass(frozen=True)
class Outcome:
    """One variant at one seed. Only a finished run has a value; `best` is on the validation split, `train` on train."""

    seed: int
    status: RunStatus
    value: float | None = None
    best: float | None = None
    train: float | None = None
    message: str = ""


def outcome(seed: int, result: Result | None, metric: str) -> Outcome:
    """Read a run's value of `metric` (for example top1_error): the test split after the last epoch.

    A run that says it finished without a finite value is shown as failed; it never enters a mean.
    """
    if result is None:
        return Outcome(seed, "missing", message="no result yet")
    if result.status != "finished":
        return Outcome(seed, result.status, message=_reason(result))
    value = _finite(result.last.get(f"test_{metric}"))
    if value is None:
        return Outcome(seed, "failed", message=f"the result has no finite test_{metric}")
    best, train = result.best.get(f"val_{metric}"), result.last.get(f"train_{metric}")
    return Outcome(seed, "finished", value, _finite(best), _finite(train))


def _reason(result: Result) -> str:
    if result.failure is None:
        return "no reason recorded"
    kind, message = result.failure.kind.replace("_", " "), result.failure.message
    known = kind.lower() in message.lower()
    return message if known else f"{kind}: {message}".removesuffix(": ")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
