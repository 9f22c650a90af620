"""The page for a terminal: verdict and the columns that fit; the whole page is in the file."""

from __future__ import annotations

import re

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from repro.report.page import Page
from repro.report.table import table

_MARKS = re.compile(r"\s*[⁰¹²³⁴⁵⁶⁷⁸⁹]+$")
_FITTING = ("variant", "published", "contrast", "reproduced", "verdict")  # in this order in the table


def to_terminal(page: Page) -> RenderableType:
    """Return title, verdict and table as something that rich prints."""
    cells = table(page)
    shown = [index for index, header in enumerate(cells.header) if header.startswith(_FITTING)]
    grid = RichTable(title=f"{page.ablation.title} · {page.scale} scale", title_justify="left")
    for index in shown:
        header, left = _plain(cells.header[index]), cells.alignment[index] == ":--"
        grid.add_column(header, justify="left" if left else "right", overflow="fold")
    for row, texts in zip(page.rows, cells.rows, strict=True):
        line = [_plain(texts[index]) for index in shown]
        if row.published.value is not None and not row.published.verified:
            line[1].append(" (unverified)")
        grid.add_row(*line)
    return Group(grid, Text(f"Verdict: {page.summary}"))


def _plain(cell: str) -> Text:
    return Text(_MARKS.sub("", cell.replace("\\", "")))
