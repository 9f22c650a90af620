"""The fork server that imports torch and Lightning once; runs and questions to torch are processes forked from it.

What starts it imports no torch. Signals that are sent to the whole group of the launcher do not end it: it must
outlive them to tell how its runs ended. They are blocked in it, not ignored, so that a process forked from it loses
none that comes before it listens (`listen`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, TypeVar

from repro.errors import InputError

Argument = TypeVar("Argument")
Value = TypeVar("Value")

PRELOAD = ["repro.launch.preload"]
BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def warm_up() -> None:
    """Start the fork server now, in the background, while the study is still being planned."""
    with _interrupt_later():
        context = _context()
    threading.Thread(target=lambda: context.Process(target=_nothing).start(), daemon=True).start()


def _nothing() -> None:
    """What the first process does: by starting, it makes the server import everything."""


def start(function: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Start a process that calls the function, which must `listen` before long. Raises OSError when it cannot."""
    process = _context().Process(target=function, args=arguments)
    try:
        process.start()
    except EOFError as error:  # the server died over it
        raise OSError("the fork server has died") from error
    return process


def listen() -> None:
    """Hear the signals that the server does not; called when their handlers are in place."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)


def call(function: Callable[[Argument], Value], argument: Argument) -> Value:
    """Call a function in a process of the warmed server and return what it returns; an InputError is raised here."""
    with _interrupt_later():
        context = _context()
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_answer, args=(sender, function, argument))
        process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__} ended with exit status {process.exitcode}") from None
    except KeyboardInterrupt:
        process.terminate()
        raise
    finally:
        process.join()
    if isinstance(answer, InputError):
        raise answer
    return answer


def _answer(sender: Connection, function: Callable[[Argument], Value], argument: Argument) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the asker's
    listen()
    try:
        answer: Value | InputError = function(argument)
    except InputError as error:
        answer = error
    with suppress(BrokenPipeError):  # the asker may have been interrupted
        sender.send(answer)


def _context() -> ForkServerContext:
    """The fork server's context, with the server running. Each run sets its own number of threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    resource_tracker.ensure_running()  # before the signals are blocked: it unblocks them when it starts
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        forkserver.ensure_running()  # the server inherits what is blocked
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    return context


@contextmanager
def _interrupt_later() -> Iterator[None]:
    """Hold Ctrl-C back while a process is started: the server would print a traceback of the half-made request."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted
        return
    held: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if held:
        raise KeyboardInterrupt
