"""What the end of a run's process means: why it failed, and that written down for a process that could not.

Imports no torch.
"""

from __future__ import annotations

import os
from pathlib import Path

from repro import attempts, folder
from repro.errors import InputError
from repro.record import failed
from repro.results import FILE, Failure, read_result, write_result

Stamp = tuple[int, int] | None
"""Tells one `result.json` from a later one."""


def stamp(directory: Path) -> Stamp:
    """Return which result the run has now; null for none."""
    try:
        found = os.stat(directory / FILE)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def failure_since(directory: Path, before: Stamp) -> Failure | None:
    """Return the failure that the run itself has written down since then; null where it could not."""
    if stamp(directory) == before:
        return None
    try:
        result = read_result(directory)
    except InputError:
        return None
    return result.failure if result is not None else None


def explain(directory: Path, status: int, minutes: float | None, kills: int | None) -> Failure:
    """Say why a run's process ended with that exit status and without a word of its own.

    Args:
        directory: the run's folder, for the last lines of its log.
        status: of the process; below 0, the signal that ended it.
        minutes: the time limit that it was ended for; null: none.
        kills: `memory_kills` when it began.
    """
    tail = folder.log_tail(directory)
    if minutes is not None:
        return Failure(kind="timeout", message=f"not done after {minutes:g} minutes (launcher.timeout)", log=tail)
    if status == folder.INTERRUPTED:
        return Failure(kind="killed", message="interrupted again and again without having advanced", log=tail)
    if status >= 0:
        reason = tail[-1] if status and tail else f"exit status {status} without a result"
        return Failure(kind="crash", message=reason, log=tail)
    message, now = f"killed by signal {-status}", memory_kills()
    if status == -9 and kills is not None and now is not None and now > kills:
        message += ", perhaps because the machine ran out of memory"
    return Failure(kind="killed", message=message, log=tail)


def write_down(directory: Path, began: str, failure: Failure) -> None:
    """Write a failed result and the attempt's end for a process that could not.

    Raises:
        folder.AlreadyRunningError: another process trains the run by now; it is left alone.
        InputError: the run's folder has no config any more.
        OSError: the disk is full, or gone.
    """
    with folder.locked(directory):
        if folder.outcome(directory) is not None:
            return
        config = folder.read_config(directory / folder.CONFIG)
        write_result(directory, failed(config, began, failure))
        attempts.end(directory, "failed", kind=failure.kind, message=failure.message)


def write_stopped(directory: Path) -> None:
    """Note that a run was ended by the wish of whoever stopped its launcher: it is no failure, and goes on later."""
    with folder.locked(directory):
        tried = attempts.read(directory)
        if tried and tried[-1].end is None:
            attempts.end(directory, "interrupted", message="stopped before it could save itself")


def memory_kills() -> int | None:
    """Count how often this system's out-of-memory killer has struck; null where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
