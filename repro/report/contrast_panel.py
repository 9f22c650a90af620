"""Left panel of the figure: published and reproduced contrasts of each variant on one axis, with a zero line.

A published difference of 0.2 and a reproduced one of 60 are both readable: a wide range is drawn on a symmetric
logarithmic axis, linear around zero, so that the sign stays what one sees first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from repro.report.format import MINUS, label, shorten
from repro.report.page import Page, Row
from repro.report.palette import Style
from repro.report.table import METRICS
from repro.stats import CONFIDENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINEAR_RANGE = 40  # largest over smallest contrast that a linear axis still shows
LONGEST_NAME = 28
OFFSET = 0.15  # published above, reproduced below the middle of a row
GREY = "#777777"
DIAMOND, CIRCLE = "D", "o"


def draw_contrasts(axes: Axes, page: Page, look: Mapping[str, Style]) -> None:
    """Draw one line per variant that has a reference; the page's order from top to bottom."""
    rows = [row for row in page.rows if not row.is_reference]
    _scale_axis(axes, rows)
    axes.axvline(0, color="black", linewidth=0.8, zorder=1)
    for y, row in enumerate(rows):
        _published(axes, row, y - OFFSET, look[row.variant].color)
        _reproduced(axes, row, y + OFFSET, look[row.variant].color)
    _separate(axes, rows)
    axes.set_yticks(range(len(rows)), [_label(row, len(page.references) > 1) for row in rows])
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.set_title("Contrasts: published and reproduced", fontsize=10)
    _legend(axes, rows)
    _name_axis(axes, page)


def _label(row: Row, with_reference: bool) -> str:
    if not with_reference:
        return label(row.variant)
    name, reference = (label(shorten(text, LONGEST_NAME), LONGEST_NAME) for text in (row.variant, row.reference))
    return f"{name}\n{MINUS} {reference}"


def _published(axes: Axes, row: Row, y: float, color: str) -> None:
    hollow: dict[str, Any] = {
        "markerfacecolor": "white",
        "markeredgecolor": color,
        "markeredgewidth": 1.3,
        "linestyle": "none",
    }
    if row.published_contrast is not None:
        axes.plot(row.published_contrast, y, marker=DIAMOND, markersize=5.5, zorder=3, **hollow)
    elif row.expected is not None:
        axes.plot(0, y, marker=_caret(row.expected.direction), markersize=9, zorder=3, **hollow)


def _caret(direction: str) -> int:
    """A triangle that stands on the zero line and points to the published side."""
    from matplotlib import markers

    return int(markers.CARETLEFTBASE if direction == "lower" else markers.CARETRIGHTBASE)


def _reproduced(axes: Axes, row: Row, y: float, color: str) -> None:
    contrast = row.contrast
    if contrast is None:
        _say(axes, y, _why(row))
        return
    if contrast.low is not None and contrast.high is not None:
        axes.plot([contrast.low, contrast.high], [y, y], color=color, linewidth=1.8, solid_capstyle="butt", zorder=2)
    axes.plot(contrast.mean, y, marker=CIRCLE, markersize=6, color=color, linestyle="none", zorder=3)


def _why(row: Row) -> str:
    if row.divergence is None:
        return "no seed finished in both rows"
    (lost, kept), (other_lost, other_kept) = row.divergence.variant, row.divergence.reference
    return f"diverged {lost} of {lost + kept}, reference {other_lost} of {other_lost + other_kept}"


def _say(axes: Axes, y: float, text: str) -> None:
    """Write next to the zero line, on its roomier side."""
    zero = axes.transAxes.inverted().transform(axes.transData.transform((0, y)))[0]
    offset, side = ((-6, 0), "right") if zero > 0.5 else ((6, 0), "left")
    axes.annotate(text, (0, y), offset, textcoords="offset points", ha=side, va="center", fontsize=8, color=GREY)


def _separate(axes: Axes, rows: Sequence[Row]) -> None:
    for y, (above, below) in enumerate(pairwise(rows), start=1):
        other = above.reference != below.reference
        axes.axhline(y - 0.5, color="#999999" if other else "#e6e6e6", linewidth=0.8 if other else 0.6, zorder=0)


def _scale_axis(axes: Axes, rows: Sequence[Row]) -> None:
    sizes = [abs(value) for row in rows for value in _readable(row) if value]
    bounds = [bound for row in rows for bound in _bounds(row)]
    low, high = min(bounds, default=0.0), max(bounds, default=0.0)
    if not sizes or low == high:
        axes.set_xlim(min(low * 1.1, -1), max(high * 1.1, 1))
    elif max(-low, high) / min(sizes) <= LINEAR_RANGE:
        _linear(axes, min(0.0, low), max(0.0, high))
    else:
        _symmetric_log(axes, min(0.0, low), max(0.0, high), min(sizes))


def _readable(row: Row) -> list[float]:
    """Contrasts that a reader must be able to tell from 0: the published one, and a resolved reproduced one."""
    found = [row.published_contrast] if row.published_contrast is not None else []
    contrast = row.contrast
    if contrast and contrast.low is not None and contrast.high is not None and contrast.low * contrast.high > 0:
        found.append(contrast.mean)
    return found


def _bounds(row: Row) -> list[float]:
    contrast = row.contrast
    drawn = [row.published_contrast, *([contrast.mean, contrast.low, contrast.high] if contrast else [])]
    return [bound for bound in drawn if bound is not None]


def _linear(axes: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import FuncFormatter

    margin = 0.08 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(round(value, 9))))
    axes.grid(axis="x", color="#eeeeee")


def _symmetric_log(axes: Axes, low: float, high: float, smallest: float) -> None:
    """Linear to the decade of the smallest contrast (at most three decades below the largest), then logarithmic."""
    start = max(math.floor(math.log10(smallest) + 1e-6), math.floor(math.log10(max(-low, high))) - 3)
    linear = 10.0**start
    stop = math.ceil(math.log10(max(-low, high, linear * 10)))
    axes.set_xscale("symlog", linthresh=linear, linscale=0.6)
    powers = [10.0**power for power in range(start + 1, stop + 1)]  # the linear part is too narrow for labels
    ticks = [value for value in [*(-power for power in powers), 0.0, *powers] if low * 1.6 <= value <= high * 1.6]
    axes.set_xticks(ticks, [_tick(value) for value in ticks])
    axes.set_xlim(min(low * 1.6, -1.6 * linear), max(high * 1.6, 1.6 * linear))
    axes.minorticks_off()
    axes.grid(axis="x", color="#eeeeee")


def _tick(value: float) -> str:
    return f"{value:+g}".replace("-", MINUS) if value else "0"


def _name_axis(axes: Axes, page: Page) -> None:
    metric = page.ablation.metric
    side = "\u2190 better" if metric.better == "lower" else "better \u2192"
    wide = "      (symmetric log scale)" if axes.get_xscale() == "symlog" else ""
    axes.set_xlabel(f"{METRICS[metric.name]}, variant {MINUS} reference ({metric.unit})\n{side}{wide}")


def _legend(axes: Axes, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D

    hollow: dict[str, Any] = {"color": GREY, "markerfacecolor": "white", "linestyle": "none"}
    handles = []
    if any(row.published_contrast is not None for row in rows):
        handles.append(Line2D([], [], marker=DIAMOND, markersize=5.5, label="published", **hollow))
    if any(row.published_contrast is None and row.expected for row in rows):
        handles.append(Line2D([], [], marker="<", markersize=7, label="published direction", **hollow))
    interval = f"reproduced, {CONFIDENCE * 100:g} % interval"
    handles.append(Line2D([], [], marker=CIRCLE, markersize=6, color=GREY, linewidth=1.8, label=interval))
    inches = axes.figure.bbox.height / axes.figure.dpi
    below = (0.5, -0.17 * min(1.0, 4.5 / inches))  # the same distance below the axis in a tall figure
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=below, ncols=3, frameon=False, fontsize=8)
