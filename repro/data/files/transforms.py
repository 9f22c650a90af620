"""What happens to an image between its file and the batch: crops, colours, holes, views, each with its words.

One pipeline serves both decoders: it takes a PIL image (RGB) or a uint8 tensor `(3, H, W)` on any device. All
randomness comes from the CPU generator that `drawing_from` seeds, so that nothing waits for a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import ColorJitter, InterpolationMode, RandomCrop, RandomHorizontalFlip
from torchvision.transforms import RandomResizedCrop as TorchvisionCrop
from torchvision.transforms.v2 import functional

from repro.data.config import AugmentConfig, EvaluationConfig
from repro.data.files.pixels import Cutout, Erase, Lighting
from repro.data.files.policies import policy_step
from repro.data.statistics import IMAGENET_MEAN, IMAGENET_STD, MEAN_COLOUR
from repro.data.views import cut_views

Operation = Callable[[Any], Any]
Step = tuple[Operation, str]
"""An operation on one image, and its words."""


@dataclass(frozen=True)
class Pipeline:
    """Operations in their order. Called with one image it returns uint8 `(3, H, W)`, or `(V, 3, h, w)` for views."""

    steps: tuple[Step, ...]

    def __call__(self, image: Any) -> Tensor:
        """Apply all operations; see the class."""
        for operation, _ in self.steps:
            image = operation(image)
        return image

    def __str__(self) -> str:
        """Return one sentence that names every operation with its parameters."""
        words = [word for _, word in self.steps if word]
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return "; ".join([*words, f"normalised by mean {mean} and standard deviation {std}"])


def train_transform(augment: AugmentConfig, size: int, mirror: bool = True) -> Pipeline:
    """Return the random changes of training images: to uint8 `(3, size, size)`; no flip where `mirror` is false."""
    steps = [_crop_step(augment, size)]
    if augment.flip and mirror:
        steps.append((RandomHorizontalFlip(), "mirrored with probability 0.5"))
    steps += policy_step(augment, size)
    if any(augment.color_jitter):
        steps.append((ColorJitter(*augment.color_jitter), _jitter_words(augment.color_jitter)))
    return Pipeline((*steps, (to_tensor, ""), *_pixel_steps(augment, size)))


def evaluation_transform(evaluation: EvaluationConfig, size: int) -> Pipeline:
    """Return the resize of the shorter side and the cut of the views: to uint8 `(V, 3, crop, crop)`."""
    resize, crop = evaluation.resize(size), evaluation.crop(size)
    mode = InterpolationMode(evaluation.interpolation)
    words = {
        "centre": f"centre crop of {crop}",
        "flip": f"centre crop of {crop} and its mirror image",
        "ten_crop": f"corner and centre crops of {crop} and their mirror images",
        "full": "the whole image and its mirror image",
    }
    return Pipeline(
        (
            (partial(functional.resize, size=[resize], interpolation=mode, antialias=True), _resized(resize, mode)),
            (to_tensor, ""),
            (partial(cut_views, crop=crop, kind=evaluation.views), words[evaluation.views]),
        )
    )


def to_tensor(image: Any) -> Tensor:
    """Turn a PIL image into uint8 `(3, H, W)`; a tensor stays as it is."""
    return image if isinstance(image, Tensor) else functional.pil_to_tensor(image)


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Start torch's global CPU generator, which torchvision's transforms draw from, at `seed`; put it back after."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def drawn_mode(interpolation: str) -> InterpolationMode:
    """Return torchvision's name of an interpolation; `random` draws one of bilinear and bicubic."""
    if interpolation == "random":
        interpolation = "bilinear" if torch.rand(()) < 0.5 else "bicubic"
    return InterpolationMode(interpolation)


@dataclass(frozen=True)
class ResizedCrop:
    """Cuts a part of random area and aspect ratio and resizes it to a square."""

    size: int
    area: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: str

    def __call__(self, image: Any) -> Any:
        """Cut one image; see the class."""
        box = TorchvisionCrop.get_params(image, list(self.area), list(self.ratio))
        mode = drawn_mode(self.interpolation)
        return functional.resized_crop(image, *box, size=[self.size] * 2, interpolation=mode, antialias=True)


@dataclass(frozen=True)
class ScaleJitter:
    """Resizes the shorter side to a whole number drawn evenly from `low` to `high`."""

    low: int
    high: int
    interpolation: str = "bilinear"

    def __call__(self, image: Any) -> Any:
        """Resize one image; see the class."""
        side = int(torch.randint(self.low, self.high + 1, ()))
        return functional.resize(image, [side], interpolation=drawn_mode(self.interpolation), antialias=True)


@dataclass(frozen=True)
class SquareCrop:
    """Resizes the shorter side to `size`, cuts the centre and, with a margin, pads and cuts anew at random."""

    size: int
    interpolation: str
    margin: int = 0
    mode: str = "constant"

    def __call__(self, image: Any) -> Any:
        """Cut one image; see the class."""
        mode = drawn_mode(self.interpolation)
        image = functional.center_crop(
            functional.resize(image, [self.size], interpolation=mode, antialias=True), [self.size] * 2
        )
        if not self.margin:
            return image
        fill = list(MEAN_COLOUR) if self.mode == "constant" else None
        image = functional.pad(image, [self.margin], fill=fill, padding_mode=self.mode)
        return functional.crop(image, *RandomCrop.get_params(image, (self.size, self.size)))


def _crop_step(augment: AugmentConfig, size: int) -> Step:
    """The first operation, which makes images square and of `size`."""
    inter = augment.interpolation
    if augment.crop == "random_resized":
        words = f"random crop of area {_range(augment.area)} and ratio {_range(augment.ratio)} resized to {size}"
        return ResizedCrop(size, augment.area, augment.ratio, inter), f"{words} ({inter})"
    if augment.crop == "scale_jitter":
        low, high = (round(side * size) for side in augment.shorter_side)
        steps = ((ScaleJitter(low, high, inter), ""), (RandomCrop(size), ""))
        return _Chain(steps), f"shorter side drawn from {low} to {high} ({inter}), random crop of {size}"
    margin = round(augment.pad * size) if augment.crop == "pad" else 0
    words = f"shorter side to {size} ({inter}), centre crop of {size}"
    if not margin:
        return SquareCrop(size, inter), words
    mode, fill = ("constant", "the mean colour") if augment.pad_mode == "zeros" else ("reflect", "its reflection")
    words += f", padded by {margin} with {fill}, random crop of {size}"
    return SquareCrop(size, inter, margin, mode), words


@dataclass(frozen=True)
class _Chain:
    """Several operations as one."""

    steps: tuple[Step, ...]

    def __call__(self, image: Any) -> Any:
        for operation, _ in self.steps:
            image = operation(image)
        return image


def _pixel_steps(augment: AugmentConfig, size: int) -> list[Step]:
    """The operations on uint8 tensors."""
    steps: list[Step] = []
    if augment.lighting:
        steps.append((Lighting(augment.lighting), f"PCA lighting noise of standard deviation {augment.lighting:g}"))
    side = round(augment.cutout * size)
    if side:
        steps.append((Cutout(side), f"cutout of {side}"))
    if augment.erase:
        steps.append((Erase(augment.erase), f"random erasing with probability {augment.erase:g}"))
    return steps


def _jitter_words(strengths: tuple[float, ...]) -> str:
    names = ("brightness", "contrast", "saturation", "hue")
    parts = [f"{name} {value:g}" for name, value in zip(names, strengths, strict=True) if value]
    return f"colour jitter of {', '.join(parts)}"


def _range(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.4g} to {pair[1]:.4g}"


def _resized(side: int, mode: InterpolationMode) -> str:
    return f"shorter side to {side} ({mode.value})"
