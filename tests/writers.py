"""Small data sets in the published formats, drawn here; the class of an image can be learnt from it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CIFAR = {
    "cifar10": ("cifar-10-batches-py", [f"data_batch_{k}" for k in range(1, 6)], "test_batch", "labels", 10),
    "cifar100": ("cifar-100-python", ["train"], "test", "fine_labels", 100),
}
"""Folder, files of train, file of test, key of the labels, classes."""


def draw(label: int, number: int, size: int) -> NDArray[np.uint8]:
    """One image uint8 `(size, size, 3)`: the 4 x 4 colour pattern of its class, under noise of its own."""
    cells = np.random.default_rng([1, label]).uniform(0, 255, (4, 4, 3))
    steps = np.arange(size) * 4 // size
    noise = np.random.default_rng([2, label, number]).uniform(-64, 64, (size, size, 3))
    return np.clip(cells[steps][:, steps] + noise, 0, 255).astype(np.uint8)


def write_cifar(root: Path, name: str = "cifar10", train_rows: int = 160, test_rows: int = 40) -> Path:
    """Write the files of CIFAR-10 or CIFAR-100 under `root` with that many images; return the folder.

    The classes take turns; a file is a dictionary pickled by protocol 2 with numpy's old module name, as published.
    """
    base, train, test, key, classes = CIFAR[name]
    folder = root / base
    folder.mkdir(parents=True)
    parts = np.array_split(np.arange(train_rows), len(train))
    rows = dict(zip([*train, test], [*parts, np.arange(train_rows, train_rows + test_rows)], strict=True))
    for file, numbers in rows.items():
        labels = [int(number) % classes for number in numbers]
        images = [draw(label, int(number), 32) for label, number in zip(labels, numbers, strict=True)]
        data = np.stack(images).transpose(0, 3, 1, 2).reshape(len(numbers), -1)
        content = pickle.dumps({"data": np.ascontiguousarray(data), key: labels}, protocol=2)
        (folder / file).write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return folder


def write_tree(root: Path, classes: int = 10, train: int = 6, val: int = 2, size: int = 40) -> Path:
    """Write `root/{train,val}/CLASS/*.JPEG`, that many images `size` pixels high in each class; return `root`.

    Widths differ from the height and from one another, as photographs' do.
    """
    for part, count in (("train", train), ("val", val)):
        for label in range(classes):
            folder = root / part / f"n{label:08d}"
            folder.mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(draw(label, number + (part == "val") * train, size))
                image.resize((size + 2 * (number % 4), size)).save(folder / f"{folder.name}_{number}.JPEG", quality=90)
    return root
