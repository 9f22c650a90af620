"""What a run was trained with: versions, hardware, commit. Never reads environment variables. Imports no torch."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from repro.results import Environment
from repro.typed import ID_LENGTH

PACKAGES = ("repro", "torch", "lightning", "torchvision", "timm", "torchmetrics", "fvcore", "hydra-core", "numpy")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """Name of the processor as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that a result depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def commit() -> tuple[str | None, bool | None]:
    """Return the git commit of this code and whether it has changes; (None, None) when it is no git checkout."""
    here = Path(__file__).resolve()
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name)
    if tracked is None:
        return None, None
    changes = _git(here.parent, "status", "--porcelain", "--untracked-files=no", "--", ":/repro", ":/conf")
    return _git(here.parent, "rev-parse", "HEAD"), bool(changes)


@cache
def code() -> str:
    """Hash this package's source files; conf/ and ablations/ are in a run's config already."""
    return source_hash(Path(__file__).resolve().parent)


def source_hash(root: Path) -> str:
    """Hash the Python files below `root` by name and content, wherever `root` stands: 12 hexadecimal digits."""
    found = sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()[:ID_LENGTH]


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def describe(gpu: str | None = None, codes: Sequence[str] = ()) -> Environment:
    """Describe this machine and code; `gpu` is the device's name where a run used one, `codes` of what trained before.

    The machine's name stays out: results and pages are passed on, and it tells of a network; attempts.jsonl has it.
    """
    head, dirty = commit()
    return Environment(
        python=platform.python_version(),
        packages=package_versions(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpu_name(),
        cores=cores(),
        gpu=gpu,
        commit=head,
        dirty=dirty,
        code=code(),
        earlier_code=tuple(name for name in codes if name != code()),
    )
