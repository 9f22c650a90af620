"""Folder trees of small JPEG files: splits, repeatability whatever the workers and ranks, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from repro.config import ImagenetConfig
from repro.data import load, prepare
from repro.data.folder import IMAGENET_MEAN, IMAGENET_STD, ScaleJitter
from repro.data.imagenet import find_files
from repro.data.order import Shuffle
from repro.data.splits import Splits
from repro.errors import InputError

CLASSES = ("n01", "n02", "n03")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes with 8 training and 3 test images each, of different sizes and modes."""
    root = tmp_path_factory.mktemp("imagenet")
    stream = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for k in range(count):
                pixels = stream.integers(0, 256, (24 + k, 40 - k, 3), dtype=np.uint8)
                image = Image.fromarray(pixels).convert("L" if k == 1 else "RGB")
                image.save(root / part / name / f"{name}_{k}.JPEG")
    return root


@pytest.fixture
def copied(tree: Path, tmp_path: Path) -> Path:
    """A copy of the tree to damage."""
    return Path(shutil.copytree(tree, tmp_path / "copied"))


def config(root: Path, **changes: Any) -> ImagenetConfig:
    base = {"root": str(root), "size": 16, "classes": 3, "val": 6, "train_crop": "random_resized", "test_resize": 20}
    return ImagenetConfig.model_validate({**base, "test_crop": 16, "workers": 0, **changes})


def make(
    root: Path, batch: int = 6, rank: int = 0, world: int = 1, channels_last: bool = True, **changes: Any
) -> Splits:
    return load(
        config(root, **changes),
        batch_size=batch,
        seed=1,
        device=CPU,
        channels_last=channels_last,
        rank=rank,
        world=world,
    )


def epoch(splits: Splits, number: int) -> list[tuple[Tensor, Tensor]]:
    splits.train.sampler.set_epoch(number)
    return list(splits.train)


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


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
    paths = [*files.train.paths.tolist(), *files.val.paths.tolist(), *files.test.paths.tolist()]
    assert len(set(paths)) == 33
    for part in (files.train, files.val, files.test):
        assert [CLASSES.index(path.split(b"/")[-2].decode()) for path in part.paths.tolist()] == part.labels.tolist()


def test_evaluation_is_resize_centre_crop_and_the_usual_constants(tree: Path) -> None:
    from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

    paths = find_files(config(tree)).test.paths.tolist()
    images = torch.cat([images for images, _ in make(tree).test])
    for path, image in zip(paths, images, strict=True):
        raw = pil_to_tensor(center_crop(resize(Image.open(path).convert("RGB"), 20), 16)).double() / 255
        expected = (raw - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
        torch.testing.assert_close(image.double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("crop", ["random_resized", "scale_jitter"])
def test_epochs_repeat_and_differ(tree: Path, crop: str) -> None:
    first = epoch(make(tree, train_crop=crop), 0)
    assert same(first, epoch(make(tree, train_crop=crop), 0))
    assert not same(first, epoch(make(tree, train_crop=crop), 1))


def test_each_epoch_crops_an_image_anew(tree: Path) -> None:
    splits, shuffle = make(tree, batch=18), Shuffle(18, seed=1)
    by_image = []
    for number in range(2):
        ((images, _),) = epoch(splits, number)
        shuffle.set_epoch(number)
        by_image.append(images[shuffle.order().argsort()])
    assert all(not torch.equal(first, second) for first, second in zip(*by_image, strict=True))


def test_workers_do_not_change_what_is_trained(tree: Path) -> None:
    alone, helped = make(tree), make(tree, workers=2)
    for number in range(2):  # the workers of the first epoch serve the second
        assert same(epoch(alone, number), epoch(helped, number))
    assert same(list(alone.val), list(helped.val))


def test_ranks_together_see_the_batch_of_one_rank(tree: Path) -> None:
    one, ranks = epoch(make(tree), 2), [epoch(make(tree, rank=rank, world=3), 2) for rank in range(3)]
    for step, (images, labels) in enumerate(one):
        assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), images)
        assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), labels)


@pytest.mark.parametrize("world", [1, 2, 6])
def test_evaluation_counts_each_image_once(tree: Path, world: int) -> None:
    whole = torch.cat([images for images, _ in make(tree).test])
    parts = [list(make(tree, rank=rank, world=world).test) for rank in range(world)]
    shards = [torch.cat([images for images, _ in part]) for part in parts]
    for rank, shard in enumerate(shards):
        assert torch.equal(shard, whole[rank::world])


def test_layout_does_not_change_the_values(tree: Path) -> None:
    last, first = epoch(make(tree), 0), epoch(make(tree, channels_last=False), 0)
    assert same(last, first)
    assert all(images.is_contiguous() for images, _ in first)


def test_the_global_random_state_is_left_alone(tree: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epoch(make(tree), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_scale_jitter_draws_the_shorter_side_from_the_papers_range() -> None:
    torch.manual_seed(0)
    image, jitter = Image.new("RGB", (600, 500)), ScaleJitter(56)
    sides = [min(jitter(image).size) for _ in range(600)]
    assert (min(sides), max(sides)) == (64, 120)  # 256 and 480, for a quarter of 224
    assert np.mean(sides) == pytest.approx(92, abs=2)


def test_the_fingerprint_sees_names_sizes_and_the_held_out_slice(copied: Path) -> None:
    base = find_files(config(copied)).fingerprint
    assert find_files(config(copied)).fingerprint == base
    assert find_files(config(copied, val=9)).fingerprint != base
    moved = Path(shutil.move(copied, copied.with_name("elsewhere")))
    assert find_files(config(moved)).fingerprint == base
    with (moved / "train" / "n02" / "n02_3.JPEG").open("ab") as file:
        file.write(b"\0")
    assert find_files(config(moved)).fingerprint != base


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named(copied: Path, workers: int) -> None:
    path = copied / "val" / "n02" / "n02_1.JPEG"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=f"{path}: cannot be read as an image"):
        list(make(copied, workers=workers).test)


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
        (remove("train", "n02"), {}, "/train: found 2 class folders, expected data.classes=3"),
        (None, {"classes": 1000}, "/train: found 3 class folders, expected data.classes=1000"),
        (
            lambda root: (root / "val" / "n03").rename(root / "val" / "n04"),
            {},
            "the class folders of train/ and val/ differ, first in 'n03'; expected the same",
        ),
        (None, {"test_crop": 24}, "data.test_crop=24 is more than data.test_resize=20"),
    ],
    ids=["no root", "no val", "class missing", "too few classes", "other classes", "crop larger than resize"],
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
