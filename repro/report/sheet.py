"""A table as plain text, and how it is written as Markdown, LaTeX, CSV and for a terminal. Pure; knows no contents."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from repro.report.format import escape

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_LATEX = {character: rf"\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
}


@dataclass(frozen=True)
class Sheet:
    """A header, rows, and a last row of totals where there is one; the first `left` columns are words, the others
    numbers. Notes stand below."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    totals: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def to_markdown(sheet: Sheet) -> str:
    """Render as a GitHub table with its notes."""
    rule = [":--" if column < sheet.left else "--:" for column in range(len(sheet.header))]
    body = [tuple(map(escape, row)) for row in (*sheet.rows, *([sheet.totals] if sheet.totals else []))]
    table = "\n".join(f"| {' | '.join(line)} |" for line in (sheet.header, rule, *body))
    return "\n\n".join([table, *map(escape, sheet.notes)]) + "\n"


def to_latex(sheet: Sheet) -> str:
    """Render as a `tabular` for the package booktabs, with its notes in lines below."""
    columns = "l" * sheet.left + "r" * (len(sheet.header) - sheet.left)
    lines = ["% needs \\usepackage{booktabs}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _line(sheet.header)]
    lines += [r"\midrule", *map(_line, sheet.rows)]
    lines += [r"\midrule", _line(sheet.totals)] if sheet.totals else []
    notes = [r"\par\footnotesize " + latex(note) for note in sheet.notes]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *notes]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(latex, cells)) + r" \\"


def latex(text: str) -> str:
    """Escape text for LaTeX; footnote marks become superscripts."""
    escaped = "".join(_LATEX.get(letter, letter) for letter in text)
    marks = re.compile(rf" ?([{_SUPERSCRIPTS}]+)")
    return marks.sub(lambda found: rf"\textsuperscript{{{_digits(found[1])}}}", escaped)


def _digits(marks: str) -> str:
    return "".join(str(_SUPERSCRIPTS.index(mark)) for mark in marks)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Render records as CSV with a header, numbers in full; an empty cell is what is not known, `x` joins a list."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _csv_cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else value


def to_terminal(sheet: Sheet) -> Table:
    """Return the table as something that rich prints; the notes are the caller's to print."""
    grid = Table(box=None, pad_edge=False, show_footer=sheet.totals is not None, footer_style="bold")
    for column, heading in enumerate(sheet.header):
        footer = Text(sheet.totals[column]) if sheet.totals else ""
        grid.add_column(heading, footer, justify="left" if column < sheet.left else "right", overflow="fold")
    for row in sheet.rows:
        grid.add_row(*map(Text, row))
    return grid
