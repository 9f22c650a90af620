"""Right panel of the figure: the metric against epoch, mean and range over the seeds of each variant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from repro.report.curves import Curve
from repro.report.format import label
from repro.report.outcome import as_metric, recorded
from repro.report.page import Page
from repro.report.palette import Style
from repro.report.table import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_RANGE = 8  # largest over smallest error from which a logarithmic axis shows more
SPLITS = {"val": "validation", "train": "training"}
Band = tuple[list[float], list[float], list[float], list[float]]


def draw_curves(
    axes: Axes, page: Page, curves: Mapping[str, Sequence[Curve]], look: Mapping[str, Style], split: str
) -> None:
    """Draw a line and a min-max band per variant; a variant without curves has none."""
    metric = page.ablation.metric
    column = f"{split}_{recorded(metric.name)}"
    bands = {row.variant: _in(metric.name, band(curves.get(row.variant, ()), column)) for row in page.rows}
    drawn = {name: found for name, found in bands.items() if found[0]}
    for name, (epochs, means, lows, highs) in drawn.items():
        style = look[name]
        axes.fill_between(epochs, lows, highs, color=style.color, alpha=0.15, linewidth=0)
        axes.plot(epochs, means, color=style.color, linestyle=style.dash, linewidth=1.6, label=label(name))
    what = METRICS[metric.name].split()[-1]  # error or accuracy
    axes.set_title(f"{SPLITS[split].capitalize()} {what}: mean and range over seeds", fontsize=10)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{METRICS[metric.name]} ({metric.unit})")
    axes.grid(color="#eeeeee")
    _scale_axis(axes, drawn, log=recorded(metric.name) == metric.name)


def band(curves: Sequence[Curve], column: str) -> Band:
    """Return epochs, mean, smallest and largest value over the curves that have a finite value at the epoch."""
    by_epoch: dict[float, list[float]] = {}
    for curve in curves:
        for epoch, value in zip(curve.epoch, curve.columns.get(column, ()), strict=False):
            if math.isfinite(value):
                by_epoch.setdefault(epoch, []).append(value)
    epochs = sorted(by_epoch)
    seeds = [by_epoch[epoch] for epoch in epochs]
    return epochs, [fmean(values) for values in seeds], [min(values) for values in seeds], [max(v) for v in seeds]


def _in(metric: str, errors: Band) -> Band:
    """Turn a band of recorded errors into one of the metric; where that is an accuracy, low and high change places."""
    epochs, *series = errors
    means, lows, highs = ([as_metric(value, metric) for value in values] for values in series)
    return (epochs, means, lows, highs) if recorded(metric) == metric else (epochs, means, highs, lows)


def _scale_axis(axes: Axes, drawn: Mapping[str, Band], log: bool) -> None:
    """Show whole epochs; errors of a wide range on a logarithmic axis, accuracies never."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not drawn:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no learning curves", transform=axes.transAxes, ha="center", va="center", color="#777777")
        return
    low, high = min(min(found[2]) for found in drawn.values()), max(max(found[3]) for found in drawn.values())
    if not log or low <= 0 or high / low < LOG_RANGE:
        return
    axes.set_yscale("log")
    ticks = [base * 10.0**power for power in range(-3, 4) for base in (1, 2, 5)]
    axes.set_yticks([tick for tick in ticks if low / 1.3 <= tick <= high * 1.3])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
