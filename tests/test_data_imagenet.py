"""Folder trees of small image files: splits, repeatability whatever the workers and ranks, and what is refused."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from repro.data import prepare
from repro.data.files.imagenet import find_files
from repro.data.files.transforms import ScaleJitter
from repro.data.order import Shuffle
from repro.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from repro.errors import InputError
from tests.image_files import CLASSES, config, epoch, joined, make, same, write_tree

EVERYTHING: dict[str, Any] = {
    "crop": "random_resized",
    "interpolation": "random",
    "flip": True,
    "policy": {"name": "rand_augment", "std": 0.5},
    "color_jitter": [0.4, 0.4, 0.4, 0.1],
    "lighting": 0.1,
    "erase": 0.5,
    "cutout": 0.25,
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes with 8 training and 3 test images each, of different sizes, modes and formats."""
    return write_tree(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture
def copied(tree: Path, tmp_path: Path) -> Path:
    """A copy of the tree to damage."""
    return Path(shutil.copytree(tree, tmp_path / "copied"))


def test_splits_and_batches_have_the_documented_form(tree: Path) -> None:
    splits = make(tree)
    assert splits.sizes == {"train": 18, "val": 6, "test": 9}
    assert (splits.channels, splits.size, splits.classes) == (3, 16, 3)
    assert [len(loader) for loader in (splits.train, splits.val, splits.test)] == [3, 1, 2]
    for loader in (splits.train, splits.val, splits.test):
        for images, labels in loader:
            assert images.shape == (len(labels), 3, 16, 16)
            assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
            assert images.is_contiguous(memory_format=torch.channels_last)


def test_held_out_images_are_stratified_and_apart(tree: Path) -> None:
    files = find_files(config(tree))
    assert np.bincount(files.val.labels).tolist() == [2, 2, 2]
    parts = (files.train, files.val, files.test)
    names = [[part.name(k) for k in range(len(part))] for part in parts]
    assert len({name for part in names for name in part}) == 33
    for part, found in zip(parts, names, strict=True):
        assert [CLASSES.index(Path(name).parent.name) for name in found] == part.labels.tolist()


def test_evaluation_is_resize_centre_crop_and_the_usual_constants(tree: Path) -> None:
    from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

    test = find_files(config(tree)).test
    for number, image in enumerate(joined(make(tree).test)):
        raw = pil_to_tensor(center_crop(resize(Image.open(test.name(number)).convert("RGB"), 20), 16)).double() / 255
        expected = (raw - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
        torch.testing.assert_close(image.double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("augment", [EVERYTHING, {"crop": "scale_jitter"}], ids=["everything", "scale jitter"])
def test_epochs_repeat_and_differ(tree: Path, augment: dict[str, Any]) -> None:
    first = epoch(make(tree, augment=augment), 0)
    assert same(first, epoch(make(tree, augment=augment), 0))
    assert not same(first, epoch(make(tree, augment=augment), 1))
    assert not same(first, epoch(make(tree, augment=augment, seed=2), 0))


def test_each_epoch_crops_an_image_anew(tree: Path) -> None:
    splits, shuffle = make(tree, batch=18), Shuffle(18, seed=1)
    by_image = []
    for number in range(2):
        ((images, _),) = epoch(splits, number)
        shuffle.set_epoch(number)
        by_image.append(images[shuffle.order().argsort()])
    assert all(not torch.equal(first, second) for first, second in zip(*by_image, strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_what_is_trained(tree: Path, workers: int) -> None:
    alone, helped = (make(tree, augment=EVERYTHING, workers=count) for count in (0, workers))
    for number in range(2):  # the workers of the first epoch serve the second
        assert same(epoch(alone, number), epoch(helped, number))
    assert same(list(alone.val), list(helped.val))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_see_the_batch_of_one_rank(tree: Path, world: int) -> None:
    one = epoch(make(tree, augment=EVERYTHING), 2)
    ranks = [epoch(make(tree, augment=EVERYTHING, rank=rank, world=world), 2) for rank in range(world)]
    for step, (images, labels) in enumerate(one):
        assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), images)
        assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), labels)


@pytest.mark.parametrize("world", [1, 2, 6])
def test_evaluation_counts_each_image_once(tree: Path, world: int) -> None:
    whole = joined(make(tree).test)
    for rank in range(world):
        assert torch.equal(joined(make(tree, rank=rank, world=world).test), whole[rank::world])


def test_layout_does_not_change_the_values(tree: Path) -> None:
    last, first = epoch(make(tree)), epoch(make(tree, channels_last=False))
    assert same(last, first)
    assert all(images.is_contiguous() for images, _ in first)


def test_the_global_random_states_are_left_alone(tree: Path) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    epoch(make(tree, augment=EVERYTHING | {"mix": {"mixup": 0.2, "cutmix": 1.0}}))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])  # type: ignore[index]


def test_scale_jitter_draws_the_shorter_side_from_its_range() -> None:
    torch.manual_seed(0)
    image, jitter = Image.new("RGB", (600, 500)), ScaleJitter(64, 120)  # 256 and 480, for a quarter of 224
    sides = [min(jitter(image).size) for _ in range(600)]
    assert (min(sides), max(sides)) == (64, 120)
    assert np.mean(sides) == pytest.approx(92, abs=2)


def test_the_fingerprint_sees_names_sizes_and_the_held_out_slice(copied: Path) -> None:
    base = find_files(config(copied)).fingerprint
    assert find_files(config(copied)).fingerprint == base
    assert find_files(config(copied, val=9)).fingerprint != base
    assert find_files(config(copied, keep=2, classes=2)).fingerprint != base
    moved = Path(shutil.move(copied, copied.with_name("elsewhere")))
    assert find_files(config(moved)).fingerprint == base
    with (moved / "train" / "n02" / "n02_3.JPEG").open("ab") as file:
        file.write(b"\0")
    assert find_files(config(moved)).fingerprint != base


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("content", "reason"),
    [(lambda old: old[:200], ""), (lambda old: b"", "empty file"), (lambda old: b"<html>", "unknown format")],
    ids=["cut off", "empty", "no image"],
)
def test_a_damaged_image_is_named_in_one_line(copied: Path, workers: int, content: Any, reason: str) -> None:
    path = copied / "val" / "n02" / "n02_0.JPEG"
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        list(make(copied, workers=workers).test)
    assert str(caught.value).startswith(f"{path}: cannot be read as an image ({reason}")
    assert "\n" not in str(caught.value)


def test_an_image_that_has_vanished_is_named(copied: Path) -> None:
    splits = make(copied)
    (copied / "val" / "n01" / "n01_1.JPEG").unlink()
    with pytest.raises(InputError, match=r"n01_1.JPEG: cannot be read \(No such file or directory\)"):
        list(splits.test)


def test_damaged_exif_data_do_not_matter(copied: Path) -> None:
    path = copied / "val" / "n02" / "n02_0.JPEG"
    expected = joined(make(copied).test)
    content = path.read_bytes()
    segment = b"Exif\0\0II*\0\xff\xff\xff\xff damaged"
    path.write_bytes(content[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + content[2:])
    assert torch.equal(joined(make(copied).test), expected)


def remove(*parts: str) -> Any:
    return lambda root: shutil.rmtree(root.joinpath(*parts))


def empty_class(root: Path) -> None:
    for path in (root / "train" / "n01").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "changes", "message"),
    [
        (
            remove(),
            {},
            r"/train: no such folder; data=imagenet needs train/CLASS/\*.JPEG and val/CLASS/\*.JPEG under data.root",
        ),
        (remove("val"), {}, "/val: no such folder; .*set data.root=/path"),
        (remove("train", "n02"), {}, "/train: found 2 classes, expected data.classes=3"),
        (None, {"classes": 1000}, "/train: found 3 classes, expected data.classes=1000"),
        (
            lambda root: (root / "val" / "n03").rename(root / "val" / "n04"),
            {},
            "/train and .*/val: the classes differ, first in 'n03'; expected the same",
        ),
        (None, {"keep": 4, "classes": 4}, "data.keep=4 is more than the 3 classes in .*/train"),
        (None, {"keep": 2}, "data.keep keeps 2 classes, but data.classes=3; make them equal"),
        (None, {"keep": ("n01", "n3")}, "data.keep: .*/train: unknown class 'n3'; did you mean 'n03'?"),
        (None, {"test": 3}, "data.test=3, but .*/val is the test split; set data.test=0"),
    ],
    ids=[
        "no root",
        "no val",
        "class missing",
        "too few classes",
        "other classes",
        "too many kept",
        "another number kept",
        "unknown class kept",
        "test held out of a tree with one",
    ],
)
def test_a_tree_that_is_not_as_expected_is_refused(
    copied: Path, damage: Any, changes: dict[str, int], message: str
) -> None:
    if damage is not None:
        damage(copied)
    with pytest.raises(InputError, match=message):
        prepare(config(copied, **changes))


def test_a_class_without_images_is_refused(copied: Path) -> None:
    empty_class(copied)
    with pytest.raises(InputError, match="/train: Found no valid file for the classes n01"):
        make(copied)


@pytest.mark.parametrize(
    ("batch", "val", "message"),
    [
        (6, 24, "data.val=24 leaves none of the 24 images"),
        (32, 6, "recipe.batch_size=32 is more than the 18 training images"),
    ],
    ids=["val", "batch"],
)
def test_too_few_images_are_refused(tree: Path, batch: int, val: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(tree, batch=batch, val=val)
