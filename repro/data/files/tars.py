"""Images in tar files, listed once and then read at their offsets, in any order and by any process.

A sample of webdataset's layout is `KEY.jpg` with `KEY.cls`, its label as a number. A tar without .cls files has class
folders, or is named after its one class. The list is kept in the cache: reading all headers of ImageNet takes minutes.
"""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from repro.data.arrays import Positions
from repro.data.files.readers import Indexed
from repro.errors import InputError
from repro.paths import cache_dir
from repro.typed import digest

VERSION = 1
"""Of the list: raise it with every change to what is listed, so that old cache files are left alone."""

SPLITS = {"train": ("train",), "val": ("validation", "val")}
"""Names of a split's folder, or a part of its shards' names, such as imagenet1k-train-0000.tar."""

Rows = dict[str, NDArray[Any]]
"""Columns of equal length: shard, offset, size, name, class."""


@dataclass(frozen=True)
class TarImages:
    """Where each image lies: shard, offset and size in bytes; arrays `(N,)`, which forked workers share."""

    shards: tuple[Path, ...]
    rows: Rows
    labels: Positions

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: Positions) -> Self:
        rows = {name: column[chosen] for name, column in self.rows.items()}
        return replace(self, rows=rows, labels=self.labels[chosen])

    def relabelled(self, labels: Positions) -> Self:
        """Return the same images with other labels."""
        return replace(self, labels=labels)

    def read(self, position: int) -> bytes:
        """Read a member of a shard. Raises InputError that names it."""
        offset, size = (int(self.rows[name][position]) for name in ("offset", "size"))
        try:
            with self._shard(position).open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise InputError(f"{self.name(position)}: cannot be read ({error.strerror})") from None

    def name(self, position: int) -> str:
        """Shard and member."""
        return f"{self._shard(position)}: {os.fsdecode(self.rows['name'][position])}"

    def entries(self) -> Iterator[bytes]:
        """Shard, member and size in bytes of each image."""
        names = [os.fsencode(shard.name) for shard in self.shards]
        for shard, name, size in zip(*(self.rows[key].tolist() for key in ("shard", "name", "size")), strict=True):
            yield b"%s %s %d" % (names[shard], name, size)

    def _shard(self, position: int) -> Path:
        return self.shards[int(self.rows["shard"][position])]


def tar_listings(root: Path) -> tuple[Indexed, Indexed | None]:
    """List the shards of train, and those of val, if any; shards that name no split are all of them train.

    Raises InputError where there is no shard, or one that cannot be read or whose labels are unclear.
    """
    train, val = (_shards(root, names) for names in SPLITS.values())
    if not train and not val:
        train = sorted(root.glob("*.tar"))
    if not train:
        raise InputError(
            f"{root}: no training shards; data.source=tars needs *.tar in train/ and val/ (or *-train-*.tar and "
            "*-validation-*.tar) under data.root"
        )
    return _listing(train, "train"), _listing(val, "val") if val else None


def _shards(root: Path, names: tuple[str, ...]) -> list[Path]:
    """Shards of a split, sorted by name: in a folder of one of its names, else with one in their own."""
    for name in names:
        if (root / name).is_dir():
            return sorted((root / name).glob("*.tar"))
    pattern = re.compile(rf"(^|[-_.])({'|'.join(names)})([-_.]|$)")
    return sorted(path for path in root.glob("*.tar") if pattern.search(path.stem))


def _listing(shards: list[Path], split: str) -> Indexed:
    """List all samples of a split in the order of shards and members."""
    rows = _cached(shards)
    where = f"{shards[0].parent}, {len(shards)} shards of {split}"
    found = np.unique(rows["class"]).tolist()
    numbered = {name.isdigit() for name in found}
    if numbered == {True}:
        classes = tuple(str(label) for label in range(max(int(name) for name in found) + 1))
        labels = rows["class"].astype(np.int64)
    else:
        classes = tuple(os.fsdecode(name) for name in found)
        labels = np.searchsorted(np.array(found), rows["class"]).astype(np.int64)
    return Indexed(where, classes, TarImages(tuple(shards), rows, labels))


def _cached(shards: list[Path]) -> Rows:
    """Return the rows of all shards, from the cache where these very files were listed before."""
    stats = [(str(shard.resolve()), shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards]
    path = cache_dir() / "tars" / f"{digest({'version': VERSION, 'shards': stats})}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in ("shard", "offset", "size", "name", "class")}
    except Exception:  # whatever ails a cache file, the answer is to list the shards again
        rows = _index(shards)
    _write(path, rows)
    return rows


def _index(shards: list[Path]) -> Rows:
    """Read all headers. Raises InputError for a shard that is damaged, and for one without images."""
    rows = [(k, *sample) for k, shard in enumerate(shards) for sample in _samples(shard)]
    shard, offset, size, name, label = zip(*rows, strict=True)
    return {
        "shard": np.array(shard, dtype=np.int32),
        "offset": np.array(offset, dtype=np.int64),
        "size": np.array(size, dtype=np.int64),
        "name": np.array(name),
        "class": np.array(label),
    }


def _samples(shard: Path) -> list[tuple[int, int, bytes, bytes]]:
    """Offset, size, name and class of each image of a shard."""
    images: list[tarfile.TarInfo] = []
    labels: dict[str, bytes] = {}
    try:
        with tarfile.open(shard, "r:") as file:
            for member in file:
                key, kind = _parts(member)
                if kind == "image":
                    images.append(member)
                elif kind == "label":
                    content = file.extractfile(member)
                    labels[key] = content.read().strip() if content else b""
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{shard}: not a tar file that can be read ({error})") from None
    if not images:
        raise InputError(f"{shard}: no image in it")
    return [(image.offset_data, image.size, os.fsencode(image.name), _class(image, labels, shard)) for image in images]


def _parts(member: tarfile.TarInfo) -> tuple[str, str]:
    """Key of a member, which is its path up to the first dot of its name, and what it is: image, label or neither."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    folder, _, name = member.name.rpartition("/")
    key, _, _ = name.partition(".")
    suffix = Path(name).suffix.lower()
    kind = "image" if suffix in IMG_EXTENSIONS else "label" if suffix == ".cls" else ""
    return f"{folder}/{key}", kind if member.isfile() and not name.startswith(".") else ""


def _class(image: tarfile.TarInfo, labels: dict[str, bytes], shard: Path) -> bytes:
    """Number or name of an image's class. Raises InputError where some images have a label file and this one none."""
    if not labels:
        return os.fsencode(Path(image.name).parent.name or shard.stem)
    key, _ = _parts(image)
    label = labels.get(key, b"")
    if not label.isdigit():
        raise InputError(f"{shard}: {image.name} has no label; expected a number in {key.lstrip('/')}.cls beside it")
    return label


def _write(path: Path, rows: Rows) -> None:
    """Write the cache so that a reader sees a whole file or none; a cache that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
            np.savez(file, allow_pickle=False, **rows)
        os.replace(file.name, path)
    except OSError:
        return
