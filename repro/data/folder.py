"""Loaders of images in files, decoded by worker processes. What an image becomes does not depend on who reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from repro.data.order import Shuffle, evaluation_positions, evaluation_slices, training_slices
from repro.data.seeds import derive
from repro.data.splits import Delivery
from repro.data.tensors import Batch, Normalisation, to_layout
from repro.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

Transform = Callable[["Image"], Tensor]
Item = tuple[int, int]
"""Position of an image, and the seed of its augmentation."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the training set, RGB, scale 0 to 1
JITTER = (256, 480)  # shorter side for a crop of 224: He et al., CVPR 2016, section 3.4


@dataclass(frozen=True)
class ImageFiles:
    """Paths and int64 labels `(N,)`. Arrays, not lists: forked workers share them and do not copy each object."""

    paths: NDArray[np.bytes_]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: NDArray[np.int64]) -> ImageFiles:
        return ImageFiles(self.paths[chosen], self.labels[chosen])


def train_transform(crop: Literal["scale_jitter", "random_resized"], size: int) -> Transform:
    """Return the random crop and flip of training: an RGB image to uint8 `(3, size, size)`."""
    from torchvision import transforms

    tail = [transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    if crop == "random_resized":
        return transforms.Compose([transforms.RandomResizedCrop(size), *tail])
    return transforms.Compose([ScaleJitter(size), transforms.RandomCrop(size), *tail])


def evaluation_transform(resize: int, crop: int) -> Transform:
    """Return the resize of the shorter side and the centre crop of evaluation: to uint8 `(3, crop, crop)`."""
    from torchvision import transforms

    return transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop), transforms.PILToTensor()])


class ScaleJitter:
    """Resizes the shorter side to a whole number drawn evenly from [256, 480] x size / 224."""

    def __init__(self, size: int) -> None:
        self.low, self.high = (round(side * size / 224) for side in JITTER)

    def __call__(self, image: Image) -> Image:
        """Resize one image; see the class."""
        from torchvision.transforms.functional import resize

        return resize(image, int(torch.randint(self.low, self.high + 1, ())))


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Start torch's global CPU generator, which torchvision's transforms draw from, at `seed`; put it back after."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


class _Decoded(Dataset[tuple[Tensor, int]]):
    """Images read and transformed; augmentation depends on the item's seed alone."""

    def __init__(self, files: ImageFiles, transform: Transform) -> None:
        self.files = files
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: Item) -> tuple[Tensor, int]:
        position, seed = item
        with drawing_from(seed):
            return self.transform(_open(os.fsdecode(self.files.paths[position]))), int(self.files.labels[position])


def _open(path: str) -> Image:
    """Read an RGB image. Raises InputError that names a file which is none."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for some broken PNG files
        raise InputError(f"{path}: cannot be read as an image ({error})") from None


class _TrainItems(Sampler[list[Item]]):
    """Batches of items of one rank, in the shuffle's order for its epoch."""

    def __init__(self, shuffle: Shuffle, slices: list[slice]) -> None:
        self.shuffle = shuffle
        self.slices = slices

    def __len__(self) -> int:
        return len(self.slices)

    def __iter__(self) -> Iterator[list[Item]]:
        order, key = self.shuffle.order(), (self.shuffle.seed, self.shuffle.epoch)
        for part in self.slices:
            yield [(position, derive("image", *key, position)) for position in order[part].tolist()]


class _Delivered:
    """Batches of a DataLoader, brought to the device, normalised there and laid out."""

    def __init__(self, loader: DataLoader[tuple[Tensor, int]], delivery: Delivery) -> None:
        self.loader = loader
        self.delivery = delivery
        self.normalisation = Normalisation.of(IMAGENET_MEAN, IMAGENET_STD, delivery.device)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self.loader:
            raw = images.to(self.delivery.device, non_blocking=True).permute(0, 2, 3, 1).contiguous()
            normalised = to_layout(self.normalisation(raw), self.delivery.channels_last)
            yield normalised, labels.to(self.delivery.device, non_blocking=True)


class FolderLoader(_Delivered):
    """Training batches, shuffled and augmented as functions of (seed, epoch, image), whatever the workers and ranks."""

    def __init__(self, files: ImageFiles, transform: Transform, workers: int, delivery: Delivery) -> None:
        """Raises InputError when the files do not fill one batch; see `training_slices`."""
        self.sampler = Shuffle(len(files), delivery.seed)
        items = _TrainItems(self.sampler, training_slices(len(files), delivery))
        super().__init__(_loader(_Decoded(files, transform), items, workers, delivery, persistent=True), delivery)


class FolderEvaluationLoader(_Delivered):
    """Every `world`-th image from `rank` on, in order: over all ranks each image exactly once, without padding."""

    def __init__(self, files: ImageFiles, transform: Transform, workers: int, delivery: Delivery) -> None:
        own = evaluation_positions(len(files), delivery)
        items = [[(position, 0) for position in own[part]] for part in evaluation_slices(len(own), delivery)]
        super().__init__(_loader(_Decoded(files, transform), items, workers, delivery, persistent=False), delivery)


def _loader(
    images: _Decoded, items: _TrainItems | list[list[Item]], workers: int, delivery: Delivery, *, persistent: bool
) -> DataLoader[tuple[Tensor, int]]:
    """Make a DataLoader with a generator of its own, so that the global one is not drawn from."""
    return DataLoader(
        images,
        batch_sampler=items,
        num_workers=workers,
        pin_memory=delivery.device.type == "cuda",
        persistent_workers=persistent and workers > 0,
        generator=torch.Generator().manual_seed(derive("workers", delivery.seed)),
    )
