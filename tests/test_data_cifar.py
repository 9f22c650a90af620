"""CIFAR from files in the published format, written here in miniature; what is missing or damaged is named."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro.data import cifar
from repro.data.config import CifarConfig
from repro.errors import InputError

ROWS = 20
FILES = {
    "cifar10": ("cifar-10-batches-py", [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"], "labels"),
    "cifar100": ("cifar-100-python", ["train", "test"], "fine_labels"),
}


def batch(name: str, number: int, **replaced: Any) -> bytes:
    """One file: a dictionary pickled by protocol 2 with numpy's old module name, as in the published files."""
    data = np.random.default_rng(number).integers(0, 256, (ROWS, 3072), dtype=np.uint8)
    classes = 10 if name == "cifar10" else 100
    labels = [(number + k) % classes for k in range(ROWS)]
    content = {"data": data, FILES[name][2]: labels, "batch_label": f"batch {number}"} | replaced
    return pickle.dumps(content, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def write(root: Path, name: str) -> Path:
    folder, files, _ = FILES[name]
    (root / folder).mkdir()
    for number, file in enumerate(files):
        (root / folder / file).write_bytes(batch(name, number))
    return root / folder


def config(root: Path, name: str = "cifar10", val: int = 10, classes: int | None = None) -> CifarConfig:
    return CifarConfig.model_validate(
        {"name": name, "root": str(root), "classes": classes or (10 if name == "cifar10" else 100), "val": val}
    )


@pytest.mark.parametrize(("name", "train"), [("cifar10", 90), ("cifar100", 10)])
def test_splits_hold_the_files_images(tmp_path: Path, name: str, train: int) -> None:
    folder = write(tmp_path, name)
    splits = cifar.load_arrays(config(tmp_path, name))
    assert splits.sizes == {"train": train, "val": 10, "test": ROWS}
    stored = pickle.loads((folder / FILES[name][1][-1]).read_bytes(), encoding="latin1")
    assert np.array_equal(splits.test.images, stored["data"].reshape(ROWS, 3, 32, 32))
    assert splits.test.labels.tolist() == stored[FILES[name][2]]
    rows = {image.tobytes() for split in (splits.train, splits.val) for image in split.images}
    assert len(rows) == train + 10


def test_the_held_out_images_are_fixed(tmp_path: Path) -> None:
    write(tmp_path, "cifar10")
    assert cifar.load_arrays(config(tmp_path)).fingerprint == cifar.load_arrays(config(tmp_path)).fingerprint
    assert cifar.load_arrays(config(tmp_path)).fingerprint != cifar.load_arrays(config(tmp_path, val=11)).fingerprint


def test_without_validation_images_all_are_for_training(tmp_path: Path) -> None:
    write(tmp_path, "cifar10")
    splits = cifar.load_arrays(config(tmp_path, val=0))
    assert splits.sizes == {"train": 5 * ROWS, "val": 0, "test": ROWS}
    assert splits.val.images.shape == (0, 3, 32, 32)


def test_a_missing_folder_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        cifar.load_arrays(config(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}/cifar-10-batches-py: no such folder; data=cifar10 needs cifar-10-batches-py/ (the extracted "
        f"Python version, as torchvision keeps it) under data.root, which is {str(tmp_path)!r}; set data.root=/path"
    )


class _Shell:
    """What a malicious file holds: a command that runs when it is unpickled in the ordinary way."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (batch("cifar10", 3)[:5000], r"damaged or not a cifar10 file \(.+\); found 5,000 bytes; extract it again"),
        (b"", "damaged or not a cifar10 file .*found 0 bytes"),
        (b"<html>", "damaged or not a cifar10 file"),
        (batch("cifar10", 3, labels=[0] * 7), r"data is uint8 \(20, 3072\) for 7 labels"),
        (batch("cifar10", 3, labels=[10] * ROWS), "labels run from 10 to 10"),
        (batch("cifar10", 3, data=np.zeros((ROWS, 5), dtype=np.uint8)), r"data is uint8 \(20, 5\) for 20 labels"),
        (batch("cifar100", 0), "damaged or not a cifar10 file"),
    ],
    ids=["truncated", "empty", "a web page", "labels missing", "label too large", "wrong width", "cifar100 instead"],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write(tmp_path, "cifar10")
    (folder / "data_batch_3").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        cifar.load_arrays(config(tmp_path))
    assert str(caught.value).startswith(f"{folder}/data_batch_3: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, "cifar10")
    (folder / "test_batch").unlink()
    with pytest.raises(
        InputError, match=r"test_batch: cannot be read \(No such file or directory\); extract cifar10 again"
    ):
        cifar.load_arrays(config(tmp_path))


def test_a_file_cannot_run_commands(tmp_path: Path) -> None:
    folder = write(tmp_path, "cifar10")
    content = pickle.dumps({"data": _Shell(f"touch {tmp_path}/ran"), "labels": []}, protocol=2)
    (folder / "data_batch_1").write_bytes(content)
    with pytest.raises(InputError, match=r"data_batch_1: damaged .* asks for posix.system"):
        cifar.load_arrays(config(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_file_of_full_length_needs_the_published_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = write(tmp_path, "cifar10")
    monkeypatch.setattr(cifar, "PUBLISHED_ROWS", {"train": 5 * ROWS, "test": ROWS})
    with pytest.raises(
        InputError, match=r"data_batch_1: MD5 is [0-9a-f]{32}, expected c99cafc152244af753f735de768cd75f"
    ):
        cifar.load_arrays(config(tmp_path))
    sums = [[file, hashlib.md5((folder / file).read_bytes()).hexdigest()] for file in FILES["cifar10"][1]]
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    assert cifar.load_arrays(config(tmp_path)).sizes["test"] == ROWS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 7}, "data.classes=7, but cifar10 has 10 classes"),
        ({"val": 100}, "data.val=100 leaves none of the 100 training images"),
    ],
    ids=["classes", "val"],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    write(tmp_path, "cifar10")
    with pytest.raises(InputError, match=message):
        cifar.load_arrays(config(tmp_path, **changes))
