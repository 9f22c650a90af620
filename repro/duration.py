"""Lengths of time in training: epochs, steps, examples or a percentage of the run, as one value."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from repro.errors import InputError

Unit = Literal["ep", "st", "ex", "%"]

_PATTERN = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([a-z%]+)\s*$")
_UNITS: dict[str, Unit] = {
    "ep": "ep", "epoch": "ep", "epochs": "ep",
    "st": "st", "step": "st", "steps": "st",
    "ex": "ex", "example": "ex", "examples": "ex",
    "%": "%",
}  # fmt: skip


@dataclass(frozen=True)
class Duration:
    """A number with its unit; written `15ep`, `64000st`, `50000ex`, or `50%` of the run."""

    value: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read `15ep`, `15 epochs`, `400st`, `50000ex` or `50%`. Raises InputError for anything else."""
        match = _PATTERN.match(text.lower())
        unit = _UNITS.get(match.group(2)) if match else None
        if match is None or unit is None:
            raise InputError(f"{text!r} is not a duration; write 15ep, 64000st, 50000ex or 50%")
        return cls(float(match.group(1)), unit)

    def steps(self, steps_per_epoch: int, batch_size: int, total: int | None = None) -> int:
        """Convert to optimiser steps; a percentage needs `total`, the run's steps."""
        if self.unit == "%":
            if total is None:
                raise InputError("the length of a run cannot be a percentage of itself; write 15ep or 64000st")
            return round(self.value / 100 * total)
        per_unit = {"ep": float(steps_per_epoch), "st": 1.0, "ex": 1 / batch_size}[self.unit]
        return math.ceil(self.value * per_unit - 1e-9)

    def __str__(self) -> str:
        return f"{self.value:g}{self.unit}"
