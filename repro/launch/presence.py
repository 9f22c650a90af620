"""Which launchers work at a study now: a file for each, held by a lock that goes with its process. Imports no torch."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = ".launchers"


@dataclass(frozen=True)
class Presence:
    """A process that trains or follows the runs of a study."""

    launcher: str
    host: str
    pid: int


@contextmanager
def announced(study: Path, launcher: str) -> Iterator[None]:
    """Tell that this process works at the study in that folder, until it leaves or dies."""
    own = Presence(launcher, socket.gethostname(), os.getpid())
    path = study / FOLDER / f"{own.host}-{own.pid}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump(asdict(own), file)
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def present(study: Path) -> list[Presence]:
    """List the launchers that work at the study; the file of one that died is taken away."""
    found = []
    for path in sorted((study / FOLDER).glob("*.json")):
        try:
            with path.open(encoding="utf-8") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    found.append(Presence(**json.load(file)))
                    continue
            path.unlink(missing_ok=True)
        except (OSError, ValueError, TypeError):
            continue
    return found
