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
from typing import IO

from repro.errors import InputError

FOLDER = ".launchers"


@dataclass(frozen=True)
class Presence:
    """A process that trains or follows the runs of a study."""

    launcher: str
    host: str
    pid: int


@contextmanager
def announced(study: Path, launcher: str) -> Iterator[None]:
    """Tell that this process works at the study in that folder, until it leaves or dies.

    Raises:
        InputError: the folder cannot be written.
    """
    own = Presence(launcher, socket.gethostname(), os.getpid())
    path = study / FOLDER / f"{own.host}-{own.pid}.json"
    try:
        file = _held(path, json.dumps(asdict(own)))
    except OSError as error:
        raise InputError(f"{study}: the run folder cannot be written ({error.strerror}); set REPRO_RUNS") from None
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _held(path: Path, text: str) -> IO[str]:
    """Write a file and hold its lock; it is not seen before it is held, or it would be taken for a dead launcher's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unseen = path.with_suffix(".new")
    file = unseen.open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text)
        file.flush()
        unseen.replace(path)
    except BaseException:
        file.close()
        unseen.unlink(missing_ok=True)
        raise
    return file


def present(study: Path) -> list[Presence]:
    """List the launchers that work at the study; the file of one that died on this machine is taken away."""
    found = []
    for path in sorted((study / FOLDER).glob("*.json")):
        try:
            with path.open(encoding="utf-8") as file:
                presence = Presence(**json.load(file))
                if _is_held(file):
                    found.append(presence)
                elif presence.host == socket.gethostname():
                    path.unlink(missing_ok=True)
        except (OSError, ValueError, TypeError):
            continue
    return found


def _is_held(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
