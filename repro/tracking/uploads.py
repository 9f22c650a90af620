"""Which runs a W&B server does not have yet. Imports neither wandb nor torch.

A run that is tracked with W&B notes in its folder, in `wandb/uploaded.json`, what of it which server has: the server's
address, and a digest of the result and of the newest epoch. A folder that holds more waits to be uploaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from repro import folder
from repro.config import RunConfig
from repro.errors import InputError
from repro.results import Result, read_result, write_atomic
from repro.tracking import curve
from repro.typed import digest

HOW_TO_UPLOAD = "`repro sync` uploads it later"
MARK = Path("wandb") / "uploaded.json"


@dataclass(frozen=True)
class Waiting:
    """A run whose folder holds more than the server is known to have."""

    directory: Path
    config: RunConfig
    result: Result | None


@dataclass(frozen=True)
class Found:
    """The tracked runs of some folders: which wait, which need nothing, and why the others are left alone."""

    waiting: tuple[Waiting, ...]
    uploaded: int
    left: tuple[str, ...]


def run_folders(root: Path) -> Iterator[Path]:
    """Yield the folders below `root`, itself among them, that hold a run; what is inside of a run's is the run's."""
    for path, inside, files in os.walk(root):
        inside.sort()
        if folder.CONFIG in files:
            inside.clear()
            yield Path(path)


def find(directories: Iterable[Path], url: str) -> Found:
    """Look which of these runs the server at `url` does not have; one that is being trained is left alone."""
    waiting: list[Waiting] = []
    left: list[str] = []
    uploaded = 0
    for directory in directories:
        try:
            config = folder.read_config(directory / folder.CONFIG)
            if config.logger.name != "wandb":
                continue
            result = read_result(directory)
        except InputError as error:
            left.append(str(error))
            continue
        if folder.is_alive(directory):
            left.append(f"{directory}: is being trained; sync again when it has ended")
        elif is_uploaded(directory, url, result):
            uploaded += 1
        elif result is not None or curve.last_step(directory):
            waiting.append(Waiting(directory, config, result))
    return Found(tuple(waiting), uploaded, tuple(left))


def mark_uploaded(directory: Path, url: str, result: Result | None) -> None:
    """Note that the server at `url` has the run as its folder now holds it."""
    tree = {"server": url, "content": _content(directory, result)}
    write_atomic(directory / MARK, json.dumps(tree), durable=False)


def is_uploaded(directory: Path, url: str, result: Result | None) -> bool:
    """Whether the server at `url` has the run as its folder now holds it."""
    try:
        tree = json.loads((directory / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(tree == {"server": url, "content": _content(directory, result)})


def _content(directory: Path, result: Result | None) -> str:
    known = None if result is None else result.model_dump_json()
    return digest({"result": known, "step": curve.last_step(directory)})
