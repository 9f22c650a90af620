"""The wish that a launcher stop: Ctrl-C, a cluster's SIGTERM, a terminal that goes. Counted, not raised.

A launcher that is interrupted in the middle of a line could lose track of a process that it has just started. So while
runs are trained, these signals are only counted, and the launcher asks between two looks at its runs.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(KeyboardInterrupt):
    """The launcher was stopped by a signal, after its runs had ended."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_status(self) -> int:
        """What a shell expects of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


class Stop:
    """The signals that came so far; the first asks to stop, a second Ctrl-C to do so at once."""

    def __init__(self) -> None:
        self.received: list[int] = []

    @property
    def wanted(self) -> bool:
        """Whether the runs are to save themselves and end."""
        return bool(self.received)

    @property
    def at_once(self) -> bool:
        """Whether they are not to be waited for. A cluster or a closing terminal may well send its signal twice."""
        return self.received.count(signal.SIGINT) > 1

    def heed(self, number: int, frame: FrameType | None = None) -> None:
        """Count a signal."""
        self.received.append(number)


@contextmanager
def heeded() -> Iterator[Stop]:
    """Count the signals that ask for an end, and raise what they mean when it is left with one.

    One that is ignored stays so: whoever started us wants us to outlive the terminal.

    Raises:
        Stopped: a signal came.
    """
    stop = Stop()
    previous = {}
    if threading.current_thread() is threading.main_thread():  # only there can handlers be set, and is Ctrl-C heard
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, stop.heed) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
    if stop.wanted:
        raise Stopped(stop.received[0])
