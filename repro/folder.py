"""A run's folder on disk: its config, its progress, its lock, its state. Imports no torch."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TextIO

import yaml
from pydantic import ValidationError

from repro.config import RunConfig
from repro.errors import InputError
from repro.mistakes import first_mistake
from repro.results import FILE, Result, read_result, write_atomic

CONFIG, PROGRESS, LOG, LOCK, CURVE, WEIGHTS = (
    "config.yaml", "progress.json", "log.txt", "lock", "metrics.csv", "final.ckpt",
)  # fmt: skip

State = Literal["planned", "running", "finished", "diverged", "failed", "unreadable"]


DONE: tuple[State, ...] = ("finished", "diverged")
"""States of a run that has an outcome; it is not trained again."""

BUSY = 75
"""Exit status of a process that left its run to another one."""


class AlreadyRunningError(Exception):
    """Another process is training the run of this folder."""


@dataclass(frozen=True)
class Progress:
    """How far a run is: epochs done of all, and the newest metrics."""

    epoch: int
    epochs: int
    metrics: dict[str, float]


def write_config(directory: Path, config: RunConfig) -> None:
    """Write the resolved config that the run starts from. Raises InputError when the folder cannot be written."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    try:
        write_atomic(directory / CONFIG, text)
    except OSError as error:
        raise InputError(f"{directory}: the run folder cannot be written ({error.strerror}); set REPRO_RUNS") from None


def read_config(path: Path) -> RunConfig:
    """Read a resolved config. Raises InputError when it is missing or is not one."""
    try:
        return RunConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise InputError(f"{path}: {first_mistake(error, RunConfig)[1]}") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no resolved config of a run ({str(error).splitlines()[0]})") from None


def write_progress(directory: Path, progress: Progress) -> None:
    """Tell those who watch how far the run is."""
    write_atomic(directory / PROGRESS, json.dumps(asdict(progress)), durable=False)


def read_progress(directory: Path) -> Progress | None:
    """Read how far a run is; None when it has not said."""
    try:
        return Progress(**json.loads((directory / PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def locked(directory: Path) -> Iterator[TextIO]:
    """Hold the run's lock; the system drops it when the process dies. Raises AlreadyRunningError when it is held.

    Gives the lock's file, in which whoever trains the run leaves a line: one for each time that it was begun.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(str(directory)) from None
        yield file


def is_locked(directory: Path) -> bool:
    """Whether some process is training this run now."""
    try:
        handle = os.open(directory / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def state(directory: Path) -> State:
    """Return the state of the run in `directory` from what is on disk."""
    try:
        result = read_result(directory)
    except InputError:
        return "running" if is_locked(directory) else "unreadable"
    if is_locked(directory):
        return "running"
    return result.status if result else "planned"


def outcome(directory: Path) -> Result | None:
    """Return the result of a run that finished or diverged; None for one that is still to be trained."""
    try:
        result = read_result(directory)
    except InputError:
        return None
    return result if result is not None and result.status in DONE else None


def set_aside(directory: Path) -> None:
    """Move a result that is unreadable or failed out of the way before the run is trained again."""
    path = directory / FILE
    if path.exists():
        path.replace(path.with_suffix(".json.old"))


def log_tail(directory: Path, lines: int = 8) -> tuple[str, ...]:
    """Return the last non-empty lines of the run's log."""
    try:
        text = (directory / LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return tuple([line.rstrip() for line in text.splitlines() if line.strip()][-lines:])
