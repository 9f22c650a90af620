"""The wish that a run save itself and end: a signal of a cluster or of the launcher, read between two steps.

A handler only sets a flag. The training loop asks `requested()` after an optimiser step, saves a checkpoint and raises
`Interrupted`; with several processes they agree on the step. Imports no torch.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(Exception):  # noqa: N818 - no error: the run is saved and goes on when it is started again
    """The run saved itself at optimiser step `step` and ended before its time."""

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(f"interrupted by {reason} at step {step}; saved")
        self.reason = reason
        self.step = step


_reason: str | None = None


def install() -> None:
    """Take over the signals that a cluster or a launcher sends before it ends a process; only in the main thread."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _heed)


def request(reason: str) -> None:
    """Ask the run of this process to save itself and end."""
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
    request(signal.Signals(number).name)
