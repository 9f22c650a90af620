"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8, shipped inside its wheel. Imports no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repro.data.arrays import ArraySplits, LabelledImages, hold_out
from repro.data.config import DigitsConfig
from repro.errors import InputError

NATIVE = 8
LEVELS = 16  # grey values are 0..16
TRAIN_MINIMUM = 10  # training images of each class


def load_arrays(config: DigitsConfig) -> ArraySplits:
    """Return the splits at `config.size`, fixed and stratified. Raises InputError for too few train images.

    The test images depend on `config.test` alone, so that another `config.val` leaves them as they are.
    """
    digits = _read()
    if config.val + config.test >= len(digits):
        raise _too_few(config, len(digits), 0)
    rest, test = hold_out(digits.labels, config.test)
    train, val = (rest[part] for part in hold_out(digits.labels[rest], config.val))
    least = int(np.bincount(digits.labels[train], minlength=config.classes).min())
    if least < TRAIN_MINIMUM:
        raise _too_few(config, len(digits), least)
    digits = LabelledImages(upsample(digits.images, config.size), digits.labels)
    return ArraySplits(train=digits[train], val=digits[val], test=digits[test])


def _too_few(config: DigitsConfig, total: int, least: int) -> InputError:
    left = max(0, total - config.val - config.test)
    return InputError(
        f"data.val={config.val} and data.test={config.test} leave {left} of the {total} digits for training, "
        f"{least} of the rarest class; expected at least {TRAIN_MINIMUM} of each class"
    )


def _read() -> LabelledImages:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = np.rint(images.reshape(-1, 1, NATIVE, NATIVE) * (255 / LEVELS)).astype(np.uint8)
    return LabelledImages(grey, labels.astype(np.int64))


def upsample(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Enlarge square images `(N, C, S, S)` to `(N, C, size, size)` bilinearly; edges repeat the outer pixels."""
    native = images.shape[-1]
    if size == native:
        return images
    place = np.clip((np.arange(size) + 0.5) * native / size - 0.5, 0, native - 1)
    weights = np.clip(1 - np.abs(place[:, None] - np.arange(native)), 0, 1)  # (size, S)
    return np.rint(np.einsum("hi,ncij,wj->nchw", weights, images, weights, optimize=True)).astype(np.uint8)
