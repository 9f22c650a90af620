"""A study on disk as training leaves it, without having been trained: for the tests of what is told of it elsewhere.

Holds no test.
"""

from __future__ import annotations

from pathlib import Path

from repro import ablation, folder
from repro.request import parse_request
from repro.results import Result, write_result
from repro.study import Run, Study
from tests.report_study import result as made_up

ERRORS = {("narrow", 0): 10.25, ("narrow", 1): 11.5, ("wide", 0): 9.125, ("wide", 1): 8.0}


def planned(mine: Path, *words: str) -> Study:
    """Plan two seeds of the ablation in that file, tracked with W&B."""
    return parse_request(["scale=smoke", "seeds=2", "logger=wandb", *words]).study(ablation.load(str(mine)))


def write_run(run: Run, result: Result | None, epochs: int = 2) -> None:
    """Write the folder of a run of `epochs` epochs of ten steps."""
    folder.write_config(run.directory, run.config)
    rows = "".join(f"{n},{10 * n},{1 / n},{90 / n},{80.5 / n},{0.5 * n}\n" for n in range(1, epochs + 1))
    header = "epoch,step,train_loss,train_top1_error,val_top1_error,seconds\n"
    (run.directory / folder.CURVE).write_text(header + rows, encoding="utf-8")
    if result is not None:
        write_result(run.directory, result)


def finished(run: Run) -> Result:
    """Return the result of a run that finished."""
    error = ERRORS[run.variant, run.seed]
    return made_up(run.variant, run.seed, error, id=run.id, ablation="mine", scale="smoke", epochs=2)


def write_study(mine: Path, *words: str) -> Study:
    """Write every run of the study as finished."""
    study = planned(mine, *words)
    for run in study.runs:
        write_run(run, finished(run))
    return study
