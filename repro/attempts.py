"""How often a run was begun, where, and how each time ended: a line for each event in the run's folder.

Written under the run's lock, read by anyone. Retry limits are counted here, so that they hold over launchers, machines
and reboots. A begin without an end, when nobody holds the run, is a process that was killed. Imports no torch.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from repro.record import now
from repro.results import FailureKind

FILE = "attempts.jsonl"

End = Literal["finished", "diverged", "failed", "interrupted"]


@dataclass(frozen=True)
class Attempt:
    """One time that a run was begun. `step` and `end_step` count optimiser steps; `end` is null while it goes on."""

    begun: str
    host: str
    pid: int
    job: str | None = None
    """Of the cluster, as its tools name it, such as `123_4`."""
    step: int = 0
    ended: str | None = None
    end: End | None = None
    end_step: int | None = None
    kind: FailureKind | None = None
    message: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it counts against the retries: it failed, was killed, or saved itself without having advanced."""
        stuck = self.end == "interrupted" and (self.end_step or 0) <= self.step
        return self.end in ("failed", None) or stuck


_FIELDS = frozenset(field.name for field in fields(Attempt))  # those of a later release are left out


def begin(directory: Path, step: int = 0) -> Attempt:
    """Note that this process begins the run, at optimiser step `step`."""
    attempt = Attempt(now(), socket.gethostname(), os.getpid(), job_id(), step)
    _append(directory, {key: value for key, value in asdict(attempt).items() if value is not None})
    return attempt


def end(
    directory: Path, how: End, step: int | None = None, kind: FailureKind | None = None, message: str | None = None
) -> None:
    """Note how the newest attempt ended; also for a process that could not do so itself."""
    _append(directory, {"ended": now(), "end": how, "end_step": step, "kind": kind, "message": message})


def read(directory: Path) -> tuple[Attempt, ...]:
    """Read the attempts, oldest first; a line that was cut off by a full disk or a power cut is left out."""
    try:
        lines = (directory / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    attempts: list[Attempt] = []
    for tree in filter(None, map(_parsed, lines)):
        try:
            if "begun" in tree:
                attempts.append(Attempt(**tree))
            elif attempts:
                attempts[-1] = replace(attempts[-1], **tree)
        except TypeError:
            continue
    return tuple(attempts)


def failures(attempts: Sequence[Attempt]) -> int:
    """Count the attempts that count against the retries."""
    return sum(attempt.failed for attempt in attempts)


def job_id() -> str | None:
    """Name the cluster's job that this process is part of; null outside of one."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        tree = json.loads(line)
    except ValueError:
        return None
    return {key: value for key, value in tree.items() if key in _FIELDS} if isinstance(tree, dict) else None


def _append(directory: Path, tree: dict[str, Any]) -> None:
    """Add a line; the line break before it keeps it apart from one that was cut off."""
    data = ("\n" + json.dumps(tree) + "\n").encode()
    with (directory / FILE).open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
