"""CIFAR-10 and CIFAR-100 from the extracted Python version's files, as torchvision keeps them. Downloads nothing."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repro.data.arrays import ArraySplits, LabelledImages, hold_out
from repro.data.config import CifarConfig
from repro.errors import InputError

CLASSES = {"cifar10": 10, "cifar100": 100}
PUBLISHED_ROWS = {"train": 50000, "test": 10000}
_SHAPE = (3, 32, 32)


def load_arrays(config: CifarConfig) -> ArraySplits:
    """Read the splits; `config.val` training images are held out, the same ones every time, the test batch is the test.

    A file with the published number of images must have the published checksum; a file with fewer images is taken as
    it is, a subset in the same format. Raises InputError for a missing or damaged file and for a wrong checksum.
    """
    if config.classes != CLASSES[config.name]:
        raise InputError(f"data.classes={config.classes}, but {config.name} has {CLASSES[config.name]} classes")
    folder, files = _expected(config)
    train, test = (_join([_read(folder / name, md5, rows, config) for name, md5, rows in files[s]]) for s in files)
    if config.val >= len(train):
        raise InputError(f"data.val={config.val} leaves none of the {len(train)} training images in {folder}")
    kept, held = hold_out(train.labels, config.val)
    return ArraySplits(train=train[kept], val=train[held], test=test)


def _expected(config: CifarConfig) -> tuple[Path, dict[str, list[tuple[str, str, int]]]]:
    """Return the folder and, by split, its files with MD5 and number of images: torchvision's lists."""
    from torchvision.datasets import CIFAR10, CIFAR100

    source = CIFAR10 if config.name == "cifar10" else CIFAR100
    folder = Path(config.root).expanduser() / source.base_folder
    if not folder.is_dir():
        hint = "" if config.download else ", or data.download=true to have it fetched before the runs"
        raise InputError(
            f"{folder}: no such folder; data={config.name} needs {source.base_folder}/ (the extracted Python version, "
            f"as torchvision keeps it) under data.root, which is {config.root!r}; set data.root=/path{hint}"
        )
    lists = {"train": source.train_list, "test": source.test_list}
    return folder, {s: [(name, md5, PUBLISHED_ROWS[s] // len(lists[s])) for name, md5 in lists[s]] for s in lists}


def _join(parts: list[LabelledImages]) -> LabelledImages:
    return LabelledImages(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))


def _read(path: Path, md5: str, rows: int, config: CifarConfig) -> LabelledImages:
    """Read one file. Raises InputError that names it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); extract {config.name} again") from None
    try:
        batch = _decode(content, config.classes)
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            f"{path}: damaged or not a {config.name} file ({error}); found {len(content):,} bytes; extract it again"
        ) from None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if len(batch) >= rows and found != md5:
        raise InputError(f"{path}: MD5 is {found}, expected {md5}; extract {config.name} again")
    return batch


def _decode(content: bytes, classes: int) -> LabelledImages:
    """Decode a pickled dictionary with `data` `(N, 3072)`, channel by channel and row by row, and its labels."""
    entry = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
    data: NDArray[np.uint8] = entry["data"]
    labels = np.asarray(entry["fine_labels" if classes == 100 else "labels"], dtype=np.int64)
    if data.dtype != np.uint8 or data.shape != (len(labels), int(np.prod(_SHAPE))):
        raise ValueError(f"data is {data.dtype} {data.shape} for {len(labels)} labels")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}")
    return LabelledImages(data.reshape(-1, *_SHAPE), labels)


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds numpy arrays and plain Python values; an ordinary unpickler would run whatever a file tells it to."""

    allowed = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)
