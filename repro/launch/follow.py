"""Runs that another process trains: looked at now and then, until it has ended. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable

from repro import folder
from repro.launch import Task

POLL = 1.0  # seconds between two looks
LAZINESS = 10.0  # times as long as a look takes; on a slow file system that is longer


class Followed:
    """What other launchers train of our tasks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._tasks: list[Task] = []
        self._clock = clock
        self._next = 0.0

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def add(self, task: Task) -> None:
        """Follow a run that another process trains, for a second at least."""
        self._tasks.append(task)
        self._next = max(self._next, self._clock() + POLL)

    def released(self) -> list[Task]:
        """Return, at most every second, the runs that nobody trains any more, and follow them no longer."""
        now = self._clock()
        if not self._tasks or now < self._next:
            return []
        alive = [folder.is_alive(task.directory) for task in self._tasks]
        released = [task for task, lives in zip(self._tasks, alive, strict=True) if not lives]
        self._tasks = [task for task, lives in zip(self._tasks, alive, strict=True) if lives]
        self._next = self._clock() + max(POLL, LAZINESS * (self._clock() - now))
        return released
