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
    """An order of `count` images for each epoch. Lightning sets the epoch; a bare loop may do so itself.

    With `repeats` each image comes so often in turn, and the epoch keeps its length: only the beginning of the
    permutation is seen (Berman et al., arXiv:1902.05509).
    """

    def __init__(self, count: int, seed: int, repeats: int = 1) -> None:
        self.count = count
        self.seed = seed
        self.repeats = repeats
        self.epoch = 0
        self._first = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def begin_at(self, batch: int) -> None:
        """Choose the batch that the next pass begins at."""
        self._first = batch

    def first(self) -> int:
        """Return the batch that the pass that asks begins at; passes after it begin at 0."""
        first, self._first = self._first, 0
        return first

    def order(self) -> Tensor:
        """Return the images in their order, int64 `(count,)`, a function of (seed, epoch)."""
        permutation = torch.randperm(self.count, generator=cpu_generator("order", self.seed, self.epoch))
        return permutation if self.repeats == 1 else permutation.repeat_interleave(self.repeats)[: self.count]


def training_slices(count: int, delivery: Delivery) -> list[slice]:
    """Return this rank's parts of the order in an epoch: of each step rows rank*b to (rank+1)*b of the global batch.

    They come as `accumulate` parts of equal size, one after the other. The last incomplete global batch is dropped.
    Raises InputError when there is no complete one, or when it does not divide over the ranks and their parts.
    """
    whole, world, accumulate = delivery.batch_size, delivery.world, delivery.accumulate
    if whole % world:
        raise InputError(f"recipe.batch_size={whole} is the global batch and does not divide over {world} devices")
    share = whole // world
    if share % accumulate:
        raise InputError(
            f"a device's share of {share} images does not divide into {accumulate} parts; set trainer.micro_batch to "
            "a divisor of it"
        )
    if count < whole:
        raise InputError(
            f"recipe.batch_size={whole} is more than the {count} training images; expected at least one full batch"
        )
    part = share // accumulate
    steps = range(delivery.rank * share, count // whole * whole, whole)
    return [slice(start, start + part) for step in steps for start in range(step, step + share, part)]


def evaluation_positions(count: int, delivery: Delivery) -> range:
    """Return the positions that this rank evaluates, in order: over all ranks each of `count` exactly once."""
    return range(delivery.rank, count, delivery.world)


def evaluation_slices(count: int, delivery: Delivery) -> list[slice]:
    """Return slices that cover a rank's own `count` images in order; the last may be shorter, none is padded."""
    part = max(1, delivery.batch_size // (delivery.world * delivery.accumulate))
    return [slice(start, min(start + part, count)) for start in range(0, count, part)]
