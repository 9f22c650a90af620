"""What every task of a job does: train the run of its folder, and have it queued again when it had to stop. Light.

Ends with the exit status of the contract, and never with an exception: submitit then keeps no result of its own, and
what there is to know is in the run's folder.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from repro import attempts, folder
from repro.launch.slurm.commands import RefusedError, SilentError, ask
from repro.launch.slurm.queue import parse_scontrol
from repro.record import failed
from repro.results import Failure, write_result
from repro.training import interrupt, log


def work(directory: str, allowed: int) -> None:
    """Train the run in `directory`; `allowed` failures may stand on its record before it is queued no more."""
    interrupt.install()  # before anything takes long; submitit has installed its own
    signal.signal(signal.SIGCONT, signal.SIG_DFL)  # submitit's only tells that it came
    path = Path(directory)
    log.write_to(path / folder.LOG)
    print(_whereabouts(), flush=True)
    status = _train(path, allowed)
    log.settle()
    sys.exit(status)


def _train(directory: Path, allowed: int) -> int:
    try:
        config = folder.read_config(directory / folder.CONFIG)
        done = folder.outcome(directory)
        if done is not None and done.id == config.id:
            return 0  # on every rank: none waits for the others
        from repro.train import train

        train(config, directory)
    except folder.AlreadyRunningError:
        print("another process trains this run", flush=True)
        return folder.BUSY
    except interrupt.Interrupted as saved:
        print(saved, flush=True)
        return _after(directory, saved.reason, allowed) if _rank() == 0 else 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _after(directory: Path, reason: str, allowed: int) -> int:
    """Have the job queued again, if it was its time limit or another job that stopped it."""
    count = attempts.failures(attempts.read(directory))
    if not _to_be_queued(reason):
        return folder.INTERRUPTED
    if count > allowed:
        _give_up(directory, count)
        return 1
    try:
        with _sigterm_held():
            ask("scontrol", "requeue", os.environ["SLURM_JOB_ID"])
        print("queued again", flush=True)
    except (RefusedError, SilentError) as error:
        print(f"not queued again: {error}", flush=True)  # whoever follows the job submits it again
    return folder.INTERRUPTED


@contextmanager
def _sigterm_held() -> Iterator[None]:
    """Hold SIGTERM back, also from a command: the one that queues a job again is a process of the job that it ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _to_be_queued(reason: str) -> bool:
    """Whether the signal means that the run is to go on: SIGTERM is also what scancel sends."""
    if reason != "SIGTERM":
        return True
    try:
        return is_preempted(ask("scontrol", "--oneliner", "show", "job", os.environ["SLURM_JOB_ID"]))
    except (RefusedError, SilentError):
        return False


def is_preempted(text: str) -> bool:
    """Read from `scontrol --oneliner show job` whether the job has to make room for another, or its time is over."""
    states = {element.state for element in parse_scontrol(text).values()}
    stamps = [word.partition("=")[2] for word in text.split() if word.startswith("PreemptTime=")]
    return "CANCELLED" not in states and (
        bool(states & {"PREEMPTED", "TIMEOUT"}) or any(stamp not in ("", "None", "N/A") for stamp in stamps)
    )


def _give_up(directory: Path, count: int) -> None:
    """Write a run down as failed that is stopped again and again without having advanced."""
    message = (
        f"stopped before it had advanced, {count} failures in all; give it more time (launcher.time), or let it save "
        "itself earlier (launcher.signal_delay)"
    )
    with suppress(folder.AlreadyRunningError), folder.locked(directory):
        begun = attempts.read(directory)[-1].begun
        config = folder.read_config(directory / folder.CONFIG)
        write_result(directory, failed(config, begun, Failure(kind="timeout", message=message)))
    print(message, flush=True)


def _rank() -> int:
    return int(os.environ.get("SLURM_PROCID", "0"))


def _whereabouts() -> str:
    """Say in the log which task this is, and which devices it was given."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    parts = [
        f"job {attempts.job_id()}",
        f"start {int(os.environ.get('SLURM_RESTART_COUNT', '0')) + 1}",
        f"node {os.environ.get('SLURMD_NODENAME', '?')}",
        f"rank {_rank()} of {os.environ.get('SLURM_NTASKS', '1')}",
        *([f"CUDA_VISIBLE_DEVICES={devices}"] if devices is not None else []),
    ]
    return " · ".join(parts)
