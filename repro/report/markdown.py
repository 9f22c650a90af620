"""A page as Markdown: fills page.md.j2 with cells and sentences. Text only; every number was decided in page.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from repro.ablation import Paper
from repro.report.format import escape, number, sentence
from repro.report.page import Page, Rank, Row
from repro.report.prose import here, method, provenance_lines
from repro.report.table import table

TEMPLATE = "page.md.j2"


def to_markdown(page: Page, figure: str | None = None) -> str:
    """Render the page.

    Args:
        page: the page.
        figure: path of the figure relative to the Markdown file; None leaves the picture out.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=False
    )
    return environment.get_template(TEMPLATE).render(**_view(page, figure)).strip() + "\n"


def _view(page: Page, figure: str | None) -> dict[str, Any]:
    grid = table(page)
    ablation = page.ablation
    return {
        "title": " ".join(ablation.title.split()),
        "scale": page.scale,
        "citation": _citation(ablation.paper),
        "claim": sentence(ablation.claim),
        "verdict": _verdict(page),
        "header": grid.header,
        "alignment": grid.alignment,
        "table": grid.rows,
        "figure": quote(figure) if figure else None,
        "footnotes": grid.footnotes,
        "here": here(page),
        "method": method(page),
        "not_run": ", ".join(escape(name) for name in page.not_run),
        "unsettled": [line for row in page.rows for line in _unsettled(row)],
        "unfinished": [line for row in page.rows for line in _unfinished(row)],
        "notes": [sentence(note) for note in ablation.notes],
        "rerun": page.rerun,
        "provenance": provenance_lines(page.provenance),
        "runs": page.provenance.runs,
    }


def _citation(paper: Paper) -> str:
    link = f"[arXiv:{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else ""
    return ", ".join(part for part in (paper.authors, f"*{paper.title}*", paper.venue, paper.table, link) if part)


def _verdict(page: Page) -> str:
    parts = [page.summary] + ([_rank(page.rank, len(page.references))] if page.rank else [])
    return "; ".join(parts) + "."


def _rank(rank: Rank, references: int) -> str:
    p = f"exact p = {rank.p:.2g}" if rank.exact else f"p ≈ {rank.p:.2g} with ties"
    over = f"over {rank.n} rows with a verified published and a reproduced value"
    across = ", across references" if references > 1 else ""
    return f"rank agreement τ = {number(rank.tau, 2)} ({p}, {over}{across})"


def _unsettled(row: Row) -> list[str]:
    if row.verdict is None or row.verdict.word != "inconclusive":
        return []
    return [f"**{escape(row.variant)}**: {sentence(row.verdict.reason)}"]


def _unfinished(row: Row) -> list[str]:
    """One line per reason, with the seeds that share it."""
    by_reason: dict[str, list[int]] = {}
    for run in row.outcomes:
        if run.status != "finished":
            reason = f"{run.status}: {escape(run.message)}" if run.message else run.status
            by_reason.setdefault(reason, []).append(run.seed)
    return [f"**{escape(row.variant)}**, {_seeds(seeds)}: {reason}" for reason, seeds in by_reason.items()]


def _seeds(seeds: list[int]) -> str:
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(str(seed) for seed in seeds)
