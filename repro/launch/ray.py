"""Runs as tasks of a Ray cluster, or of Ray on this machine alone.

A task starts the run in a process of its own, so that a crash or a signal takes no worker of Ray's down, and Ray never
begins a run again by itself: failures are counted on disk, as for every launcher.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from repro import environment, folder
from repro.errors import InputError
from repro.launch import Task, Watch, ending, gpus, slots
from repro.launch.config import LocalConfig, RayConfig
from repro.launch.follow import Followed
from repro.launch.ray_session import connected
from repro.launch.retry import Retries
from repro.launch.slots import Claim, Machine
from repro.launch.stop import Stop, heeded
from repro.launch.worker import Order, settle_environment
from repro.paths import cache_dir
from repro.record import now
from repro.results import Failure, FailureKind

TICK = 0.5  # seconds between two looks at the runs
GRACE = 30.0  # seconds that a run has to save itself before it is killed
LOOK_AHEAD = 8  # queued runs that are looked at for having begun

_KINDS: dict[str, tuple[FailureKind, str]] = {
    "OutOfMemoryError": ("out_of_memory", "Ray ended it, as its node ran out of memory"),
    "NodeDiedError": ("node_lost", "its node is gone"),
    "LocalRayletDiedError": ("node_lost", "Ray on its node is gone"),
    "WorkerCrashedError": ("killed", "the worker of Ray that it belonged to died"),
}


class RayLauncher:
    """Runs as tasks of Ray."""

    def __init__(self, settings: RayConfig) -> None:
        """Raises InputError where Ray is not installed."""
        if find_spec("ray") is None:
            raise InputError("launcher=ray needs Ray, which is not installed: pip install 'repro[ray]'")
        self.settings = settings

    def width(self, tasks: Sequence[Task]) -> int:
        """How many of these go side by side; of a cluster it is not known before, and they may be all."""
        claims = [self.claim(task) for task in tasks]
        if self.settings.address is not None:
            return min(len(tasks), self.settings.parallel or len(tasks))
        return slots.width(claims, Machine(environment.cores(), self._own_gpus(tasks), self.settings.parallel))

    def launch(self, tasks: Sequence[Task], watch: Watch) -> None:
        """Train every task."""
        claims = {task.directory: self.claim(task) for task in tasks}
        if not tasks:
            return
        count = self._own_gpus(tasks) if self.settings.address is None else 0
        with connected(self.settings.address, count) as ray, heeded() as stop:
            _Shift(ray, self.settings, tasks, claims).work(stop, watch)

    def claim(self, task: Task) -> Claim:
        """Return the cores and GPUs of a run. Raises InputError for what is not one task of one node."""
        if task.nodes > 1:
            raise InputError(
                f"trainer.nodes={task.nodes}: a task of Ray is of one node; use launcher=slurm, or trainer.nodes=1"
            )
        own = gpus.claim(task, LocalConfig(gpus_per_run=self.settings.gpus_per_run))
        return replace(own, cores=own.cores + task.workers)

    def _own_gpus(self, tasks: Sequence[Task]) -> int:
        """Count the GPUs of this machine, where a run needs one. Raises InputError where there are not enough."""
        settings = LocalConfig(gpus_per_run=self.settings.gpus_per_run)
        found = gpus.find(settings) if any(task.accelerator == "gpu" for task in tasks) else ()
        gpus.check(tasks, settings, found)
        return len(found)


@dataclass
class _Submitted:
    """A run that Ray has, and what must be known of it when it ends."""

    task: Task
    stamp: ending.Stamp
    began: str = field(default_factory=now)
    started: bool = False

    def is_started(self) -> bool:
        """Whether it is being trained; Ray's queue does not tell."""
        self.started = self.started or folder.is_alive(self.task.directory)
        return self.started


class _Shift:
    """The work of one launch: runs wait, are Ray's, are followed where another launcher trains them, and end."""

    def __init__(self, ray: Any, settings: RayConfig, tasks: Sequence[Task], claims: dict[Path, Claim]) -> None:
        self.ray, self.settings, self.claims = ray, settings, claims
        self.waiting = deque(tasks)
        self.running: dict[Any, _Submitted] = {}
        self.followed = Followed()
        self.lost: dict[Path, Failure] = {}
        """Why runs ended whose processes, on a node that is out of reach, seemed to live still."""
        self.retries = Retries([task.directory for task in tasks], settings.retries)
        self.cores = _largest_node(ray)

    def work(self, stop: Stop, watch: Watch) -> None:
        """Train until every run has ended, or a stop is wished for."""
        while (self.waiting or self.running or self.followed) and not stop.wanted:
            self._submit(watch)
            self._look(watch)
            for task in self.followed.released():
                self._take_back(task, watch)
        if stop.wanted and self.running:
            self._stop(stop, watch)

    def _submit(self, watch: Watch) -> None:
        most = self.settings.parallel
        while self.waiting and (most is None or len(self.running) < most):
            task = self.waiting.popleft()
            if folder.is_alive(task.directory):
                self.followed.add(task)
            elif folder.outcome(task.directory) is not None or not self.retries.left(task.directory):
                watch.ended(task)
            else:
                self._start(task)

    def _start(self, task: Task) -> None:
        claim = self.claims[task.directory]
        remote = self.ray.remote(train).options(
            name=task.label,
            num_cpus=min(claim.cores, self.cores),
            num_gpus=claim.gpus * claim.share,
            max_retries=0,
        )
        variables = {"REPRO_CACHE": str(cache_dir().absolute())}
        reference = remote.remote(str(task.directory.absolute()), claim.gpus > 0 and claim.share < 1, variables)
        self.running[reference] = _Submitted(task, ending.stamp(task.directory))

    def _look(self, watch: Watch) -> None:
        """Wait for an end, at most a moment, and tell who is being trained."""
        if not self.running:
            time.sleep(TICK)
            return
        ended, _ = self.ray.wait(list(self.running), num_returns=1, timeout=TICK)
        queued = [run for run in self.running.values() if not run.started]
        for run in queued[:LOOK_AHEAD]:
            if run.is_started():
                watch.started(run.task)
        watch.tick([run.task for run in self.running.values() if run.started])
        for reference in ended:
            self._settle(reference, self.running.pop(reference), watch)

    def _settle(self, reference: Any, run: _Submitted, watch: Watch) -> None:
        """Read what came of a run whose task has ended, and decide what follows."""
        task, directory = run.task, run.task.directory
        status, failure = self._end(reference, directory)
        if not run.started:  # it was over between two looks
            watch.started(task)
        if folder.outcome(directory) is not None:
            watch.ended(task)
        elif status == folder.BUSY or folder.is_alive(directory):
            self._follow(task, failure)
        elif status == folder.INTERRUPTED and self.retries.left(directory):
            self.waiting.appendleft(task)
        else:
            own = ending.failure_since(directory, run.stamp)
            self._fail(task, own or failure or ending.explain(directory, status, None, None), run.began, watch, own)

    def _end(self, reference: Any, directory: Path) -> tuple[int, Failure | None]:
        """Return the exit status of the run's process, or why Ray cannot tell it."""
        try:
            return self.ray.get(reference), None
        except self.ray.exceptions.RayError as error:
            return 1, _lost(error, folder.log_tail(directory))

    def _follow(self, task: Task, failure: Failure | None) -> None:
        if failure is not None:
            self.lost[task.directory] = failure
        self.followed.add(task)

    def _take_back(self, task: Task, watch: Watch) -> None:
        """Begin a run again that nobody trains any more, once it is written down why it ended, if that is known."""
        failure = self.lost.pop(task.directory, None)
        if failure is None or folder.outcome(task.directory) is not None:
            self.waiting.appendleft(task)
        else:
            self._fail(task, failure, now(), watch, None)

    def _fail(self, task: Task, failure: Failure, began: str, watch: Watch, written: Failure | None) -> None:
        """Write the failure down where the run could not, and begin it again while it may be."""
        if written is None:
            try:
                ending.write_down(task.directory, began, failure)
            except folder.AlreadyRunningError:
                self._follow(task, failure)
                return
            except (InputError, OSError) as error:
                watch.told(f"{task.label}: its end cannot be written down ({error})")
        self.retries.note(task.directory)
        if not self.retries.left(task.directory):
            watch.ended(task)
            return
        count = f"{self.retries.used(task.directory)} of {self.retries.allowed}"
        watch.told(f"{task.label}: {failure.message}; begun again ({count})")
        self.waiting.appendleft(task)

    def _stop(self, stop: Stop, watch: Watch) -> None:
        """Ask every run to save itself, and wait until it has; what is queued is taken back."""
        saving = sum(run.is_started() for run in self.running.values())
        watch.told(f"stopping: {saving} run{'' if saving == 1 else 's'} being saved; Ctrl-C again ends at once")
        for reference in self.running:
            self.ray.cancel(reference)
        deadline = time.monotonic() + GRACE + 5  # the tasks kill what does not end in time
        left = list(self.running)
        while left and time.monotonic() < deadline and not stop.at_once:
            _, left = self.ray.wait(left, num_returns=len(left), timeout=TICK)
            watch.tick([self.running[reference].task for reference in left if self.running[reference].started])
        for reference in left:
            self.ray.cancel(reference, force=True)
        for run in self.running.values():
            with suppress(folder.AlreadyRunningError, OSError):
                ending.write_stopped(run.task.directory)


def train(directory: str, shared: bool, variables: dict[str, str]) -> int:
    """Train the run in a folder, in a process of its own that ends with this one; returns its exit status.

    Runs in a worker of Ray. When the task is cancelled, the run is asked to save itself.
    """
    path, surroundings = Path(directory), {**os.environ, **variables}
    settle_environment(surroundings, Order(path, shared=shared))
    command = [sys.executable, "-m", "repro.train", directory, "--die-with-parent"]
    with (path / folder.LOG).open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=surroundings, start_new_session=True
        )
    try:
        while process.poll() is None:
            time.sleep(0.1)  # and not wait(): Ray's cancelling interrupts Python, but no system call
    except KeyboardInterrupt:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what it started: it would go on holding the lock
    return process.wait()


def _lost(error: Exception, tail: tuple[str, ...]) -> Failure:
    """Say why a task ended without an exit status."""
    for known in type(error).__mro__:
        if known.__name__ in _KINDS:
            kind, message = _KINDS[known.__name__]
            return Failure(kind=kind, message=message, log=tail)
    cause = getattr(error, "cause", None) or error
    line = (str(cause).splitlines() or [""])[0]
    return Failure(kind="crash", message=f"its task of Ray failed: {type(cause).__name__}: {line}", log=tail)


def _largest_node(ray: Any) -> int:
    """Count the cores of the largest node; a task that asks for more would wait for ever."""
    cores = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node.get("Alive")]
    return max(1, int(max(cores, default=1)))
