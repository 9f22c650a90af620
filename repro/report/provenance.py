"""Where a page's numbers come from: commits, packages, hardware, data, times and run ids. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from repro.results import Data, Environment, Result

T = TypeVar("T")

KEY_PACKAGES = ("torch", "lightning", "torchvision", "timm", "torchmetrics", "numpy")


@dataclass(frozen=True)
class Provenance:
    """Each tuple holds the distinct values in order of first appearance: more than one means a mixed study."""

    commits: tuple[str, ...]
    packages: tuple[str, ...]
    hardware: tuple[str, ...]
    data: tuple[Data, ...]
    """What was read; what happened to the images stands apart, as that may be what a variant changes."""
    train_transforms: tuple[str, ...]
    test_transforms: tuple[str, ...]
    inputs: tuple[tuple[int, int, int], ...]
    epochs: tuple[int, ...]
    train_seconds: float
    total_seconds: float
    runs: tuple[str, ...]


def provenance(results: Sequence[Result]) -> Provenance:
    """Collect the provenance of all results of a page, of whatever status."""
    environments = [result.environment for result in results if result.environment]
    timings = [result.timing for result in results if result.timing]
    read = [result.data for result in results if result.data]
    return Provenance(
        commits=_distinct(_commit(environment) for environment in environments),
        packages=_distinct(_packages(environment) for environment in environments),
        hardware=_distinct(_hardware(environment) for environment in environments),
        data=_distinct(data.model_copy(update={"train_transform": "", "test_transform": ""}) for data in read),
        train_transforms=_distinct(data.train_transform for data in read if data.train_transform),
        test_transforms=_distinct(data.test_transform for data in read if data.test_transform),
        inputs=_distinct(result.cost.input for result in results if result.cost),
        epochs=_distinct(result.epochs for result in results if result.status == "finished"),
        train_seconds=sum(timing.train for timing in timings),
        total_seconds=sum(timing.total for timing in timings),
        runs=tuple(result.id for result in results),
    )


def _distinct(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))


def _commit(environment: Environment) -> str:
    if environment.commit is None:
        return "unknown (not a git checkout)"
    return environment.commit[:12] + (" (dirty)" if environment.dirty else "")


def _packages(environment: Environment) -> str:
    found = [f"{name} {environment.packages[name]}" for name in KEY_PACKAGES if name in environment.packages]
    return ", ".join([f"Python {environment.python}", *found])


def _hardware(environment: Environment) -> str:
    cores = "1 core" if environment.cores == 1 else f"{environment.cores} cores"
    machine = f"{environment.cpu}, {cores}"
    return f"{environment.gpu} ({machine})" if environment.gpu else f"{machine}, no GPU"
