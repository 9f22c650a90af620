"""Images in rows of a Hugging Face data set, read by timm's reader. Needs the package datasets; downloads nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from repro.data.arrays import Positions
from repro.data.files.readers import Indexed
from repro.errors import InputError

HELD_OUT = ("validation", "val", "test")
"""Names of the split that is the test split, best first: the test split of ImageNet has no labels."""


@dataclass(frozen=True)
class HubImages:
    """Rows of one split and their labels `(N,)`."""

    reader: Any
    where: str
    rows: Positions
    labels: Positions

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: Positions) -> Self:
        return replace(self, rows=self.rows[chosen], labels=self.labels[chosen])

    def relabelled(self, labels: Positions) -> Self:
        """Return the same images with other labels."""
        return replace(self, labels=labels)

    def read(self, position: int) -> bytes:
        """Read the image of a row. Raises InputError that names it."""
        try:
            with self.reader[int(self.rows[position])][0] as file:
                content: bytes = file.read()
        except OSError as error:
            raise InputError(f"{self.name(position)}: cannot be read ({error})") from None
        return content

    def name(self, position: int) -> str:
        """Data set, split and row."""
        return f"{self.where} row {int(self.rows[position])}"

    def entries(self) -> Iterator[bytes]:
        """Row, and size in bytes of the image: read from the table's offsets, not from the images."""
        sizes = _stored_sizes(self.reader.dataset.data.column(self.reader.image_key))
        for row in self.rows.tolist():
            yield b"%d %d" % (row, sizes[row])


def _stored_sizes(column: Any) -> NDArray[np.int64]:
    """Size in bytes of each image of an Arrow column; of its file where the table holds only a path."""
    import pyarrow.compute as compute

    sizes = []
    for chunk in column.chunks:
        stored = compute.fill_null(compute.binary_length(chunk.field("bytes")), -1).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(stored < 0):
            stored = stored.copy() if not stored.flags.writeable else stored
            stored[row] = os.stat(chunk.field("path")[int(row)].as_py()).st_size
        sizes.append(stored.astype(np.int64))
    return np.concatenate(sizes)


def hub_listings(root: str) -> tuple[Indexed, Indexed | None]:
    """List the train split of a Hugging Face data set, and the one that is tested, if any.

    `root` is a folder, or a name whose data are already in the library's cache. Raises InputError where the package
    `datasets` is missing, and for data that are not there or have no columns `image` and `label`.
    """
    if Path(root).expanduser().exists():
        root = str(Path(root).expanduser())
    train = _hub_listing(root, "train")
    if train is None:
        raise InputError(f"{root}: no split named train; data.source=huggingface needs one")
    held_out = (_hub_listing(root, split) for split in HELD_OUT)
    return train, next((listing for listing in held_out if listing is not None), None)


def _hub_listing(root: str, split: str) -> Indexed | None:
    """List one split; None where there is none of that name."""
    reader = _hub_reader(root, split)
    if reader is None:
        return None
    names = tuple(sorted(reader.class_to_idx, key=reader.class_to_idx.get))
    if not names:
        raise InputError(f"{root}: the column label of split {split} has no class names; expected a ClassLabel")
    labels = np.asarray(reader.dataset.data.column(reader.label_key).to_numpy(), dtype=np.int64)
    if labels.min() < 0:
        return None  # published without labels
    where = f"{root}, split {split}"
    return Indexed(where, names, HubImages(reader, where, np.arange(len(labels)), labels))


def _hub_reader(root: str, split: str) -> Any:
    """Open one split; None where there is none of that name. Raises InputError as `hub_listings` does."""
    try:
        import datasets
    except ImportError:
        raise InputError(
            "data.source=huggingface needs the package datasets; pip install 'repro[hf]', or use data.source=folder"
        ) from None
    from timm.data.readers.reader_factory import create_reader

    try:
        with _offline(datasets):
            return create_reader(f"hfds/{root}", split=split)
    except Exception as error:  # the library raises errors of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, ValueError) and "Unknown split" in reason:
            return None
        raise InputError(
            f"{root}: not a Hugging Face data set with columns image and label in data.root or in the library's cache "
            f"({reason}); nothing is downloaded here: load it once with datasets.load_dataset"
        ) from None


@contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """Let the library look into its cache only."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
