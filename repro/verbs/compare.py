"""`repro compare`: models side by side, published error against cost, as a table and a figure."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from repro.console import console
from repro.errors import InputError
from repro.models.presets import load_preset
from repro.report.compare_figure import Axis, check_drawable, draw_comparison
from repro.report.compare_table import Model, compare_sheet, records
from repro.report.sheet import Sheet, to_csv, to_latex, to_markdown, to_terminal
from repro.verbs.inputs import figure_path, pixels
from repro.verbs.list import is_pattern, matching, priced


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words and flags."""
    parser.add_argument(
        "names", nargs="+", metavar="MODEL", help="presets, patterns of presets such as 'resnext*', timm/NAME"
    )
    parser.add_argument("--input", metavar="N", help="height and width of the input, in pixels (default: each its own)")
    parser.add_argument("--format", choices=("md", "csv", "latex", "json"))
    parser.add_argument("--out", metavar="FIGURE", help="draw accuracy against cost into a file .png, .svg or .pdf")
    parser.add_argument("--x", choices=("macs", "params", "activations"), default="macs", help="of the figure")


def main(options: argparse.Namespace) -> int:
    """Print the table; draw the figure where one is asked for."""
    form = "json" if options.json else options.format
    out = figure_path(options.out)
    return compare(options.names, pixels(options.input), form, out, options.x)


def compare(names: Sequence[str], size: int | None, form: str | None, out: Path | None, axis: Axis) -> int:
    """Print models side by side, at `size` pixels or at their native inputs; with `out`, draw them besides.

    The table is printed before InputError is raised for a figure that would compare what does not compare.
    """
    models = _models(names, size)
    if form == "json":
        print(json.dumps(records(models), indent=2))
    elif form == "csv":
        print(to_csv(records(models)), end="")
    elif form is not None:
        print((to_latex if form == "latex" else to_markdown)(compare_sheet(models)), end="")
    else:
        _print_sheet(compare_sheet(models))
    if out is not None:
        _draw(models, out, axis)
    return 0


def _models(names: Sequence[str], size: int | None) -> list[Model]:
    expanded = [name for word in names for name in (matching(word) if is_pattern(word) else [word])]
    models = priced([load_preset(name) for name in dict.fromkeys(expanded)], size)
    for model in models:
        if model.cost is None:
            raise InputError(f"{model.name} cannot be priced: {model.reason}")
    return models


def _print_sheet(sheet: Sheet) -> None:
    console().print(to_terminal(sheet))
    if sheet.notes:
        print("", *sheet.notes, sep="\n")


def _draw(models: Sequence[Model], out: Path, axis: Axis) -> None:
    check_drawable(models)
    try:
        draw_comparison(models, out, axis)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror})") from None
