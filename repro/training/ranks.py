"""The processes of a run on one machine: rank 0 starts the others, watches them, and none outlives it.

A rank that ends in any other way than well, or that is stopped, is named with its reason. Knows no network and no
training; imports no torch.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

import psutil

from repro import folder
from repro.results import Failure

GRACE = 5.0
"""Seconds that rank 0 has to fail by itself when another rank is lost, and that a rank has to end after rank 0."""

LOOK = 0.2
"""Seconds between two looks at the ranks."""

PARENT = "REPRO_RANK_0"
"""Variable that names the process which has started a rank."""

WELL = (0, folder.INTERRUPTED)
"""Exit statuses of a rank that has done its part."""

_PR_SET_PDEATHSIG = 1  # of Linux, prctl(2)


class Ranks:
    """The other ranks of this machine. Rank 0 holds this while it trains; leaving it ends whatever still runs.

    `command` starts a rank, which is told its number by `LOCAL_RANK`. Its standard input is a pipe that closes when
    rank 0 dies. `world` counts the ranks of this machine, `timeout` the seconds that one may be stopped.
    """

    def __init__(self, command: Sequence[str], world: int, timeout: float) -> None:
        self._timeout = timeout
        self._stopped: dict[int, float] = {}
        self._settled = threading.Event()
        self._verdict = threading.Lock()
        own = {**os.environ, PARENT: str(os.getpid())}
        self._processes = {
            rank: subprocess.Popen(command, env={**own, "LOCAL_RANK": str(rank)}, stdin=subprocess.PIPE)
            for rank in range(1, world)
        }

    def lost(self) -> Failure | None:
        """Say which rank was lost, and how: it has ended badly, or was stopped for longer than the time-out."""
        ended = [(process.poll(), rank) for rank, process in self._processes.items()]
        bad = [(status, rank) for status, rank in ended if status is not None and status not in WELL]
        if bad:
            status, rank = min(bad)  # one killed by a signal first: the others may have failed because of it
            return _ended(rank, self._processes[rank].pid, status)
        now = time.monotonic()
        long = [rank for rank, process in self._running() if now - self._since(rank, process.pid) > self._timeout]
        return self._is_stopped(long[0]) if long else None

    def found(self, patience: float = 2 * LOOK) -> Failure | None:
        """Say which rank was lost, after a collective has failed; wait a moment for one that is just ending."""
        deadline = time.monotonic() + patience
        while (lost := self.lost()) is None and time.monotonic() < deadline:
            time.sleep(LOOK / 4)
        if lost is not None:
            return lost
        return next((self._is_stopped(rank) for rank, process in self._running() if _stopped(process.pid)), None)

    def watch(self, give_up: Callable[[Failure], object]) -> None:
        """Have `give_up` called, and end this process, when a rank is lost and rank 0 does not notice by itself.

        It waits in C++ where no exception can reach it: for the start of the others, or for a kernel of NCCL.
        """
        threading.Thread(target=self._watch, args=(give_up,), daemon=True).start()

    def settle(self) -> None:
        """Rank 0 has noticed, or is done: from here on it ends the run itself. Does not return once it was given up."""
        if not self._settled.is_set():
            self._settled.set()
            self._verdict.acquire()

    def end(self, patience: float) -> None:
        """Wait `patience` seconds for the ranks to end, and kill those that have not."""
        deadline = time.monotonic() + patience
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()  # also ends one that is stopped
                process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def _watch(self, give_up: Callable[[Failure], object]) -> None:
        while not self._settled.wait(LOOK):
            lost = self.lost()
            if lost is not None and not self._settled.wait(GRACE) and self._verdict.acquire(blocking=False):
                self.end(0)
                try:
                    give_up(lost)
                finally:
                    sys.stderr.flush()
                    os._exit(1)

    def _running(self) -> list[tuple[int, subprocess.Popen[bytes]]]:
        return [(rank, process) for rank, process in self._processes.items() if process.poll() is None]

    def _since(self, rank: int, pid: int) -> float:
        """When a rank was first seen to be stopped; now, where it is not."""
        if not _stopped(pid):
            self._stopped.pop(rank, None)
            return time.monotonic()
        return self._stopped.setdefault(rank, time.monotonic())

    def _is_stopped(self, rank: int) -> Failure:
        pid = self._processes[rank].pid
        message = f"rank {rank} (process {pid}) was stopped; the others waited {self._timeout:g} s (trainer.timeout)"
        return Failure(kind="timeout", message=message)


def die_with_rank_0() -> None:
    """Have the system kill this rank when the process that started it dies; without one, do nothing.

    Where the system cannot (it is Linux that can), a rank dies with its connections and the pipe on its standard input.
    Ctrl-C is rank 0's: it ends the others itself.
    """
    parent = os.environ.get(PARENT)
    if parent is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        os._exit(1)  # it has died before


def _ended(rank: int, pid: int, status: int) -> Failure:
    if status < 0:
        return Failure(kind="killed", message=f"rank {rank} (process {pid}) was killed by {_name(-status)}")
    return Failure(kind="crash", message=f"rank {rank} (process {pid}) ended with exit status {status}; see the log")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False
