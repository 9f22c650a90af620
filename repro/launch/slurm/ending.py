"""Why a run has no outcome although its job has left the queue: SLURM's words, written where everyone reads them."""

from __future__ import annotations

from pathlib import Path

from repro import attempts, folder
from repro.errors import InputError
from repro.launch.slurm import record
from repro.launch.slurm.queue import Element
from repro.record import failed, now
from repro.results import Failure, FailureKind, read_result, write_result

KINDS: dict[str, tuple[FailureKind, str]] = {
    "CANCELLED": ("cancelled", "was cancelled"),
    "OUT_OF_MEMORY": ("out_of_memory", "ran out of memory"),
    "NODE_FAIL": ("node_lost", "was lost with its node"),
    "BOOT_FAIL": ("node_lost", "was lost: its node did not start"),
    "TIMEOUT": ("timeout", "reached its time limit"),
    "DEADLINE": ("timeout", "reached its deadline"),
    "PREEMPTED": ("killed", "had to make room for another job"),
    "REVOKED": ("killed", "was revoked"),
    "FAILED": ("crash", "failed"),
    "COMPLETED": ("crash", "ended without a result"),
}
"""The kind of failure of each final state of SLURM, and a sentence."""


def cause(name: str, element: Element | None, waited: bool) -> Failure:
    """Say why the element of that name is over. `waited`: it was last seen in the queue, and its run never began."""
    if element is None or element.live:
        if waited:  # without accounting SLURM forgets at once what is cancelled before it began
            return Failure(kind="cancelled", message=f"job {name} was taken out of the queue before it began")
        return Failure(kind="killed", message=f"job {name} has left the queue and SLURM knows nothing of it any more")
    kind, sentence = KINDS.get(element.state, ("killed", "is over"))
    status, _, signal = element.exit.partition(":")
    if element.state == "FAILED" and signal not in ("", "0"):
        kind, sentence = "killed", f"was killed by signal {signal}"
    where = f" on {element.nodes}" if element.nodes else ""
    exit_status = f", exit status {status}" if status not in ("", "0") else ""
    reason = f", {element.reason}" if element.reason else ""
    return Failure(kind=kind, message=f"job {name} {sentence}{where} (SLURM: {element.state}{exit_status}{reason})")


def write_down(directory: Path, name: str, why: Failure, *, began: bool) -> None:
    """Write the failed result of a run whose element is over, under its lock; what is known already stays.

    `began`: the element is the one of the run's newest attempt. A run that never began counts as begun here, so that
    its failures are counted too; one that was cancelled before does not.

    Raises:
        folder.AlreadyRunningError: some process trains the run after all.
    """
    with folder.locked(directory):
        if folder.outcome(directory) is not None or is_written(directory, name):
            return
        if not began and why.kind != "cancelled":
            attempts.begin(directory)
            began = True
        if began:
            attempts.end(directory, "failed", kind=why.kind, message=why.message)
        history = attempts.read(directory)
        config = folder.read_config(directory / folder.CONFIG)
        whole = why.model_copy(update={"log": _last_lines(directory, name)})
        write_result(directory, failed(config, history[-1].begun if history else now(), whole))


def is_written(directory: Path, name: str) -> bool:
    """Whether the end of this element was written down before, by this launcher or another one."""
    try:
        result = read_result(directory)
    except InputError:
        return False
    return result is not None and result.failure is not None and f"job {name} " in result.failure.message


def _last_lines(directory: Path, name: str) -> tuple[str, ...]:
    """Last lines of the run's log, and of what SLURM itself wrote: why a step was ended stands there."""
    job = record.folder_of(directory.parents[1]) / record.JOBS / f"{name}_0_log.out"
    try:
        text = job.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    own = [line.rstrip() for line in text.splitlines() if line.strip() and " submitit " not in line]
    return (*folder.log_tail(directory), *own[-3:])
