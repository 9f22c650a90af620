"""Fetches CIFAR's archive before any run starts: by torchvision's downloader, once, whole or not at all."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from repro.data.config import CifarConfig
from repro.errors import InputError

SILENCE = 30.0  # seconds after which a server that says nothing is given up


def fetch(config: CifarConfig) -> None:
    """Put the files that are missing under `config.root`; processes that ask at the same time wait for the first.

    An archive that lies there with the right checksum is extracted and not fetched again. Raises InputError when the
    archive cannot be had or is not the published one, or when the folder cannot be written.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    source = CIFAR10 if config.name == "cifar10" else CIFAR100
    root = Path(config.root).expanduser()
    if not _missing(root, source):
        return
    try:
        with _alone(root / f".{source.filename}.lock"):
            if missing := _missing(root, source):
                _extract(root, source, missing)
    except OSError as error:
        raise InputError(f"{root}: {config.name} cannot be put there ({error.strerror or error})") from None


def _missing(root: Path, source: Any) -> list[str]:
    names = [name for name, _ in (*source.train_list, *source.test_list)]
    return [name for name in names if not (root / source.base_folder / name).exists()]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock between processes; it ends with the process that holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would not end it while a forked child has the file


def _extract(root: Path, source: Any, missing: list[str]) -> None:
    """Extract the archive beside its place and move it there; files that are there already are left alone."""
    from torchvision.datasets.utils import extract_archive

    with tempfile.TemporaryDirectory(dir=root, prefix=".", suffix=".part") as part:
        extract_archive(str(_archive(root, Path(part), source)), part)
        whole, folder = Path(part) / source.base_folder, root / source.base_folder
        if not folder.exists():
            os.rename(whole, folder)
            return
        for name in missing:
            os.replace(whole / name, folder / name)


def _archive(root: Path, part: Path, source: Any) -> Path:
    """Return the archive: the user's own under `root`, or one fetched into `part`. Raises InputError."""
    from torchvision.datasets.utils import calculate_md5, check_integrity

    if check_integrity(str(root / source.filename), source.tgz_md5):
        return root / str(source.filename)
    path = part / source.filename
    _download(root, path, source)
    found = calculate_md5(str(path))
    if found != source.tgz_md5:
        raise InputError(
            f"{source.filename} from {source.url}: MD5 is {found}, expected {source.tgz_md5}; found "
            f"{path.stat().st_size:,} bytes; try again, or put the archive into {root}"
        )
    return path


def _download(root: Path, path: Path, source: Any) -> None:
    from torchvision.datasets.utils import download_url

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)  # torchvision's downloader has none and would wait for ever
    try:
        download_url(source.url, str(path.parent), source.filename)
    except (OSError, HTTPException, RecursionError, ValueError) as error:  # URLError is an OSError
        raise InputError(
            f"{source.filename} cannot be fetched from {source.url} ({error}); put it (MD5 {source.tgz_md5}) or "
            f"{source.base_folder}/ into {root}, or set data.root=/path"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
