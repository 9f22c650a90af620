"""`repro doctor`: what this machine has and lacks."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from repro import environment
from repro.config import LoggerConfig
from repro.paths import cache_dir, runs_dir

REQUIRED = ("torch", "torchvision", "lightning", "timm", "torchmetrics", "hydra-core", "fvcore", "wandb")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare nothing: the verb takes no words."""


def main(options: argparse.Namespace) -> int:
    """Say what this machine has and lacks."""
    return doctor(options.json)


def doctor(as_json: bool) -> int:
    """Print the findings; exit status 1 when something that every run needs is missing."""
    findings: dict[str, Any] = {name: check() for name, check in CHECKS.items()}
    missing = [name for name, found in findings["packages"].items() if found is None]
    blocked = [name for name in ("runs", "cache") if not findings[name]["writable"]]
    if as_json:
        print(json.dumps({**findings, "missing": missing + blocked}, indent=2))
    else:
        for name, found in findings.items():
            print(f"{name:10} {_words(found)}")
        print("lacks      " + (", ".join(missing + blocked) or "nothing that a run on the CPU needs"))
    return 1 if missing or blocked else 0


def _packages() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in REQUIRED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _memory() -> dict[str, float]:
    import psutil

    memory = psutil.virtual_memory()
    return {"total_gib": round(memory.total / 2**30, 1), "free_gib": round(memory.available / 2**30, 1)}


def _gpus() -> list[str]:
    try:
        import torch
    except ImportError:
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _slurm() -> dict[str, str | None]:
    return {name: shutil.which(name) for name in ("sbatch", "srun", "sacct")}


def _wandb() -> str:
    from repro.tracking import wandb_mode

    return "online" if wandb_mode(LoggerConfig(name="wandb")) == "online" else "no key: logger=wandb writes offline"


def _folder(path: Path) -> dict[str, Any]:
    parent = path.absolute()
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free / 2**30
    return {"path": str(path), "writable": os.access(parent, os.W_OK), "free_gib": round(free, 1)}


def _words(found: Any) -> str:
    if isinstance(found, dict):
        return ", ".join(f"{key} {'no' if value in (None, False) else value}" for key, value in found.items())
    if isinstance(found, list):
        return ", ".join(map(str, found)) or "none"
    return str(found)


CHECKS: dict[str, Callable[[], Any]] = {
    "python": platform.python_version,
    "packages": _packages,
    "cpu": lambda: f"{environment.cpu_name()}, {environment.cores()} cores",
    "memory": _memory,
    "gpus": _gpus,
    "slurm": _slurm,
    "wandb": _wandb,
    "runs": lambda: _folder(runs_dir()),
    "cache": lambda: _folder(cache_dir()),
    "commit": lambda: environment.commit()[0] or "not a git checkout",
}
