"""The views of an image that an evaluation averages over, cut from tensors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import functional

from repro.errors import InputError

Views = Literal["centre", "flip", "ten_crop", "full"]


def cut_views(images: Tensor, crop: int, kind: Views) -> Tensor:
    """Cut views of side `crop` from images `(..., C, H, W)`; returns `(V, ..., C, h, w)`, views first.

    `centre`: the centre crop (V = 1); `flip`: with its mirror image (2); `ten_crop`: four corners and the centre, then
    their mirror images (10; Krizhevsky et al. 2012, section 4.1); `full`: the whole image and its mirror image
    (2), `crop` is ignored. Raises InputError when the images are smaller than the crop.
    """
    height, width = images.shape[-2:]
    if kind == "full":
        return _with_mirrors(images.unsqueeze(0))
    if crop > min(height, width):
        raise InputError(f"evaluation crop of {crop} pixels is more than the image of {height} x {width}")
    if kind == "ten_crop":
        return _with_mirrors(torch.stack(functional.five_crop(images, [crop, crop])))
    centre = functional.center_crop(images, [crop, crop]).unsqueeze(0)
    return centre if kind == "centre" else _with_mirrors(centre)


def _with_mirrors(views: Tensor) -> Tensor:
    """Put the mirror images of `(V, ..., C, H, W)` after them: `(2 V, ..., C, H, W)`."""
    return torch.cat([views, views.flip(-1)])
