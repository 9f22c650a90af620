"""Loaders of a data set that lies whole on the device as uint8: no workers, and no step waits for the host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repro.data.arrays import ArraySplits, LabelledImages, channel_statistics
from repro.data.augment import CropFlip, Draws, draw_epoch
from repro.data.config import AugmentConfig, CifarConfig, DigitsConfig, EvaluationConfig, ShapesConfig
from repro.data.order import Shuffle, evaluation_positions, evaluation_slices, training_slices
from repro.data.splits import Delivery, Splits

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Normalisation:
    """Subtracts the mean of each channel and divides by its standard deviation; `mean` and `std` `(C,)` on 0..255."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Normalisation:
        """Make one from statistics on the scale 0 to 1."""
        scaled = (torch.tensor(values, dtype=torch.float32, device=device) * 255 for values in (mean, std))
        return cls(*scaled)

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 `(B, H, W, C)` into float32 of the same shape."""
        return images.float().sub_(self.mean).div_(self.std)


def to_layout(images: Tensor, channels_last: bool) -> Tensor:
    """Turn contiguous `(B, H, W, C)` into `(B, C, H, W)` in the layout asked for.

    The copy is not left to `contiguous()`: with one channel that takes either layout for the other, and a convolution
    then chooses its kernel by the strides it finds.
    """
    images = images.permute(0, 3, 1, 2)
    return images if channels_last else images.clone(memory_format=torch.contiguous_format)


class _Resident:
    """Images `(N, H, W, C)` and labels `(N,)` of one split on the device."""

    def __init__(self, split: LabelledImages, device: torch.device) -> None:
        images = torch.from_numpy(split.images).to(device).permute(0, 2, 3, 1)
        # Through one dimension and back: that gives the axis of a single channel its ordinary stride.
        self.images = images.contiguous().flatten().view(images.shape)
        self.labels = torch.from_numpy(split.labels).to(device)


class TensorLoader:
    """Training batches, shuffled and augmented as functions of (seed, epoch) for the global batch, then cut by rank."""

    def __init__(
        self, split: LabelledImages, normalisation: Normalisation, augment: AugmentConfig, delivery: Delivery
    ) -> None:
        """Raises InputError when the split does not fill one batch; see `training_slices`."""
        self.slices = training_slices(len(split), delivery)
        self.sampler = Shuffle(len(split), delivery.seed)
        self.resident = _Resident(split, delivery.device)
        self.normalisation = normalisation
        self.augment = augment
        self.crop_flip = CropFlip(_pad(augment, split.images.shape[-1]), split.images.shape[-1], delivery.device)
        self.delivery = delivery

    def __len__(self) -> int:
        return len(self.slices)

    def __iter__(self) -> Iterator[Batch]:
        order, draws = self._epoch()
        for part in self.slices:
            chosen = order[part]
            images = self.normalisation(self.resident.images[chosen])
            if draws is not None:
                images = self.crop_flip(images, draws[part])
            yield to_layout(images, self.delivery.channels_last), self.resident.labels[chosen]

    def _epoch(self) -> tuple[Tensor, Draws | None]:
        """Order and augmentation of the sampler's epoch, brought to the device once."""
        shuffle, device = self.sampler, self.delivery.device
        order = shuffle.order().to(device)
        if not (self.crop_flip.pad or self.augment.flip):
            return order, None
        return order, draw_epoch(self.crop_flip.pad, self.augment.flip, shuffle.count, shuffle.seed, shuffle.epoch).to(
            device
        )


def _pad(augment: AugmentConfig, size: int) -> int:
    return round(augment.pad * size) if augment.crop == "pad" else 0


class TensorEvaluationLoader:
    """Every `world`-th image from `rank` on, in order: over all ranks each image exactly once, without padding."""

    def __init__(self, split: LabelledImages, normalisation: Normalisation, delivery: Delivery) -> None:
        own = np.asarray(evaluation_positions(len(split), delivery), dtype=np.int64)
        self.slices = evaluation_slices(len(own), delivery)
        self.resident = _Resident(split[own], delivery.device)
        self.normalisation = normalisation
        self.channels_last = delivery.channels_last

    def __len__(self) -> int:
        return len(self.slices)

    def __iter__(self) -> Iterator[Batch]:
        for part in self.slices:
            images = self.normalisation(self.resident.images[part])
            yield to_layout(images, self.channels_last), self.resident.labels[part]


def resident_splits(
    arrays: ArraySplits,
    config: DigitsConfig | ShapesConfig | CifarConfig,
    augment: AugmentConfig,
    evaluation: EvaluationConfig,
    delivery: Delivery,
) -> Splits:
    """Put the splits on the device and make their loaders; all are normalised by the training images' statistics."""
    normalisation = Normalisation.of(*channel_statistics(arrays.train.images), delivery.device)
    _, channels, size, _ = arrays.train.images.shape
    augment = augment.model_copy(update={"flip": augment.flip and config.mirror})
    return Splits(
        train=TensorLoader(arrays.train, normalisation, augment, delivery),
        val=TensorEvaluationLoader(arrays.val, normalisation, delivery),
        test=TensorEvaluationLoader(arrays.test, normalisation, delivery),
        sizes=arrays.sizes,
        fingerprint=arrays.fingerprint,
        channels=channels,
        size=size,
        classes=config.classes,
    )
