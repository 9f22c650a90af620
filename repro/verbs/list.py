"""`repro list`: what there is. Imports no Hydra, and torch only to price a model that was never priced."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

from rich.table import Table
from rich.text import Text

from repro import ablation
from repro.ablation import Ablation
from repro.config import Expected, RecipeConfig
from repro.console import console
from repro.cost.count import cached_price, known_price
from repro.errors import InputError, unknown
from repro.models.config import Family
from repro.models.presets import load_preset
from repro.paths import options as choices
from repro.recipes import about_of, load_recipe
from repro.report.compare_table import Model, data_set, describe, error_text, quantities, records, source_mark
from repro.report.format import DASH
from repro.report.recipe_text import duration_text, expected_text, optimizer_text, short_paper
from repro.report.table import Footnotes

KINDS = ("ablations", "models", "data", "recipes", "scales")
_GROUPS = {"models": "model", "data": "data", "recipes": "recipe", "scales": "scale"}

_WILD = "*?["


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words."""
    parser.add_argument("kind", nargs="?", default="ablations", help="ablations, models, data, recipes or scales")
    parser.add_argument("pattern", nargs="?", help="of models: a name, or a pattern such as 'resnext*'")


def main(options: argparse.Namespace) -> int:
    """Print the ablations, the models with their prices, the recipes, or the names of another kind."""
    return list_all(options.kind, options.json, options.pattern)


def list_all(kind: str, as_json: bool, pattern: str | None = None) -> int:
    """Print the ablations, the models with their prices, the recipes, or the names of another kind."""
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS, where="repro list")
    if pattern is not None and kind != "models":
        raise InputError(f"repro list {kind} {pattern}: only models take a pattern, as in repro list models 'resnext*'")
    if kind == "models":
        return list_models(pattern, as_json)
    if kind == "recipes":
        return list_recipes(as_json)
    if kind != "ablations":
        names = choices(_GROUPS[kind])
        print(json.dumps(names, indent=2) if as_json else "\n".join(names))
        return 0
    return _list_ablations(as_json)


def _list_ablations(as_json: bool) -> int:
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


def list_recipes(as_json: bool) -> int:
    """Print how the papers train: data, length, batch, learning rate, optimiser, and the error that is expected."""
    recipes = [load_recipe(name) for name in choices("recipe")]
    if as_json:
        print(json.dumps([_recipe_record(recipe) for recipe in recipes], indent=2))
        return 0
    table = Table("recipe", "paper", "data", "duration", box=None, pad_edge=False)
    for heading in ("batch", "peak lr"):
        table.add_column(heading, justify="right")
    for heading in ("optimiser", "expected top-1 error"):
        table.add_column(heading)
    for recipe in recipes:
        table.add_row(*map(Text, _recipe_row(recipe)))
    console().print(table)
    print("\nNext: repro show recipe/NAME; repro train recipe=NAME")
    return 0


def _recipe_row(recipe: RecipeConfig) -> tuple[str, ...]:
    about, expected = about_of(recipe), _main_expected(recipe)
    return (
        recipe.name,
        short_paper(about.paper),
        re.split(r"[,(]", about.data)[0].strip(),
        duration_text(recipe.duration),
        str(recipe.batch_size),
        f"{recipe.peak_lr:g}",
        optimizer_text(recipe),
        expected_text(expected) if expected else DASH,
    )


def _main_expected(recipe: RecipeConfig) -> Expected | None:
    """Return what is expected of the network that the recipe is best known for, else of the first."""
    about = about_of(recipe)
    own = [entry for entry in about.expected if entry.model == about.model]
    return next(iter([*own, *about.expected]), None)


def _recipe_record(recipe: RecipeConfig) -> dict[str, Any]:
    about = about_of(recipe).model_dump(mode="json")
    head = {"name": recipe.name, **{key: about[key] for key in ("paper", "section", "data", "images", "model")}}
    numbers = {"duration": recipe.duration, "batch_size": recipe.batch_size, "peak_lr": recipe.peak_lr}
    optimizer = recipe.optimizer.model_dump(mode="json")
    return {**head, **numbers, "optimizer": optimizer, "expected": about["expected"]}


def list_models(pattern: str | None, as_json: bool) -> int:
    """Print the presets by family, with their prices at their native inputs and their published errors."""
    names = matching(pattern) if pattern else choices("model")
    models = sorted(priced([load_preset(name) for name in names]), key=lambda model: _order(model.family, model.name))
    if as_json:
        print(json.dumps(records(models), indent=2))
        return 0
    notes = Footnotes()
    table = Table("model", "built by", box=None, pad_edge=False)
    for heading in ("params (M)", "GMACs", "top-1 error %"):
        table.add_column(heading, justify="right")
    table.add_column("published on")
    for family, members in groupby(models, key=lambda model: model.family):
        table.add_row(Text(family, style="bold"))
        for model in members:
            table.add_row(*map(Text, _model_row(model, notes)))
    console().print(table)
    _print_notes(models, notes)
    return 0


def _model_row(model: Model, notes: Footnotes) -> tuple[str, ...]:
    params, macs, _ = quantities(model.cost)
    published = model.published
    error = error_text(published) if published else DASH
    place = f"{data_set(published)}{source_mark(published, notes)}" if published else ""
    return f"  {model.name}", model.builder, params, macs, error, place


def _print_notes(models: Sequence[Model], notes: Footnotes) -> None:
    """Say where the errors come from, and why a model has no price; long lines wrap at the terminal's edge."""
    lines = notes.lines() + [f"{model.name} cannot be priced: {model.reason}" for model in models if model.reason]
    for line in ["", *lines, *([""] if lines else [])]:
        print(line)
    print(
        "Prices are of one image of the native input. Next: repro show MODEL, repro cost MODEL, repro compare MODEL …"
    )


def matching(pattern: str) -> list[str]:
    """Return the presets that a name or a pattern (`resnext*`) means. Raises InputError, with the nearest, for none."""
    names = choices("model")
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise unknown("pattern of models" if is_pattern(pattern) else "model", pattern, names)
    return sorted(found, key=lambda name: _order(name))


def is_pattern(word: str) -> bool:
    """Whether a word stands for several names."""
    return any(sign in word for sign in _WILD)


def _order(*words: str) -> list[Any]:
    """Sort key by which resnet50 comes before resnet101."""
    return [[int(part) if part.isdigit() else part for part in re.split(r"(\d+)", word.lower())] for word in words]


def priced(configs: Sequence[Family], size: int | None = None) -> list[Model]:
    """Describe presets with their prices at `size` pixels, or at their native inputs, in order.

    What was never priced is counted now and kept, which imports torch; what cannot be priced has a reason instead.
    """
    known = {config.name: known_price(*_input(config, size)) for config in configs}
    missing = [config for config in configs if known[config.name] is None]
    counted = {config.name: _counted(config, size) for config in _shown(missing)}
    return [counted.get(config.name) or describe(config, known[config.name]) for config in configs]


def _input(config: Family, size: int | None) -> tuple[Family, int, int, int]:
    return config, size or config.native.size, config.native.channels, config.native.classes


def _counted(config: Family, size: int | None) -> Model:
    try:
        return describe(config, cached_price(*_input(config, size)))
    except InputError as error:
        return describe(config, None, str(error))
    except Exception as error:  # whatever one network of a library raises, the others can be listed
        return describe(config, None, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")


def _shown(configs: Sequence[Family]) -> Iterable[Family]:
    """Go through what is counted, with a bar on standard error where that is a terminal."""
    if not configs:
        return configs
    from rich.progress import track

    shown = console(stderr=True)
    return track(configs, "counting", console=shown, transient=True, disable=not shown.is_terminal)
