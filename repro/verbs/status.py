"""`repro status`: the state of a study's runs. Imports no torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from repro import ablation, folder
from repro.console import console
from repro.request import parse_request, study_arguments
from repro.verbs.plan import counts, run_rows, title


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words."""
    study_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Show the states of the study of that name."""
    return status(options.name, options.words, options.json)


def status(name: str, words: Sequence[str], as_json: bool) -> int:
    """Print the state of every run."""
    study = parse_request(words).study_on_disk(ablation.load(name))
    if as_json:
        print(json.dumps({"ablation": name, "scale": study.scale, "runs": run_rows(study)}, indent=2))
        return 0
    out = console()
    table = Table("variant", *(f"seed {seed}" for seed in study.seeds), title=title(study))
    states = {(run.variant, run.seed): _cell(run.directory, run.state()) for run in study.runs}
    for variant in study.configs:
        table.add_row(variant, *(states[variant, seed] for seed in study.seeds))
    out.print(table)
    out.print(counts(study))
    return 0


def _cell(directory: Any, state: folder.State) -> str:
    if state == "running":
        progress = folder.read_progress(directory)
        return f"running {progress.epoch}/{progress.epochs}" if progress else "running"
    return state
