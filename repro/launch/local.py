"""Runs as processes of this machine: forked from a warmed server, as many side by side as there are cores."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TypeVar

from repro import environment, folder
from repro.errors import InputError
from repro.launch import Task, Watch
from repro.launch.config import LocalConfig
from repro.launch.worker import work
from repro.record import failed, now
from repro.results import Failure, read_result, write_result

Argument = TypeVar("Argument")
Value = TypeVar("Value")
Running = dict[Path, tuple[ForkServerProcess, Task, str]]

TICK = 0.5  # seconds between two looks at the runs


def slots(task: Task, parallel: int | None) -> int:
    """How many runs like this one go side by side: cores over threads on a CPU, one on a GPU."""
    if parallel is not None:
        return parallel
    if task.accelerator == "gpu":
        return 1
    return max(1, environment.cores() // (task.threads * task.world))


class LocalLauncher:
    """Runs on this machine."""

    def __init__(self, settings: LocalConfig) -> None:
        self.settings = settings

    def width(self, tasks: Sequence[Task]) -> int:
        """How many of these go side by side."""
        return min(slots(task, self.settings.parallel) for task in tasks)

    def launch(self, tasks: Sequence[Task], watch: Watch) -> None:
        """Train every task."""
        launch(tasks, watch, self.settings.parallel)


def launch(tasks: Sequence[Task], watch: Watch, parallel: int | None = None) -> None:
    """Train every task; a run that dies is written down as failed and the others go on.

    Raises:
        KeyboardInterrupt: after the running processes were ended; what had finished stays finished.
    """
    if not tasks:
        return
    waiting = list(tasks)
    width = min(slots(task, parallel) for task in tasks)
    with _ended_at_exit() as running:
        while waiting or running:
            while waiting and len(running) < width:
                task = waiting.pop(0)
                with _interrupt_later():
                    running[task.directory] = (_start(task, width > 1 and task.accelerator == "gpu"), task, now())
                watch.started(task)
            multiprocessing.connection.wait([process.sentinel for process, _, _ in running.values()], timeout=TICK)
            watch.tick([task for _, task, _ in running.values()])
            for process, task, began in [entry for entry in running.values() if not entry[0].is_alive()]:
                del running[task.directory]
                _settle(process, task, began)
                watch.ended(task)


@contextmanager
def _interrupt_later(ignored: signal.Handlers | None = None) -> Iterator[None]:
    """Hold Ctrl-C back while a process is started: the server would print a traceback of the half-made request.

    With `signal.SIG_IGN` it is ignored for that moment, and by what is started in it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted
        return
    held: list[int] = []
    previous = signal.signal(signal.SIGINT, ignored or (lambda number, _: held.append(number)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if held:
        raise KeyboardInterrupt


@contextmanager
def _ended_at_exit() -> Iterator[Running]:
    """Hold the running processes; end them, and only them, when the launcher is left early."""
    running: Running = {}
    try:
        yield running
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.join()


def _context() -> multiprocessing.context.ForkServerContext:
    """The fork server that imports torch and Lightning once. Each run sets its own number of threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["repro.launch.preload"])
    with _interrupt_later(signal.SIG_IGN):  # the server inherits it: Ctrl-C must not end it while it imports
        forkserver.ensure_running()
    return context


def warm_up() -> None:
    """Start the fork server now, in the background, while the study is still being planned."""
    context = _context()
    threading.Thread(target=lambda: context.Process(target=_nothing).start(), daemon=True).start()


def _nothing() -> None:
    """What the first process does: by starting, it makes the server import everything."""


def call(function: Callable[[Argument], Value], argument: Argument) -> Value:
    """Call a function in a process of the warmed server and return what it returns; an InputError is raised here."""
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, argument))
    with _interrupt_later():
        process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__} ended with exit status {process.exitcode}") from None
    finally:
        process.join()
    if isinstance(answer, InputError):
        raise answer
    return answer


def _answer(sender: Connection, function: Callable[[Argument], Value], argument: Argument) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the asker's
    try:
        answer: Value | InputError = function(argument)
    except InputError as error:
        answer = error
    with suppress(BrokenPipeError):  # the asker may have been interrupted
        sender.send(answer)


def _start(task: Task, shared: bool) -> ForkServerProcess:
    process = _context().Process(target=work, args=(str(task.directory), task.world, shared), daemon=False)
    process.start()
    return process


def _settle(process: ForkServerProcess, task: Task, began: str) -> None:
    """Write a result for a run whose process ended without one."""
    process.join()
    status = process.exitcode or 0
    if status in (0, folder.BUSY, folder.INTERRUPTED) or _has_result(task.directory):
        return
    tail = folder.log_tail(task.directory)
    message = f"killed by signal {-status}" if status < 0 else (tail[-1] if tail else f"exit status {status}")
    failure = Failure(kind="killed" if status < 0 else "crash", message=message, log=tail)
    config = folder.read_config(task.directory / folder.CONFIG)
    write_result(task.directory, failed(config, began, failure))


def _has_result(directory: Path) -> bool:
    try:
        return read_result(directory) is not None
    except InputError:
        return False
