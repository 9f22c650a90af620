"""The wish that a run save itself and end: a signal of a cluster or of the launcher, read between two steps.

A handler only sets a flag. The training loop asks `requested()` after an optimiser step, saves a checkpoint and raises
`Interrupted`; with several processes they agree on the step. Imports no torch.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(Exception):  # noqa: N818 - no error: the run is saved and goes on when it is started again
    """The run ended before its time; what it saved last, now or (where it could not) before, is of `step`."""

    def __init__(self, reason: str, step: int, *, saved: bool = True) -> None:
        super().__init__(f"interrupted by {reason} at step {step}; saved" if saved else _unsaved(reason, step))
        self.reason = reason
        self.step = step
        self.saved = saved


def _unsaved(reason: str, step: int) -> str:
    return f"interrupted by {reason}; it could not be saved now and goes on from step {step}"


_reason: str | None = None


def install(*more: signal.Signals) -> None:
    """Take over the signals that a cluster or a launcher sends before it ends a process; only in the main thread.

    `more`: others that mean the same, such as SIGINT where a user's Ctrl-C reaches the run itself. A second Ctrl-C ends
    it at once.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (*SIGNALS, *more):
            signal.signal(number, _heed)


@contextmanager
def heeded(*more: signal.Signals) -> Iterator[None]:
    """Heed these signals for one run, also one that came just before; then put back what was there, and forget."""
    before = {number: signal.getsignal(number) for number in (*SIGNALS, *more)}
    install(*more)
    try:
        yield
    finally:
        clear()
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def keep_from(trainer: Any) -> None:
    """Keep a Lightning Trainer from laying its handlers over these: its own ends a run that has saved nothing.

    Lightning has no switch for it; a trainer registers them anew whenever it fits, validates or tests.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None


def request(reason: str) -> None:
    """Ask the run of this process to save itself and end; any thread may."""
    global _reason
    _reason = _reason or reason


def requested() -> str | None:
    """Why the run is to end; null while it may go on."""
    return _reason


def clear() -> None:
    """Forget a request: a new run begins in this process."""
    global _reason
    _reason = None


def _heed(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    if number == signal.SIGINT and _reason == name:
        raise KeyboardInterrupt
    request(name)
