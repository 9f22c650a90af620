"""ImageNet as a tree of folders, `root/{train,val}/CLASS/*`: which images are in which split. Downloads nothing."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.data.arrays import FINGERPRINT_LENGTH, hold_out
from repro.data.config import AugmentConfig, EvaluationConfig, ImagenetConfig
from repro.data.folder import FolderEvaluationLoader, FolderLoader, ImageFiles, evaluation_transform, train_transform
from repro.data.splits import Delivery, Splits
from repro.errors import InputError


@dataclass(frozen=True)
class FolderSplits:
    """The files of the three splits, and a hash of their names and sizes."""

    train: ImageFiles
    val: ImageFiles
    test: ImageFiles
    fingerprint: str


def folder_splits(
    config: ImagenetConfig, augment: AugmentConfig, evaluation: EvaluationConfig, delivery: Delivery
) -> Splits:
    """Make the loaders of one rank. Raises InputError when the tree is not as expected."""
    files = find_files(config)
    cut = evaluation_transform(evaluation.resize(config.size), evaluation.crop(config.size))
    crop: Any = augment.crop
    return Splits(
        train=FolderLoader(files.train, train_transform(crop, config.size), config.workers, delivery),
        val=FolderEvaluationLoader(files.val, cut, config.workers, delivery),
        test=FolderEvaluationLoader(files.test, cut, config.workers, delivery),
        sizes={"train": len(files.train), "val": len(files.val), "test": len(files.test)},
        fingerprint=files.fingerprint,
        channels=config.channels,
        size=config.size,
        classes=config.classes,
    )


def check_folders(config: ImagenetConfig) -> None:
    """Check the tree without listing its images. Raises InputError with what was found and what is expected."""
    root = Path(config.root).expanduser()
    train, val = (_classes(root / name, config) for name in ("train", "val"))
    if train != val:
        odd = sorted(train ^ val)[0]
        raise InputError(f"{root}: the class folders of train/ and val/ differ, first in {odd!r}; expected the same")


def _classes(folder: Path, config: ImagenetConfig) -> set[str]:
    """Names of the class folders. Raises InputError when there are not `config.classes` of them."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; data=imagenet needs train/CLASS/*.JPEG and val/CLASS/*.JPEG under data.root, "
            f"which is {config.root!r}; set data.root=/path"
        )
    with os.scandir(folder) as entries:
        names = {entry.name for entry in entries if entry.is_dir()}
    if len(names) != config.classes:
        raise InputError(f"{folder}: found {len(names)} class folders, expected data.classes={config.classes}")
    return names


def find_files(config: ImagenetConfig) -> FolderSplits:
    """List the images; `config.val` of the train folder are held out, the same ones every time.

    Raises InputError as `check_folders` does, and when a class has no image or `config.val` leaves none for training.
    """
    check_folders(config)
    root = Path(config.root).expanduser()
    training, test = _list(root / "train"), _list(root / "val")
    if config.val >= len(training):
        raise InputError(f"data.val={config.val} leaves none of the {len(training)} images in {root / 'train'}")
    kept, held = hold_out(training.labels, config.val)
    return FolderSplits(training[kept], training[held], test, _fingerprint(root, [training, test], config.val))


def _list(folder: Path) -> ImageFiles:
    """All images below the class folders, sorted by path. Raises InputError for a class without any."""
    from torchvision.datasets import ImageFolder

    try:
        samples = ImageFolder(str(folder)).samples
    except OSError as error:
        raise InputError(f"{folder}: {error}") from None
    paths = np.array([os.fsencode(path) for path, _ in samples])
    return ImageFiles(paths, np.array([label for _, label in samples], dtype=np.int64))


def _fingerprint(root: Path, lists: list[ImageFiles], val: int) -> str:
    """Hash of names and sizes in bytes of all files, and of how many are held out; reading them would take hours."""
    state = hashlib.sha256(f"held out {val}".encode())
    for files in lists:
        for path in _relative(files.paths, root):
            state.update(path)
    return state.hexdigest()[:FINGERPRINT_LENGTH]


def _relative(paths: NDArray[np.bytes_], root: Path) -> list[bytes]:
    prefix = len(os.fsencode(str(root))) + 1
    return [b"%s %d\n" % (path[prefix:], os.stat(path).st_size) for path in paths.tolist()]
