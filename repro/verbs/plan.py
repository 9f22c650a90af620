"""`repro plan`: what a study consists of, what it costs and what is missing."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from repro import ablation, folder
from repro.console import console
from repro.request import parse_request, study_arguments
from repro.results import Cost
from repro.study import Study, check_equal_cost, count_prices, known_prices, spread


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words."""
    study_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Plan the study of that name."""
    return plan(options.name, options.words, options.json)


def plan(name: str, words: Sequence[str], as_json: bool) -> int:
    """Print the variants with their prices and the runs with their states; refuse a table of unequal cost."""
    study = parse_request(words).study(ablation.load(name))
    costs = _prices(study)
    if as_json:
        print(json.dumps(_plan_tree(study, costs), indent=2))
    else:
        _print_plan(study, costs)
    check_equal_cost(study, costs)
    return 0


def _prices(study: Study) -> dict[str, Cost]:
    """Prices from the cache; only a model that was never priced before makes this import torch."""
    known = known_prices(study)
    if len(known) == len(study.configs):
        return known
    return count_prices(study.configs)


def _plan_tree(study: Study, costs: Mapping[str, Cost]) -> dict[str, Any]:
    differences = spread(study, costs)
    variants = [
        {
            "name": name,
            "reference": study.ablation.variants[name].reference,
            "input": list(cost.input),
            "params": cost.params,
            "macs": cost.macs,
            "activations": cost.activations,
            "uncounted": list(cost.uncounted),
            "spread": differences[name],
        }
        for name, cost in costs.items()
    ]
    head = {"ablation": study.ablation.name, "scale": study.scale, "seeds": list(study.seeds)}
    return {**head, "variants": variants, "runs": run_rows(study)}


def run_rows(study: Study) -> list[dict[str, Any]]:
    """List its runs with their states."""
    return [
        {"id": run.id, "variant": run.variant, "seed": run.seed, "status": run.state(), "dir": str(run.directory)}
        for run in study.runs
    ]


def _print_plan(study: Study, costs: Mapping[str, Cost]) -> None:
    out = console()
    first = next(iter(study.configs.values()))
    table = Table("variant", title=title(study))
    for heading in ("params", "MMACs", "activations", "MACs to ref.", "params to ref.", "done", "missing"):
        table.add_column(heading, justify="right")
    states = [run.state() for run in study.runs]
    done = Counter(run.variant for run, state in zip(study.runs, states, strict=True) if state in folder.DONE)
    differences = spread(study, costs)
    for name, cost in costs.items():
        is_reference = study.ablation.variants[name].reference == name
        relative = (
            ("ref.", "ref.") if is_reference else tuple(f"{differences[name][k]:+.1%}" for k in ("macs", "params"))
        )
        runs = (str(done[name]), str(len(study.seeds) - done[name]))
        table.add_row(name, f"{cost.params:,}", f"{cost.macs / 1e6:,.2f}", f"{cost.activations:,}", *relative, *runs)
    out.print(table)
    for name, cost in costs.items():
        if cost.uncounted:
            out.print(f"{name}: MACs without {', '.join(cost.uncounted)}, which have no counting rule")
    rule = study.ablation.equal_cost
    if rule:
        allowed = [f"{what} ±{value:.0%}" for what, value in (("MACs", rule.macs), ("params", rule.params)) if value]
        solved = f"; {', '.join(study.sweep.solved)}: MACs alone" if study.sweep.solved else ""
        out.print(f"equal cost: {', '.join(allowed)} of the reference{solved}")
    recipe, data = first.recipe, first.data
    out.print(
        f"recipe {recipe.name}: {recipe.duration}, batch {recipe.batch_size}, lr {recipe.lr:g} · data {data.name} at "
        f"{data.size} × {data.size} · {first.trainer.accelerator}, {first.trainer.precision}"
    )
    out.print(counts(states))
    missing = len(states) - done.total()
    out.print(f"`{study.rerun}` would train {missing} of {len(states)} runs in {study.directory}")


def title(study: Study) -> str:
    """Head a table of the study."""
    return f"{study.ablation.title} · {study.scale} scale"


def counts(states: Sequence[folder.State]) -> str:
    """Count runs by state."""
    parts = [f"{count} {state}" for state, count in Counter(states).items()]
    return f"{len(states)} runs: {', '.join(parts)}"
