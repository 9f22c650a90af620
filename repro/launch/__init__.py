"""Launchers: one small interface. A launcher trains the runs whose folders it is given and tells what happens.

It takes folders that hold a `config.yaml`, in the order in which they are to be started, and returns when each has an
outcome or has failed for good, whoever trained it. What comes out is read from disk; nothing is handed back in memory.
Every process that trains a run takes the run's lock first, so that any number of launchers may work at one study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from repro.launch.config import LauncherConfig


@dataclass(frozen=True)
class Task:
    """A run to train: its folder and what it needs."""

    directory: Path
    label: str
    row: str
    """What runs of the same size have in common: the variant."""
    nodes: int
    devices: int
    """On each node."""
    threads: int
    """Of each device's process, its loader's workers not counted."""
    workers: int
    accelerator: str

    @property
    def world(self) -> int:
        """Processes of the run."""
        return self.nodes * self.devices


class Watch(Protocol):
    """Who is told what happens; the progress display is one."""

    def started(self, task: Task) -> None:
        """Called when a run is started, also when it is started again."""

    def tick(self, running: Sequence[Task]) -> None:
        """Called about twice a second while runs are being trained."""

    def ended(self, task: Task) -> None:
        """Called once, when a run has an outcome or has failed for good."""

    def told(self, text: str) -> None:
        """Called with a line for the user: a run is begun again, a job was submitted."""


class Launcher(Protocol):
    """Trains runs somewhere."""

    def width(self, tasks: Sequence[Task]) -> int:
        """How many of these go side by side; for the estimate of the time that is left."""

    def launch(self, tasks: Sequence[Task], watch: Watch) -> None:
        """Train every task; one that fails is named on disk and the others go on.

        Raises:
            InputError: the launcher cannot be used here, before anything is started.
            KeyboardInterrupt: after the running runs were asked to save themselves and have ended.
        """


def build(settings: LauncherConfig) -> Launcher:
    """Make the launcher that was chosen."""
    if settings.name == "slurm":
        from repro.launch.slurm import SlurmLauncher

        return SlurmLauncher(settings)
    if settings.name == "ray":
        from repro.launch.ray import RayLauncher

        return RayLauncher(settings)
    from repro.launch.local import LocalLauncher

    return LocalLauncher(settings)
