"""`repro signal`: what a model does to its signal at initialisation, as a table and a figure; nothing is trained."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.errors import InputError
from repro.models.config import Family
from repro.models.presets import load_preset
from repro.models.residual_config import ResidualConfig
from repro.models.signal_theory import Expected, broken_assumptions, expected, missing_reason
from repro.report.format import DASH
from repro.report.sheet import to_csv
from repro.report.signal_figure import Point, draw_signal
from repro.request import parse_seeds
from repro.verbs.inputs import FIGURES, axes_of, figure_path, pixels, whole

if TYPE_CHECKING:
    from repro.models.signal import Signal

_EPILOG = (
    "Signal propagation plots of Brock, De & Smith (ICLR 2021, arXiv:2101.08692): each unit's output on N(0, 1) noise, "
    "batch norms on batch statistics, dropout and stochastic depth off, SkipInit gains at 1 instead of 0. Expected is "
    "the recursion of an infinitely wide pre-activation network (normaliser-free: 1 + n alpha² after n units of a "
    "stage). It holds for circular padding, a strided projection and the CIFAR stem: "
    "repro signal nf_resnet50 padding=circular shortcut=B stem=cifar."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words and flags."""
    parser.epilog = _EPILOG
    parser.add_argument("name", metavar="MODEL")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="axes of the model, for example alpha=1")
    parser.add_argument(
        "--seeds", type=_seeds, default=tuple(range(5)), metavar="N", help="how many, or which: [0,7]; default 5"
    )
    parser.add_argument("--batch", default="32", metavar="N", help="images; default 32")
    size = "height and width of the noise in pixels; default 64, or native where that is smaller or 64 too small"
    parser.add_argument("--input", metavar="N", help=size)
    parser.add_argument("--format", choices=("md", "csv", "json"), default="md")
    parser.add_argument("--out", metavar="FILE", help=f"write the figure there: {', '.join(FIGURES)}")


def main(options: argparse.Namespace) -> int:
    """Measure the model's signal, print it, and draw it where `--out` says."""
    form = "json" if options.json else options.format
    batch, size = whole("--batch", options.batch, "images"), pixels(options.input)
    return signal(options.name, options.words, options.seeds, batch, size, form, options.out)


def signal(
    name: str, words: Sequence[str], seeds: Sequence[int], batch: int, size: int | None, form: str, out: str | None
) -> int:
    """Print a row for each residual unit, measured and expected; with `out`, also draw them."""
    path = figure_path(out)
    config = load_preset(name, **axes_of(words, "alpha=1"))
    from repro.models.signal import measure

    found = measure(config, size, batch, seeds)
    points = _points(config, found)
    notes = [_how(config, found), *_notes(config)]
    title = " ".join([name, *words])
    {"md": _print_markdown, "csv": _print_csv, "json": _print_json}[form](title, found, points, notes)
    if path is not None:
        _draw(points, path, title, found)
        if form == "md":
            print(path)
    return 0


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return parse_seeds(text)
    except InputError as error:
        raise InputError(f"--{error}") from None


def _draw(points: Sequence[Point], path: Path, title: str, found: Signal) -> None:
    what = "residual unit" if points[0].stage is not None else "convolution"
    band = "; band: ± 1 standard deviation over the seeds" if len(found.seeds) > 1 else ""
    subtitle = f"at initialisation, {_noise(found)}{band}"
    try:
        draw_signal(points, path, title, subtitle, what)
    except OSError as error:
        raise InputError(f"--out {path}: the figure cannot be written ({error.strerror})") from None


def _points(config: Family, found: Signal) -> list[Point]:
    """Join what was measured with what is expected."""
    theory = expected(config) if isinstance(config, ResidualConfig) else None
    expectations: Sequence[Expected | None] = theory or [None] * len(found.units)
    return [
        Point(
            **asdict(unit),
            expected_mean_square=wide.mean_square if wide else None,
            expected_variance=wide.variance if wide else None,
            expected_branch_variance=wide.branch_variance if wide else None,
        )
        for unit, wide in zip(found.units, expectations, strict=True)
    ]


def _noise(found: Signal) -> str:
    count = len(found.seeds)
    shape = " × ".join(map(str, found.input))
    return f"{found.batch} images of N(0, 1) noise, {shape}, {count} seed{'s' if count > 1 else ''}"


def _how(config: Family, found: Signal) -> str:
    native = config.native.size
    other = "" if found.input[-1] == native else f" (native {native}: --input {native})"
    return f"measured on {_noise(found)}{other}"


def _notes(config: Family) -> list[str]:
    if not isinstance(config, ResidualConfig):
        return ["no residual units in this family: each row is the output of a convolution of more than one pixel"]
    found = ["SkipInit gains set to 1; at their initial 0 every branch is silent"] if config.skip_init else []
    missing, broken = missing_reason(config), broken_assumptions(config)
    if missing:
        return [*found, f"no expected values: {missing}"]
    if broken:
        return [*found, f"expected is an approximation here: {'; '.join(broken)}"]
    return [*found, "expected: the recursion of an infinitely wide network"]


def _print_markdown(title: str, found: Signal, points: Sequence[Point], notes: Sequence[str]) -> None:
    header = ("unit", "squared mean", "variance", "expected", "branch variance", "expected")
    rows = [header, *(_cells(point) for point in points)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    print(f"## {title}\n")
    for cells in (header, rule, *rows[1:]):
        first, *rest = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        print("| " + " | ".join([cells[0].ljust(len(first)), *rest]) + " |")
    print()
    for note in notes:
        print(f"- {note}")


def _cells(point: Point) -> tuple[str, ...]:
    spread = "" if point.spread is None else f" ± {_number(point.spread, point.variance)}"
    return (
        _unit(point),
        _number(point.mean_square),
        _number(point.variance) + spread,
        _number(point.expected_variance),
        _number(point.branch_variance),
        _number(point.expected_branch_variance),
    )


def _unit(point: Point) -> str:
    return point.name if point.stage is None else f"{point.stage}.{point.index}"


def _number(value: float | None, like: float | None = None) -> str:
    """Write about three digits, with a power of ten for what is tiny or huge; as `like` is written."""
    if value is None:
        return DASH
    size = abs(value if like is None else like)
    if size == 0 or 0.01 <= size < 1000:
        return f"{value:.4f}" if 0 < size < 0.1 else f"{value:.3f}"
    return f"{value:.2e}"


def _print_csv(title: str, found: Signal, points: Sequence[Point], notes: Sequence[str]) -> None:
    print(to_csv([asdict(point) for point in points]), end="")
    for note in notes:
        print(note, file=sys.stderr)


def _print_json(title: str, found: Signal, points: Sequence[Point], notes: Sequence[str]) -> None:
    units = [{key: _strict(value) for key, value in asdict(point).items()} for point in points]
    head = {"model": title, "input": found.input, "batch": found.batch, "seeds": found.seeds}
    print(json.dumps({**head, "notes": notes, "units": units}, indent=2))


def _strict(value: Any) -> Any:
    """JSON knows no NaN and no infinity: what overflowed is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
