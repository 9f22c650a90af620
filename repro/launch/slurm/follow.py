"""The runs of a study on their way through the queue: submitted, followed by what is on disk, submitted again.

A run is over when its folder says so. The queue is asked for what the folder cannot say: whether the run's turn is
still to come, and what became of a job that has left without an outcome.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro import attempts, folder
from repro.errors import InputError
from repro.launch import Task, Watch
from repro.launch.config import SlurmConfig
from repro.launch.retry import Retries
from repro.launch.slurm import ending, queue, record
from repro.launch.slurm.commands import SilentError
from repro.launch.slurm.queue import Element
from repro.launch.slurm.submit import Size, submit
from repro.results import FILE, Failure

TICK = 0.5  # seconds between two pictures of the progress
LATE = 6  # looks after which an element that is not in the queue is believed to be gone, whatever the accounts say

BUSY = f"{folder.BUSY}:0"


@dataclass
class Entry:
    """A run that has no outcome yet, and the element that is to train it."""

    task: Task
    element: str = ""
    seen: Element | None = None
    """What the queue said of the element when it was last there; None before the first look."""
    missed: int = 0
    started: bool = False

    @property
    def directory(self) -> Path:
        """The run's folder."""
        return self.task.directory

    def take(self, element: str, seen: Element | None = None) -> None:
        """Follow that element from here on."""
        self.element, self.seen, self.missed = element, seen, 0


class Follower:
    """Follows runs until each has an outcome or has failed for good."""

    def __init__(self, study: Path, tasks: Sequence[Task], settings: SlurmConfig, watch: Watch) -> None:
        self.study = study
        self.settings = settings
        self.watch = watch
        self.open = [Entry(task) for task in tasks]
        self.queue: dict[str, Element] = {}
        self._answers = True
        self._told: set[tuple[str, str]] = set()

    def begin(self) -> None:
        """Find the runs that are in the queue already, name what happened to those that were, submit the others.

        Raises:
            InputError: the controller does not answer, or sbatch refuses a job.
        """
        try:
            with record.submitting(self.study):
                record.recover(self.study)
                self._recall()
                self._submit([entry for entry in self.open if not entry.element])
        except SilentError as error:
            raise InputError(f"SLURM's controller does not answer ({error}); nothing was submitted") from None

    def _recall(self) -> None:
        """Give every run its element that is still live; a run that was lost since is named before it is counted."""
        known = record.newest(self.study)
        found = queue.look(known.values())
        followed: dict[str, int] = {}
        for entry in self.open:
            name = known.get(entry.directory, "")
            if name in found and found[name].live:
                entry.take(name, found[name])
                job = name.partition("_")[0]
                followed[job] = followed.get(job, 0) + 1
            elif name:
                self._name_lost(entry, name)
        self.retries = Retries([entry.directory for entry in self.open], self.settings.retries)
        for job, count in followed.items():
            self.watch.told(f"{_runs(count)} in job {job} already; followed")

    def _name_lost(self, entry: Entry, name: str) -> None:
        history = attempts.read(entry.directory)
        if history and history[-1].job == name and history[-1].end is None and not folder.is_alive(entry.directory):
            why = ending.cause(name, queue.ended(name), waited=False)
            self._write_down(entry, name, why)
            self.watch.told(f"{entry.task.label}: {why.message}")

    def _submit(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        by_directory = {entry.directory: entry for entry in entries}
        allowed = {entry.directory: self._limit(entry.directory) for entry in entries}
        for size, done in submit(self.study, [entry.task for entry in entries], allowed, self.settings):
            for run, element in done.elements.items():
                by_directory[self.study / run].take(element)
            self.watch.told(f"submitted job {done.job}: {_runs(len(done.runs))}{_size(size)}")

    def _limit(self, directory: Path) -> int:
        """Failures that may stand on the run's record before its job is queued no more."""
        written = attempts.failures(attempts.read(directory))
        return written + self.settings.retries - self.retries.used(directory)

    def again(self, entries: Sequence[Entry]) -> None:
        """Submit runs again, except those that another launcher has submitted meanwhile."""
        if not entries:
            return
        with record.submitting(self.study):
            newest = record.newest(self.study)
            found = queue.look({newest[entry.directory] for entry in entries} - {entry.element for entry in entries})
            mine = []
            for entry in entries:
                element = found.get(newest[entry.directory])
                if element is not None and element.live:
                    entry.take(element.name, element)
                else:
                    mine.append(entry)
            self._submit(mine)

    def follow(self) -> None:
        """Look at the queue and the folders every `poll` seconds until nothing is open."""
        waiting: list[Entry] = []
        while self.open:
            self._look()
            waiting += [entry for entry in self.open if entry not in waiting and self._is_to_be_submitted(entry)]
            if waiting and self._answers:
                waiting = self._try_again(waiting)
            if self.open:
                self._wait()

    def _try_again(self, entries: list[Entry]) -> list[Entry]:
        try:
            self.again(entries)
        except SilentError as error:
            self._silent(error)
            return entries
        return []

    def _look(self) -> None:
        try:
            self.queue = queue.look(entry.element for entry in self.open)
        except SilentError as error:
            self._silent(error)
            return
        if not self._answers:
            self.watch.told("SLURM's controller answers again")
        self._answers = True

    def _silent(self, error: SilentError) -> None:
        if self._answers:
            self.watch.told(f"SLURM's controller does not answer ({error}); the jobs may be well, asking on")
        self._answers = False

    def _is_to_be_submitted(self, entry: Entry) -> bool:
        """See how a run stands; true when its job is gone and it is to be submitted again."""
        now = self.queue.get(entry.element) if self._answers else entry.seen
        if now is not None and now.live:
            entry.seen, entry.missed = now, 0
            self._tell_why_held(entry, now)
            if now.waiting and not (entry.directory / FILE).exists():
                return False
        standing = folder.standing(entry.directory)
        if standing.state == "running" or (now is not None and now.live and not now.waiting):
            self._start(entry)
        if standing.state in folder.DONE:
            self._end(entry)
            return False
        if not self._answers or standing.state == "running" or (now is not None and now.live):
            return False
        return self._settle(entry)

    def _settle(self, entry: Entry) -> bool:
        """Name why the run has no outcome, its job being gone; true when it is to be submitted again."""
        try:
            element = queue.ended(entry.element)
        except SilentError as error:
            self._silent(error)
            return False
        entry.missed += 1
        unknown = element is None and entry.seen is None
        if entry.missed < LATE and (unknown or (element is not None and element.live)):
            return False  # the queue, or the accounts, are behind
        os.listdir(entry.directory)  # a network file system then asks its server again for what was not there
        standing = folder.standing(entry.directory)
        if standing.state in (*folder.DONE, "running"):
            return False  # seen in the next look
        return self._judge(entry, standing, element)

    def _judge(self, entry: Entry, standing: folder.Standing, element: Element | None) -> bool:
        last = standing.attempts[-1] if standing.attempts else None
        own = last is not None and last.job == entry.element
        waited = (entry.seen is None or entry.seen.waiting) and not own  # sbatch has answered: it was in the queue
        why = ending.cause(entry.element, element, waited)
        if standing.state == "planned" and own:
            return self._judge_saved(entry, why)
        if element is not None and element.exit == BUSY and not own:
            return True  # it left the run to another process, which is gone without an outcome
        if not (own and last is not None and last.ended):
            self._write_down(entry, entry.element, why)
        elif standing.failure is not None:
            why = standing.failure
        return self._retry(entry, why)

    def _judge_saved(self, entry: Entry, why: Failure) -> bool:
        """A run that saved itself goes on in a new job, unless its job was cancelled."""
        if why.kind == "cancelled":
            self.watch.told(f"{entry.task.label}: {why.message}; it saved itself and can go on with the next repro run")
            self._end(entry)
            return False
        if self.retries.left(entry.directory):
            self.watch.told(f"{entry.task.label}: saved itself and ended; submitted again")
            return True
        self._write_down(entry, entry.element, why)
        self._end(entry)
        return False

    def _retry(self, entry: Entry, why: Failure) -> bool:
        self.retries.note(entry.directory)
        if why.kind == "cancelled" or not self.retries.left(entry.directory):
            self._end(entry)
            return False
        count = f"{self.retries.used(entry.directory)} of {self.settings.retries}"
        self.watch.told(f"{entry.task.label}: {why.message}; submitted again ({count})")
        return True

    def _write_down(self, entry: Entry, name: str, why: Failure) -> None:
        history = attempts.read(entry.directory)
        began = bool(history) and history[-1].job == name and history[-1].end in (None, "interrupted")
        try:
            ending.write_down(entry.directory, name, why, began=began)
        except folder.AlreadyRunningError:
            return
        except OSError as error:
            self.watch.told(f"{entry.directory}: cannot be written ({error.strerror})")

    def _start(self, entry: Entry) -> None:
        if not entry.started:
            entry.started = True
            self.watch.started(entry.task)

    def _end(self, entry: Entry) -> None:
        self._start(entry)
        self.open.remove(entry)
        self.watch.ended(entry.task)

    def _tell_why_held(self, entry: Entry, element: Element) -> None:
        job = element.name.partition("_")[0]
        if not element.waiting or (job, element.reason) in self._told:
            return
        if any(element.reason.startswith(reason) for reason in queue.HELD):
            self._told.add((job, element.reason))
            self.watch.told(
                f"job {job} will not start by itself ({element.reason}): `scontrol show job {job}` says more, "
                "`repro cancel` takes it out of the queue"
            )

    def _wait(self) -> None:
        running = [entry.task for entry in self.open if entry.started]
        ticks = max(1, math.ceil(self.settings.poll / TICK))
        for _ in range(ticks):
            self.watch.tick(running)
            time.sleep(self.settings.poll / ticks)


def jobs(elements: Iterable[str]) -> str:
    """Name the jobs of elements."""
    return ", ".join(dict.fromkeys(name.partition("_")[0] for name in elements if name))


def _runs(count: int) -> str:
    return f"{count} run{'s' if count != 1 else ''}"


def _size(size: Size) -> str:
    """Say what each run of a job asks for, where it is more than one task."""
    if size.nodes * size.devices == 1:
        return ""
    return (
        f" of {size.nodes} node{'s' if size.nodes > 1 else ''} × {size.devices} task{'s' if size.devices > 1 else ''}"
    )
