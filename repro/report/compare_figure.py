"""Published accuracy against cost, after Canziani et al. (arXiv:1605.07678, Fig. 2): a marker's area is a model's size.

Draws on matplotlib's objects, never through pyplot's global state, so that the same models give the same bytes.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repro.errors import InputError
from repro.report.compare_table import Model, data_set, usual_data
from repro.report.drawing import DPI, house_style, write_figure
from repro.report.palette import HUES

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Boxes = NDArray[np.float64]

Axis = Literal["macs", "params", "activations"]

WIDTH, HEIGHT = 10.0, 7.0  # inches
LARGEST = 1500.0  # area of the largest marker, in square points
FONT = 8.0  # points, of names
TOUCHING, REFUSED = 1e-6, 1e6  # square pixels that two names may share, and what more costs
LINE_FROM = 0.6  # heights of a name between it and its marker from which a line joins them
CAPTION = 108  # characters of a line below the figure
AWAY = 24  # distances at which a name is tried, each a third of a line further out
_UNITS = {"macs": ("GMACs", 1e9), "params": ("parameters (M)", 1e6), "activations": ("activations (M)", 1e6)}
_SHAPES = (("o", math.pi / 4), ("s", 1.0), ("^", 0.5), ("D", 1.0))
"""Markers, and the part of its bounding square that each fills: areas must compare across shapes."""


@dataclass(frozen=True)
class Place:
    """The box of a name (left, bottom, right, top; in pixels), and whether a line must say whose name it is."""

    box: tuple[float, float, float, float]
    unclear: bool


def check_drawable(models: Sequence[Model]) -> list[Model]:
    """Return the models that have a published error and a price.

    Raises InputError where fewer than two have, or where the errors are of several data sets.
    """
    drawn = [model for model in models if model.published and model.cost]
    if len(drawn) < 2:
        raise InputError(f"a figure needs at least 2 models with a published error; found {len(drawn)}")
    sets: dict[str, str] = {}
    for model in drawn:
        if model.published:
            sets.setdefault(data_set(model.published), model.name)
    if len(sets) > 1:
        named = ", ".join(f"{name} ({data})" for data, name in sets.items())
        raise InputError(f"no figure: errors on different data do not compare: {named}; name models of one data set")
    return drawn


def draw_comparison(models: Sequence[Model], path: Path, axis: Axis = "macs") -> None:
    """Write the scatter plot as PNG, SVG or PDF, by the ending of `path`, whose folder must exist.

    Top-1 accuracy (%) over the quantity `axis` on a log scale; areas are parameters, or MACs where `axis` is the
    parameters. Hollow markers are unverified; models without a published error are named below.
    Raises InputError as `check_drawable` does.
    """
    from matplotlib.figure import Figure

    drawn = check_drawable(models)
    size: Axis = "macs" if axis == "params" else "params"
    scale = LARGEST / max(_value(model, size) for model in drawn)
    with house_style():
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        look = _look(drawn)
        for model in sorted(drawn, key=lambda model: -_value(model, size)):  # small ones stay visible
            _draw_marker(axes, model, axis, scale * _value(model, size), look[model.family])
        _name_axes(axes, models, drawn, axis)
        _legends(figure, look, [_value(model, size) for model in drawn], scale, size)
        _draw_names(figure, axes, drawn, axis, [scale * _value(model, size) for model in drawn])
        write_figure(figure, path)


def _value(model: Model, what: Axis) -> float:
    return float(getattr(model.cost, what)) / _UNITS[what][1]


def _accuracy(model: Model) -> float:
    return 100.0 - model.published.top1_error if model.published else math.nan


def _look(models: Sequence[Model]) -> dict[str, tuple[str, str, float]]:
    """Give every family a colour and a shape; shapes change when the colours are used up."""
    families = sorted({model.family for model in models}, key=str.lower)
    return {
        family: (HUES[index % len(HUES)], *_SHAPES[index // len(HUES) % len(_SHAPES)])
        for index, family in enumerate(families)
    }


def _draw_marker(axes: Axes, model: Model, axis: Axis, area: float, look: tuple[str, str, float]) -> None:
    color, shape, filled = look
    verified = model.published is not None and model.published.verified
    face: Any = (color, 0.45) if verified else "none"
    edge: dict[str, Any] = {"edgecolor": color, "linewidth": 1.2}
    x, y = _value(model, axis), _accuracy(model)
    axes.scatter(x, y, s=area / filled, marker=shape, facecolor=face, **edge)
    axes.scatter(x, y, s=3, color="black", zorder=3)


def _name_axes(axes: Axes, models: Sequence[Model], drawn: Sequence[Model], axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.set_xscale("log")
    axes.margins(0.09, 0.09)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    axes.grid(color="#eeeeee")
    inputs = {model.cost.input[1] for model in drawn if model.cost}
    image = f"a {min(inputs)} × {min(inputs)} image" if len(inputs) == 1 else "an image of the model's own size"
    of = "" if axis == "params" else f" of {image}"
    axes.set_ylabel(f"published top-1 accuracy % ({usual_data(drawn)})")
    axes.set_xlabel("\n".join([f"{_UNITS[axis][0]}{of}, log scale", *_caption(models, drawn)]))


def _caption(models: Sequence[Model], drawn: Sequence[Model]) -> list[str]:
    """Say what the marks mean and what is not drawn."""
    usual = usual_data(drawn)
    lines = []
    if any(_odd(model, usual) for model in drawn):
        lines.append(f"* measured by another protocol than {usual}: not comparable")
    if any(model.published and not model.published.verified for model in drawn):
        lines.append("hollow: not verified against the source")
    missing = [model.name for model in models if model not in drawn]
    if missing:
        lines.append(f"no published error, not drawn: {', '.join(missing)}")
    return [part for line in lines for part in textwrap.wrap(line, CAPTION)]


def _odd(model: Model, usual: str | None) -> bool:
    return model.published is not None and model.published.data != usual


def _legends(
    figure: Figure, look: Mapping[str, tuple[str, str, float]], values: Sequence[float], scale: float, size: Axis
) -> None:
    """Families at the right, areas below."""
    from matplotlib.lines import Line2D

    plain: dict[str, Any] = {"linestyle": "none", "alpha": 0.7}
    families = [
        Line2D([], [], color=color, marker=shape, markersize=7, label=family, **plain)
        for family, (color, shape, _) in look.items()
    ]
    figure.legend(handles=families, loc="outside right upper", frameon=False, fontsize=FONT)
    shape, filled = _SHAPES[0]
    widths = {value: math.sqrt(scale * value / filled) for value in area_steps(values)}
    areas = [
        Line2D([], [], color="#777777", marker=shape, markersize=width, label=f"{value:g}", **plain)
        for value, width in widths.items()
    ]
    room = max(widths.values()) / FONT
    figure.legend(
        handles=areas, loc="outside lower center", title=f"area: {_UNITS[size][0]}", ncols=len(areas), frameon=False,
        fontsize=FONT, title_fontsize=FONT, handlelength=room, handleheight=room, columnspacing=2.0,
    )  # fmt: skip


def area_steps(values: Sequence[float]) -> list[float]:
    """Choose up to four round values, each about a quarter of the next, that span the sizes of a figure."""
    largest, smallest = max(values), min(values)
    steps = [_round_below(largest / 4**power) for power in range(4)]
    return [step for index, step in enumerate(reversed(steps)) if step >= smallest / 2 or index == 3]


def _round_below(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return max(part for part in (1, 2, 5) if part * power <= value * (1 + 1e-9)) * power


def _draw_names(figure: Figure, axes: Axes, models: Sequence[Model], axis: Axis, areas: Sequence[float]) -> None:
    """Name every marker without overlaps; the layout is fixed first, so that what was measured stays true."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    points = axes.transData.transform([(_value(model, axis), _accuracy(model)) for model in models])
    usual = usual_data(models)
    texts = [
        axes.annotate(model.name + "*" * _odd(model, usual), xy, xycoords="figure pixels", fontsize=FONT, ha="center",
                      va="center", zorder=4)
        for model, xy in zip(models, points, strict=True)
    ]  # fmt: skip
    extents = [text.get_window_extent() for text in texts]
    pixels = figure.dpi / 72
    radii = [math.sqrt(area / math.pi) * pixels for area in areas]
    box = axes.bbox
    places = place_names(
        points.tolist(), radii, [(e.width, e.height) for e in extents], (box.x0, box.y0, box.x1, box.y1)
    )
    line: dict[str, Any] = {"arrowstyle": "-", "color": "#555555", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
    frame: dict[str, Any] = {"xycoords": "figure pixels", "textcoords": "figure pixels"}
    for text, place, point in zip(texts, places, points, strict=True):
        left, bottom, right, top = place.box
        text.set_position(((left + right) / 2, (bottom + top) / 2))
        if place.unclear:
            start = min(max(point[0], left), right), min(max(point[1], bottom), top)
            axes.annotate("", point, start, arrowprops=line, zorder=3, **frame)


def place_names(
    points: Sequence[Sequence[float]],
    radii: Sequence[float],
    sizes: Sequence[tuple[float, float]],
    bounds: tuple[float, float, float, float],
) -> list[Place]:
    """Choose where names stand beside their markers, so that they overlap each other and the markers least.

    Args:
        points: centres of the markers, in pixels.
        radii: of the markers.
        sizes: width and height of each name.
        bounds: left, bottom, right and top of what may be written on.

    Each name in turn takes the best of a ring of places at growing distances, given all the others; three rounds.
    """
    import numpy as np

    discs = np.array(
        [[x - r, y - r, x + r, y + r] for (x, y), r in zip(points, 0.8 * np.array(radii) + 3, strict=True)]
    )
    tries = [_candidates(point, radius, size) for point, radius, size in zip(points, radii, sizes, strict=True)]
    chosen = np.full((len(points), 4), np.nan)
    distances = np.zeros(len(points))
    for _ in range(3):
        for index, (boxes, away) in enumerate(tries):
            others = np.delete(chosen, index, axis=0)
            width, height = sizes[index]
            bad = (
                _overlap(boxes, others[~np.isnan(others[:, 0])]) + width * height - _overlap(boxes, np.array([bounds]))
            )
            refused = np.where(bad > TOUCHING, REFUSED * (1 + bad), 0.0)  # whatever else speaks for the place
            best = int(np.argmin(refused + 3 * _overlap(boxes, discs) + 1.5 * height * away))
            chosen[index], distances[index] = boxes[best], away[best]
    unclear = (distances > LINE_FROM * np.array(sizes)[:, 1]) | (
        _nearest(chosen, np.array(points)) != np.arange(len(points))
    )
    return [Place(tuple(box), flag) for box, flag in zip(chosen.tolist(), unclear.tolist(), strict=True)]


def _nearest(boxes: Boxes, points: Boxes) -> NDArray[np.int64]:
    """Index `(N,)` of the point that is nearest to each box."""
    import numpy as np

    gap = np.maximum(boxes[:, None, :2] - points[None], points[None] - boxes[:, None, 2:]).clip(min=0)
    nearest: NDArray[np.int64] = np.hypot(gap[..., 0], gap[..., 1]).argmin(axis=1)
    return nearest


def _candidates(point: Sequence[float], radius: float, size: tuple[float, float]) -> tuple[Boxes, Boxes]:
    """Boxes `(K, 4)` around a marker, sixteen directions at growing distances, and the distances `(K,)`."""
    import numpy as np

    angle, step = np.meshgrid(np.arange(16) * np.pi / 8, np.arange(AWAY) * size[1] / 3)
    away = step.ravel()
    half = np.array(size) / 2
    reach = radius + 3 + away
    direction = np.stack([np.cos(angle.ravel()), np.sin(angle.ravel())], axis=1)
    centre = np.asarray(point) + direction * reach[:, None] + np.clip(direction * 2, -1, 1) * half
    return np.concatenate([centre - half, centre + half], axis=1), away


def _overlap(boxes: Boxes, others: Boxes) -> Boxes:
    """Areas `(K,)` that boxes `(K, 4)` share with all of `others` `(N, 4)` together."""
    import numpy as np

    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared: Boxes = np.prod(np.clip(high - low, 0, None), axis=2).sum(axis=1)
    return shared
