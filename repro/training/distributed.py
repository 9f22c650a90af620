"""How the ranks of one run meet, how long they wait for each other, and what they tell. The only place with strategies.

A run on several devices is the run on one device at the same global batch, to the rounding of float32 sums, but for
what depends on which images lie on a device together or on draws of each device:

- batch norm without `recipe.batch_norm.sync`: each rank normalises by the statistics of its own images;
- mixup and CutMix: pairs are made within a rank's own images;
- dropout and stochastic depth: each rank draws its own masks, rank 0 those of a run on one device.

Running statistics are those of rank 0, as torch's DDP and so Lightning and torchvision have it: every rank evaluates
with them, and they are what is saved.
"""

from __future__ import annotations

import inspect
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from repro.config import RunConfig, TrainerConfig
from repro.data.seeds import derive
from repro.errors import InputError
from repro.results import Failure
from repro.training.interrupt import Interrupted
from repro.training.rank_errors import RankError as RankError
from repro.training.rank_errors import find_reason, is_of_another, name_ranks, tell
from repro.training.ranks import GRACE, LOOK, Ranks, die_with_rank_0

START = 300.0
"""Seconds in which all ranks must have started; `trainer.timeout` counts from there."""

_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # its name before torch 2.15
    if name in inspect.signature(DistributedDataParallel.__init__).parameters
)

_store: TCPStore | None = None
"""Where the ranks of this process's run meet and tell why they fail; of the process, as torch's process group is."""


class Ddp(DDPStrategy):
    """Lightning's DDP over ranks that have met; gradients are averaged and nothing else is exchanged in a step.

    Buffers are not broadcast at every step, as torch's DDP does by default: nothing reads them there.
    `copy_from_first_rank` does so where an evaluation reads them, which gives the same statistics.
    """

    def __init__(self, timeout: float) -> None:
        quiet: dict[str, Any] = {_BUFFERS: False}
        super().__init__(timeout=timedelta(seconds=timeout), **quiet)
        self._has_own_noise = False

    def setup_distributed(self) -> None:
        """Meet the other ranks; from here on each draws its own dropout masks, with the same initial weights."""
        self.set_world_ranks()
        if not dist.is_initialized():
            self._meet()
        super().setup_distributed()
        if not self._has_own_noise:
            self._has_own_noise = True
            seed_noise(self.global_rank)

    def _meet(self) -> None:
        global _store
        environment = self.cluster_environment
        assert environment is not None
        if "TORCHELASTIC_RUN_ID" in os.environ:
            return  # torchrun's ranks meet at its own store
        if _store is None:
            _store = TCPStore(
                environment.main_address,
                environment.main_port,
                self.world_size,
                is_master=self.global_rank == 0,
                timeout=timedelta(seconds=START),
                wait_for_workers=False,
            )
        _wait_for_all(_store, self.global_rank, self.world_size)
        _store.set_timeout(timedelta(seconds=GRACE))
        device = None if self.root_device.type == "cpu" else self.root_device
        backend = self._get_process_group_backend()
        dist.init_process_group(
            backend, store=_store, rank=self.global_rank, world_size=self.world_size, timeout=self._timeout,
            device_id=device,
        )  # fmt: skip
        who = f"GLOBAL_RANK: {self.global_rank}, WORLD_SIZE: {self.world_size}, BACKEND: {backend}, PID: {os.getpid()}"
        print(who, file=sys.stderr, flush=True)


def build_strategy(settings: TrainerConfig) -> Any:
    """Return Lightning's strategy: several devices exchange gradients, and none waits longer than `timeout`."""
    return "auto" if settings.strategy == "auto" else Ddp(settings.timeout)


def environment_plugins() -> list[Any]:
    """Return Lightning's plugins for the cluster that this process runs on; requeueing is not left to Lightning.

    A process of a SLURM job that `srun` has not started is alone, or starts its ranks itself.
    """
    if not SLURMEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False) if is_step() else LightningEnvironment()]


def is_step() -> bool:
    """Whether `srun` has started this process, once for each rank."""
    return "SLURM_PROCID" in os.environ and "SLURM_STEP_ID" in os.environ


@contextmanager
def together(
    config: RunConfig,
    directory: Path,
    describe: Callable[[Exception], Failure],
    give_up: Callable[[Failure], object] | None = None,
) -> Iterator[None]:
    """Train on all ranks: the first of a machine starts the others, unless a cluster has, and ends them.

    `describe` words an error of this rank. `give_up` is called on rank 0, from another thread, where it hangs because
    of a rank that was lost; the process ends after it.

    Raises:
        RankError: on rank 0, in place of the error of a collective that failed because of another rank.
    """
    settings = config.trainer
    if settings.devices * settings.nodes == 1:
        yield
        return
    die_with_rank_0()
    with _started(settings, directory, give_up) as ranks:
        try:
            yield
        except Interrupted:
            raise
        except Exception as error:
            ranks.settle()
            _explain(error, ranks, settings, describe)
            raise
    _leave()


def seed_noise(rank: int) -> None:
    """Give each rank a stream of random numbers of its own; rank 0 keeps that of a run on one device."""
    if rank == 0:
        return
    seed = derive("rank", torch.initial_seed(), rank)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@torch.no_grad()
def copy_from_first_rank(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors in place by those of rank 0: one broadcast for each type. With one process, do nothing."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor)
    for same in kinds.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in same])
        dist.broadcast(flat, src=0)
        for tensor, part in zip(same, torch.split(flat, [tensor.numel() for tensor in same]), strict=True):
            tensor.copy_(part.view_as(tensor))


def check_shares(sizes: Mapping[str, int], world: int) -> None:
    """Raise InputError where a rank would have no image of a split; each is counted once, and none is repeated."""
    for split, count in sizes.items():
        if 0 < count < world:
            raise InputError(
                f"the {split} split has {count} images for {world} devices; expected at least one for each: "
                f"set trainer.devices to {count} or fewer, or hold out more"
            )


@contextmanager
def _started(settings: TrainerConfig, directory: Path, give_up: Callable[[Failure], object] | None) -> Iterator[Ranks]:
    """Start the other ranks of this machine, if this is the process to do so, and see to it that they end."""
    alone = is_step() or "LOCAL_RANK" in os.environ or dist.is_initialized()
    with _variables({} if alone else _addresses(settings)):
        command = [sys.executable, "-m", "repro.train", str(directory), "--die-with-parent"]
        ranks = Ranks(command, 1 if alone else settings.devices, settings.timeout)
        if give_up is not None:
            ranks.watch(give_up)
        patience = 0.0
        try:
            yield ranks
            patience = GRACE
        except Interrupted:
            patience = GRACE
            raise
        except Exception:
            patience = LOOK  # enough to print what is known
            raise
        finally:
            ranks.settle()
            ranks.end(patience)


def _addresses(settings: TrainerConfig) -> dict[str, str]:
    """Return the variables that tell the ranks of this machine where they meet; Lightning reads them too.

    Rank 0 opens the port itself and keeps it, so that runs side by side never choose the same one. Ranks of several
    machines without a cluster meet where the user says, by the same variables.
    """
    global _store
    variables = {"LOCAL_RANK": "0", "OMP_NUM_THREADS": str(settings.threads)}
    if settings.nodes > 1:
        return variables
    _store = TCPStore(
        "127.0.0.1", 0, settings.devices, is_master=True, timeout=timedelta(seconds=START), wait_for_workers=False
    )
    return variables | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_store.port), "NODE_RANK": "0"}


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, and on leaving put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _wait_for_all(store: TCPStore, rank: int, world: int) -> None:
    """Wait until all ranks are there; how long they take to import is no matter of `trainer.timeout`."""
    store.set(f"present/{rank}", "")
    deadline = time.monotonic() + START
    while absent := [other for other in range(world) if not store.check([f"present/{other}"])]:
        if time.monotonic() > deadline:
            raise RankError(Failure(kind="timeout", message=f"{name_ranks(absent)} did not start within {START:g} s"))
        time.sleep(LOOK / 4)


def _leave() -> None:
    """Part from ranks that were met here; only after a good end, as the ranks of a bad one may not answer."""
    global _store
    if _store is not None and dist.is_initialized():
        dist.destroy_process_group()
    _store = None


def _explain(error: Exception, ranks: Ranks, settings: TrainerConfig, describe: Callable[[Exception], Failure]) -> None:
    """Tell rank 0 why this one fails; on rank 0, raise the reason of the rank that made a collective fail."""
    rank = _rank()
    if rank:
        tell(_store, rank, error, describe)
    elif is_of_another(error):
        raise RankError(find_reason(_store, error, ranks, settings)) from error


def _rank() -> int:
    """Number of this rank, also before the ranks have met."""
    if dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("SLURM_PROCID" if is_step() else "LOCAL_RANK", "0"))
