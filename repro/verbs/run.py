"""`repro run`: train what is missing of a study, then report."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

from rich.console import Console

from repro import ablation, folder
from repro.config import RunConfig
from repro.console import console as make_console
from repro.data.config import ImagenetConfig
from repro.errors import InputError
from repro.launch import Task, build, local
from repro.launch.config import LauncherConfig
from repro.progress import Display, Estimate, clock
from repro.report.terminal import to_terminal
from repro.request import parse_request, study_arguments
from repro.results import Cost
from repro.study import Run, Study, check_equal_cost
from repro.verbs.report import read_results, write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words."""
    study_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Run the study of that name."""
    return run(options.name, options.words)


def run(name: str, words: Sequence[str]) -> int:
    """Run a study; returns the exit status: 0 when every run has an outcome, 1 when some failed."""
    console = make_console(stderr=True)
    request = parse_request(words)
    study = request.study(ablation.load(name))
    _check_folder(study)
    waiting = [entry for entry in study.runs if entry.state() not in folder.DONE]
    if waiting:
        local.warm_up()
        costs = local.call(_prepare, study.configs)
        check_equal_cost(study, costs)
        _train(study, waiting, costs, request.launcher, console)
    else:
        console.print(f"all {len(study.runs)} runs are finished; nothing is trained again")
    return _conclude(study, console)


def _prepare(configs: Mapping[str, RunConfig]) -> dict[str, Cost]:
    from repro.prepare import prepare

    return prepare(configs)


def _check_folder(study: Study) -> None:
    """Find out before anything is trained whether the runs can be written."""
    try:
        study.directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=study.directory).close()
    except OSError as error:
        raise InputError(
            f"{study.directory}: the run folder cannot be written ({error.strerror}); set REPRO_RUNS to another folder"
        ) from None


def _train(
    study: Study, waiting: Sequence[Run], costs: Mapping[str, Cost], settings: LauncherConfig, console: Console
) -> None:
    waiting = longest_first(waiting, costs)
    tasks = [_task(entry, console) for entry in waiting]
    launcher = build(settings)
    width = launcher.width(tasks)
    kept = len(study.runs) - len(tasks)
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}"
    console.print(
        f"{study.ablation.name} · scale {study.scale} · {len(study.configs)} variants × {seeds}: {len(tasks)} runs to "
        f"train, {kept} finished before, {width} at a time, in {study.directory}"
    )
    prices = {entry.directory: (entry.variant, float(costs[entry.variant].macs)) for entry in waiting}
    begin = time.monotonic()
    with Display(tasks, Estimate(prices, width), console) as display:
        launcher.launch(tasks, display)
    console.print(f"trained in {clock(time.monotonic() - begin)}")


def longest_first(waiting: Sequence[Run], costs: Mapping[str, Cost]) -> list[Run]:
    """Order runs seed by seed as planned, and within a seed the dearest first, so that no core idles at the end."""
    rounds = {seed: index for index, seed in enumerate(dict.fromkeys(entry.seed for entry in waiting))}
    return sorted(waiting, key=lambda entry: (rounds[entry.seed], -costs[entry.variant].macs))


def _task(entry: Run, console: Console) -> Task:
    """Write the run's folder. A result that failed or cannot be read is set aside, so that the run is trained again."""
    state = entry.state()
    if state in ("failed", "unreadable"):
        if state == "unreadable":
            console.print(f"{entry.directory / 'result.json'}: cannot be read; set aside, and the run is trained again")
        folder.set_aside(entry.directory)
    folder.write_config(entry.directory, entry.config)
    settings = entry.config.trainer
    return Task(
        directory=entry.directory,
        label=f"{entry.variant} seed {entry.seed}",
        row=entry.variant,
        nodes=settings.nodes,
        devices=settings.devices,
        threads=settings.threads,
        workers=entry.config.data.workers if isinstance(entry.config.data, ImagenetConfig) else 0,
        accelerator=settings.accelerator,
    )


def _conclude(study: Study, console: Console) -> int:
    """Print the table (the whole page when piped), say where the report is, and name what failed."""
    page, path = write_report(study, read_results(study))
    if sys.stdout.isatty():
        make_console().print(to_terminal(page))
    else:
        print(path.read_text(encoding="utf-8"), end="")
    console.print(f"report: {path}")
    open_runs = [entry for entry in study.runs if entry.state() not in folder.DONE]
    for entry in open_runs:
        _name_open_run(entry, console)
    return 1 if open_runs else 0


def _name_open_run(entry: Run, console: Console) -> None:
    """Say why a run has no outcome, with the last lines of its log."""
    name, result = f"{entry.variant} seed {entry.seed}", entry.result()
    if entry.state() == "running":
        console.print(f"RUNNING {name}: another process is training it; `repro status` follows it", markup=False)
        return
    reason = result.failure.message if result and result.failure else entry.state()
    console.print(f"FAILED {name}: {reason} (log: {entry.directory / folder.LOG})", markup=False)
    for line in result.failure.log if result and result.failure else ():
        console.print(f"    {line}", markup=False)
