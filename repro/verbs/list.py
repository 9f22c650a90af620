"""`repro list`: what there is. Imports neither torch nor Hydra."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.table import Table

from repro import ablation
from repro.ablation import Ablation
from repro.console import console
from repro.errors import unknown
from repro.paths import options as choices

KINDS = ("ablations", "models", "data", "recipes", "scales")
_GROUPS = {"models": "model", "data": "data", "recipes": "recipe", "scales": "scale"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words."""
    parser.add_argument("kind", nargs="?", default="ablations", help="ablations, models, data, recipes or scales")


def main(options: argparse.Namespace) -> int:
    """Print the ablations, or the names of another kind."""
    return list_all(options.kind, options.json)


def list_all(kind: str, as_json: bool) -> int:
    """Print the ablations, or the names of another kind."""
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS, where="repro list")
    if kind != "ablations":
        names = choices(_GROUPS[kind])
        print(json.dumps(names, indent=2) if as_json else "\n".join(names))
        return 0
    tables = [ablation.load(name) for name in ablation.names()]
    if as_json:
        print(json.dumps([_summary(spec) for spec in tables], indent=2))
        return 0
    table = Table("ablation", "table", "rows", "scales", box=None, pad_edge=False)
    for spec in tables:
        paper = f"{spec.paper.authors}, {spec.paper.venue}, {spec.paper.table}"
        table.add_row(
            f"[bold]{spec.name}[/bold]", f"{spec.title} ({paper})", str(len(spec.variants)), " ".join(spec.scales)
        )
    console().print(table)
    print(
        "\nNext: repro show ABLATION, repro plan ABLATION, repro run ABLATION scale=laptop seeds=3; repro list models"
    )
    return 0


def _summary(spec: Ablation) -> dict[str, Any]:
    head = {"name": spec.name, "title": spec.title, "claim": spec.claim}
    return {**head, "rows": len(spec.variants), "scales": list(spec.scales)}
