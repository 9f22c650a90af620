"""Results of a study, read back from a W&B server. Imports no torch; wandb only when it is asked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from repro.errors import InputError
from repro.report.curves import Curve
from repro.results import SCHEMA_VERSION, Result
from repro.study import Study
from repro.tracking.server import first_line, import_wandb, require_server
from repro.tracking.wandb_runs import RESULT, group, stop

PAGE = 200  # W&B runs that are asked for at once
TIMEOUT = 20  # seconds for one answer
EPOCHS = 10_000  # of a learning curve; a longer one is thinned out by the server
Results = dict[str, dict[int, Result | None]]


@dataclass(frozen=True)
class Place:
    """Where on the server: of whom, and in which project."""

    entity: str
    project: str

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}"


@dataclass(frozen=True)
class Fetched:
    """What the server has of a study; `left_out` says why a W&B run of it could not be used."""

    study: Study
    results: Results
    curves: dict[str, list[Curve]]
    left_out: tuple[str, ...]


def parse_place(text: str) -> Place:
    """Read `wandb:ENTITY/PROJECT`. Raises InputError for anything else."""
    found = re.fullmatch(r"wandb:([^/\s:]+)/([^/\s:]+)", text)
    if found is None:
        raise InputError(f"--from {text}: expected wandb:ENTITY/PROJECT")
    return Place(*found.groups())


def fetch(study: Study, place: Place, seeds_given: bool, with_curves: bool) -> Fetched:
    """Read the study's runs from the server; without seeds on the command line, all that it has of this very config.

    Raises:
        InputError: no key, a server that does not answer, no such project, no run of the study.
    """
    url = require_server()
    try:
        runs = _runs(study, place, url)
        fetched = _matched(study, runs, seeds_given, with_curves)
    finally:
        stop()
    if not any(result for by_seed in fetched.results.values() for result in by_seed.values()):
        what = f"{study.ablation.name} at scale {study.scale} with this config"
        others = f"; the {len(runs)} of this group are of other configs, or have no result" if runs else ""
        unusable = f"; left out: {'; '.join(fetched.left_out)}" if fetched.left_out else ""
        raise InputError(f"{place} on {url} has no run of {what}{unusable or others}")
    return fetched


def _runs(study: Study, place: Place, url: str) -> list[Any]:
    """List the W&B runs of the study's group. Raises InputError in one line for whatever W&B raises."""
    wandb = import_wandb()
    filters = {"group": group(study.ablation.name, study.scale)}
    try:
        return list(wandb.Api(timeout=TIMEOUT).runs(str(place), filters=filters, per_page=PAGE, lazy=False))
    except Exception as error:
        reason = first_line(error)
        if "could not find project" in reason.lower():
            raise InputError(f"--from wandb:{place}: there is no such project on {url}") from None
        raise InputError(f"--from wandb:{place}: {url} did not give the runs ({reason})") from None


def _matched(study: Study, runs: Iterable[Any], seeds_given: bool, with_curves: bool) -> Fetched:
    """Keep the W&B runs whose id is that of a run of the study: a project may hold other configs of the same row."""
    usable: dict[tuple[str, int], tuple[Result, Any]] = {}
    left_out: list[str] = []
    for run in runs:
        try:
            result = _result(run)
        except InputError as error:
            left_out.append(str(error))
            continue
        if result is not None and _is_of(study, result, run.id):
            usable[result.variant or "", result.seed] = result, run
    seeds = study.seeds if seeds_given else sorted({seed for _, seed in usable}) or study.seeds
    found = study.with_seeds(seeds)
    results: Results = {variant: {} for variant in found.configs}
    curves: dict[str, list[Curve]] = {variant: [] for variant in found.configs}
    for entry in found.runs:
        result, run = usable.get((entry.variant, entry.seed), (None, None))
        results[entry.variant][entry.seed] = result
        curve = _curve(run) if with_curves and result is not None and result.status == "finished" else None
        curves[entry.variant] += [] if curve is None else [curve]
    return Fetched(found, results, curves, tuple(left_out))


def _is_of(study: Study, result: Result, run_id: str) -> bool:
    if result.variant is None or result.variant not in study.configs:
        return False
    return study.run(result.variant, result.seed).id == run_id == result.id


def _result(run: Any) -> Result | None:
    """Rebuild a run's result; None while it has none. Raises InputError, naming the run, for one that is unusable."""
    text = run.summary_metrics.get(RESULT)
    if text is None:
        return None
    try:
        version = json.loads(text).get("schema_version")
        if version == SCHEMA_VERSION:
            return Result.model_validate_json(text)
        reason = f"schema_version is {version!r}, expected {SCHEMA_VERSION}"
    except (ValidationError, ValueError, TypeError, AttributeError) as error:
        reason = f"no result: {str(error).splitlines()[0]}"
    raise InputError(f"W&B run {run.id} ({run.name}): {reason}")


def _curve(run: Any) -> Curve | None:
    """Read a run's learning curve; None where the server does not give it: a page without it is better than none."""
    try:
        rows = [row for row in run.history(samples=EPOCHS, pandas=False) if "epoch" in row]
    except Exception:
        return None
    names = {name for row in rows for name, value in row.items() if isinstance(value, int | float)} - {"epoch"}
    columns = {name: tuple(_number(row.get(name)) for row in rows) for name in sorted(names)}
    return Curve(tuple(_number(row["epoch"]) for row in rows), columns) if rows else None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
