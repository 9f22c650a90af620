"""Which images a rank sees in which step: pure functions of seed and epoch, the same for any number of ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from repro.data.seeds import derive
from repro.data.splits import Delivery
from repro.errors import InputError


def cpu_generator(purpose: str, *key: int | str) -> torch.Generator:
    """Return torch's generator for one purpose; on the CPU, so that all devices draw the same."""
    return torch.Generator().manual_seed(derive(purpose, *key))


class Shuffle:
    """A permutation of `count` positions for each epoch. Lightning sets the epoch; a bare loop may do so itself."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of the next pass."""
        self.epoch = epoch

    def order(self) -> Tensor:
        """Return the permutation `(count,)`, int64, a function of (seed, epoch)."""
        return torch.randperm(self.count, generator=cpu_generator("order", self.seed, self.epoch))


def training_slices(count: int, delivery: Delivery) -> list[slice]:
    """Return, for each step of an epoch, this rank's part of the order: rows rank*b to (rank+1)*b of the global batch.

    The last incomplete batch is dropped. Raises InputError when there is no complete one, or when the batch does not
    divide over the ranks.
    """
    whole, world = delivery.batch_size, delivery.world
    if whole % world:
        raise InputError(f"recipe.batch_size={whole} is the global batch and does not divide over {world} devices")
    if count < whole:
        raise InputError(
            f"recipe.batch_size={whole} is more than the {count} training images; expected at least one full batch"
        )
    part = whole // world
    starts = range(delivery.rank * part, count // whole * whole, whole)
    return [slice(start, start + part) for start in starts]


def evaluation_positions(count: int, delivery: Delivery) -> range:
    """Return the positions that this rank evaluates, in order: over all ranks each of `count` exactly once."""
    return range(delivery.rank, count, delivery.world)


def evaluation_slices(count: int, delivery: Delivery) -> list[slice]:
    """Return slices that cover a rank's own `count` images in order; the last may be shorter, none is padded."""
    part = max(1, delivery.batch_size // delivery.world)
    return [slice(start, min(start + part, count)) for start in range(0, count, part)]
