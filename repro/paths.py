"""Where things are: the shipped conf/ and ablations/, the runs and the cache."""

from __future__ import annotations

import os
from pathlib import Path

from repro.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def _shipped(name: str) -> Path:
    """A folder that stands inside the package in a wheel and beside it in a checkout."""
    for folder in (_PACKAGE / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise InputError(f"the folder {name}/ is missing beside {_PACKAGE}; install the package again")


def conf_dir() -> Path:
    """Hydra's configuration folder."""
    return _shipped("conf")


def ablations_dir() -> Path:
    """The published tables."""
    return _shipped("ablations")


def options(group: str) -> list[str]:
    """Names of the choices of a configuration group, sorted; those that start with `_` are parts of others."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml") if not path.stem.startswith("_"))


def runs_dir() -> Path:
    """The folder of runs: `$REPRO_RUNS`, else `./runs`."""
    return Path(os.environ.get("REPRO_RUNS") or "runs")


def cache_dir() -> Path:
    """The folder of what can be made again (prices, generated data): `$REPRO_CACHE`, else `~/.cache/repro`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("REPRO_CACHE") or Path(base) / "repro")
