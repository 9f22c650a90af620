"""The digits: sizes, splits, values, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from repro.data.config import DigitsConfig
from repro.data.digits import load_arrays, upsample
from repro.errors import InputError


def digits(size: int = 8, val: int = 97, test: int = 500) -> DigitsConfig:
    return DigitsConfig(size=size, val=val, test=test)


def test_the_splits_have_the_documented_sizes_and_are_stratified() -> None:
    splits = load_arrays(digits())
    assert splits.sizes == {"train": 1200, "val": 97, "test": 500}
    for split in splits.items().values():
        shares = np.bincount(split.labels, minlength=10) / len(split)
        assert shares == pytest.approx(np.full(10, 0.1), abs=0.012)


def test_each_digit_is_in_one_split_with_its_own_label() -> None:
    source, labels = load_digits(return_X_y=True)
    expected = sorted(zip(map(tuple, np.rint(source * 255 / 16).astype(int).tolist()), labels.tolist(), strict=True))
    found = [
        (tuple(image.reshape(-1).tolist()), int(label))
        for split in load_arrays(digits()).items().values()
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    assert sorted(found) == expected


def test_values_span_the_range() -> None:
    images = load_arrays(digits()).train.images
    assert (images.dtype, images.shape[1:], images.min(), images.max()) == (np.uint8, (1, 8, 8), 0, 255)


def test_the_split_is_fixed_and_val_does_not_move_test() -> None:
    base, other = load_arrays(digits()), load_arrays(digits(val=200))
    assert base.fingerprint == load_arrays(digits()).fingerprint
    assert np.array_equal(base.test.images, other.test.images)
    assert base.fingerprint != other.fingerprint


@pytest.mark.parametrize("size", [8, 12, 16, 32])
def test_enlarging_is_bilinear(size: int) -> None:
    images = load_arrays(digits()).val.images
    expected = torch.nn.functional.interpolate(torch.from_numpy(images).double(), (size, size), mode="bilinear")
    enlarged = upsample(images, size)
    assert enlarged.shape == (97, 1, size, size)
    assert np.abs(enlarged - expected.numpy()).max() <= 0.5 + 1e-9


def test_size_changes_the_images_and_not_the_splits() -> None:
    small, large = load_arrays(digits()), load_arrays(digits(size=16))
    assert large.train.images.shape == (1200, 1, 16, 16)
    assert np.array_equal(small.train.labels, large.train.labels)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            digits(val=1000, test=700),
            r"data.val=1000 and data.test=700 leave 97 of the 1797 digits for training, \d+ of the rarest class; "
            "expected at least 10 of each class",
        ),
        (digits(val=1000, test=5000), "data.val=1000 and data.test=5000 leave 0 of the 1797 digits for training"),
        (digits(val=1297, test=500), "leave 0 of the 1797 digits"),
    ],
    ids=["few left", "more than there are", "none left"],
)
def test_what_cannot_be_done_is_refused(config: DigitsConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_arrays(config)
