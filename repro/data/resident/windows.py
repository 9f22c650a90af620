"""Random parts of square images, enlarged to the images' own size by the batch: random resized crop and scale jitter.

No part is larger than its image, so that resizing never reduces and bilinear interpolation needs no antialiasing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from repro.data.order import cpu_generator

TRIES = 10  # boxes drawn for an image before the centre is taken, as in torchvision and timm


def draw_boxes(
    area: tuple[float, float], ratio: tuple[float, float], size: int, count: int, stream: torch.Generator, inside: bool
) -> Tensor:
    """Draw rectangles of random area (x size squared) and aspect ratio (evenly by its logarithm) at random places.

    Returns int64 `(N, 4)`: top, left, height, width; height 0 where none of ten tries fits into an image of `size`
    (with `inside`, strictly), which is torchvision's and timm's rule.
    """
    areas = _even(area, (TRIES, count), stream) * size**2
    ratios = _even((math.log(ratio[0]), math.log(ratio[1])), (TRIES, count), stream).exp()
    sides = torch.stack([(areas / ratios).sqrt(), (areas * ratios).sqrt()], -1).round().long()  # (10, N, 2)
    fits = ((sides > 0) & (sides <= size - inside)).all(-1)
    first = fits.int().argmax(0)
    chosen = sides[first, torch.arange(count)] * fits.any(0)[:, None]
    return torch.cat([_corner(size - chosen, stream), chosen], 1)


def _even(limits: tuple[float, float], shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * torch.rand(shape, generator=stream, dtype=torch.float64)


def _corner(room: Tensor, stream: torch.Generator) -> Tensor:
    """Draw offsets evenly from 0 to `room`, both included."""
    return (torch.rand(room.shape, generator=stream, dtype=torch.float64) * (room + 1)).long()


def draw_resized_crops(
    area: tuple[float, float], ratio: tuple[float, float], size: int, count: int, seed: int, epoch: int
) -> Tensor:
    """Draw a random resized crop for each image; returns windows, see `resample`."""
    boxes = draw_boxes(area, ratio, size, count, cpu_generator("box", seed, epoch), inside=False)
    boxes = torch.where(boxes[:, 2:3] > 0, boxes, _central(ratio, size))
    start, sides = boxes[:, :2].double(), boxes[:, 2:].double()
    return torch.stack([start, sides / size, start, start + sides - 1], -1).float()


def _central(ratio: tuple[float, float], size: int) -> Tensor:
    """The largest box in the centre whose aspect ratio (width / height) is allowed."""
    height = round(size / max(1.0, ratio[0]))
    width = round(size * min(1.0, ratio[1]))
    return torch.tensor([(size - height) // 2, (size - width) // 2, height, width])


def draw_scale_jitter(low: int, high: int, size: int, count: int, seed: int, epoch: int) -> Tensor:
    """Draw a side from `low` to `high` for each image, and a crop of `size` from the image resized to it; windows."""
    stream = cpu_generator("scale", seed, epoch)
    sides = torch.randint(low, high + 1, (count, 1), generator=stream).expand(count, 2)
    step = size / sides.double()
    start = _corner(sides - size, stream) * step
    return torch.stack([start, step, torch.zeros_like(step), torch.full_like(step, size - 1)], -1).float()


def mirrored(windows: Tensor, flips: Tensor, size: int) -> Tensor:
    """Read the lines of those images from right to left that `flips`, bool `(N,)`, names."""
    start, step = windows[:, 1, 0], windows[:, 1, 1]
    backwards = windows.clone()
    backwards[:, 1, 0], backwards[:, 1, 1] = start + size * step, -step
    return torch.where(flips[:, None, None], backwards, windows)


def draw_bicubic(interpolation: str, count: int, seed: int, epoch: int) -> Tensor:
    """Draw which images are interpolated bicubically, bool `(N,)`: all, none, or half of them at random."""
    if interpolation == "random":
        return torch.rand(count, generator=cpu_generator("interpolation", seed, epoch)) < 0.5
    return torch.full((count,), interpolation == "bicubic")


def resample(images: Tensor, windows: Tensor, mode: str) -> Tensor:
    """Enlarge a window of each image float32 `(B, H, W, C)`, from 0 to 255, to the whole image.

    `windows` float32 `(B, 2, 4)` has, down and across, (start, step, low, high): pixel k comes from the place
    start + (k + 0.5) step - 0.5, kept within [low, high] so that bilinear interpolation does not look over the edge of
    a crop. Bicubic interpolation does, by up to two pixels where the image goes on.
    """
    size = images.shape[1]
    middle = torch.arange(size, device=images.device) + 0.5
    start, step, low, high = windows[..., None].unbind(2)  # (B, 2, 1)
    places = (start + middle * step - 0.5).clamp(low, high) if mode == "bilinear" else start + middle * step - 0.5
    down, across = ((places * 2 + 1) / size - 1).unbind(1)  # (B, size), from -1 to 1
    shape = (len(images), size, size)
    grid = torch.stack([across[:, None, :].expand(shape), down[:, :, None].expand(shape)], -1)
    seen = functional.grid_sample(images.permute(0, 3, 1, 2), grid, mode, padding_mode="border", align_corners=False)
    return seen.clamp_(0, 255).permute(0, 2, 3, 1).contiguous()
