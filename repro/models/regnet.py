"""The RegNet rule: stage widths and depths from (depth, w0, wa, wm) and the group width.

Source: Radosavovic et al., "Designing Network Design Spaces", CVPR 2020 (arXiv:2003.13678), §3.3, equations 2 to 4.
"""

from __future__ import annotations

from itertools import groupby
from math import log

_MULTIPLE = 8


def stages_of(depth: int, w0: float, wa: float, wm: float, group_width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return widths and depths of the stages.

    Block j has the width w0 + wa j (2), rounded to the nearest w0 wm^s for a whole s (3, 4), then to a multiple of 8;
    blocks of one width are a stage, whose width is made a multiple of the group width.
    """
    widths = []
    for block in range(depth):
        power = round(log((w0 + wa * block) / w0) / log(wm))
        widths.append(_MULTIPLE * round(w0 * wm**power / _MULTIPLE))
    merged = [(width, len(list(same))) for width, same in groupby(widths)]
    return tuple(_divisible(width, group_width) for width, _ in merged), tuple(count for _, count in merged)


def _divisible(width: int, group_width: int) -> int:
    """Round to a multiple of the group width; a stage narrower than one group keeps its width (one group)."""
    return width if width <= group_width else group_width * round(width / group_width)
