"""What a source of labelled images in files is, and the one that is a tree of class folders.

A listing knows the classes of one split; `images` returns those of the classes that are kept. `tars.py` and `hub.py`
are other sources.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from repro.data.arrays import Positions
from repro.errors import InputError


class Images(Protocol):
    """Images in files, read one at a time by any process; `labels` int64 `(N,)`."""

    @property
    def labels(self) -> Positions:
        """The class of each image."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: Positions) -> Self: ...

    def relabelled(self, labels: Positions) -> Self:
        """Return the same images with other labels."""

    def read(self, position: int) -> bytes:
        """Return the bytes of an image file. Raises InputError that names one that cannot be read."""

    def name(self, position: int) -> str:
        """Where an image lies, for messages."""

    def entries(self) -> Iterator[bytes]:
        """Name and size in bytes of each image, wherever the data are stored, for the fingerprint."""


class Listing(Protocol):
    """One split as it was found: `where`, and its classes in the order of their labels."""

    @property
    def where(self) -> str:
        """The place, for messages."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all classes."""

    def images(self, kept: Sequence[str]) -> Images:
        """Return the images of `kept`, labelled 0 to k - 1 in its order. Raises InputError for a class without any."""


@dataclass(frozen=True)
class Indexed:
    """A listing of images whose labels are known: tars and Hugging Face data sets."""

    where: str
    classes: tuple[str, ...]
    every: Images

    def images(self, kept: Sequence[str]) -> Images:
        """Return the images of `kept`; see Listing."""
        table = np.full(len(self.classes), -1, dtype=np.int64)
        for label, name in enumerate(kept):
            table[self.classes.index(name)] = label
        labels = table[self.every.labels]
        empty = sorted(set(range(len(kept))) - set(np.unique(labels).tolist()))
        if empty:
            raise InputError(f"{self.where}: no image of class {kept[empty[0]]!r}")
        chosen = np.flatnonzero(labels >= 0)
        return self.every[chosen].relabelled(labels[chosen])


@dataclass(frozen=True)
class ImageFiles:
    """Paths and int64 labels `(N,)`. Arrays, not lists: forked workers share them and do not copy each object."""

    root: Path
    paths: NDArray[np.bytes_]
    labels: Positions

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: Positions) -> Self:
        return replace(self, paths=self.paths[chosen], labels=self.labels[chosen])

    def relabelled(self, labels: Positions) -> Self:
        """Return the same images with other labels."""
        return replace(self, labels=labels)

    def read(self, position: int) -> bytes:
        """Read a file. Raises InputError that names it."""
        try:
            return Path(self.name(position)).read_bytes()
        except OSError as error:
            raise InputError(f"{self.name(position)}: cannot be read ({error.strerror})") from None

    def name(self, position: int) -> str:
        """Path of an image."""
        return os.fsdecode(self.paths[position])

    def entries(self) -> Iterator[bytes]:
        """Path below `root` and size in bytes of each file."""
        prefix = len(os.fsencode(str(self.root))) + 1
        for path in self.paths.tolist():
            yield b"%s %d" % (path[prefix:], os.stat(path).st_size)


@dataclass(frozen=True)
class FolderListing:
    """A folder of class folders; only those that are kept are listed."""

    root: Path
    folder: Path
    classes: tuple[str, ...]

    @classmethod
    def of(cls, root: Path, folder: Path) -> FolderListing:
        """Find the class folders of `folder`, sorted by name; hidden ones are none."""
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        return cls(root, folder, tuple(sorted(names)))

    @property
    def where(self) -> str:
        """The folder."""
        return str(self.folder)

    def images(self, kept: Sequence[str]) -> ImageFiles:
        """Return all images below the kept folders, sorted by path; see Listing."""
        from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

        try:
            samples = make_dataset(self.folder, {name: k for k, name in enumerate(kept)}, extensions=IMG_EXTENSIONS)
        except OSError as error:
            raise InputError(f"{self.folder}: {error}") from None
        paths = np.array([os.fsencode(path) for path, _ in samples])
        return ImageFiles(self.root, paths, np.array([label for _, label in samples], dtype=np.int64))
