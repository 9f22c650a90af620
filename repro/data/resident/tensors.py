"""Loaders of a data set that lies whole on the device as uint8: no workers, and no step waits for the host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repro.data.arrays import ArraySplits, LabelledImages, channel_statistics
from repro.data.config import AugmentConfig, CifarConfig, DigitsConfig, EvaluationConfig, ShapesConfig
from repro.data.mix import Mixing
from repro.data.order import Shuffle, evaluation_positions, evaluation_slices, training_slices
from repro.data.resident.augment import Augmentation, dense
from repro.data.splits import Delivery, Splits
from repro.data.words import test_words, train_words

Batch = tuple[Tensor, Tensor]
ResidentConfig = DigitsConfig | ShapesConfig | CifarConfig


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
        """Turn `(..., C)`, uint8 or float32 that may be overwritten, into float32 of the same shape."""
        return images.float().sub_(self.mean).div_(self.std)


def to_layout(images: Tensor, channels_last: bool) -> Tensor:
    """Turn contiguous `(..., H, W, C)` into `(..., C, H, W)` in the layout asked for.

    The copy is not left to `contiguous()`: with one channel that takes either layout for the other, and a convolution
    then chooses its kernel by the strides it finds.
    """
    images = images.movedim(-1, -3)
    return images if channels_last else images.clone(memory_format=torch.contiguous_format)


class _Resident:
    """Images `(N, H, W, C)` and labels `(N,)` of one split on the device."""

    def __init__(self, split: LabelledImages, device: torch.device) -> None:
        self.images = dense(torch.from_numpy(split.images).to(device).permute(0, 2, 3, 1))
        self.labels = torch.from_numpy(split.labels).to(device)


class TensorLoader:
    """Training batches, shuffled and augmented as functions of (seed, epoch) for the global batch, then cut by rank."""

    def __init__(
        self,
        split: LabelledImages,
        classes: int,
        normalisation: Normalisation,
        augment: AugmentConfig,
        delivery: Delivery,
    ) -> None:
        """Raises InputError when the split does not fill one batch or `augment` does not fit; see `training_slices`."""
        self.slices = training_slices(len(split), delivery)
        self.sampler = Shuffle(len(split), delivery.seed, augment.repeats)
        self.resident = _Resident(split, delivery.device)
        self.normalisation = normalisation
        size = split.images.shape[-1]
        self.augmentation = Augmentation(augment, size, normalisation.mean, normalisation.std, self.slices)
        self.mixing = Mixing(augment.mix, classes, delivery.seed, delivery.rank)
        self.delivery = delivery

    def __len__(self) -> int:
        return len(self.slices)

    def begin_at(self, batch: int) -> None:
        """Let the next pass begin at this batch."""
        self.sampler.begin_at(batch)

    def close(self) -> None:
        """Nothing is held."""

    def __iter__(self) -> Iterator[Batch]:
        shuffle = self.sampler
        epoch, order, first = shuffle.epoch, shuffle.order().to(self.delivery.device), shuffle.first()
        changes = self.augmentation.draw(shuffle.count, shuffle.seed, epoch)
        for number, part in enumerate(self.slices[first:], start=first):
            chosen = order[part]
            images = self.resident.images[chosen]
            for change in changes.before:
                images = change(images, number)
            images = self.normalisation(images)
            for change in changes.after:
                images = change(images, number)
            images = to_layout(images, self.delivery.channels_last)
            yield self.mixing(images, self.resident.labels[chosen], epoch, number)


class TensorEvaluationLoader:
    """Every `world`-th image from `rank` on, in order: over all ranks each image exactly once, without padding."""

    def __init__(
        self, split: LabelledImages, normalisation: Normalisation, evaluation: EvaluationConfig, delivery: Delivery
    ) -> None:
        own = np.asarray(evaluation_positions(len(split), delivery), dtype=np.int64)
        self.slices = evaluation_slices(len(own), delivery)
        self.evaluation = evaluation
        self.size = split.images.shape[-1]
        self.resident = _Resident(_resized(split[own], evaluation), delivery.device)
        self.normalisation = normalisation
        self.channels_last = delivery.channels_last

    def __len__(self) -> int:
        return len(self.slices)

    def __iter__(self) -> Iterator[Batch]:
        for part in self.slices:
            images = self.normalisation(self._views(self.resident.images[part]))
            yield to_layout(images, self.channels_last), self.resident.labels[part]

    def _views(self, images: Tensor) -> Tensor:
        """Cut uint8 `(B, H, W, C)` into `(B, V, h, w, C)`; the centre alone was cut before."""
        if self.evaluation.views == "centre":
            return images
        from repro.data.views import cut_views

        views = cut_views(images.permute(0, 3, 1, 2), self.evaluation.crop(self.size), self.evaluation.views)
        return dense(views.permute(1, 0, 3, 4, 2))


def _resized(split: LabelledImages, evaluation: EvaluationConfig) -> LabelledImages:
    """Resize square images, with antialiasing, on the CPU, so that all devices get the same; cut a lone centre."""
    size = split.images.shape[-1]
    resize, crop = evaluation.resize(size), evaluation.crop(size)
    images = torch.from_numpy(split.images)
    if resize != size and len(split):
        from torchvision.transforms.v2 import InterpolationMode, functional

        images = functional.resize(
            images, [resize, resize], InterpolationMode(evaluation.interpolation), antialias=True
        )
    if evaluation.views == "centre":
        first = round((resize - crop) / 2)
        images = images[..., first : first + crop, first : first + crop]
    return LabelledImages(images.numpy(), split.labels)


def resident_splits(
    arrays: ArraySplits,
    config: ResidentConfig,
    augment: AugmentConfig,
    evaluation: EvaluationConfig,
    delivery: Delivery,
) -> Splits:
    """Put the splits on the device and make their loaders; all are normalised by the training images' statistics.

    Where a mirrored image is of another class, no flip is applied. Raises InputError as `TensorLoader` does.
    """
    _, channels, size, _ = arrays.train.images.shape
    normalisation = Normalisation.of(*channel_statistics(arrays.train.images), delivery.device)
    augment = augment.model_copy(update={"flip": augment.flip and config.mirror})
    held_out: Any = (normalisation, evaluation, delivery)
    return Splits(
        train=TensorLoader(arrays.train, config.classes, normalisation, augment, delivery),
        val=TensorEvaluationLoader(arrays.val, *held_out),
        test=TensorEvaluationLoader(arrays.test, *held_out),
        sizes=arrays.sizes,
        fingerprint=arrays.fingerprint,
        channels=channels,
        size=size,
        classes=config.classes,
        train_transform=train_words(augment, size, channels),
        test_transform=test_words(evaluation, size),
    )
