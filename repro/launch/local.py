"""Runs as processes of this machine: forked from a warmed server, as many side by side as they fit."""

from __future__ import annotations

import math
import multiprocessing.connection
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from repro import environment, folder
from repro.errors import InputError
from repro.launch import Task, Watch, ending, gpus, slots
from repro.launch.config import LocalConfig
from repro.launch.follow import Followed
from repro.launch.gpus import Gpu
from repro.launch.retry import Retries
from repro.launch.server import call, start, warm_up
from repro.launch.slots import Claim, Machine, Place
from repro.launch.stop import Stop, heeded
from repro.launch.worker import Order, Train, train_folder, work
from repro.record import now
from repro.results import Failure, FailureKind, Result

__all__ = ["GRACE", "LocalLauncher", "call", "warm_up"]

TICK = 0.5  # seconds between two looks at the runs
GRACE = 30.0  # seconds that a run has to save itself before it is killed

_LOST = 255  # what multiprocessing says of a process whose fork server has died; it may still run

_HAPPENED: dict[FailureKind, str] = {
    "crash": "crashed", "killed": "was killed", "out_of_memory": "ran out of memory", "timeout": "was ended",
    "nan": "diverged", "cancelled": "was cancelled", "node_lost": "lost its node",
}  # fmt: skip


class LocalLauncher:
    """Runs on this machine. `train` is what each run's process calls with its folder."""

    def __init__(self, settings: LocalConfig, train: Train = train_folder) -> None:
        self.settings = settings
        self.train = train
        self._gpus: tuple[Gpu, ...] | None = None

    def width(self, tasks: Sequence[Task]) -> int:
        """How many of these go side by side."""
        machine = self._machine(tasks)
        return slots.width([gpus.claim(task, self.settings) for task in tasks], machine)

    def launch(self, tasks: Sequence[Task], watch: Watch) -> None:
        """Train every task."""
        if not tasks:
            return
        machine = self._machine(tasks)
        with heeded() as stop:
            _Shift(self, machine, self._gpus or (), tasks).work(stop, watch)

    def _machine(self, tasks: Sequence[Task]) -> Machine:
        """What there is to share out. Raises InputError where it is not enough for some run."""
        if self._gpus is None:
            on_gpus = any(task.accelerator == "gpu" for task in tasks)
            self._gpus = gpus.find(self.settings) if on_gpus else ()
        gpus.check(tasks, self.settings, self._gpus)
        return Machine(environment.cores(), len(self._gpus), self.settings.parallel)


@dataclass
class _Running:
    """A run's process, and what must be known of it when it ends."""

    process: ForkServerProcess
    task: Task
    place: Place
    deadline: float
    """When it is asked to end for its time limit and, once it was asked, when it is killed."""
    stamp: ending.Stamp
    kills: int | None
    began: str = field(default_factory=now)
    late: bool = False

    def ask(self) -> None:
        """Ask the run to save itself and end."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, signal.SIGTERM)

    def kill(self) -> None:
        """End the process with all that it started."""
        for end in (os.killpg, os.kill):  # it leads no group yet when it was only just started
            with suppress(ProcessLookupError):
                end(self.process.pid or 0, signal.SIGKILL)

    def status(self) -> int:
        """Return the exit status of a process that has ended, once nothing is left of what it started."""
        self.process.join()
        status = self.process.exitcode or 0
        if status != _LOST:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid or 0, signal.SIGKILL)  # a loader's worker would go on holding the lock
        return status


class _Shift:
    """The work of one launch: runs wait, run, are followed where another launcher trains them, and end."""

    def __init__(self, launcher: LocalLauncher, machine: Machine, found: Sequence[Gpu], tasks: Sequence[Task]) -> None:
        self.settings, self.train = launcher.settings, launcher.train
        self.machine, self.gpus = machine, found
        self.total = len(tasks)
        self.waiting = deque(tasks)
        self.running: dict[int, _Running] = {}
        self.followed = Followed()
        self.retries = Retries([task.directory for task in tasks], self.settings.retries)
        self.peaks: dict[str, int] = {}
        """Most bytes of a GPU that a run of a row was measured to need."""
        self.alone: set[Path] = set()
        """Runs that ran out of memory beside others."""

    def work(self, stop: Stop, watch: Watch) -> None:
        """Train until every run has ended, or a stop is wished for."""
        while (self.waiting or self.running or self.followed) and not stop.wanted:
            self._start_what_fits(watch)
            self._wait(watch, self._settle)
            self._end_the_late()
            self.waiting.extendleft(reversed(self.followed.released()))
        if stop.wanted and self.running:
            self._stop(stop, watch)

    def _wait(self, watch: Watch, end: Callable[[_Running, Watch], None]) -> None:
        ended = multiprocessing.connection.wait(list(self.running), timeout=TICK)
        watch.tick([run.task for run in self.running.values()])
        for sentinel in ended:
            assert isinstance(sentinel, int)
            end(self.running.pop(sentinel), watch)

    def _start_what_fits(self, watch: Watch) -> None:
        while self.waiting:
            task = self.waiting[0]
            found = slots.place(self._claim(task), self.machine, [run.place for run in self.running.values()])
            if found is None:
                return
            self.waiting.popleft()
            if not self._is_settled(task, watch):
                self._start(task, found, watch)

    def _is_settled(self, task: Task, watch: Watch) -> bool:
        """Whether there is nothing to start: another launcher has trained the run, or given it up, or trains it now."""
        if folder.is_alive(task.directory):
            self.followed.add(task)
        elif folder.outcome(task.directory) is not None or not self.retries.left(task.directory):
            watch.ended(task)
        else:
            return False
        return True

    def _claim(self, task: Task) -> Claim:
        own = gpus.claim(task, self.settings)
        peak = self.peaks.get(task.row)
        if task.directory in self.alone:
            return replace(own, share=1.0)
        return own if peak is None or own.gpus != 1 else gpus.packed(peak, own.cores, self.gpus)

    def _start(self, task: Task, place: Place, watch: Watch) -> None:
        directory = task.directory
        names = tuple(self.gpus[position].name for position in place.gpus) or None
        order = Order(directory, names, slots.is_shared(place.claim, self.machine, self.total))
        before = ending.stamp(directory), ending.memory_kills()
        watch.started(task)
        try:
            process = start(work, order, self.train)
        except OSError as error:
            failure = Failure(kind="crash", message=f"its process cannot be started ({error.strerror or error})")
            self._give_up_or_retry(task, failure, watch)
            return
        limit = (self.settings.timeout or math.inf) * 60
        self.running[process.sentinel] = _Running(process, task, place, time.monotonic() + limit, *before)

    def _settle(self, run: _Running, watch: Watch) -> None:
        """Read what came of a run whose process has ended, and decide what follows."""
        status, directory = run.status(), run.task.directory
        result = folder.outcome(directory)
        if result is not None:
            self._measure(run, result)
            watch.ended(run.task)
        elif status == folder.BUSY or folder.is_alive(directory):
            self.followed.add(run.task)
        elif status == folder.INTERRUPTED and not run.late and self.retries.left(directory):
            self.waiting.appendleft(run.task)
        else:
            self._fail(run, status, watch)

    def _measure(self, run: _Running, result: Result) -> None:
        """Learn from a run how many of its row a GPU holds."""
        peak = result.timing.peak_memory if result.timing else None
        if self.settings.pack and peak:
            self.peaks[run.task.row] = max(peak, self.peaks.get(run.task.row, 0))

    def _fail(self, run: _Running, status: int, watch: Watch) -> None:
        """Take what the run has written about its failure, or write it down for it."""
        task, directory = run.task, run.task.directory
        failure = None if run.late else ending.failure_since(directory, run.stamp)
        if failure is None:
            failure = ending.explain(directory, status, self.settings.timeout if run.late else None, run.kills)
            try:
                ending.write_down(directory, run.began, failure)
            except folder.AlreadyRunningError:
                self.followed.add(task)
                return
            except (InputError, OSError) as error:
                watch.told(f"{task.label}: its end cannot be written down ({error})")
        if failure.kind == "out_of_memory" and run.place.claim.share < 1:
            self.alone.add(directory)
            self.retries.excuse(directory)
        self._give_up_or_retry(task, failure, watch)

    def _give_up_or_retry(self, task: Task, failure: Failure, watch: Watch) -> None:
        self.retries.note(task.directory)
        if not self.retries.left(task.directory):
            watch.ended(task)
            return
        used = self.retries.used(task.directory)
        how = f"({used} of {self.retries.allowed})" if used else "alone"
        watch.told(f"{task.label} {_HAPPENED[failure.kind]}: {failure.message}; begun again {how}")
        self.waiting.appendleft(task)

    def _end_the_late(self) -> None:
        for run in self.running.values():
            if time.monotonic() < run.deadline:
                continue
            run.kill() if run.late else run.ask()
            run.late, run.deadline = True, time.monotonic() + GRACE

    def _stop(self, stop: Stop, watch: Watch) -> None:
        """Ask every run to save itself, and wait until it has."""
        count = len(self.running)
        watch.told(f"stopping: {count} run{'s' * (count > 1)} being saved; Ctrl-C again ends at once")
        for run in self.running.values():
            run.ask()
        deadline = time.monotonic() + GRACE
        while self.running:
            if stop.at_once or time.monotonic() > deadline:
                for run in self.running.values():
                    run.kill()
            self._wait(watch, self._let_go)

    def _let_go(self, run: _Running, watch: Watch) -> None:
        """Note how a run ended that was asked to."""
        status = run.status()
        if folder.outcome(run.task.directory) is not None:
            watch.ended(run.task)
        elif status < 0:
            with suppress(folder.AlreadyRunningError, OSError):
                ending.write_stopped(run.task.directory)
