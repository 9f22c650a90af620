"""Where a page's numbers come from: code, packages, hardware, data, times and run ids. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from repro.codes import code_of, named
from repro.results import Data, Environment, Result

T = TypeVar("T")

KEY_PACKAGES = ("torch", "lightning", "torchvision", "timm", "torchmetrics", "numpy")


@dataclass(frozen=True)
class Provenance:
    """Each tuple holds the distinct values in order of first appearance: more than one means a mixed study."""

    commits: tuple[str, ...]
    codes: Mapping[str, tuple[str, ...]]
    """The rows by the code that trained them; a row whose seeds were trained by several stands at each."""
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


def provenance(runs: Sequence[tuple[str, Result]]) -> Provenance:
    """Collect the provenance of all results of a page, of whatever status, each with its variant."""
    results = [result for _, result in runs]
    environments = [result.environment for result in results if result.environment]
    timings = [result.timing for result in results if result.timing]
    read = [result.data for result in results if result.data]
    return Provenance(
        commits=_distinct(code_of(environment).place for environment in environments),
        codes=_rows_by_code(runs),
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


def codes_by_run(results: Iterable[Result]) -> dict[str, str]:
    """Name the code of each run, by run id; a run that does not say is left out."""
    codes = {result.id: code_of(result.environment) for result in results if result.environment}
    names = named(codes.values())
    return {run: names[code] for run, code in codes.items()}


def _rows_by_code(runs: Sequence[tuple[str, Result]]) -> dict[str, tuple[str, ...]]:
    names = codes_by_run(result for _, result in runs)
    rows: dict[str, list[str]] = {}
    for variant, result in runs:
        if result.id in names:
            rows.setdefault(names[result.id], []).append(variant)
    return {name: _distinct(variants) for name, variants in rows.items()}


def _packages(environment: Environment) -> str:
    found = [f"{name} {environment.packages[name]}" for name in KEY_PACKAGES if name in environment.packages]
    return ", ".join([f"Python {environment.python}", *found])


def _hardware(environment: Environment) -> str:
    cores = "1 core" if environment.cores == 1 else f"{environment.cores} cores"
    machine = f"{environment.cpu}, {cores}"
    return f"{environment.gpu} ({machine})" if environment.gpu else f"{machine}, no GPU"
