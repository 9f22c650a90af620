"""Runs as one array job of a SLURM cluster, through submitit. What is light to import: `repro status` asks the queue.

Ctrl-C stops only the following: the jobs stay in the queue, the same command follows them again, `repro cancel` takes
them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from repro.launch.config import SlurmConfig

if TYPE_CHECKING:
    from repro.launch import Task, Watch


class SlurmLauncher:
    """Runs on a SLURM cluster whose nodes see the folder of runs."""

    def __init__(self, settings: SlurmConfig) -> None:
        self.settings = settings

    def width(self, tasks: Sequence[Task]) -> int:
        """How many of these go side by side at most; the cluster decides."""
        return min(len(tasks), self.settings.array_parallelism)

    def launch(self, tasks: Sequence[Task], watch: Watch) -> None:
        """Submit the runs of one study that are not in the queue, and follow them all unless detached.

        Raises:
            InputError: no SLURM here, an unknown partition, or sbatch refuses; a run that was submitted stays so.
            KeyboardInterrupt: the following was stopped; the jobs go on.
        """
        from repro.launch.slurm import submit
        from repro.launch.slurm.follow import Follower, jobs

        if not tasks:
            return
        submit.check(self.settings)
        follower = Follower(tasks[0].directory.parents[1], tasks, self.settings, watch)
        follower.begin()
        names = jobs(entry.element for entry in follower.open)
        if self.settings.detach:
            watch.told(
                f"detached from job {names}: `repro status` follows it, `repro cancel` takes it out of the queue"
            )
            return
        try:
            follower.follow()
        except KeyboardInterrupt:
            names = jobs(entry.element for entry in follower.open)
            watch.told(f"job {names} goes on: the same command follows it again, `repro cancel` takes it out")
            raise
