"""The page of printed costs against counted ones, as Markdown. Pure text; the numbers come from `cost.lectures`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from repro.cost.lectures import Cell, Claim, Table

_HEAD = """\
# What lectures and papers print about cost, and what is counted

Made by `repro cost --compare --out reports`. Each network is built and counted: MACs are multiply-adds of convolutions
and linear layers, FLOPs are counted as the lectures do (a multiply-add is one; a pooling's comparisons or additions
count), memory is a layer's output in float32 for one image. Where a printed figure is not the counted one, rounded or
truncated, both stand there: ~~printed~~ **counted**.
"""


def lecture_page(tables: Sequence[Table], claims: Sequence[Claim]) -> str:
    """Render tables and claims, misprints first."""
    wrong = sum(not cell.agrees for table in tables for cell in _cells(table))
    total = sum(1 for table in tables for _ in _cells(table))
    right = sum(claim.cell.agrees for claim in claims)
    summary = (
        f"**Verdict:** {total - wrong} of the {total} figures in {len(tables)} layer tables are what is counted; of "
        f"{len(claims)} figures of whole networks, chosen because lectures or papers contradict each other, {right}.\n"
    )
    return "\n".join([_HEAD, summary, "## Whole networks\n", _claims(claims), *map(_table, tables)])


def _cells(table: Table) -> Iterable[Cell]:
    yield from (cell for _, row in table.rows for cell in row if cell is not None)
    yield from (cell for _, cell in table.totals)


def _claims(claims: Sequence[Claim]) -> str:
    lines = [
        "| network | quantity | printed | by | counted | what gives the printed figure | why |",
        "| :-- | :-- | --: | :-- | --: | :-- | :-- |",
    ]
    for claim in sorted(claims, key=lambda claim: claim.cell.agrees):
        cell, explained = claim.cell, ""
        if claim.explained is not None:
            explained = f"{claim.explained[0]}: {cell.figure.write(claim.explained[1])} {cell.figure.unit}".rstrip()
        counted = f"{cell.figure.write(cell.computed)} {cell.figure.unit}".rstrip()
        lines.append(
            f"| {claim.what} | {claim.quantity} | {cell.figure.text} | {claim.source} | "
            f"{counted if cell.agrees else f'**{counted}**'} | {explained} | {cell.reason or ''} |"
        )
    return "\n".join(lines) + "\n"


def _table(table: Table) -> str:
    lines = [
        f"## {table.title}\n",
        f"{table.source}. Counted on `{table.model}` at {table.size} × {table.size}.\n",
        f"| layer | {' | '.join(table.columns)} |",
        f"| :-- | {' | '.join('--:' for _ in table.columns)} |",
    ]
    lines += [f"| {label} | {' | '.join(map(_shown, row))} |" for label, row in table.rows]
    lines += ["", "Totals: " + "; ".join(f"{name} {_shown(cell, unit=True)}" for name, cell in table.totals) + "."]
    why = [
        f"- {label}, {column}: {cell.reason}."
        for label, row in (*table.rows, *((f"total {name}", (cell,)) for name, cell in table.totals))
        for column, cell in zip(table.columns if len(row) > 1 else ("",), row, strict=False)
        if cell is not None and cell.reason
    ]
    return "\n".join([*lines, "", *(line.replace(", :", ":") for line in why)]) + "\n"


def _shown(cell: Cell | None, unit: bool = False) -> str:
    if cell is None:
        return ""
    if cell.agrees:
        return cell.figure.text
    counted = cell.figure.write(cell.computed) + (f" {cell.figure.unit}" if unit else "")
    return f"~~{cell.figure.text}~~ **{counted.strip()}**"
