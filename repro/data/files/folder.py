"""Loaders of images in files, read by worker processes. What an image becomes does not depend on who reads it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from repro.data.config import AugmentConfig, ImagenetConfig
from repro.data.files.decode import decode, encoded, open_rgb
from repro.data.files.readers import Images
from repro.data.files.transforms import Pipeline, drawing_from
from repro.data.mix import Mixing
from repro.data.order import Shuffle, evaluation_positions, evaluation_slices, training_slices
from repro.data.resident.tensors import Batch, Normalisation, to_layout
from repro.data.seeds import derive
from repro.data.splits import Delivery
from repro.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from repro.errors import InputError

Item = tuple[int, int]
"""Position of an image, and the seed of its augmentation."""


class _Work(Dataset[Any], ABC):
    """What a worker does with a batch of items. An InputError is handed over as a value: raised there, it would come
    with the worker's traceback."""

    def __init__(self, images: Images, transform: Pipeline) -> None:
        self.images = images
        self.transform = transform

    def __getitem__(self, items: list[Item]) -> Any:
        try:
            return self.batch(items), torch.from_numpy(self.images.labels[[position for position, _ in items]])
        except InputError as error:
            return error

    @abstractmethod
    def batch(self, items: list[Item]) -> Any:
        """Read the images of one batch."""


class _Decoded(_Work):
    """Images decoded and transformed: uint8 `(B, 3, H, W)`, or with views `(B, V, 3, h, w)`."""

    def batch(self, items: list[Item]) -> Tensor:
        return torch.stack([self._image(position, seed) for position, seed in items])

    def _image(self, position: int, seed: int) -> Tensor:
        image = open_rgb(self.images.read(position), self.images.name(position))
        with drawing_from(seed):
            return self.transform(image)


class _Encoded(_Work):
    """Images as the device decodes them, one after the other in one tensor, with their shapes and the items."""

    def batch(self, items: list[Item]) -> tuple[Tensor, list[tuple[int, ...]], list[Item]]:
        files = [encoded(self.images.read(position), self.images.name(position)) for position, _ in items]
        return torch.cat([file.flatten() for file in files]), [tuple(file.shape) for file in files], items


class _ByWorkers:
    """Batches that the workers have made, on the device."""

    def __init__(self, images: Images, transform: Pipeline) -> None:
        self.work = _Decoded(images, transform)

    def __call__(self, batch: Tensor, device: torch.device) -> Tensor:
        return batch.to(device, non_blocking=True)


class _ByDevice:
    """Batches that the workers have read and the device decodes and transforms: the same operations and draws."""

    def __init__(self, images: Images, transform: Pipeline) -> None:
        self.work = _Encoded(images, transform)

    def __call__(self, batch: tuple[Tensor, list[tuple[int, ...]], list[Item]], device: torch.device) -> Tensor:
        data, shapes, items = batch
        parts = torch.split(data, [torch.Size(shape).numel() for shape in shapes])
        decoded = self._decode([part.view(shape) for part, shape in zip(parts, shapes, strict=True)], items, device)
        return torch.stack([self._image(image, seed) for image, (_, seed) in zip(decoded, items, strict=True)])

    def _image(self, pixels: Tensor, seed: int) -> Tensor:
        with drawing_from(seed):
            return self.work.transform(pixels)

    def _decode(self, files: list[Tensor], items: list[Item], device: torch.device) -> list[Tensor]:
        """Decode a batch; where that fails, let Pillow find and name the damaged file."""
        images = self.work.images
        try:
            return decode(files, device)
        except RuntimeError as error:
            for position, _ in items:
                open_rgb(images.read(position), images.name(position))
            raise InputError(f"{images.name(items[0][0])} or another of its batch: {error}") from None


class _Maker(Protocol):
    """Who turns what the workers hand over into uint8 images on the device."""

    @property
    def work(self) -> _Work:
        """What the workers do."""

    def __call__(self, batch: Any, device: torch.device) -> Tensor: ...


def _maker(images: Images, transform: Pipeline, config: ImagenetConfig) -> _Maker:
    return _ByDevice(images, transform) if config.decode == "gpu" else _ByWorkers(images, transform)


class _TrainItems(Sampler[list[Item]]):
    """Batches of items of one rank, in the shuffle's order for its epoch; a seed for each place in that order.

    They begin at batch `first`.
    """

    def __init__(self, shuffle: Shuffle, slices: list[slice]) -> None:
        self.shuffle = shuffle
        self.slices = slices
        self.first = 0

    def __len__(self) -> int:
        return len(self.slices)

    def __iter__(self) -> Iterator[list[Item]]:
        order, key = self.shuffle.order(), (self.shuffle.seed, self.shuffle.epoch)
        for part in self.slices[self.first :]:
            chosen = enumerate(order[part].tolist(), start=part.start)
            yield [(position, derive("image", *key, place)) for place, position in chosen]


class _Delivered:
    """Batches from the workers, brought to the device, normalised there and laid out."""

    def __init__(self, maker: _Maker, loader: DataLoader[Any], delivery: Delivery) -> None:
        self.maker = maker
        self.loader = loader
        self.delivery = delivery
        self.normalisation = Normalisation.of(IMAGENET_MEAN, IMAGENET_STD, delivery.device)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        device = self.delivery.device
        for handed in self.loader:
            if isinstance(handed, InputError):
                raise handed
            batch, labels = handed
            yield self._normalised(self.maker(batch, device)), labels.to(device, non_blocking=True)

    def _normalised(self, images: Tensor) -> Tensor:
        """Normalise and lay out `(B, 3, H, W)`, or `(B, V, 3, h, w)` by the image."""
        flat = images.flatten(0, -4).permute(0, 2, 3, 1).contiguous()
        laid_out = to_layout(self.normalisation(flat), self.delivery.channels_last)
        return laid_out.view(*images.shape[:-3], *laid_out.shape[1:])


class FolderLoader(_Delivered):
    """Training batches, shuffled and augmented as functions of (seed, epoch, place in the order), whatever the workers
    and ranks, and then mixed."""

    def __init__(
        self,
        images: Images,
        transform: Pipeline,
        config: ImagenetConfig,
        augment: AugmentConfig,
        delivery: Delivery,
    ) -> None:
        """Raises InputError when the images do not fill one batch; see `training_slices`."""
        self.sampler = Shuffle(len(images), delivery.seed, augment.repeats)
        self.mixing = Mixing(augment.mix, config.classes, delivery.seed, delivery.rank)
        self.items = _TrainItems(self.sampler, training_slices(len(images), delivery))
        maker = _maker(images, transform, config)
        super().__init__(maker, _loader(maker.work, self.items, config.workers, delivery, persistent=True), delivery)

    def begin_at(self, batch: int) -> None:
        """Let the next pass begin at this batch."""
        self.sampler.begin_at(batch)

    def close(self) -> None:
        """End the workers; a pass that goes on has no more batches."""
        running: Any = self.loader._iterator  # PyTorch keeps it where workers are persistent, and has no other door
        if running is not None:
            running._shutdown_workers()
            self.loader._iterator = None

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.sampler.epoch, self.sampler.first()
        self.items.first = first
        for step, (images, labels) in enumerate(super().__iter__(), start=first):
            yield self.mixing(images, labels, epoch, step)


class FolderEvaluationLoader(_Delivered):
    """Every `world`-th image from `rank` on, in order: over all ranks each image exactly once, without padding.

    One view is delivered as `(B, 3, h, w)`, several as `(B, V, 3, h, w)`. Whole images differ in shape and come singly.
    """

    def __init__(
        self, images: Images, transform: Pipeline, config: ImagenetConfig, whole: bool, delivery: Delivery
    ) -> None:
        own = evaluation_positions(len(images), delivery)
        slices = [slice(k, k + 1) for k in range(len(own))] if whole else evaluation_slices(len(own), delivery)
        items, maker = [[(position, 0) for position in own[part]] for part in slices], _maker(images, transform, config)
        super().__init__(maker, _loader(maker.work, items, config.workers, delivery, persistent=False), delivery)

    def _normalised(self, images: Tensor) -> Tensor:
        return super()._normalised(images.squeeze(1) if images.shape[1] == 1 else images)


def _loader(
    work: _Work,
    items: Sampler[list[Item]] | Sequence[list[Item]],
    workers: int,
    delivery: Delivery,
    *,
    persistent: bool,
) -> DataLoader[Any]:
    """Make a DataLoader with a generator of its own, so that the global one is not drawn from."""
    return DataLoader(
        work,
        batch_size=None,  # the work is done by the batch
        sampler=items,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=delivery.device.type == "cuda",
        persistent_workers=persistent and workers > 0,
        generator=torch.Generator().manual_seed(derive("workers", delivery.seed)),
    )


def _as_it_is(handed: Any) -> Any:
    return handed
