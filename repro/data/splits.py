"""What a run gets from this package: three loaders and what is known of the data. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Delivery:
    """How the batches of one rank are made and where they go. `batch_size` counts images over all `world` ranks."""

    batch_size: int
    seed: int
    device: torch.device
    channels_last: bool
    rank: int = 0
    world: int = 1
    accumulate: int = 1
    """Batches in which a rank gets its share of the global batch."""


class EpochSampler(Protocol):
    """What Lightning looks for under `loader.sampler` at the start of each epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next pass."""


class Loader(Protocol):
    """Batches `(x, y)`: x float32 `(B, C, H, W)`, normalised, on the device; y int64 `(B,)`.

    A training batch that was mixed has float32 targets `(B, classes)` that sum to 1. A held-out batch of several views
    is `(B, V, C, H, W)`.
    """

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def __len__(self) -> int: ...


class TrainLoader(Loader, Protocol):
    """A loader whose order changes with the epoch, and which begins an epoch in its middle where a run goes on."""

    @property
    def sampler(self) -> EpochSampler:
        """What Lightning tells the epoch."""

    def begin_at(self, batch: int) -> None:
        """Let the next pass, and only that one, begin at this batch, counted from 0; those before it are not made."""

    def close(self) -> None:
        """End what works ahead for the next batches; a process that outlived the run would hold its lock."""


@dataclass(frozen=True)
class HeldOutSplit:
    """One held-out split as one rank reads it: `size` counts images over all ranks; see `Splits`."""

    loader: Loader
    size: int
    fingerprint: str
    transform: str


@dataclass(frozen=True)
class Splits:
    """The loaders of one rank.

    `sizes` counts images over all ranks; `fingerprint` is a hash of the data; the transforms say in words
    what happens to the images of train and of test (val is treated as test).
    """

    train: TrainLoader
    val: Loader
    test: Loader
    sizes: dict[str, int]
    fingerprint: str
    channels: int
    size: int
    classes: int
    train_transform: str = ""
    test_transform: str = ""
