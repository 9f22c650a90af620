"""Small image files for the tests of `repro.data`: a tree of three classes, its configuration and its loaders."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from repro.data import load
from repro.data.config import AugmentConfig, EvaluationConfig, ImagenetConfig
from repro.data.splits import Loader, Splits

CLASSES = ("n01", "n02", "n03")
CPU = torch.device("cpu")
RESIZED = {"crop": "random_resized", "flip": True}
EVALUATION = {"crop_ratio": 0.8}  # 16 of 20 pixels

Batches = list[tuple[Tensor, Tensor]]


def picture(number: int, mode: str = "RGB") -> Image.Image:
    """Draw noise over a gradient, in a size of its own."""
    stream = np.random.default_rng(number)
    height, width = 24 + number % 7, 40 - number % 5
    ramp = np.linspace(0, 180, width)[None, :, None] * np.ones((height, 1, 3))
    return Image.fromarray((ramp + stream.integers(0, 70, (height, width, 3))).astype(np.uint8)).convert(mode)


def encode(image: Image.Image, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def write_tree(root: Path, parts: dict[str, int] | None = None) -> Path:
    """Write 8 training and 3 test images of each class; one of them grey, one CMYK, one PNG that is called .JPEG."""
    number = 0
    for part, count in (parts or {"train": 8, "val": 3}).items():
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for k in range(count):
                number += 1
                image = picture(number, {1: "L", 2: "CMYK"}.get(k, "RGB"))
                form = "PNG" if k == 3 else "JPEG"
                (root / part / name / f"{name}_{k}.JPEG").write_bytes(encode(image, form))
    return root


def config(root: Path, **changes: Any) -> ImagenetConfig:
    base = {"root": str(root), "size": 16, "classes": 3, "val": 6, "workers": 0}
    return ImagenetConfig.model_validate(base | changes)


def make(
    root: Path,
    batch: int = 6,
    *,
    augment: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    seed: int = 1,
    channels_last: bool = True,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
    **changes: Any,
) -> Splits:
    return load(
        config(root, **changes),
        AugmentConfig.model_validate(RESIZED if augment is None else augment),
        EvaluationConfig.model_validate(EVALUATION if evaluation is None else evaluation),
        batch_size=batch,
        seed=seed,
        device=CPU,
        channels_last=channels_last,
        rank=rank,
        world=world,
        accumulate=accumulate,
    )


def epoch(splits: Splits, number: int = 0) -> Batches:
    splits.train.sampler.set_epoch(number)
    return list(splits.train)


def joined(loader: Loader) -> Tensor:
    return torch.cat([images for images, _ in loader])


def same(first: Batches, second: Batches) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)
