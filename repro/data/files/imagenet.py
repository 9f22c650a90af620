"""ImageNet, a subset of it, or any images in class folders: which images are in which split. Downloads nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.data.arrays import FINGERPRINT_LENGTH, hold_out
from repro.data.config import AugmentConfig, EvaluationConfig, ImagenetConfig
from repro.data.files.readers import FolderListing, Images, Listing
from repro.data.splits import Delivery, HeldOutSplit, Splits
from repro.data.words import batch_words
from repro.errors import InputError, unknown

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class FileSplits:
    """The images of the three splits, and a hash of their names and sizes."""

    train: Images
    val: Images
    test: Images
    fingerprint: str

    @property
    def sizes(self) -> dict[str, int]:
        """Images in each split."""
        return {"train": len(self.train), "val": len(self.val), "test": len(self.test)}


def file_splits(
    config: ImagenetConfig, augment: AugmentConfig, evaluation: EvaluationConfig, delivery: Delivery
) -> Splits:
    """Make the loaders of one rank. Raises InputError when the data are not as expected or cannot be decoded so."""
    from repro.data.files.folder import FolderEvaluationLoader, FolderLoader
    from repro.data.files.transforms import evaluation_transform, train_transform

    _check_decoder(config, augment, delivery)
    files = find_files(config)
    change, cut = train_transform(augment, config.size, config.mirror), evaluation_transform(evaluation, config.size)
    whole = evaluation.views == "full"
    return Splits(
        train=FolderLoader(files.train, change, config, augment, delivery),
        val=FolderEvaluationLoader(files.val, cut, config, whole, delivery),
        test=FolderEvaluationLoader(files.test, cut, config, whole, delivery),
        sizes=files.sizes,
        fingerprint=files.fingerprint,
        channels=config.channels,
        size=config.size,
        classes=config.classes,
        train_transform="; ".join([str(change), *batch_words(augment)]),
        test_transform=str(cut),
    )


def test_split(config: ImagenetConfig, evaluation: EvaluationConfig, delivery: Delivery) -> HeldOutSplit:
    """Make one rank's loader of `root/val`, without the training images. Raises InputError as `file_splits` does."""
    from repro.data.files.folder import FolderEvaluationLoader
    from repro.data.files.transforms import evaluation_transform

    _check_decoder(config, AugmentConfig(), delivery)
    listing = _own_test(config)
    images, cut = listing.images(_kept(config, listing)), evaluation_transform(evaluation, config.size)
    return HeldOutSplit(
        loader=FolderEvaluationLoader(images, cut, config, evaluation.views == "full", delivery),
        size=len(images),
        fingerprint=_fingerprint("test", images),
        transform=str(cut),
    )


def check_test(config: ImagenetConfig) -> None:
    """Check the classes of `root/val` alone. Raises InputError with what was found and what is expected."""
    _kept(config, _own_test(config))


def _own_test(config: ImagenetConfig) -> FolderListing:
    root = Path(config.root).expanduser()
    return FolderListing.of(root, root / "val")


def _fingerprint(held_out: str, *listed: Images) -> str:
    """Hash of what is held out, and of the name and size of every image."""
    state = hashlib.sha256(held_out.encode())
    for images in listed:
        for entry in images.entries():
            state.update(entry + b"\n")
    return state.hexdigest()[:FINGERPRINT_LENGTH]


def _check_decoder(config: ImagenetConfig, augment: AugmentConfig, delivery: Delivery) -> None:
    """Raise InputError where `data.decode=gpu` is asked for and does not work."""
    if config.decode == "cpu":
        return
    from repro.data.files.decode import check_device

    if augment.policy.name != "none":
        raise InputError(
            f"data.decode=gpu cannot apply recipe.augment.policy.name={augment.policy.name}, whose operations are "
            "Pillow's; use data.decode=cpu"
        )
    check_device(delivery.device)


def check_files(config: ImagenetConfig) -> None:
    """Check the classes without listing a tree's images. Raises InputError with what was found and what is expected."""
    _classes(config, *_listings(config))


def find_files(config: ImagenetConfig) -> FileSplits:
    """List the images of the splits; `config.val` of the train split are held out, the same ones every time.

    Raises InputError as `check_files` does, and when a class has no image or too few are left for training.
    """
    train, test = _listings(config)
    kept = _classes(config, train, test)
    listed = train.images(kept)
    left = len(listed) - (config.test if test is None else 0)
    if config.val >= left:
        held = f"data.val={config.val}" + ("" if test is not None else f" and data.test={config.test}")
        raise InputError(f"{held} leaves none of the {len(listed)} images in {train.where}")
    tested = None if test is None else test.images(kept)
    return _split(config, listed, tested)


def _split(config: ImagenetConfig, listed: Images, tested: Images | None) -> FileSplits:
    """Hold out the test split where the data have none, then the val split from what is left."""
    if tested is None:
        fingerprint = _fingerprint(f"held out {config.val} and {config.test}", listed)
        kept, held = hold_out(listed.labels, config.test)
        listed, tested = listed[kept], listed[held]
    else:
        fingerprint = _fingerprint(f"held out {config.val}", listed, tested)
    kept, held = hold_out(listed.labels, config.val)
    return FileSplits(listed[kept], listed[held], tested, fingerprint)


def _listings(config: ImagenetConfig) -> tuple[Listing, Listing | None]:
    """Find the train split and, where there is one, the split that is tested."""
    train, test = _found(config)
    if test is None and not config.test:
        raise InputError(
            f"{train.where}: no validation split beside it; set data.test to the number of images to hold out as the "
            "test split"
        )
    if test is not None and config.test:
        raise InputError(f"data.test={config.test}, but {test.where} is the test split; set data.test=0")
    return train, test


def _found(config: ImagenetConfig) -> tuple[Listing, Listing | None]:
    root = Path(config.root).expanduser()
    if config.source == "huggingface":
        from repro.data.files.hub import hub_listings

        return hub_listings(config.root)
    if config.source == "tars":
        from repro.data.files.tars import tar_listings

        return tar_listings(root)
    train, val = root / "train", root / "val"
    if config.name == "folder" and root.is_dir() and not train.is_dir() and not val.is_dir():
        return FolderListing.of(root, root), None
    for folder in (train, val):
        if not folder.is_dir():
            raise InputError(
                f"{folder}: no such folder; data={config.name} needs train/CLASS/*.JPEG and val/CLASS/*.JPEG under "
                f"data.root, which is {config.root!r}; set data.root=/path"
            )
    return FolderListing.of(root, train), FolderListing.of(root, val)


def _classes(config: ImagenetConfig, train: Listing, test: Listing | None) -> tuple[str, ...]:
    """Names of the classes that are used, in their order. Raises InputError when the splits differ in them."""
    kept = _kept(config, train)
    other = kept if test is None else _kept(config, test)
    if kept != other:
        odd = sorted(set(kept) ^ set(other))[0]
        raise InputError(
            f"{train.where} and {test and test.where}: the classes differ, first in {odd!r}; expected the same"
        )
    return kept


def _kept(config: ImagenetConfig, listing: Listing) -> tuple[str, ...]:
    """The classes of one split that `data.keep` chooses. Raises InputError when there are not `data.classes`."""
    names, where = listing.classes, listing.where
    if config.keep is None:
        if len(names) != config.classes:
            raise InputError(f"{where}: found {len(names)} classes, expected data.classes={config.classes}")
        return names
    if isinstance(config.keep, int):
        if config.keep > len(names):
            raise InputError(f"data.keep={config.keep} is more than the {len(names)} classes in {where}")
        chosen = names[: config.keep]
    else:
        chosen = _named(config, names, where)
    if len(chosen) != config.classes:
        raise InputError(f"data.keep keeps {len(chosen)} classes, but data.classes={config.classes}; make them equal")
    return chosen


def _named(config: ImagenetConfig, names: Sequence[str], where: str) -> tuple[str, ...]:
    """The classes that are named; numbered classes of ImageNet-1k go by their WordNet ids too."""
    assert isinstance(config.keep, tuple)
    known = _wordnet_ids(config, names)
    for name in config.keep:
        if name not in known:
            raise unknown("class", name, known, f"data.keep: {where}")
    return tuple(names[k] for k in sorted({known[name] for name in config.keep}))


def _wordnet_ids(config: ImagenetConfig, names: Sequence[str]) -> dict[str, int]:
    """Label of each name by which a class may be kept."""
    known = {name: k for k, name in enumerate(names)}
    if config.source == "folder" or config.name == "folder" or len(names) != IMAGENET_CLASSES:
        return known
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo("imagenet-1k")
    return {name: k for k, name in enumerate(info.label_names())} | known
