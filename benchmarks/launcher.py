"""What launching a run costs beside its training, in studies of growing size: a process per run, which trains nothing.

    python benchmarks/launcher.py [RUNS ...]          (default: 100 300 1000)

Every run goes through the real local launcher: forked from the warmed server, begun under its lock, its result written
and read back. `deep` is one row with many seeds, `wide` many rows with one seed. Overhead must not grow with the study:
on a machine that is busy with other things, look at the launcher's own CPU time.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from repro import attempts, folder
from repro.record import identity, now
from repro.results import Cost, Result, write_result

if TYPE_CHECKING:
    from repro.launch import Task
    from repro.study import Study

Value = TypeVar("Value")

HEAD = """\
title: Nothing
paper: {key: none, title: Nothing, authors: None, venue: None, arxiv: "0000.00000", table: Table 0}
claim: Launching costs next to nothing.
metric: {name: top1_error, unit: "%", better: lower, protocol: none, decimals: 1}
base: [model=resnet20]
reference: row0
scales: {smoke: []}
variants:
"""


def train_nothing(directory: Path) -> None:
    """Do what a run does besides training: take the lock, note the attempt, write a result."""
    config = folder.read_config(directory / folder.CONFIG)
    with folder.locked(directory):
        if folder.outcome(directory) is not None:
            return
        attempts.begin(directory)
        write_result(directory, Result(**identity(config, now()), status="finished", epochs=0))
        attempts.end(directory, "finished", 0)


def main(*sizes: str) -> None:
    """Launch studies of these sizes and print the table."""
    from repro.launch import server  # what is imported above is imported by every run's process, as it is by `repro`'s

    server.call(os.path.exists, "/")  # the server's imports are paid once, by whatever is launched first
    print("| study | runs | plan ms/run | write ms/run | launch ms/run | its own CPU ms/run | read ms/run | all s |")
    print("| :-- | --: | --: | --: | --: | --: | --: | --: |")
    for shape in ("deep", "wide"):
        for size in map(int, sizes or ("100", "300", "1000")):
            with tempfile.TemporaryDirectory() as place:
                os.environ["REPRO_RUNS"] = place
                print(f"| {shape} | {size} | {measure(Path(place), shape, size)} |", flush=True)


def measure(place: Path, shape: str, size: int) -> str:
    """Launch one study and return its cells."""
    from repro import ablation
    from repro.console import console
    from repro.launch.config import LocalConfig
    from repro.launch.local import LocalLauncher
    from repro.progress import Display, Estimate
    from repro.study import plan
    from repro.verbs.report import read_results

    rows = size if shape == "wide" else 1
    path = place / "nothing.yaml"
    lines = (f"  row{row}: {{set: [recipe.lr={1 + row}], published: 1}}\n" for row in range(rows))
    path.write_text(HEAD + "".join(lines))
    study, planning = timed(lambda: plan(ablation.load(str(path)), "smoke", range(size // rows)))
    tasks, writing = timed(lambda: tasks_of(study))
    prices = {task.directory: (task.row, 1.0) for task in tasks}
    quiet = open(os.devnull, "w")  # noqa: SIM115 - the lines of progress are made, and shown to nobody
    with quiet, Display(tasks, Estimate(prices, 2), console(stderr=True)) as display:
        display.console.file = quiet
        used = time.process_time()
        _, launching = timed(lambda: LocalLauncher(LocalConfig(), train_nothing).launch(tasks, display))
        used = time.process_time() - used
    results, reading = timed(lambda: read_results(study))
    assert all(result is not None for by_seed in results.values() for result in by_seed.values())
    cells = [f"{1000 * seconds / size:.2f}" for seconds in (planning, writing, launching, used, reading)]
    return " | ".join([*cells, f"{planning + writing + launching + reading:.1f}"])


def tasks_of(study: Study) -> list[Task]:
    """Do what `repro run` does between its plan and the launcher."""
    from repro.console import console
    from repro.verbs.run import longest_first, task_of

    costs = {variant: Cost(input=(1, 8, 8), params=1, macs=1, activations=1) for variant in study.configs}
    entries = longest_first([entry for entry in study.runs if entry.state() not in folder.DONE], costs)
    return [task_of(entry, entry.state(), console(stderr=True)) for entry in entries]


def timed(function: Callable[[], Value]) -> tuple[Value, float]:
    """Return what a function returns, and the seconds that it took."""
    begin = time.perf_counter()
    value = function()
    return value, time.perf_counter() - begin


if __name__ == "__main__":
    main(*sys.argv[1:])
