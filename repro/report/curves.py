"""Learning curves: read a run's metrics.csv back. The only reader of files in this package; no torch."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = "metrics.csv"


@dataclass(frozen=True)
class Curve:
    """One run by epoch: `columns[name][i]` belongs to `epoch[i]`; an empty cell is NaN."""

    epoch: tuple[float, ...]
    columns: Mapping[str, tuple[float, ...]]


def read_curve(run_dir: Path) -> Curve | None:
    """Read a run's curve, one row per epoch (the last one where a resumed run wrote an epoch twice).

    None when the file is missing, empty or broken: a figure without one curve is better than no figure.
    """
    try:
        with (run_dir / FILE).open(newline="", encoding="utf-8") as file:
            rows = [_numbers(row) for row in csv.DictReader(file, strict=True)]
        by_epoch = {row["epoch"]: row for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, TypeError, KeyError, AttributeError):
        return None
    epochs = tuple(sorted(by_epoch))
    names = [name for name in rows[0] if name != "epoch"] if rows else []
    return Curve(epochs, {name: tuple(by_epoch[epoch][name] for epoch in epochs) for name in names}) if rows else None


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    """Convert a row's cells; a row that was cut short has None for a cell and raises."""
    return {name: float(cell.strip() or "nan") for name, cell in row.items()}
