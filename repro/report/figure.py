"""The figure of a page: contrasts with intervals on the left, learning curves on the right, as one PNG.

Draws on matplotlib's objects, never through pyplot's global state, so that the same page gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from repro.report.contrast_panel import draw_contrasts
from repro.report.curve_panel import draw_curves
from repro.report.curves import Curve
from repro.report.drawing import DPI, house_style, write_figure
from repro.report.page import Page
from repro.report.palette import styles

WIDTH, HEIGHT, ROW_HEIGHT, TALLEST = 11.0, 4.5, 0.36, 40.0  # inches


def draw(page: Page, curves: Mapping[str, Sequence[Curve]], path: Path, split: Literal["val", "train"] = "val") -> None:
    """Write the figure as PNG.

    Args:
        page: the page.
        curves: learning curves by variant; of finished runs, so that a diverged seed does not leave the mean halfway.
        path: where the PNG is written; its folder must exist.
        split: which error the curves show.
    """
    from matplotlib.figure import Figure

    look = styles([(row.variant, row.reference) for row in page.rows])
    with house_style():
        height = min(TALLEST, max(HEIGHT, 1.6 + ROW_HEIGHT * len(page.rows)))
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.0, 0.9))
        draw_contrasts(left, page, look)
        draw_curves(right, page, curves, look, split)
        handles, labels = right.get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
        write_figure(figure, path)
