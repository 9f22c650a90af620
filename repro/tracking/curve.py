"""The rows of a run's metrics.csv as a tracker takes them: numbers by name, at the optimiser step. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from repro.report.curves import read_curve

Row = tuple[int, dict[str, float]]
"""Optimiser step and metrics."""


def rows(directory: Path) -> Iterator[Row]:
    """Yield the epochs that were written down, oldest first; none where there is no curve that can be read."""
    curve = read_curve(directory)
    if curve is None or "step" not in curve.columns:
        return
    for index, epoch in enumerate(curve.epoch):
        values = {name: column[index] for name, column in curve.columns.items() if name != "step"}
        known = {name: value for name, value in values.items() if value == value}  # an empty cell was not measured
        yield int(curve.columns["step"][index]), {"epoch": epoch, **known}


def last_step(directory: Path) -> int:
    """Return the optimiser step of the newest epoch; 0 before the first."""
    return max((step for step, _ in rows(directory)), default=0)
