"""`repro run`: train what is missing of a study, then report."""

from __future__ import annotations

import argparse
import fcntl
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from repro import ablation, folder
from repro.codes import other_code
from repro.config import RunConfig
from repro.console import console as make_console
from repro.data.config import ImagenetConfig
from repro.errors import InputError
from repro.launch import Task, build, server
from repro.launch.config import LauncherConfig, SlurmConfig
from repro.launch.presence import announced
from repro.launch.stop import Stopped
from repro.progress import Display, Estimate, clock
from repro.report.terminal import to_terminal
from repro.request import parse_request, study_arguments
from repro.results import FILE, Cost
from repro.study import Run, Study, check_equal_cost
from repro.verbs.report import read_results, write_report
from repro.verbs.status import describe, failure_lines


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
    if (found := other_code(study)) is not None:
        console.print(str(found), markup=False, highlight=False, soft_wrap=True)
    states = {entry.directory: entry.state() for entry in study.runs}
    if all(state in folder.DONE for state in states.values()):
        console.print(f"all {len(study.runs)} runs are finished; nothing is trained again")
        return _conclude(study, console)
    try:
        _train(study, states, request.launcher, console)
    except Stopped as stopped:
        print("repro: stopped; the same command goes on from here", file=sys.stderr)
        return stopped.exit_status
    if isinstance(request.launcher, SlurmConfig) and request.launcher.detach:
        follow, cancel = (study.rerun.replace("repro run", f"repro {verb}", 1) for verb in ("status", "cancel"))
        console.print(f"follow it: {follow}\nend it: {cancel}\nits table, when it is done: {study.rerun}", markup=False)
        return 0
    return _conclude(study, console)


def _prepare(configs: Mapping[str, RunConfig]) -> dict[str, Cost]:
    from repro.prepare import prepare

    return prepare(configs)


def _prepare_for_elsewhere(configs: Mapping[str, RunConfig]) -> dict[str, Cost]:
    """The same for runs that other machines train: this one need not have their devices."""
    from repro.data import prepare as prepare_data
    from repro.study import count_prices

    for data in dict.fromkeys(config.data for config in configs.values()):
        prepare_data(data)
    return count_prices(configs)


def _check_folder(study: Study) -> None:
    """Find out before anything is trained whether the runs can be written."""
    try:
        study.directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=study.directory) as probe:
            fcntl.flock(probe, fcntl.LOCK_EX)  # not every network file system has locks
    except OSError as error:
        raise InputError(
            f"{study.directory}: the run folder cannot be written or locked ({error.strerror}); set REPRO_RUNS to "
            "another folder"
        ) from None


def _train(study: Study, states: Mapping[Path, folder.State], settings: LauncherConfig, console: Console) -> None:
    server.warm_up()
    launcher = build(settings)
    costs = server.call(_prepare if settings.name == "local" else _prepare_for_elsewhere, study.configs)
    check_equal_cost(study, costs)
    waiting = longest_first([entry for entry in study.runs if states[entry.directory] not in folder.DONE], costs)
    tasks = [task_of(entry, states[entry.directory], console) for entry in waiting]
    width = launcher.width(tasks)
    kept = len(study.runs) - len(tasks)
    seeds = f"{len(study.seeds)} seed{'s' if len(study.seeds) > 1 else ''}"
    console.print(
        f"{study.ablation.name} · scale {study.scale} · {len(study.configs)} variants × {seeds}: {len(tasks)} runs to "
        f"train, {kept} finished before, {width} at a time, in {study.directory}"
    )
    prices = {entry.directory: (entry.variant, float(costs[entry.variant].macs)) for entry in waiting}
    begin = time.monotonic()
    with announced(study.directory, settings.name), Display(tasks, Estimate(prices, width), console) as display:
        launcher.launch(tasks, display)
    console.print(f"trained in {clock(time.monotonic() - begin)}")


def longest_first(waiting: Sequence[Run], costs: Mapping[str, Cost]) -> list[Run]:
    """Order runs seed by seed as planned, and within a seed the dearest first, so that no core idles at the end."""
    rounds = {seed: index for index, seed in enumerate(dict.fromkeys(entry.seed for entry in waiting))}
    return sorted(waiting, key=lambda entry: (rounds[entry.seed], -costs[entry.variant].macs))


def task_of(entry: Run, state: folder.State, console: Console) -> Task:
    """Write the run's config where it is not there yet. Whoever trains the run sets a broken result aside."""
    if state == "unreadable":
        console.print(
            f"{entry.directory / FILE}: cannot be read; set aside, and the run is trained again", markup=False
        )
    if state != "running" and not _is_written(entry):
        folder.write_config(entry.directory, entry.config, durable=False)
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


def _is_written(entry: Run) -> bool:
    try:
        return (entry.directory / folder.CONFIG).read_text(encoding="utf-8") == folder.config_text(entry.config)
    except (OSError, UnicodeDecodeError):
        return False


def _conclude(study: Study, console: Console) -> int:
    """Print the table (the whole page when piped), say where the report is, and name what failed."""
    page, path = write_report(study, read_results(study))
    if sys.stdout.isatty():
        make_console().print(to_terminal(page))
    else:
        print(path.read_text(encoding="utf-8"), end="")
    console.print(f"report: {path}")
    for settings in dict.fromkeys(config.logger for config in study.configs.values()):
        if settings.name != "csv":
            from repro.tracking import publish

            publish(study, page, settings)
    stands = [(entry, folder.standing(entry.directory)) for entry in study.runs]
    missing = [(entry, standing) for entry, standing in stands if standing.state not in folder.DONE]
    for entry, standing in missing:
        for line in _why_missing(entry, standing):
            console.print(line, markup=False, soft_wrap=True)
    return 1 if missing else 0


def _why_missing(entry: Run, standing: folder.Standing) -> list[str]:
    """Say why a run has no outcome, with the last lines of its log."""
    name = f"{entry.variant} seed {entry.seed}"
    if standing.state == "running":
        return [f"RUNNING {name}: another process is training it; `repro status` follows it"]
    return failure_lines(entry, standing) or [f"PLANNED {name}: {describe(standing)}; the same command goes on with it"]
