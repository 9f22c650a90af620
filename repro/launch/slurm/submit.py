"""Array jobs by submitit: one for each size of run. What cannot be is said in one line, before a job is submitted."""

from __future__ import annotations

import math
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from repro.errors import InputError, unknown
from repro.launch import Task
from repro.launch.config import SlurmConfig
from repro.launch.slurm import record
from repro.launch.slurm.commands import RefusedError, SilentError, ask, refusal
from repro.launch.slurm.job import work
from repro.paths import cache_dir, runs_dir

NEEDED = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")

OURS = {
    "array", "nodes", "ntasks", "ntasks-per-node", "output", "error", "open-mode", "signal", "requeue", "no-requeue",
    "job-name", "wrap",
}  # fmt: skip
"""Options of sbatch that follow from the study."""

SETTINGS = {
    "partition": "partition", "qos": "qos", "account": "account", "constraint": "constraint", "time": "time",
    "mem": "memory", "cpus-per-task": "cpus_per_task",
}  # fmt: skip
"""Options of sbatch that have a name of their own among the launcher's."""


@dataclass(frozen=True)
class Size:
    """What the elements of one array have in common: what each asks of the cluster."""

    nodes: int
    devices: int
    threads: int
    workers: int
    accelerator: str

    @classmethod
    def of(cls, task: Task) -> Size:
        """The size of a run."""
        return cls(task.nodes, task.devices, task.threads, task.workers, task.accelerator)


def check(settings: SlurmConfig) -> None:
    """Find out whether jobs can be submitted. Raises InputError in one line."""
    for name in NEEDED:
        if shutil.which(name) is None:
            raise InputError(
                f"launcher=slurm needs {name} on PATH; run on a login node of the cluster, or with launcher=local"
            )
    _check_options(settings.sbatch)
    if settings.partition is None:
        return
    try:
        names = ask("sinfo", "--all", "--noheader", "--format=%R").split()
    except (RefusedError, SilentError) as error:
        raise InputError(
            f"launcher=slurm: SLURM's controller does not answer ({error}); nothing was submitted"
        ) from None
    for name in settings.partition.split(","):
        if name not in names:
            raise unknown("partition", name, sorted(set(names)), where="launcher.partition")


def _check_options(options: Mapping[str, Any]) -> None:
    for option in options:
        name = option.strip("-").replace("_", "-")
        if name in SETTINGS:
            raise InputError(f"launcher.sbatch: {option} has a setting of its own; use launcher.{SETTINGS[name]}")
        if name in OURS:
            raise InputError(f"launcher.sbatch: {option} follows from the study and cannot be set")


def minutes(text: str) -> int:
    """Read SLURM's time: `minutes`, `minutes:seconds`, `hours:minutes:seconds`, `days-hours[:minutes[:seconds]]`."""
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not dash and len(parts) < 3:
        parts.insert(0, 0)
    hours, minute, second = [*parts, 0, 0][:3]
    return int(days or 0) * 1440 + hours * 60 + minute + math.ceil(second / 60)


def parameters(size: Size, settings: SlurmConfig, name: str) -> dict[str, Any]:
    """What submitit writes for sbatch and srun."""
    cpus = settings.cpus_per_task or size.threads + size.workers
    chosen: dict[str, Any] = {
        "job_name": name,
        "partition": settings.partition,
        "qos": settings.qos,
        "account": settings.account,
        "constraint": settings.constraint,
        "time": minutes(settings.time),
        "nodes": size.nodes,
        "ntasks_per_node": size.devices,
        "cpus_per_task": cpus,
        "gpus_per_node": size.devices if size.accelerator == "gpu" else None,
        "mem": settings.memory,
        "signal_delay_s": settings.signal_delay,
        "array_parallelism": settings.array_parallelism,
        "setup": [*_exports(size), *settings.setup],
        "stderr_to_stdout": True,
        "additional_parameters": {"requeue": True} | _options(settings.sbatch),
        # srun takes the processors of a task from sbatch no more (SLURM 22.05), and waits for the others when one dies
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],
        "wckey": None,
    }
    return chosen


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The user's own options, as submitit takes them; `false` and `null` leave one out."""
    kept = {option: value for option, value in given.items() if value is not None and value is not False}
    return {option.strip("-").replace("_", "-"): value for option, value in kept.items()}


def _exports(size: Size) -> list[str]:
    """Lines that give a job the folders and modules of this process, wherever it runs."""
    variables = {
        "REPRO_RUNS": str(runs_dir().absolute()),
        "REPRO_CACHE": str(cache_dir().absolute()),
        "OMP_NUM_THREADS": str(size.threads),
        "MKL_NUM_THREADS": str(size.threads),
    }
    if paths := os.environ.get("PYTHONPATH"):
        variables["PYTHONPATH"] = os.pathsep.join(str(Path(path).absolute()) for path in paths.split(os.pathsep))
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def submit(
    study: Path, tasks: Sequence[Task], allowed: Mapping[Path, int], settings: SlurmConfig
) -> Iterator[tuple[Size, record.Submission]]:
    """Submit the runs, an array for each size; `allowed`: failures that each may have on its record.

    Yields each submission when it is recorded.

    Raises:
        InputError: sbatch refused one, with its reason; those before it stay submitted.
    """
    largest = array_limit()
    for size in dict.fromkeys(map(Size.of, tasks)):
        alike = [task.directory for task in tasks if Size.of(task) == size]
        for first in range(0, len(alike), largest):
            part = alike[first : first + largest]
            yield size, _submit(study, part, size, [allowed[directory] for directory in part], settings)


def _submit(
    study: Path, directories: Sequence[Path], size: Size, allowed: Sequence[int], settings: SlurmConfig
) -> record.Submission:
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    name = f"repro-{study.parent.name}-{study.name}-{secrets.token_hex(4)}"
    planned = record.Submission(
        name, record.runs_of(study, directories), settings=settings.model_dump(mode="json", exclude={"name"})
    )
    intent = record.intend(study, planned)
    executor = SlurmExecutor(record.folder_of(study).absolute() / record.JOBS)
    executor.update_parameters(**parameters(size, settings, name))
    noise = StringIO()
    try:
        with redirect_stderr(noise), _no_job_of_our_own():
            jobs = executor.map_array(work, [str(directory.absolute()) for directory in directories], allowed)
    except (FailedJobError, FailedSubmissionError) as error:
        intent.unlink(missing_ok=True)
        raise InputError(f"sbatch refused the job: {refusal(noise.getvalue() or str(error))}") from None
    done = record.Submission(name, planned.runs, jobs[0].job_id.partition("_")[0], planned.submitted, planned.settings)
    record.write(study, done)
    return done


def array_limit() -> int:
    """Most elements of an array on this cluster: `MaxArraySize` is one more than the largest index."""
    try:
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.MULTILINE)
    except (RefusedError, SilentError):
        found = None
    return max(1, int(found[1])) if found else 1000


@contextmanager
def _no_job_of_our_own() -> Iterator[None]:
    """Hide the job that this process may be part of: sbatch would take its size for defaults of the new one."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    prefixes = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
    names = {"MASTER_ADDR", "MASTER_PORT", *(name for name in os.environ if name.startswith(prefixes))} - {"SLURM_CONF"}
    held = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)
