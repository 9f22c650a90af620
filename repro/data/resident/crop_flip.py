"""Padding with a random crop, and a horizontal flip, by the batch on the device.

He et al., CVPR 2016, section 4.2: 4 pixels are padded on each side, and a crop of the native size is taken at random
from the padded image or its mirror image. Images come here normalised, so that zero is the mean of the training images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as functional
from torch import Tensor

from repro.data.order import cpu_generator


@dataclass(frozen=True)
class Draws:
    """Parameters of one epoch by position in its order: crop offsets in [0, 2 pad] and flips, each `(N,)`."""

    rows: Tensor
    columns: Tensor
    flips: Tensor

    def __getitem__(self, part: slice) -> Draws:
        return Draws(self.rows[part], self.columns[part], self.flips[part])

    def to(self, device: torch.device) -> Draws:
        """Copy to the device: once an epoch, so that no step waits for the host."""
        return Draws(self.rows.to(device), self.columns.to(device), self.flips.to(device))


def draw_epoch(pad: int, flip: bool, count: int, seed: int, epoch: int) -> Draws:
    """Draw for `count` images, as a function of (seed, epoch, position); crops are the same with and without flips."""
    crops = torch.randint(0, 2 * pad + 1, (2, count), generator=cpu_generator("crop", seed, epoch))
    return Draws(crops[0], crops[1], draw_flips(flip, count, seed, epoch))


def draw_flips(flip: bool, count: int, seed: int, epoch: int) -> Tensor:
    """Draw which images are mirrored, bool `(N,)`: half of them at random, or none."""
    flips = torch.randint(0, 2, (count,), generator=cpu_generator("flip", seed, epoch)).bool()
    return flips if flip else torch.zeros(count, dtype=torch.bool)


class CropFlip:
    """Pads, crops and flips a batch of square images of `size` on `device`, in one gather."""

    def __init__(self, pad: int, size: int, device: torch.device, mode: Literal["zeros", "reflect"] = "zeros") -> None:
        self.pad = pad
        self.mode = mode
        self.line = torch.arange(size, device=device)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Augment `(B, H, W, C)`: cut each padded image at its row and column, then flip it if it is to be."""
        batch, size, _, channels = images.shape
        padded = self._padded(images)
        side = size + 2 * self.pad
        across = torch.where(draws.flips[:, None], size - 1 - self.line, self.line) + draws.columns[:, None]  # (B, W)
        first = torch.arange(batch, device=images.device) * side + draws.rows
        down = (first[:, None] + self.line) * side  # (B, H)
        pixels = (down[:, :, None] + across[:, None, :]).reshape(-1)
        return padded.reshape(-1, channels).index_select(0, pixels).view(batch, size, size, channels)

    def _padded(self, images: Tensor) -> Tensor:
        if not self.pad:
            return images
        if self.mode == "zeros":
            return functional.pad(images, (0, 0, self.pad, self.pad, self.pad, self.pad))
        size = images.shape[1]
        line = torch.arange(-self.pad, size + self.pad, device=images.device).abs()
        line = size - 1 - (size - 1 - line).abs()  # the outer pixel is not repeated
        return images.index_select(1, line).index_select(2, line)
