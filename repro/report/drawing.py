"""What all figures share: their look, and how they are written. The same data give the same bytes."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from repro.results import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150

_STYLE = {
    "font.size": 9,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "repro",
}
_METADATA = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}
"""What would tell the time or the program: left out."""


def house_style() -> AbstractContextManager[None]:
    """Draw within it: the house's look, whatever the user's matplotlib is set to."""
    from matplotlib import style

    look: AbstractContextManager[None] = style.context(["default", _STYLE])
    return look


def write_figure(figure: Figure, path: Path) -> None:
    """Write as PNG, SVG or PDF, by the ending; an older file stays whole until the new one is. Raises OSError."""
    form = path.suffix.lower().removeprefix(".")
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format=form, metadata=_METADATA[form])
        write_atomic(path, buffer.getvalue())
