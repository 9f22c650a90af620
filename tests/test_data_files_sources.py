"""Sources of images in files: which classes are kept, folders without splits, tars, Hugging Face data sets."""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.compose import compose
from repro.data import prepare
from repro.data.config import ImagenetConfig
from repro.data.files.imagenet import find_files
from repro.errors import InputError
from tests.image_files import CLASSES, config, encode, epoch, joined, make, picture, same, write_tree


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("imagenet"))


def pack(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def shards(root: Path, tree: Path, style: str) -> Path:
    """Pack a tree as webdataset shards in folders or by name, or as tars of class folders or of one class each."""
    for part, name in (("train", "train"), ("val", "validation")):
        files = sorted((tree / part).glob("*/*"))
        if style == "classes":
            for label in CLASSES:
                pack(root / part / f"{label}.tar", {f.name: f.read_bytes() for f in files if f.parent.name == label})
        elif style == "folders":
            pack(root / part / "all.tar", {f"{f.parent.name}/{f.name}": f.read_bytes() for f in files})
        else:
            for half in range(2):
                members = {}
                for file in files[half::2]:
                    label = str(CLASSES.index(file.parent.name)).encode()
                    members |= {
                        f"{file.stem}.cls": label,
                        f"{file.stem}.jpg": file.read_bytes(),
                        f"{file.stem}.json": b"{}",
                    }
                where = root / part if style == "webdataset" else root
                pack(where / f"imagenet-{name}-{half:04}.tar", members)
    return root


@pytest.mark.parametrize(
    ("keep", "labels"),
    [
        (None, {"n01": 0, "n02": 1, "n03": 2}),
        (2, {"n01": 0, "n02": 1}),
        (("n03", "n01"), {"n01": 0, "n03": 1}),
        (("n02",), {"n02": 0}),
    ],
    ids=["all", "first two", "named", "one"],
)
def test_kept_classes_are_numbered_in_the_order_of_their_names(tree: Path, keep: Any, labels: dict[str, int]) -> None:
    files = find_files(config(tree, keep=keep, classes=len(labels), val=2))
    for part in (files.train, files.val, files.test):
        found = {(Path(part.name(k)).parent.name, int(part.labels[k])) for k in range(len(part))}
        assert found <= set(labels.items())
    assert set(files.test.labels.tolist()) == set(labels.values())
    assert len(files.train) == 8 * len(labels) - 2


def test_a_subset_is_trained_like_a_tree_of_its_own(tree: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in ("n01", "n03"):
            shutil.copytree(tree / part / name, tmp_path / part / name)
    kept, own = make(tree, keep=("n01", "n03"), classes=2, val=4), make(tmp_path, classes=2, val=4)
    assert same(epoch(kept), epoch(own))
    assert kept.fingerprint == own.fingerprint


def test_a_root_of_class_folders_is_split_once_for_all(tree: Path) -> None:
    root = tree / "train"
    files, again = (find_files(config(root, name="folder", test=6, val=3)) for _ in range(2))
    assert files.sizes == {"train": 15, "val": 3, "test": 6}
    assert np.bincount(files.test.labels).tolist() == [2, 2, 2]
    names = [part.name(k) for part in (files.train, files.val, files.test) for k in range(len(part))]
    assert len(set(names)) == 24
    assert [files.test.name(k) for k in range(6)] == [again.test.name(k) for k in range(6)]
    other_val = find_files(config(root, name="folder", test=6, val=9))
    assert [other_val.test.name(k) for k in range(6)] == [files.test.name(k) for k in range(6)]
    assert len({files.fingerprint, other_val.fingerprint}) == 2


@given(st.integers(1, 12), st.integers(0, 11))
@settings(max_examples=15, deadline=None)
def test_any_held_out_numbers_share_the_images_out(tree: Path, test: int, val: int) -> None:
    files = find_files(config(tree / "train", name="folder", test=test, val=val))
    assert files.sizes == {"train": 24 - test - val, "val": val, "test": test}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": 0}, "no validation split beside it; set data.test to the number of images to hold out"),
        ({"test": 12, "val": 12}, "data.val=12 and data.test=12 leaves none of the 24 images"),
        ({"test": 3, "name": "imagenet"}, "/train/train: no such folder; data=imagenet needs train/CLASS"),
    ],
    ids=["no test", "too many", "imagenet"],
)
def test_a_root_of_class_folders_needs_a_test_split(tree: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_files(config(tree / "train", **{"name": "folder", **changes}))


@pytest.mark.parametrize("style", ["webdataset", "by name", "folders", "classes"])
def test_tars_hold_what_the_tree_holds(tree: Path, tmp_path: Path, style: str) -> None:
    found = contents(config(shards(tmp_path, tree, style), source="tars").model_copy(update={"val": 0}))
    assert found == contents(config(tree, val=0))
    assert {part: len(files) for part, files in found.items()} == {"train": 24, "test": 9}


def contents(chosen: ImagenetConfig) -> dict[str, dict[str, tuple[bytes, int]]]:
    """Bytes and label of each image by its name without suffix."""
    files = find_files(chosen)
    return {
        part: {
            Path(images.name(k).split(": ")[-1]).stem: (images.read(k), int(images.labels[k]))
            for k in range(len(images))
        }
        for part, images in (("train", files.train), ("test", files.test))
    }


def test_tars_without_splits_are_split_once_for_all(tree: Path, tmp_path: Path) -> None:
    for label in CLASSES:
        pack(tmp_path / f"{label}.tar", {f.name: f.read_bytes() for f in sorted((tree / "train" / label).iterdir())})
    files = find_files(config(tmp_path, name="folder", source="tars", test=3, val=3))
    assert files.sizes == {"train": 18, "val": 3, "test": 3}
    assert sorted(files.test.labels.tolist()) == [0, 1, 2]


def test_tars_by_class_are_trained_bit_for_bit_like_the_tree(tree: Path, tmp_path: Path) -> None:
    splits = make(shards(tmp_path, tree, "classes"), source="tars", workers=2)
    assert same(epoch(splits, 1), epoch(make(tree), 1))


def test_tars_repeat_whatever_the_workers_and_ranks(tree: Path, tmp_path: Path) -> None:
    root = shards(tmp_path, tree, "webdataset")
    one = epoch(make(root, source="tars"))
    ranks = [epoch(make(root, source="tars", workers=rank, rank=rank, world=2)) for rank in range(2)]
    for step, (images, labels) in enumerate(one):
        assert torch.equal(torch.cat([rank[step][0] for rank in ranks]), images)
        assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), labels)


def test_the_fingerprint_of_tars_sees_names_and_sizes(tree: Path, tmp_path: Path) -> None:
    root = shards(tmp_path / "a", tree, "webdataset")
    base = find_files(config(root, source="tars")).fingerprint
    moved = Path(shutil.copytree(root, tmp_path / "b"))
    assert find_files(config(moved, source="tars")).fingerprint == base
    path = moved / "val" / "imagenet-validation-0000.tar"
    pack(path, {"n01_0.cls": b"0", "n01_0.jpg": encode(picture(1)), "x.cls": b"2", "x.jpg": encode(picture(2))})
    pack(moved / "val" / "imagenet-validation-0001.tar", {"y.cls": b"1", "y.jpg": encode(picture(3))})
    assert find_files(config(moved, source="tars")).fingerprint != base


def test_a_broken_list_in_the_cache_is_made_again(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    root = shards(tmp_path / "data", tree, "folders")
    prepare(config(root, source="tars"))
    lists = sorted((tmp_path / "cache" / "tars").iterdir())
    before = find_files(config(root, source="tars")).fingerprint
    for path in lists:
        path.write_bytes(path.read_bytes()[:50])
    assert find_files(config(root, source="tars")).fingerprint == before
    assert [path.suffix for path in lists] == [".npz", ".npz"]


def test_numbered_classes_of_imagenet_go_by_their_wordnet_ids(tmp_path: Path) -> None:
    for part in ("train", "val"):
        members = {}
        for label in (0, 217, 482, 999):
            members |= {f"{label}.cls": b"%d" % label, f"{label}.jpg": encode(picture(label))}
        pack(tmp_path / f"imagenet1k-{part}-0.tar", members)
    chosen = config(tmp_path, source="tars", keep=("n02102040", "n01440764", "482"), val=0)
    files = find_files(chosen)
    assert [Path(files.train.name(k)).name.split()[-1] for k in range(3)] == ["0.jpg", "217.jpg", "482.jpg"]
    assert files.train.labels.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="no image of class '1'"):
        find_files(config(tmp_path, source="tars", keep=2, classes=2))


SAMPLE = {"0.cls": b"0", "0.jpg": encode(picture(0))}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (None, r"no training shards; data.source=tars needs \*.tar in train/ and val/"),
        ({**SAMPLE, "1.jpg": encode(picture(1))}, "1.jpg has no label; expected a number in 1.cls beside it"),
        ({**SAMPLE, "1.jpg": encode(picture(1)), "1.cls": b"cat"}, "1.jpg has no label; expected a number in 1.cls"),
        ({"readme.txt": b"-"}, "0.tar: no image in it"),
        (SAMPLE, "1 shards of train: found 1 classes, expected data.classes=3"),
    ],
    ids=["no tars", "no label", "label is a name", "no image", "too few classes"],
)
def test_tars_that_are_not_as_expected_are_refused(
    tmp_path: Path, members: dict[str, bytes] | None, message: str
) -> None:
    if members is not None:
        for part in ("train", "val"):
            pack(tmp_path / part / "0.tar", members)
    with pytest.raises(InputError, match=message):
        prepare(config(tmp_path, source="tars"))


def test_a_damaged_tar_and_a_damaged_member_are_named(tree: Path, tmp_path: Path) -> None:
    broken = b"not an image"
    root = shards(tmp_path, tree, "classes")
    pack(root / "val" / "n02.tar", {"n02_0.jpg": broken})
    with pytest.raises(InputError, match=r"n02.tar: n02_0.jpg: cannot be read as an image \(unknown format\)"):
        list(make(root, source="tars", workers=1).test)
    (root / "train" / "n02.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(InputError, match=r"n02.tar: not a tar file that can be read"):
        prepare(config(root, source="tars"))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"source=huggingface needs the package datasets; pip install 'repro\[hf\]'"):
        prepare(config(tmp_path, source="huggingface"))


@pytest.fixture
def hub(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tree as the library's `imagefolder`, and the library's own cache in a folder of this test."""
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed (extra: hf)")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tree / "train", tmp_path / "data" / "train")
    shutil.copytree(tree / "val", tmp_path / "data" / "validation")
    return tmp_path / "data"


def test_a_hugging_face_data_set_is_trained_like_the_tree(hub: Path, tree: Path) -> None:
    splits, expected = make(hub, source="huggingface"), make(tree)
    assert splits.sizes == expected.sizes
    assert same(epoch(splits, 1), epoch(expected, 1))
    assert torch.equal(joined(splits.test), joined(expected.test))
    kept = make(hub, source="huggingface", keep=("n01", "n03"), classes=2, workers=2)
    assert same(epoch(kept), epoch(make(tree, keep=("n01", "n03"), classes=2)))


def test_a_hugging_face_data_set_that_is_not_there_is_refused(hub: Path) -> None:
    with pytest.raises(InputError, match=r"nobody/nothing: not a Hugging Face data set .* nothing is downloaded here"):
        prepare(config(Path("nobody/nothing"), source="huggingface"))
    with pytest.raises(InputError, match="split train: found 3 classes, expected data"):
        prepare(config(hub, source="huggingface", classes=4))


@pytest.mark.parametrize("choice", ["imagenet", "imagenet100", "imagenette", "folder"])
def test_the_shipped_data_sets_compose(choice: str) -> None:
    chosen = compose(["scale=imagenet", "model=resnet50", f"data={choice}", "data.root=/images"]).data
    assert isinstance(chosen, ImagenetConfig)
    assert chosen.name == choice
    number = len(chosen.keep) if isinstance(chosen.keep, tuple) else chosen.keep
    assert number in (None, chosen.classes)


def test_the_classes_of_imagenette_are_classes_of_imagenet() -> None:
    from timm.data.imagenet_info import ImageNetInfo

    chosen = compose(["scale=imagenet", "model=resnet50", "data=imagenette"]).data
    assert isinstance(chosen, ImagenetConfig)
    assert isinstance(chosen.keep, tuple)
    info = ImageNetInfo("imagenet-1k")
    words = [info.label_name_to_description(name) for name in chosen.keep]
    assert [word.split(",")[0] for word in words] == [
        "tench",
        "English springer",
        "cassette player",
        "chain saw",
        "church",
        "French horn",
        "garbage truck",
        "gas pump",
        "golf ball",
        "parachute",
    ]
