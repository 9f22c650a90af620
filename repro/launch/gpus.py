"""The GPUs of this machine that a launcher may use, and what a run claims of them. Asks PyTorch in another process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from repro.errors import InputError
from repro.launch import Task, server
from repro.launch.config import LocalConfig
from repro.launch.slots import Claim

CONTEXT = 768 * 2**20
"""Bytes of a GPU that a process needs beside its tensors: CUDA's context, the kernels and workspaces of cuDNN."""

MARGIN = 0.1  # of a GPU's memory that packed runs leave free


@dataclass(frozen=True)
class Gpu:
    """A GPU by its name in `CUDA_VISIBLE_DEVICES`, with the bytes that were free on it where that was asked."""

    name: str
    memory: int | None = None


def find(settings: LocalConfig) -> tuple[Gpu, ...]:
    """Find the GPUs that may be used; their memory only where it is wanted, since asking takes a while.

    Raises:
        InputError: `launcher.gpus` names one that is not visible here.
    """
    memories = server.call(_free_memory if settings.pack else _count, None)
    names = visible(os.environ.get("CUDA_VISIBLE_DEVICES"), len(memories))
    found = [Gpu(name, memory) for name, memory in zip(names, memories, strict=True)]
    chosen = range(len(found)) if settings.gpus is None else settings.gpus
    for position in chosen:
        if not 0 <= position < len(found):
            raise InputError(f"launcher.gpus={_listed(chosen)}: there is no GPU {position}; {_visible(len(found))}")
    if len(set(chosen)) < len(chosen):
        raise InputError(f"launcher.gpus={_listed(chosen)} names a GPU twice")
    return tuple(found[position] for position in chosen)


def visible(variable: str | None, count: int) -> tuple[str, ...]:
    """Name the visible GPUs, as numbers, UUIDs or parts of one, given `CUDA_VISIBLE_DEVICES` and how many work.

    CUDA reads the variable up to the first name that is none of a GPU's.
    """
    if variable is None:
        return tuple(str(position) for position in range(count))
    return tuple(name.strip() for name in variable.split(","))[:count]


def claim(task: Task, settings: LocalConfig) -> Claim:
    """Return what a run claims by its config and the launcher's.

    Raises:
        InputError: what does not go together, or not on one machine.
    """
    if task.nodes > 1:
        raise InputError(f"trainer.nodes={task.nodes}: launcher=local is one machine; use launcher=slurm, or nodes=1")
    cores = task.threads * task.world
    if task.accelerator != "gpu":
        return Claim(cores)
    wanted = settings.gpus_per_run
    if wanted is None:
        return Claim(cores, task.devices)
    if wanted > 1 and wanted != int(wanted):
        raise InputError(f"launcher.gpus_per_run={wanted:g}: expected a whole number, or a fraction below 1")
    if max(1, wanted) != task.devices:
        raise InputError(
            f"launcher.gpus_per_run={wanted:g}, but a run trains on trainer.devices={task.devices}; "
            f"set trainer=ddp trainer.devices={max(1, int(wanted))}, or leave launcher.gpus_per_run out"
        )
    return Claim(cores, task.devices, min(1.0, wanted))


def check(tasks: Sequence[Task], settings: LocalConfig, found: Sequence[Gpu]) -> None:
    """Raise InputError for runs that these GPUs cannot hold, and for options that would have no effect."""
    most = max(claim(task, settings).gpus for task in tasks)
    if most > len(found):
        raise InputError(f"a run claims {most} GPUs, and launcher=local may use {len(found)}")
    if settings.pack and settings.gpus_per_run is not None:
        raise InputError("launcher.pack=true measures what a run needs; leave launcher.gpus_per_run out")
    if most:
        return
    for option in ("gpus", "gpus_per_run", "pack"):
        if value := getattr(settings, option):
            text = _listed(value) if isinstance(value, tuple) else str(value).lower()
            raise InputError(f"launcher.{option}={text} is of runs on GPUs; add trainer=gpu, or leave it out")


def packed(peak: int, cores: int, found: Sequence[Gpu]) -> Claim:
    """Return what a run claims of which an equal one was measured to need `peak` bytes of a GPU."""
    smallest = min(gpu.memory or 0 for gpu in found)
    room = (1 - MARGIN) * smallest
    return Claim(cores, 1, min(1.0, (peak + CONTEXT) / room) if room else 1.0)


def _free_memory(_: None) -> list[int | None]:
    import torch

    return [torch.cuda.mem_get_info(position)[0] for position in range(torch.cuda.device_count())]


def _count(_: None) -> list[int | None]:
    import torch

    return [None] * torch.cuda.device_count()


def _listed(positions: Sequence[int]) -> str:
    return f"[{','.join(map(str, positions))}]"


def _visible(count: int) -> str:
    return f"visible here: 0 to {count - 1}" if count else "none is visible here"
