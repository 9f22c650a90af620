"""What one run contributes to a page: its value where it finished, else why there is none. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
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

    A run records errors (%); an accuracy is 100 - error wherever it is read. A run that says it finished without a
    finite value is shown as failed; it never enters a mean.
    """
    if result is None:
        return Outcome(seed, "missing", message="no result yet")
    if result.status != "finished":
        return Outcome(seed, result.status, message=_reason(result))
    value = _read(result.last, "test", metric)
    if value is None:
        return Outcome(seed, "failed", message=f"the result has no finite test_{recorded(metric)}")
    return Outcome(seed, "finished", value, _read(result.best, "val", metric), _read(result.last, "train", metric))


def recorded(metric: str) -> str:
    """Return the error that a run records for `metric`: top1_error for top1_accuracy, an error for itself."""
    return metric.replace("accuracy", "error")


def as_metric(error: float, metric: str) -> float:
    """Turn a recorded error (%) into `metric`: 100 - error for an accuracy."""
    return error if recorded(metric) == metric else 100.0 - error


def _read(metrics: Mapping[str, float], split: str, metric: str) -> float | None:
    error = metrics.get(f"{split}_{recorded(metric)}")
    return None if error is None or not math.isfinite(error) else as_metric(error, metric)


def _reason(result: Result) -> str:
    if result.failure is None:
        return "no reason recorded"
    kind, message = result.failure.kind.replace("_", " "), result.failure.message
    known = kind.lower() in message.lower()
    return message if known else f"{kind}: {message}".removesuffix(": ")
