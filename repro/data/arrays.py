"""Labelled images in host memory, as numpy arrays, and what is said about them. Imports no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]

FINGERPRINT_LENGTH = 16  # hexadecimal digits: 64 bits
SPLIT_SEED = 20151210  # of every held-out split: fixed, so that all runs of a table share their splits


@dataclass(frozen=True)
class LabelledImages:
    """`images` uint8 `(N, C, H, W)` and `labels` int64 `(N,)`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"images {self.images.shape} and labels {self.labels.shape} do not go together")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: NDArray[np.int64]) -> LabelledImages:
        return LabelledImages(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class ArraySplits:
    """The three splits of a data set that fits into memory."""

    train: LabelledImages
    val: LabelledImages
    test: LabelledImages

    def items(self) -> dict[str, LabelledImages]:
        """Return the splits by name, train first."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def sizes(self) -> dict[str, int]:
        """Images in each split."""
        return {name: len(split) for name, split in self.items().items()}

    @property
    def fingerprint(self) -> str:
        """Hash of all images and labels in their order."""
        state = hashlib.sha256()
        for name, split in self.items().items():
            state.update(f"{name} {split.images.shape}".encode())
            state.update(np.ascontiguousarray(split.images).data)
            state.update(np.ascontiguousarray(split.labels).data)
        return state.hexdigest()[:FINGERPRINT_LENGTH]


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of `(N, C, H, W)`, on the scale 0 to 1; summed in integers."""
    mean, std = [], []
    levels = np.arange(256, dtype=np.float64) / 255
    for channel in range(images.shape[1]):
        share = _histogram(images[:, channel]) / images[:, channel].size
        mean.append(float(share @ levels))
        std.append(float(np.sqrt(share @ (levels - mean[-1]) ** 2)))
    return tuple(mean), tuple(max(value, 1 / 255) for value in std)  # a constant channel is not divided by zero


def _histogram(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Counts of the 256 values; in pieces, as numpy makes 8 bytes of each value on the way."""
    counts = np.zeros(256, dtype=np.int64)
    for piece in np.array_split(values, max(1, values.size >> 22)):
        counts += np.bincount(piece.reshape(-1), minlength=256)
    return counts


def hold_out(labels: Positions, count: int, seed: int = SPLIT_SEED) -> tuple[Positions, Positions]:
    """Split positions of `labels` `(N,)` into (kept, held out), both ascending.

    `count` images are held out, from each class in proportion to its size. The choice is fixed by `labels`, `count` and
    `seed`: it uses numpy's legacy generator, whose stream is frozen for ever.
    """
    if not 0 <= count <= len(labels):
        raise ValueError(f"cannot hold out {count} of {len(labels)} images")
    stream = np.random.RandomState(seed)
    held = np.zeros(len(labels), dtype=bool)
    for label, quota in _quotas(labels, count).items():
        held[stream.permutation(np.flatnonzero(labels == label))[:quota]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _quotas(labels: NDArray[np.int64], count: int) -> dict[int, int]:
    """Divide `count` over the classes by largest remainder."""
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * count / max(1, len(labels))
    quotas = np.floor(exact).astype(np.int64)
    order = np.argsort(quotas - exact, kind="stable")
    quotas[order[: count - int(quotas.sum())]] += 1
    return dict(zip(classes.tolist(), quotas.tolist(), strict=True))
