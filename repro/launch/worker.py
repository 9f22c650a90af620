"""What happens inside the process of one run: its devices, its log, its parent's death, its end. Light until it trains.

The process leads a process group of its own, so that the launcher can end it with all that it started, and a signal
to the launcher's group, such as a terminal's Ctrl-C, does not reach it: the launcher asks it to save itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from repro import folder
from repro.launch import server
from repro.record import SHARED
from repro.training import interrupt, log
from repro.training.interrupt import Interrupted

Train = Callable[[Path], None]
"""Trains the run in a folder; a module-level function, which the run's process finds by its name."""

PATIENCE = 10.0  # seconds that a run has to save itself when its launcher has died

_JOB = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")  # attempts and heartbeats name the job
_CLUSTER = ("SLURM_", "TORCHELASTIC_", "MASTER_", "OMPI_", "PMI_")
_RANK = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")


@dataclass(frozen=True)
class Order:
    """What a run's process is to do."""

    directory: Path
    gpus: tuple[str, ...] | None = None
    """Names for `CUDA_VISIBLE_DEVICES`; null: as they are."""
    shared: bool = False
    """Other runs use its device meanwhile: its speed is no measurement and is marked."""


def train_folder(directory: Path) -> None:
    """Train the run in a folder, in this process."""
    from repro.train import train

    train(folder.read_config(directory / folder.CONFIG), directory)


def work(order: Order, train: Train) -> None:
    """Do what is ordered, writing everything that is printed to the run's log; ends the process."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt.install()
    threading.Thread(target=_follow_parent, daemon=True).start()
    status = 1
    try:
        log.write_to(order.directory / folder.LOG)
    except OSError as error:
        print(f"{order.directory / folder.LOG}: cannot be written ({error.strerror})", file=sys.stderr)
        _end(status)
    try:
        settle_environment(os.environ, order)
        status = _train(order.directory, train)
    except BaseException:  # whatever it is, the process ends here, and the launcher reads its status
        traceback.print_exc()
    _end(status)


def settle_environment(variables: MutableMapping[str, str], order: Order) -> None:
    """Set the devices of the run, and take away what would make it a part of the cluster's job that the launcher is in.

    Lightning would take the job's tasks for the run's ranks, and two runs would meet at one `MASTER_PORT`.
    """
    for name in list(variables):
        if name in _RANK or (name.startswith(_CLUSTER) and name not in _JOB):
            del variables[name]
    if order.gpus is not None:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(order.gpus)
    if order.shared:
        variables[SHARED] = "1"


def _train(directory: Path, train: Train) -> int:
    server.listen()
    try:
        train(directory)
    except folder.AlreadyRunningError:
        return folder.BUSY
    except Interrupted as saved:
        print(saved)
        return folder.INTERRUPTED
    return 0


def _end(status: int) -> None:
    """End this process without the clean-up that is the server's."""
    log.settle()
    os._exit(status)


def _follow_parent() -> None:
    """When the launcher dies, save the run as for a signal; a run that does not end is ended."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    interrupt.request("the launcher's death")
    time.sleep(PATIENCE)
    os.killpg(0, signal.SIGKILL)
