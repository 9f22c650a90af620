"""`repro show recipe/NAME`: how a paper trains, its learning rate from step to step, and what weight decay acts on.

Imports torch only to count a network's parameters by kind for the first time, and Hydra only for overrides.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from repro.config import About, RecipeConfig
from repro.console import console
from repro.cost.parameter_kinds import KindCount, kind_counts
from repro.errors import InputError
from repro.models.config import Family
from repro.models.presets import load_preset
from repro.optim.schedules import Schedule, build_schedule
from repro.recipes import about_of, load_recipe, steps_per_epoch
from repro.report import recipe_text as words_for
from repro.report.format import DASH
from repro.report.schedule_figure import draw_schedule
from repro.report.schedule_trace import is_logarithmic, sparkline, trace
from repro.verbs.inputs import figure_path


@dataclass(frozen=True)
class Shown:
    """A recipe and what follows from it; `size` of training crops: `data.size`, or as `model` is tested natively."""

    recipe: RecipeConfig
    about: About
    overrides: tuple[str, ...]
    model: Family
    per_epoch: int
    schedule: Schedule
    size: int
    counts: tuple[KindCount, ...]

    @property
    def epochs(self) -> float:
        """Length of the run."""
        return self.schedule.total / self.per_epoch


def show_recipe(name: str, overrides: Sequence[str], as_json: bool, figure: str | None) -> int:
    """Print a recipe, changed by overrides such as `recipe.schedule.name=cosine`; with `figure`, draw its schedule too.

    Raises InputError for an unknown recipe, for an override of something else, and for a figure that cannot be written.
    """
    path = figure_path(figure, "--figure")
    shown = _shown(name, overrides)
    if as_json:
        print(json.dumps(_tree(shown), indent=2))
    else:
        _print(shown)
    if path is not None:
        _draw(shown, path)
        if not as_json:
            print(f"\n{path}")
    return 0


def _shown(name: str, overrides: Sequence[str]) -> Shown:
    recipe, model, size = _configs(name, overrides)
    per_epoch = steps_per_epoch(recipe)
    return Shown(
        recipe=recipe,
        about=about_of(recipe),
        overrides=tuple(overrides),
        model=model,
        per_epoch=per_epoch,
        schedule=build_schedule(recipe, per_epoch),
        size=size or round(model.native.size / recipe.evaluation.scale),
        counts=kind_counts(model),
    )


def _configs(name: str, overrides: Sequence[str]) -> tuple[RecipeConfig, Family, int | None]:
    """Return the recipe, the network it is shown with, and `data.size` if given; unchanged, it needs no Hydra."""
    recipe = load_recipe(name)
    if not overrides:
        return recipe, load_preset(about_of(recipe).model), None
    keys = [word.partition("=")[0].lstrip("+~") for word in overrides]
    for word, key in zip(overrides, keys, strict=True):
        if "=" not in word or not (key in ("model", "data.size") or key.startswith(("recipe.", "model."))):
            takes = "recipe.KEY=VALUE, model=NAME, model.KEY=VALUE and data.size=PIXELS"
            raise InputError(f"{word!r}: repro show recipe/{name} takes {takes}")
    from repro.compose import compose

    anywhere = "data=imagenet"  # takes every crop, view and size
    run = compose([anywhere, f"recipe={name}", f"model={about_of(recipe).model}", *overrides])
    return run.recipe, run.model, run.data.size if "data.size" in keys else None


def _draw(shown: Shown, path: Path) -> None:
    title = " ".join([shown.recipe.name, *shown.overrides])
    subtitle = f"{words_for.short_paper(shown.about.paper)}: {words_for.schedule_text(shown.recipe, shown.epochs)}"
    try:
        draw_schedule(shown.schedule, shown.per_epoch, path, title, subtitle)
    except OSError as error:
        raise InputError(f"--figure {path}: the figure cannot be written ({error.strerror})") from None


def _tree(shown: Shown) -> dict[str, Any]:
    recipe, evaluation = shown.recipe, shown.recipe.evaluation
    return {
        "name": recipe.name,
        "overrides": list(shown.overrides),
        "about": shown.about.model_dump(mode="json"),
        "model": shown.model.name,
        "recipe": recipe.model_dump(mode="json", exclude={"name", "about"}),
        "peak_lr": recipe.peak_lr,
        "steps_per_epoch": shown.per_epoch,
        "steps": shown.schedule.total,
        "epochs": shown.epochs,
        "learning_rate": [asdict(point) for point in trace(shown.schedule, shown.per_epoch)],
        "weight_decay": [{**count.model_dump(), "weight_decay": _decay(recipe, count)} for count in shown.counts],
        "evaluation": {
            "train_size": shown.size,
            "resize": evaluation.resize(shown.size),
            "crop": evaluation.crop(shown.size),
            "views": evaluation.views,
            "interpolation": evaluation.interpolation,
        },
    }


def _decay(recipe: RecipeConfig, count: KindCount) -> float:
    return 0.0 if count.kind in recipe.no_decay else recipe.weight_decay


def _print(shown: Shown) -> None:
    out = console()
    out.print(Text(" ".join([shown.recipe.name, *shown.overrides]), style="bold"))
    for rows in (_about_rows(shown), _training_rows(shown)):
        out.print(_grid(rows), "")
    out.print(Text(f"{sparkline(shown.schedule)}  {_axis(shown)}"), "")
    out.print(_trace_table(shown), "")
    out.print(_decay_table(shown), "")
    out.print(_grid(_image_rows(shown)))
    if shown.about.expected:
        out.print("", _expected_table(shown.about))
    if shown.about.deviations:
        out.print("\nnot as published")
    for sentence in shown.about.deviations:
        out.print(Text(f"- {sentence}"))


def _grid(rows: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for label, text in rows:
        table.add_row(label, Text(" ".join(text.split())))
    return table


def _about_rows(shown: Shown) -> list[tuple[str, str]]:
    about = shown.about
    return [("paper", about.paper), ("section", about.section), ("data", about.data), ("hardware", about.hardware)]


def _training_rows(shown: Shown) -> list[tuple[str, str]]:
    recipe, total = shown.recipe, shown.schedule.total
    length = f"{total:,} steps of {recipe.batch_size:,} images, {shown.epochs:.4g} epochs of {shown.per_epoch:,} steps"
    return [
        ("duration", length),
        ("optimiser", words_for.optimizer_text(recipe)),
        ("learning rate", words_for.rate_text(recipe)),
        ("schedule", words_for.schedule_text(recipe, shown.epochs)),
        ("weight decay", words_for.decay_text(recipe)),
        ("loss", words_for.loss_text(recipe)),
        ("clipping", words_for.clip_text(recipe)),
        ("averaging", words_for.average_text(recipe)),
        ("batch norm", words_for.batch_norm_text(recipe)),
    ]


def _image_rows(shown: Shown) -> list[tuple[str, str]]:
    recipe = shown.recipe
    return [
        ("augmentation", words_for.augment_text(recipe.augment, shown.size)),
        ("mixing", words_for.mix_text(recipe.augment.mix)),
        ("test", words_for.evaluation_text(recipe.evaluation, shown.size)),
    ]


def _axis(shown: Shown) -> str:
    scale = "logarithmic" if is_logarithmic(shown.schedule) else "linear"
    return f"{shown.epochs:.4g} epochs, {scale}"


def _trace_table(shown: Shown) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("epoch", "step", "learning rate"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for point in trace(shown.schedule, shown.per_epoch):
        table.add_row(f"{point.epoch:.2f}", f"{point.step:,}", f"{point.lr:.4g}", point.at)
    return table


def _decay_table(shown: Shown) -> Table:
    """Lay out how many parameters of the network have which weight decay."""
    table = Table(f"parameters of {shown.model.name}", box=None, pad_edge=False)
    for heading in ("weight decay", "tensors", "numbers"):
        table.add_column(heading, justify="right")
    for count in shown.counts:
        decay = _decay(shown.recipe, count)
        table.add_row(count.kind, f"{decay:g}" if decay else DASH, f"{count.tensors:,}", f"{count.parameters:,}")
    return table


def _expected_table(about: About) -> Table:
    table = Table("expected of", box=None, pad_edge=False)
    table.add_column("top-1 error %", justify="right")
    for heading in ("on", "source"):
        table.add_column(heading)
    for entry in about.expected:
        source = entry.source + ("" if entry.verified else " (unverified)")
        table.add_row(*map(Text, (entry.model, f"{entry.top1_error:g}", entry.protocol, source)))
    return table
