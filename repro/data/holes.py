"""Holes in training images: random erasing and cutout. Images come here normalised; a hole is 0, the mean colour."""

from __future__ import annotations

import torch
from torch import Tensor

from repro.data.order import cpu_generator
from repro.data.resident.windows import draw_boxes

ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)  # torchvision's and timm's; 0.02 to 0.4 in arXiv:1708.04896


def draw_erased(probability: float, size: int, count: int, seed: int, epoch: int) -> Tensor:
    """Draw the rectangle of random erasing (Zhong et al., arXiv:1708.04896) for each image; see `cut_holes`."""
    stream = cpu_generator("erase", seed, epoch)
    holes = draw_boxes(ERASED_AREA, ERASED_RATIO, size, count, stream, inside=True)
    return holes * (torch.rand(count, 1, generator=stream) < probability)


def draw_cutout(side: int, size: int, count: int, seed: int, epoch: int) -> Tensor:
    """Draw a square of `side` whose centre is any pixel, so that a part may lie outside; see `cut_holes`.

    DeVries and Taylor, arXiv:1708.04552, section 3.2.
    """
    centres = torch.randint(size, (count, 2), generator=cpu_generator("cutout", seed, epoch))
    return torch.cat([centres - side // 2, torch.full((count, 2), side)], 1)


def cut_holes(images: Tensor, holes: Tensor) -> Tensor:
    """Set one rectangle of each image `(B, H, W, C)` to 0, in place; holes int64 `(B, 4)`: top, left, height, width."""
    line = torch.arange(images.shape[1], device=images.device)
    first, sides = holes[:, :2, None], holes[:, 2:, None]
    down, across = ((line >= first) & (line < first + sides)).unbind(1)  # (B, size)
    return images.masked_fill_((down[:, :, None] & across[:, None, :])[..., None], 0)
