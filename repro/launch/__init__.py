"""Launchers: one small interface. A launcher trains the runs whose folders it is given and tells what happens.

A launcher is a function `launch(tasks, watch)`. It takes folders that hold a `config.yaml`, in the order in which they
are to be started, and returns when each has a `result.json` or was left out because another process trains it. What
comes out is read from disk; nothing is handed back in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Task:
    """A run to train: its folder and what it needs."""

    directory: Path
    label: str
    devices: int
    threads: int
    accelerator: str


class Watch(Protocol):
    """Who is told what happens; the progress display is one."""

    def started(self, task: Task) -> None:
        """Called when a run is started."""

    def tick(self, running: Sequence[Task]) -> None:
        """Called about twice a second while runs are being trained."""

    def ended(self, task: Task) -> None:
        """Called when a run has left its last state on disk."""
