"""`repro show`: an ablation's rows and published values, a model's axes, or a recipe. Needs neither torch nor Hydra."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from repro import ablation
from repro.ablation import Ablation
from repro.console import console
from repro.errors import InputError, unknown
from repro.models.presets import LIBRARIES, load_preset
from repro.paths import options as choices
from repro.verbs.inputs import FIGURES

_RECIPE = "recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words and flags."""
    parser.add_argument("name", metavar="ABLATION|MODEL|RECIPE", help="recipe/NAME where a model has that name too")
    parser.add_argument(
        "words", nargs="*", metavar="KEY=VALUE", help="of a recipe: overrides such as recipe.schedule.name=cosine"
    )
    parser.add_argument(
        "--figure", metavar="FILE", help=f"of a recipe: draw its learning rate there: {', '.join(FIGURES)}"
    )


def main(options: argparse.Namespace) -> int:
    """Print the ablation, the model or the recipe of that name."""
    return show(options.name, options.json, options.words, options.figure)


def show(name: str, as_json: bool, words: Sequence[str] = (), figure: str | None = None) -> int:
    """Print an ablation's rows and published values, a model preset's axes, or how a recipe trains."""
    kind = _kind(name)
    if kind == _RECIPE:
        from repro.verbs.show_recipe import show_recipe

        return show_recipe(name.removeprefix(f"{_RECIPE}/"), words, as_json, figure)
    if words or figure is not None:
        given = words[0] if words else f"--figure {figure}"
        recipe = name if name in choices(_RECIPE) else "NAME"
        raise InputError(f"repro show {name}: only a recipe takes {given} (repro show {_RECIPE}/{recipe} {given})")
    return _show_ablation(name, as_json) if kind == "ablation" else _show_model(name, as_json)


def _kind(name: str) -> str:
    """Say what a name means; a model comes before a recipe of the same name, which is then recipe/NAME."""
    source, slash, _ = name.partition("/")
    if slash and source in (_RECIPE, *LIBRARIES):
        return _RECIPE if source == _RECIPE else "model"
    if slash or name.endswith((".yaml", ".yml")) or name in ablation.names():
        return "ablation"
    for kind in ("model", _RECIPE):
        if name in choices(kind):
            return kind
    raise unknown("ablation, model or recipe", name, [*ablation.names(), *choices("model"), *choices(_RECIPE)])


def _show_ablation(name: str, as_json: bool) -> int:
    spec = ablation.load(name)
    if as_json:
        print(json.dumps(_ablation_tree(spec), indent=2))
    else:
        _print_ablation(spec)
    return 0


def _show_model(name: str, as_json: bool) -> int:
    axes = load_preset(name).model_dump(mode="json")
    if as_json:
        print(json.dumps(axes, indent=2))
        return 0
    for axis, value in axes.items():
        _print_axis(axis, value)
    if name.partition("/")[0] in LIBRARIES:
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
            "extends": variant.extends,
            "overrides": list(spec.overrides(name)),
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
        table.add_row(name, _value(spec, name), _contrast(spec, name), reference, _overrides(spec, name), scales)
    out.print(table)
    for name, scale in spec.scales.items():
        out.print(f"\nscale {name}: {len(scale.variants)} rows. {scale.note}".rstrip())
    for note in spec.notes:
        out.print(f"\nNote: {note}")


def _overrides(spec: Ablation, name: str) -> str:
    """Write a row's own overrides, after the row that it adds them to."""
    variant = spec.variants[name]
    return " ".join([f"{variant.extends} +"] * bool(variant.extends) + list(variant.set))


def _value(spec: Ablation, name: str) -> str:
    published = spec.variants[name].published
    if published.value is None:
        return "no number"
    return f"{published.value:.{spec.metric.decimals}f}" + ("" if published.verified else " (unverified)")


def _contrast(spec: Ablation, name: str) -> str:
    number = spec.published_contrast(name)
    if number is not None:
        return f"{number:+.{spec.metric.decimals}f}"
    expected = spec.variants[name].expected
    return f"{expected.direction} (direction only)" if expected else ""
