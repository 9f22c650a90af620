"""`repro status`: how a study's runs stand, why some failed, and who works at it. Imports no torch."""

from __future__ import annotations

import argparse
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from repro import ablation, folder
from repro.console import console
from repro.folder import Standing
from repro.launch.presence import Presence, present
from repro.request import parse_request, study_arguments
from repro.study import Run, Study
from repro.verbs.plan import counts, title

STALLED = 120.0  # seconds without a step after which that is said
QUEUE = ".slurm"  # folder of a study that was submitted to a cluster

Stands = Mapping[Path, Standing]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words."""
    study_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Show the states of the study of that name."""
    return status(options.name, options.words, options.json)


def status(name: str, words: Sequence[str], as_json: bool) -> int:
    """Print how every run stands."""
    study = parse_request(words).study_on_disk(ablation.load(name))
    stands = {run.directory: folder.standing(run.directory) for run in study.runs}
    queue, launchers = _queue(study.directory), present(study.directory)
    if as_json:
        rows = [_row(run, stands[run.directory], queue.get(run.directory)) for run in study.runs]
        tree = {"ablation": name, "scale": study.scale, "runs": rows, "launchers": [asdict(one) for one in launchers]}
        print(json.dumps(tree, indent=2))
    else:
        _print(study, stands, queue, launchers, console())
    return 0


def _queue(directory: Path) -> dict[Path, str]:
    """Ask the cluster about the runs that were submitted to it, if any were."""
    if not (directory / QUEUE).is_dir():
        return {}
    from repro.launch.slurm.queue import known

    return known(directory)


def _row(run: Run, standing: Standing, queued: str | None) -> dict[str, Any]:
    failure, progress = standing.failure, standing.progress
    return {
        "id": run.id,
        "variant": run.variant,
        "seed": run.seed,
        "status": standing.state,
        "dir": str(run.directory),
        "words": describe(standing, queued),
        "attempts": len(standing.attempts),
        "saved_step": saved_step(standing),
        "failure": failure.model_dump() if failure else None,
        "progress": asdict(progress) if progress else None,
        "queue": queued,
    }


def _print(
    study: Study, stands: Stands, queue: Mapping[Path, str], launchers: Sequence[Presence], out: Console
) -> None:
    table = Table("variant", *(f"seed {seed}" for seed in study.seeds), title=title(study))
    cells: dict[str, list[str]] = {variant: [] for variant in study.configs}
    for run in study.runs:
        cells[run.variant].append(escape(describe(stands[run.directory], queue.get(run.directory))))
    for variant, row in cells.items():
        table.add_row(escape(variant), *row)
    out.print(table)
    for run in study.runs:
        for line in failure_lines(run, stands[run.directory]):
            out.print(line, markup=False, soft_wrap=True)
    for one in launchers:
        out.print(f"launcher={one.launcher} works at it: process {one.pid} on {one.host}", markup=False)
    out.print(counts([standing.state for standing in stands.values()]))


def describe(standing: Standing, queued: str | None = None) -> str:
    """Say in a few words how a run stands; `queued` is what a cluster says of it."""
    if standing.state == "running":
        parts = ["running", *_advance(standing)]
    elif queued is not None and standing.state not in folder.DONE:
        parts = [queued]
    elif standing.state == "planned":
        step = saved_step(standing)
        parts = ["planned"] if step is None else ["planned", f"saved at step {step}{_of_steps(standing)}"]
    elif standing.state == "failed" and standing.failure:
        parts = [f"failed: {standing.failure.kind.replace('_', ' ')}"]
    else:
        parts = [standing.state]
    return " · ".join([*parts, *_count(standing)])


def saved_step(standing: Standing) -> int | None:
    """Return the optimiser step at which an interrupted run goes on; None where it begins anew, or nobody knows."""
    last = standing.attempts[-1] if standing.attempts else None
    return (last.end_step or None) if last and last.end == "interrupted" else None


def failure_lines(run: Run, standing: Standing) -> list[str]:
    """Say why a run failed, with the last lines of its log; nothing for one that did not."""
    failure = standing.failure
    if failure is None or standing.state not in ("failed", "unreadable"):
        return []
    tried = len(standing.attempts)
    why = failure.kind.replace("_", " ") + (f", {tried} attempts" if tried > 1 else "")
    head = f"FAILED {run.variant} seed {run.seed} ({why}): {failure.message} (log: {run.directory / folder.LOG})"
    return [head, *(f"    {line}" for line in failure.log)]


def _advance(standing: Standing) -> list[str]:
    """How far a running run is, where it runs if not here, and whether it still takes steps."""
    progress = standing.progress
    if progress is None:
        return []
    parts = [f"{progress.epoch}/{progress.epochs}"] if progress.epochs else []
    parts += [f"step {progress.step}/{progress.steps}"] if progress.steps else []
    parts += [f"on {progress.host}"] if progress.host not in ("", socket.gethostname()) else []
    parts += [f"job {progress.job}"] if progress.job else []
    return parts + ([f"no step for {progress.stalled / 60:.0f} min"] if progress.stalled >= STALLED else [])


def _of_steps(standing: Standing) -> str:
    return f" of {standing.progress.steps}" if standing.progress and standing.progress.steps else ""


def _count(standing: Standing) -> list[str]:
    tried = len(standing.attempts)
    return [f"{tried} attempts"] if tried > 1 else []
