"""`repro show`: an ablation's rows and published values, or a model's axes. Imports neither torch nor Hydra."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.table import Table

from repro import ablation
from repro.ablation import Ablation
from repro.console import console
from repro.errors import unknown
from repro.models.presets import LIBRARIES, load_preset
from repro.paths import options as choices


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words."""
    parser.add_argument("name", metavar="ABLATION|MODEL")


def main(options: argparse.Namespace) -> int:
    """Print the ablation or the model of that name."""
    return show(options.name, options.json)


def show(name: str, as_json: bool) -> int:
    """Print an ablation's rows and published values, or a model preset's axes."""
    of_library = name.partition("/")[0] in LIBRARIES
    is_file = ("/" in name and not of_library) or name.endswith((".yaml", ".yml"))
    if is_file or name in ablation.names():
        spec = ablation.load(name)
        if as_json:
            print(json.dumps(_ablation_tree(spec), indent=2))
        else:
            _print_ablation(spec)
        return 0
    if not of_library and name not in choices("model"):
        raise unknown("ablation or model", name, [*ablation.names(), *choices("model")])
    axes = load_preset(name).model_dump(mode="json")
    if as_json:
        print(json.dumps(axes, indent=2))
        return 0
    for axis, value in axes.items():
        _print_axis(axis, value)
    if of_library:
        print(f"\nThe name is looked up in {axes['source']} when the network is built: repro cost {name}")
    return 0


def _print_axis(axis: str, value: Any) -> None:
    """Print one axis; a list of layers takes a line for each."""
    if not (isinstance(value, list) and value and isinstance(value[0], dict)):
        print(f"{axis:24} {value}")
        return
    for index, entry in enumerate(value):
        given = ", ".join(f"{key}: {item}" for key, item in entry.items() if item is not None)
        print(f"{f'{axis}.{index}':24} {given}")


def _ablation_tree(spec: Ablation) -> dict[str, Any]:
    variants = [
        {
            "name": name,
            "published": {spec.metric.name: variant.published.value},
            "verified": variant.published.verified,
            "source": variant.published.source,
            "expected": variant.expected.direction if variant.expected else None,
            "reference": variant.reference,
            "overrides": list(variant.set),
        }
        for name, variant in spec.variants.items()
    ]
    tree = spec.model_dump(mode="json", exclude={"variants", "path"})
    return {**tree, "variants": variants}


def _print_ablation(spec: Ablation) -> None:
    out = console()
    paper = spec.paper
    out.print(f"[bold]{spec.title}[/bold] ({spec.name})")
    out.print(f"{paper.authors}, {paper.title}, {paper.venue}, arXiv:{paper.arxiv}, {paper.table}")
    out.print(f"Claim: {spec.claim}\nMetric: {spec.metric.name} ({spec.metric.unit}), {spec.metric.protocol}\n")
    table = Table("variant", box=None, pad_edge=False)
    table.add_column(f"published {spec.metric.unit}", justify="right")
    for heading in ("contrast", "reference", "overrides", "scales"):
        table.add_column(heading)
    for name, variant in spec.variants.items():
        reference = "—" if variant.reference == name else variant.reference
        scales = " ".join(scale for scale, entry in spec.scales.items() if name in entry.variants)
        table.add_row(name, _value(spec, name), _contrast(spec, name), reference, " ".join(variant.set), scales)
    out.print(table)
    for name, scale in spec.scales.items():
        out.print(f"\nscale {name}: {len(scale.variants)} rows. {scale.note}".rstrip())
    for note in spec.notes:
        out.print(f"\nNote: {note}")


def _value(spec: Ablation, name: str) -> str:
    published = spec.variants[name].published
    if published.value is None:
        return "figure only"
    return f"{published.value:.{spec.metric.decimals}f}" + ("" if published.verified else " (unverified)")


def _contrast(spec: Ablation, name: str) -> str:
    number = spec.published_contrast(name)
    if number is not None:
        return f"{number:+.{spec.metric.decimals}f}"
    expected = spec.variants[name].expected
    return f"{expected.direction} (direction only)" if expected else ""
