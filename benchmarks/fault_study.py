"""The study that benchmarks/faults.py disturbs, and how what is left of it is judged."""

from __future__ import annotations

import csv
import json
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from unittest.mock import patch

import torch
import yaml

from repro import ablation, attempts, folder
from repro.errors import InputError
from repro.results import read_result
from repro.study import Study, plan

TABLE = """\
title: Small networks, every piece of a recipe
paper: {key: faults, title: Faults, authors: "-", venue: "-", arxiv: "0000.00000", table: "-"}
claim: A run that is disturbed ends as one that is not.
metric: {name: top1_error, unit: "%", better: lower, protocol: digits, decimals: 1}
base: [model=resnet20, model.stem_width=4, "model.widths=[4,8,8]", "model.depths=[1,1,1]"]
reference: plain
variants:
  plain: {set: [model.shortcut=A], published: null}
  averaged: {set: [recipe.ema.decay=0.99, recipe.ema.warmup=true, recipe.clip.norm=1.0], published: null}
  mixed: {set: [recipe.augment.mix.mixup=0.4, recipe.augment.pad=0.125, trainer.micro_batch=16], published: null}
  noisy:
    set:
      - model.stochastic_depth=0.2
      - model.dropout=0.2
      - recipe.optimizer.name=adamw
      - recipe.optimizer.nesterov=false
      - recipe.lr=0.002
    published: null
scales:
  laptop:
    set: [recipe.duration=EPOCHSep]
    note: digits
"""


@dataclass
class Damage:
    """What a campaign must not have done; all zero when it has not."""

    lost: int = 0
    twice: int = 0
    different: int = 0
    unreadable: int = 0
    left_over: int = 0
    """Temporary files that nobody will use again."""

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def __add__(self, other: Damage) -> Damage:
        return Damage(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def write_table(path: Path, epochs: int) -> Path:
    """Write the ablation file."""
    path.write_text(TABLE.replace("EPOCHS", str(epochs)), encoding="utf-8")
    return path


def planned(table: Path, runs: Path, seeds: int) -> Study:
    """The study with its runs below `runs`."""
    with patch.dict(os.environ, {"REPRO_RUNS": str(runs)}):
        study = plan(ablation.load(str(table)), "laptop", tuple(range(seeds)))
        list(study.runs)
    return study


def directories(study: Study, runs: Path) -> list[Path]:
    """The folder of each run below `runs`."""
    with patch.dict(os.environ, {"REPRO_RUNS": str(runs)}):
        return [study.run(run.variant, run.seed).directory for run in study.runs]


def damage(study: Study, runs: Path, undisturbed: Path) -> Damage:
    """Compare the disturbed runs with the undisturbed ones."""
    found = Damage()
    for directory, model in zip(directories(study, runs), directories(study, undisturbed), strict=True):
        done = folder.outcome(directory)
        found.lost += done is None
        found.twice += trained_twice(directory)
        if done is not None:
            found.different += not same(directory, model)
    broken = [path for path in runs.rglob("*") if path.is_file() and not readable(path)]
    print(*(f"unreadable: {path}: {path.read_bytes()[-80:]!r}" for path in broken), sep="\n", end="", file=sys.stderr)
    found.unreadable = len(broken)
    found.left_over = sum(path.name.startswith(".") for path in runs.rglob("seed*/*") if path.is_file())
    return found


def trained_twice(directory: Path) -> bool:
    """Whether the run was begun again after it had finished, or finished more than once."""
    ends = [attempt.end for attempt in attempts.read(directory)]
    return "finished" in ends[:-1]


def same(directory: Path, model: Path) -> bool:
    """Whether weights, metrics, and the curve but for its seconds, are equal to the last bit."""
    first, second = (torch.load(path / folder.WEIGHTS, weights_only=True) for path in (directory, model))
    for kind in ("raw", "ema"):
        ours, theirs = first[kind], second[kind]
        if (ours is None) != (theirs is None):
            return False
        if ours is not None and not all(torch.equal(ours[name], theirs[name]) for name in theirs):
            return False
    ours, theirs = read_result(directory), read_result(model)
    assert ours is not None
    assert theirs is not None
    told = [(result.last, result.best, result.epochs) for result in (ours, theirs)]
    return told[0] == told[1] and _curve(directory) == _curve(model)


def _curve(directory: Path) -> list[dict[str, str]]:
    with (directory / folder.CURVE).open(newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def readable(path: Path) -> bool:
    """Whether a file is whole: the records by their own readers, the rest by its format."""
    try:
        if path.name == "result.json":
            read_result(path.parent)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".yaml":
            yaml.safe_load(path.read_text(encoding="utf-8"))
        elif path.name == folder.WEIGHTS:
            torch.load(path, weights_only=True)
        elif path.suffix in (".csv", ".md"):
            path.read_text(encoding="utf-8")  # a log may hold a character that a full disk has cut in two
    except (OSError, ValueError, RuntimeError, EOFError, InputError):
        return False
    return True
