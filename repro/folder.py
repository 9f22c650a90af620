"""A run's folder on disk: its config, its progress, its lock, its state. Imports no torch.

Whoever trains a run holds its lock, which the system drops when the process dies, and rewrites its progress every
`BEAT` seconds. Where locks are not seen from another machine, a progress file that is rewritten stands for the lock.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError

from repro.attempts import FILE as ATTEMPTS
from repro.attempts import Attempt, job_id
from repro.attempts import read as read_attempts
from repro.config import RunConfig
from repro.errors import InputError
from repro.mistakes import first_mistake
from repro.results import FILE, Failure, Result, read_result, write_atomic

CONFIG, PROGRESS, LOG, LOCK, CURVE, WEIGHTS, RESUME = (
    "config.yaml", "progress.json", "log.txt", "lock", "metrics.csv", "final.ckpt", "resume.ckpt",
)  # fmt: skip

State = Literal["planned", "running", "finished", "diverged", "failed", "unreadable"]


DONE: tuple[State, ...] = ("finished", "diverged")
"""States of a run that has an outcome; it is not trained again."""

BUSY, INTERRUPTED = 75, 76
"""Exit status of a process that left its run to another one; of one that saved its run, which is to be begun again."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # five times as fast, where PyYAML was built with it
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

BEAT, SILENCE = 5.0, 60.0
"""Seconds between two beats of a run's heart; without one, on another machine, for that long it is dead."""

LOG_END = 64 * 1024  # bytes of a log in which its last lines are looked for


class AlreadyRunningError(Exception):
    """Another process is training the run of this folder."""


@dataclass(frozen=True)
class Progress:
    """How far a run is, its newest metrics, and which process says so. Steps are of the optimiser."""

    epoch: int = 0
    epochs: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    step: int = 0
    steps: int = 0
    host: str = ""
    pid: int = 0
    job: str | None = None
    stalled: float = 0.0
    """Seconds since the last step, by the run's own clock: a run that beats but does not advance is slow or hangs."""


@dataclass(frozen=True)
class Standing:
    """The state of a run, why it failed, and how far it is or was."""

    state: State
    failure: Failure | None = None
    progress: Progress | None = None
    attempts: tuple[Attempt, ...] = ()


def write_config(directory: Path, config: RunConfig, *, durable: bool = True) -> None:
    """Write the resolved config that the run starts from; not `durable` where it is written again before it matters.

    Raises InputError when the folder cannot be written.
    """
    text = config_text(config)
    try:
        write_atomic(directory / CONFIG, text, durable=durable)
    except OSError as error:
        raise InputError(f"{directory}: the run folder cannot be written ({error.strerror}); set REPRO_RUNS") from None


def config_text(config: RunConfig) -> str:
    """Return a config as it stands in its file."""
    return str(yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False))


def read_config(path: Path) -> RunConfig:
    """Read a resolved config. Raises InputError when it is missing or is not one."""
    try:
        return RunConfig.model_validate(yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader))
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
def locked(directory: Path) -> Iterator[None]:
    """Hold the run's lock; the system drops it when the process dies.

    Raises:
        AlreadyRunningError: some process holds it, here or on a machine whose locks are not seen from here.
        InputError: the file system has no locks.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory / LOCK, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _held.add(handle)
    try:
        if not _taken(handle) or _beats_elsewhere(directory):
            raise AlreadyRunningError(str(directory))
        yield
    finally:
        if handle in _held:
            _held.remove(handle)
            os.close(handle)


_held: set[int] = set()


def _let_go() -> None:
    """Close the locks in a forked child, such as a loader's worker, which may live on when the run has been killed."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


def _taken(handle: int) -> bool:
    """Try for the lock a few times: one who only asks for the state holds it for a moment."""
    for _ in range(5):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        except OSError as error:
            raise InputError(
                f"the file system of the runs has no locks ({error.strerror}); set REPRO_RUNS to a folder on one that "
                "has (Lustre: mounted with -o flock)"
            ) from None
        else:
            return True
    return False


def is_alive(directory: Path) -> bool:
    """Whether some process is training this run now, on any machine that sees the folder."""
    return _is_locked(directory) or _beats_elsewhere(directory)


def _is_locked(directory: Path) -> bool:
    try:
        handle = os.open(directory / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks, on which nothing is trained
    finally:
        os.close(handle)
    return False


def _beats_elsewhere(directory: Path) -> bool:
    """Whether a process of another machine has begun the run and tells its progress, or did so a moment ago.

    A cluster's job that was moved is no other process. A beat of the future was before somebody set the clock back.
    """
    tried = read_attempts(directory)
    last = tried[-1] if tried else read_progress(directory)
    if last is None or (isinstance(last, Attempt) and last.end is not None):
        return False  # its last beat may still be warm, but it has said that it ended
    if last.host in ("", socket.gethostname()) or (last.job is not None and last.job == job_id()):
        return False
    return any(abs(_age(directory / name)) < SILENCE for name in (PROGRESS, ATTEMPTS))


def _age(path: Path) -> float:
    """Seconds since the file was written, by the clock of the file system, which every machine shares."""
    try:
        written = path.stat().st_mtime
    except OSError:
        return math.inf
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            os.write(probe.fileno(), b".")
            return os.fstat(probe.fileno()).st_mtime - written
    except OSError:  # a full disk, or one that may only be read
        return time.time() - written


def state(directory: Path) -> State:
    """Return the state of the run in `directory` from what is on disk."""
    return standing(directory).state


def standing(directory: Path) -> Standing:
    """Return how the run in `directory` stands, from what is on disk.

    A run that was begun and is held by nobody has failed, killed; one that was interrupted and saved is planned, and so
    is one whose result somebody has deleted to train it again.
    """
    found = _ended(directory)
    if found is None and is_alive(directory):
        return Standing("running", None, read_progress(directory), read_attempts(directory))
    state, failure = found or _ended(directory) or _not_ended(directory)  # it may have ended since
    return Standing(state, failure, read_progress(directory), read_attempts(directory))


def _ended(directory: Path) -> tuple[State, Failure | None] | None:
    """Return what the result says, where it is the last word; null where the run may be trained at this moment."""
    try:
        result = read_result(directory)
    except InputError as error:
        return None if is_alive(directory) else ("unreadable", Failure(kind="crash", message=str(error)))
    if result is None or (result.status not in DONE and is_alive(directory)):
        return None
    return result.status, result.failure


def _not_ended(directory: Path) -> tuple[State, Failure | None]:
    """Return how a run stands that nobody trains and that has no result."""
    attempts = read_attempts(directory)
    last = attempts[-1] if attempts else None
    if last is None or last.end in ("interrupted", *DONE):
        return "planned", None
    return "failed", _unexplained(directory, last)


def _unexplained(directory: Path, last: Attempt) -> Failure:
    """Why a run has no result although it was begun: what the attempt's end says, else that its process is gone."""
    gone = f"process {last.pid} on {last.host} is gone without a word"
    return Failure(kind=last.kind or "killed", message=last.message or gone, log=log_tail(directory))


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
        with (directory / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_END))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    return tuple([line.rstrip() for line in text.splitlines() if line.strip()][-lines:])
