"""The generated data set: splits of `scenes` in chunks, and their cache. Imports no torch.

Image i of a split is a function of (seed, split, i, size) alone, so a larger set begins with the smaller one.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repro.data.arrays import ArraySplits, LabelledImages
from repro.data.config import ShapesConfig
from repro.data.scenes import CLASSES, draw
from repro.data.seeds import numpy_generator
from repro.paths import cache_dir
from repro.typed import digest

VERSION = 1
"""Of the generator: raise it with every change to what `scenes` draws, so that old cache files are left alone."""

CHUNK = 200  # images drawn by one generator


def load_arrays(config: ShapesConfig) -> ArraySplits:
    """Return the splits: from the cache, else generated and put there. A broken cache file is replaced."""
    path = cache_file(config)
    cached = _read(path, config)
    if cached is not None:
        return cached
    splits = ArraySplits(
        train=generate(config.seed, "train", config.train, config.size),
        val=generate(config.seed, "val", config.val, config.size),
        test=generate(config.seed, "test", config.test, config.size),
    )
    _write(path, splits)
    return splits


def generate(seed: int, split: str, count: int, size: int) -> LabelledImages:
    """Draw the first `count` images of a split; each class has count / 10 of them, give or take one."""
    chunks = [_chunk(seed, split, index, size) for index in range(-(-count // CHUNK))]
    images = np.concatenate([images for images, _ in chunks])[:count]
    labels = np.concatenate([labels for _, labels in chunks])[:count]
    return LabelledImages(images, labels)


def _chunk(seed: int, split: str, index: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw one chunk; its labels are shuffled in tens, so that any beginning of a split is balanced."""
    generator = numpy_generator("shapes", VERSION, seed, split, index)
    tens = np.tile(np.arange(CLASSES, dtype=np.int64), (CHUNK // CLASSES, 1))
    labels = generator.permuted(tens, axis=1).reshape(-1)
    return draw(labels, size, generator), labels


def cache_file(config: ShapesConfig) -> Path:
    """Where the splits of `config` are kept; augmentation is not part of the name."""
    drawn = config.model_dump(mode="json", include={"size", "train", "val", "test", "seed"})
    return cache_dir() / "shapes" / f"{digest({'version': VERSION, **drawn})}.npz"


def _read(path: Path, config: ShapesConfig) -> ArraySplits | None:
    """Return what the cache holds, or None when there is no file or not the right one."""
    splits = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            for name, count in (("train", config.train), ("val", config.val), ("test", config.test)):
                images, labels = stored[f"{name}_images"], stored[f"{name}_labels"]
                if images.shape != (count, 3, config.size, config.size) or images.dtype != np.uint8:
                    return None
                splits[name] = LabelledImages(images, labels)
    except Exception:  # whatever ails a cache file, the answer is to draw the images again
        return None
    return ArraySplits(**splits)


def _write(path: Path, splits: ArraySplits) -> None:
    """Write the cache so that a reader sees a whole file or none; a cache that cannot be written is no error."""
    arrays: dict[str, NDArray[np.uint8] | NDArray[np.int64]] = {}
    for name, split in splits.items().items():
        arrays |= {f"{name}_images": split.images, f"{name}_labels": split.labels}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(part, path)
    except OSError:
        Path(part).unlink(missing_ok=True)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
