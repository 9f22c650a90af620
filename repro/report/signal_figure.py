"""The figure of a signal propagation plot (Brock et al., arXiv:2101.08692, Fig. 1): measured and expected moments of
the signal against depth. Draws plain data on matplotlib's objects; knows no network.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from repro.report.drawing import DPI, house_style, write_figure
from repro.report.format import label
from repro.report.palette import HUES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_RANGE = 20  # largest over smallest variance from which a logarithmic axis shows more
WIDTH, HEIGHT = 5.0, 4.3  # inches; of one panel
MOST_MARKERS = 40
TITLE_WIDTH = {1: 60, 2: 120}  # characters of a line, by number of panels
VARIANCE, MEAN, EXPECTED = HUES[0], HUES[1], "black"


@dataclass(frozen=True)
class Point:
    """One residual unit, or one convolution of a network without them, as measured and as expected.

    `mean_square` and `variance` are of its output, averaged over channels; `spread` is the standard deviation of
    `variance` over the seeds; `branch_variance` is of the end of the residual branch. None: there is no such number.
    """

    stage: int | None
    index: int
    name: str
    mean_square: float
    variance: float
    spread: float | None = None
    branch_variance: float | None = None
    expected_mean_square: float | None = None
    expected_variance: float | None = None
    expected_branch_variance: float | None = None


def draw_signal(points: Sequence[Point], path: Path, title: str, subtitle: str, what: str = "residual unit") -> None:
    """Write the figure as PNG, SVG or PDF, by the suffix; an older file stays whole until the new one is.

    Args:
        points: in the order of the network.
        path: where it is written; its folder must exist. OSError is raised where it cannot be.
        title: names the network; two lines at most are shown.
        subtitle: says how it was measured.
        what: what a point is.
    """
    with house_style():
        write_figure(make_figure(points, title, subtitle, what), path)


def make_figure(points: Sequence[Point], title: str, subtitle: str, what: str = "residual unit") -> Figure:
    """Draw the units' outputs on the left; on the right the ends of their branches, where there are any."""
    from matplotlib.figure import Figure

    with_branch = any(point.branch_variance is not None for point in points)
    panels = 2 if with_branch else 1
    figure = Figure(figsize=(WIDTH * panels, HEIGHT), dpi=DPI, layout="constrained")
    first, *rest = figure.subplots(1, panels, squeeze=False)[0]
    _draw_output(first, points, what)
    for axes in rest:
        _draw_branch(axes, points)
    for axes in (first, *rest):
        _mark_stages(axes, points, what)
    width = TITLE_WIDTH[panels]
    figure.suptitle(f"{label(title, width)}\n{textwrap.fill(subtitle, width)}", fontsize=10)
    handles, names = first.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(handles) if with_branch else 2, frameon=False)
    return figure


def _draw_output(axes: Axes, points: Sequence[Point], what: str) -> None:
    variances, expected_variances = [p.variance for p in points], [p.expected_variance for p in points]
    means, expected_means = [p.mean_square for p in points], [p.expected_mean_square for p in points]
    _scale_axis(axes, [*variances, *expected_variances], [*means, *expected_means])
    _band(axes, variances, [point.spread for point in points])
    _measured(axes, variances, VARIANCE, "o", "channel variance")
    _expected(axes, expected_variances, "--", "variance expected")
    _measured(axes, means, MEAN, "^", "squared channel mean")
    _expected(axes, expected_means, ":", "squared mean expected")
    axes.set_title(f"Output of the {what}", fontsize=10)
    axes.set_ylabel("average over channels")


def _draw_branch(axes: Axes, points: Sequence[Point]) -> None:
    variances, expectations = [p.branch_variance for p in points], [p.expected_branch_variance for p in points]
    _scale_axis(axes, [*variances, *expectations], [])
    _measured(axes, variances, VARIANCE, "o", "channel variance")
    _expected(axes, expectations, "--", "variance expected")
    axes.set_title("End of the residual branch, before the sum", fontsize=10)


def _places(values: Sequence[object]) -> range:
    return range(1, len(values) + 1)


def _heights(axes: Axes, values: Sequence[float | None]) -> list[float]:
    """Turn into gaps what is missing, what overflowed, and what a logarithmic axis cannot show."""
    lowest = 0.0 if axes.get_yscale() == "log" else -math.inf
    return [math.nan if value is None or not lowest < value < math.inf else value for value in values]


def _measured(axes: Axes, values: Sequence[float | None], color: str, marker: str, name: str) -> None:
    every, heights = -(-len(values) // MOST_MARKERS), _heights(axes, values)
    axes.plot(_places(values), heights, color=color, marker=marker, markersize=4, markevery=every, label=name, zorder=3)


def _expected(axes: Axes, values: Sequence[float | None], dash: str, name: str) -> None:
    """Draw over the measured line, so that both are seen where they agree."""
    heights = _heights(axes, values)
    if not all(map(math.isnan, heights)):
        axes.plot(_places(values), heights, color=EXPECTED, linestyle=dash, linewidth=1.3, label=name, zorder=4)


def _band(axes: Axes, values: Sequence[float], spreads: Sequence[float | None]) -> None:
    """Shade one standard deviation to both sides; on a logarithmic axis by the factor that the upper side has."""
    pairs = list(zip(_heights(axes, values), _heights(axes, spreads), strict=True))
    factor = axes.get_yscale() == "log"
    low = [value**2 / (value + spread) if factor else value - spread for value, spread in pairs]
    high = [value + spread for value, spread in pairs]
    axes.fill_between(_places(values), low, high, color=VARIANCE, alpha=0.25, linewidth=0, zorder=2)


def _scale_axis(axes: Axes, variances: Sequence[float | None], means: Sequence[float | None]) -> None:
    """Choose the axis by the variances; a logarithmic one shows squared means down to a hundredth of the smallest."""
    axes.grid(axis="y", color="#eeeeee")
    known, others = ([v for v in values if v is not None and 0 < v < math.inf] for values in (variances, means))
    if not known:
        axes.set_ylim(0, 1)
        return
    high = max([*known, *others])
    if max(known) / min(known) < LOG_RANGE:
        axes.set_ylim(0, 1.08 * high)
        return
    axes.set_yscale("log")
    axes.set_ylim(min([*known, *(mean for mean in others if mean > min(known) / 100)]) / 1.5, 1.5 * high)


def _mark_stages(axes: Axes, points: Sequence[Point], what: str) -> None:
    """Separate the stages by lines and number them above the panel."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0.5, len(points) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(what)
    stages = [point.stage for point in points]
    if stages[0] is None:
        return
    starts = [0, *(place for place, (one, other) in enumerate(pairwise(stages), start=1) if one != other)]
    for start in starts[1:]:
        axes.axvline(start + 0.5, color="#aaaaaa", linewidth=0.8, zorder=1)
    above = axes.secondary_xaxis("top")
    centres = [(start + stop + 1) / 2 for start, stop in pairwise([*starts, len(points)])]
    above.set_xticks(centres, [str(stages[start]) for start in starts])
    above.tick_params(length=0)
    above.set_xlabel("stage")
    above.spines["top"].set_visible(False)
