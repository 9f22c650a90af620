"""The data room: `prepare` once before runs fan out, `load` in each run. Knows no model, no recipe and no Lightning.

Importing it imports neither torch nor any data set's library; `prepare` needs torch for CIFAR and ImageNet only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from repro.data.config import (
    AugmentConfig,
    CifarConfig,
    DataConfig,
    DigitsConfig,
    EvaluationConfig,
    ImagenetConfig,
    ShapesConfig,
)
from repro.data.splits import Delivery, EpochSampler, HeldOutSplit, Loader, Splits, TrainLoader

if TYPE_CHECKING:
    import torch

    from repro.data.arrays import ArraySplits

__all__ = [
    "Delivery",
    "EpochSampler",
    "HeldOutSplit",
    "Loader",
    "Splits",
    "TrainLoader",
    "has_own_test",
    "load",
    "load_test",
    "prepare",
]  # fmt: skip


def load(
    config: DataConfig,
    augment: AugmentConfig,
    evaluation: EvaluationConfig,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    channels_last: bool,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
) -> Splits:
    """Make the loaders of one rank: training images changed as `augment` says, the others cut as `evaluation` says.

    `batch_size` counts images over all `world` ranks; a rank's share of it comes in `accumulate` batches. Order and
    augmentation are functions of `seed` and of the epoch that is set on `train.sampler`, the same for any number of
    ranks. Nothing is downloaded. Raises InputError when the data are missing or damaged, or do not fill one batch.
    """
    delivery = Delivery(batch_size, seed, device, channels_last, rank, world, accumulate)
    if isinstance(config, ImagenetConfig):
        from repro.data.files.imagenet import file_splits

        return file_splits(config, augment, evaluation, delivery)
    from repro.data.resident.tensors import resident_splits

    return resident_splits(_arrays(config), config, augment, evaluation, delivery)


def load_test(
    config: ImagenetConfig,
    evaluation: EvaluationConfig,
    *,
    batch_size: int,
    device: torch.device,
    channels_last: bool,
    rank: int = 0,
    world: int = 1,
) -> HeldOutSplit:
    """Make the loader of `root/val` alone, for networks that were trained elsewhere; see `has_own_test`.

    Its fingerprint is of these images. Raises InputError as `load` does.
    """
    from repro.data.files.imagenet import test_split

    return test_split(config, evaluation, Delivery(batch_size, 0, device, channels_last, rank, world))


def has_own_test(config: DataConfig) -> bool:
    """Whether the test split is a folder of its own, which `load_test` reads without the training images."""
    from pathlib import Path

    if not isinstance(config, ImagenetConfig) or config.source != "folder" or config.test:
        return False
    return (Path(config.root).expanduser() / "val").is_dir()


def prepare(config: DataConfig, *, test_only: bool = False) -> None:
    """Check, generate or fetch the data once, so that runs in parallel only read.

    `test_only`: for `load_test`. Raises InputError as `load` does, and when what is missing cannot be fetched.
    """
    if isinstance(config, ImagenetConfig):
        from repro.data.files.imagenet import check_files, check_test

        (check_test if test_only else check_files)(config)
        return
    if isinstance(config, CifarConfig) and config.download:
        from repro.data.fetch import fetch

        fetch(config)
    _arrays(config)


def _arrays(config: DigitsConfig | ShapesConfig | CifarConfig) -> ArraySplits:
    """Read, check or generate a data set that fits into memory."""
    if isinstance(config, DigitsConfig):
        from repro.data import digits

        return digits.load_arrays(config)
    if isinstance(config, ShapesConfig):
        from repro.data import shapes

        return shapes.load_arrays(config)
    from repro.data import cifar

    return cifar.load_arrays(config)
