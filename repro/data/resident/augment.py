"""All random changes of training images on the device, by the batch, in an order that is the same for every recipe.

On uint8 and the whole image: the policy's operations, then colour jitter. On values from 0 to 255: a random part of the
image, enlarged. Then normalisation. On normalised values, where 0 is the mean colour: lighting noise, padding with a
random crop, the mirror image, cutout, random erasing. (Elsewhere a policy often comes after the crop; here padding is 0
after normalisation, as in He et al., CVPR 2016.)

Everything is drawn on the CPU for a whole epoch and brought to the device once: no step waits for the host. Each kind
of draw has a stream of its own, a function of (seed, epoch, position): turning one on leaves the others as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.data.config import AugmentConfig
from repro.data.holes import cut_holes, draw_cutout, draw_erased
from repro.data.order import cpu_generator
from repro.data.resident.crop_flip import CropFlip, draw_epoch, draw_flips
from repro.data.resident.grouped import Grouped
from repro.data.resident.windows import draw_bicubic, draw_resized_crops, draw_scale_jitter, mirrored, resample
from repro.data.spaces import draw_jitter, draw_policy
from repro.data.statistics import EIGENVALUES, EIGENVECTORS
from repro.errors import InputError

Change = Callable[[Tensor, int], Tensor]
"""Changes images `(B, H, W, C)` of a batch, given by its number in the epoch."""


@dataclass(frozen=True)
class Changes:
    """What happens to the batches of one epoch: to uint8 before the normalisation, and to float32 after it."""

    before: tuple[Change, ...]
    after: tuple[Change, ...]


@dataclass(frozen=True)
class Augmentation:
    """The random changes of square images of `size` that `config` names; `mean` and `std` `(C,)` are on 0..255.

    `slices` are the positions of each batch of this rank. Raises InputError when reflected padding is too wide.
    """

    config: AugmentConfig
    size: int
    mean: Tensor
    std: Tensor
    slices: list[slice]

    def __post_init__(self) -> None:
        if self.pad >= self.size and self.config.pad_mode == "reflect":
            raise InputError(
                f"recipe.augment.pad={self.config.pad:g} is {self.pad} pixels; reflecting images of {self.size} pixels "
                f"needs less than {self.size}"
            )

    @property
    def pad(self) -> int:
        """Pixels that are padded on each side."""
        return round(self.config.pad * self.size) if self.config.crop == "pad" else 0

    def draw(self, count: int, seed: int, epoch: int) -> Changes:
        """Draw an epoch of `count` images."""
        before = (self._operations(count, seed, epoch), self._windows(count, seed, epoch))
        after = (
            self._lighting(count, seed, epoch),
            self._crop_flip(count, seed, epoch),
            self._cutout(count, seed, epoch),
            self._erased(count, seed, epoch),
        )
        return Changes(tuple(change for change in before if change), tuple(change for change in after if change))

    def _operations(self, count: int, seed: int, epoch: int) -> Change | None:
        """Policy and colour jitter."""
        drawn = [draw_policy(self.config.policy, self.size, count, seed, epoch)]
        if any(self.config.color_jitter):
            drawn.append(draw_jitter(self.config.color_jitter, count, seed, epoch))
        operations, amounts = (torch.cat(parts, 1) for parts in zip(*drawn, strict=True))
        if not operations.shape[1]:
            return None
        grouped = Grouped(operations, amounts, self.slices, self.mean.round().view(-1, 1, 1))
        return lambda images, number: dense(grouped(images.permute(0, 3, 1, 2), number).permute(0, 2, 3, 1))

    def _windows(self, count: int, seed: int, epoch: int) -> Change | None:
        """Random resized crop or scale jitter, and the flip with it."""
        config, size, device = self.config, self.size, self.mean.device
        if config.crop == "random_resized":
            drawn = draw_resized_crops(config.area, config.ratio, size, count, seed, epoch)
        elif config.crop == "scale_jitter":
            low, high = (round(side * size) for side in config.shorter_side)
            drawn = draw_scale_jitter(low, high, size, count, seed, epoch)
        else:
            return None
        windows = mirrored(drawn, draw_flips(config.flip, count, seed, epoch), size).to(device)
        bicubic = draw_bicubic(config.interpolation, count, seed, epoch)[:, None, None, None].to(device)

        def change(images: Tensor, number: int) -> Tensor:
            part = self.slices[number]
            if config.interpolation != "random":
                return dense(resample(images.float(), windows[part], config.interpolation))
            smooth, sharp = (resample(images.float(), windows[part], mode) for mode in ("bilinear", "bicubic"))
            return dense(torch.where(bicubic[part], sharp, smooth))

        return change

    def _lighting(self, count: int, seed: int, epoch: int) -> Change | None:
        """Noise along the principal components of ImageNet's colours (Krizhevsky et al. 2012, section 4.1) of RGB."""
        if not self.config.lighting or len(self.mean) != 3:
            return None
        multiples = torch.randn(count, 3, generator=cpu_generator("lighting", seed, epoch)) * self.config.lighting
        colours = 255 * (multiples * torch.tensor(EIGENVALUES))[:, None, :] * torch.tensor(EIGENVECTORS)
        noise = colours.sum(2).to(self.mean.device) / self.std
        return lambda images, number: images.add_(noise[self.slices[number], None, None, :])

    def _crop_flip(self, count: int, seed: int, epoch: int) -> Change | None:
        """Padding with a random crop, and the flip of images that no window was cut from."""
        config, device = self.config, self.mean.device
        if config.crop in ("random_resized", "scale_jitter") or not (self.pad or config.flip):
            return None
        crop_flip = CropFlip(self.pad, self.size, device, config.pad_mode)
        draws = draw_epoch(self.pad, config.flip, count, seed, epoch).to(device)
        return lambda images, number: crop_flip(images, draws[self.slices[number]])

    def _cutout(self, count: int, seed: int, epoch: int) -> Change | None:
        side = round(self.config.cutout * self.size)
        return self._holes(draw_cutout(side, self.size, count, seed, epoch)) if side else None

    def _erased(self, count: int, seed: int, epoch: int) -> Change | None:
        probability = self.config.erase
        return self._holes(draw_erased(probability, self.size, count, seed, epoch)) if probability else None

    def _holes(self, drawn: Tensor) -> Change:
        holes = drawn.to(self.mean.device)
        return lambda images, number: cut_holes(images, holes[self.slices[number]])


def dense(images: Tensor) -> Tensor:
    """Return `images` contiguous; through one dimension and back, which gives a single channel its ordinary stride."""
    return images.contiguous().flatten().view(images.shape)
