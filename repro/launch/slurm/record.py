"""Which run is which element of which job: a small file for each submission in the study's folder. Imports no torch.

`STUDY/.slurm/JOB.json` says it from the moment that sbatch has answered. What a launcher was about to submit when it
died stands in `NAME.intent`; the job is found again by its name. One launcher at a time submits runs of a study.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from repro.errors import InputError
from repro.launch.slurm.commands import RefusedError, ask
from repro.record import now
from repro.results import write_atomic

FOLDER, JOBS, LOCK = ".slurm", "jobs", "lock"
PATIENCE = 120.0  # seconds that another launcher may take to submit


@dataclass(frozen=True)
class Submission:
    """One call of sbatch: the runs, by their folders below the study's, in the order of the array."""

    name: str
    runs: tuple[str, ...]
    job: str = ""
    submitted: str = field(default_factory=now)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def elements(self) -> dict[str, str]:
        """The element of each run: `12_3` of an array; one run alone is submitted as a plain job, `12`."""
        if len(self.runs) == 1:
            return {self.runs[0]: self.job}
        return {run: f"{self.job}_{index}" for index, run in enumerate(self.runs)}


def folder_of(study: Path) -> Path:
    """The folder of the records."""
    return study / FOLDER


def intend(study: Path, submission: Submission) -> Path:
    """Write down what is about to be submitted."""
    path = folder_of(study) / f"{submission.name}.intent"
    write_atomic(path, json.dumps(asdict(submission)))
    return path


def write(study: Path, submission: Submission) -> None:
    """Write down what was submitted; the intention is fulfilled."""
    write_atomic(folder_of(study) / f"{submission.job}.json", json.dumps(asdict(submission), indent=2) + "\n")
    (folder_of(study) / f"{submission.name}.intent").unlink(missing_ok=True)


def read(study: Path) -> list[Submission]:
    """Read the submissions, oldest first; a file that is none is left out."""
    found = filter(None, (_parsed(path) for path in folder_of(study).glob("*.json")))
    return sorted(found, key=lambda each: (each.submitted, int(each.job)))


def _parsed(path: Path) -> Submission | None:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return Submission(**{**tree, "runs": tuple(tree["runs"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def newest(study: Path) -> dict[Path, str]:
    """The newest element of every run that was ever submitted, by the run's folder."""
    return {study / run: element for each in read(study) for run, element in each.elements.items()}


def recover(study: Path) -> None:
    """Find the jobs of launchers that died between sbatch and the record. Raises SilentError."""
    for path in folder_of(study).glob("*.intent"):
        intended = _parsed(path)
        job = _job_named(intended.name) if intended else None
        if intended and job:
            write(study, Submission(intended.name, intended.runs, job, intended.submitted, intended.settings))
        path.unlink(missing_ok=True)


def _job_named(name: str) -> str | None:
    try:
        lines = ask("squeue", "--noheader", "--states=all", "--format=%F", f"--name={name}").split()
    except RefusedError:
        return None
    return lines[0] if lines else None


@contextmanager
def submitting(study: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the study's lock, so that no run is submitted by two launchers at once.

    Raises:
        InputError: another launcher has held it for `patience` seconds, or the folder cannot be written.
    """
    path, deadline = folder_of(study) / LOCK, time.monotonic() + patience
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); nothing was submitted") from None
    with file:
        while not _taken(file.fileno()):
            if time.monotonic() > deadline:
                raise InputError(f"{study}: another launcher has been submitting for {patience:g} s; try again later")
            time.sleep(0.1)
        yield


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def runs_of(study: Path, directories: Sequence[Path]) -> tuple[str, ...]:
    """Name run folders as a record does."""
    return tuple(directory.relative_to(study).as_posix() for directory in directories)
