"""The table of a page as cells of text, with its footnotes: the one place that knows the columns. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from repro.report.format import (
    DASH,
    contrast_text,
    escape,
    mean_and_std,
    number,
    sentence,
    shorten,
    superscript,
    three_digits,
    unit_of,
)
from repro.report.outcome import STATUSES
from repro.report.page import Page, Row
from repro.stats import CONFIDENCE

METRICS = {"top1_error": "top-1 error", "top5_error": "top-5 error", "top1_accuracy": "top-1 accuracy"}
MAC_UNITS = (("GMACs", 10**9), ("MMACs", 10**6))
PARAM_UNITS = (("M", 10**6), ("k", 10**3))
LONGEST_MESSAGE = 60

SHARED = "Other runs shared the device: their speed is not a measurement of the model alone, and is left out."
TRAIN = (
    "Training split with augmentation, over the batches of the last epoch: tells overfitting from poor optimisation."
)
BEST = (
    "Validation split, at the epoch with its lowest top-1 error: chosen on itself, so optimistic; it decides nothing."
)


@dataclass
class Footnotes:
    """Numbers texts in the order in which they are first used; the same text keeps its number."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """Return the mark of a text, with the space before it."""
        if text not in self.texts:
            self.texts.append(text)
        return " " + superscript(self.texts.index(text) + 1)

    def lines(self) -> list[str]:
        """All footnotes, each behind its mark."""
        return [f"{superscript(index)} {text}" for index, text in enumerate(self.texts, start=1)]


@dataclass(frozen=True)
class Column:
    """A header and one cell per row, already escaped."""

    header: str
    cells: tuple[str, ...]
    left: bool = False


@dataclass(frozen=True)
class Table:
    """Cells by row, already escaped."""

    header: tuple[str, ...]
    alignment: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    footnotes: tuple[str, ...]


def table(page: Page) -> Table:
    """Lay out the rows of a page; footnotes are numbered column by column."""
    notes = Footnotes()
    columns = [*_published_columns(page, notes), *_reproduced_columns(page, notes), *_cost_columns(page, notes)]
    return Table(
        header=tuple(column.header for column in columns),
        alignment=tuple(":--" if column.left else "--:" for column in columns),
        rows=tuple(zip(*(column.cells for column in columns), strict=True)),
        footnotes=tuple(notes.lines()),
    )


def _decimals(page: Page) -> int:
    return max(1, page.ablation.metric.decimals)


def _metric(page: Page) -> str:
    return f"{METRICS[page.ablation.metric.name]} {page.ablation.metric.unit}"


def _published_columns(page: Page, notes: Footnotes) -> list[Column]:
    rows = page.rows
    names = tuple(escape(row.variant) + (notes.mark(sentence(row.note)) if row.note else "") for row in rows)
    references = tuple(DASH if row.is_reference else escape(row.reference) for row in rows)
    several = [Column("reference", references, left=True)] if len(page.references) > 1 else []
    return [
        Column("variant", names, left=True),
        *several,
        Column(f"published {_metric(page)}", tuple(_published(row, page, notes) for row in rows)),
        Column("contrast", tuple(_published_contrast(row, _decimals(page), notes) for row in rows)),
    ]


def _published(row: Row, page: Page, notes: Footnotes) -> str:
    published = row.published
    if published.value is None:
        own_source = published.source and published.source != page.ablation.paper.table
        return DASH + (notes.mark(f"{published.source}: no number was published.") if own_source else "")
    text = f"Published: {published.source}; {sentence(page.ablation.metric.protocol)}"
    if not published.verified:
        text = f"Published: {published.source}; not verified against the paper, so it does not decide a verdict."
    return mean_and_std(published.value, published.sd, _decimals(page)) + notes.mark(text)


def _published_contrast(row: Row, decimals: int, notes: Footnotes) -> str:
    if row.is_reference:
        return "ref"
    if row.published_contrast is not None:
        return number(row.published_contrast, decimals, signed=True)
    if row.expected is None:
        return DASH
    return row.expected.direction + notes.mark(f"{row.expected.source}: a direction was published, no number.")


def _reproduced_columns(page: Page, notes: Footnotes) -> list[Column]:
    counts = {row.n for row in page.rows if row.n}
    n = f", n = {counts.pop()}" if len(counts) == 1 else ""
    decimals = _decimals(page)
    return [
        Column(
            f"reproduced {_metric(page)}{n}",
            tuple(_reproduced(row, decimals, not n) + _other_code(row, page, notes) for row in page.rows),
        ),
        Column(f"contrast [{CONFIDENCE * 100:g} %]", tuple(_contrast(row, decimals) for row in page.rows)),
        Column("verdict", tuple(_verdict(row) for row in page.rows), left=True),
        *_beside("train", [(row.train_mean, row.train_std) for row in page.rows], TRAIN, decimals, notes),
        *_beside("best epoch, val", [(row.best_mean, row.best_std) for row in page.rows], BEST, decimals, notes),
    ]


def _beside(
    header: str, values: list[tuple[float | None, float | None]], note: str, decimals: int, notes: Footnotes
) -> list[Column]:
    """Lay out a value that stands beside the result and decides nothing; no column where no run has it."""
    if all(mean is None for mean, _ in values):
        return []
    cells = tuple(DASH if mean is None else mean_and_std(mean, std, decimals) for mean, std in values)
    return [Column(header + notes.mark(note), cells)]


def _reproduced(row: Row, decimals: int, with_n: bool) -> str:
    lost = _lost(row)
    if row.mean is None:
        return lost or "missing"
    n = f" (n = {row.n})" if with_n else ""
    return mean_and_std(row.mean, row.std, decimals) + n + (f"; {lost}" if lost else "")


def _other_code(row: Row, page: Page, notes: Footnotes) -> str:
    """Mark a value that other code trained than most of the page's, with the seeds where it is only some of them."""
    seeds: dict[str, list[int]] = {}
    for seed, code in row.codes.items():
        if code != page.usual_code:
            seeds.setdefault(code, []).append(seed)
    if not seeds:
        return ""
    parts = [code + _of_seeds(own, len(row.codes)) for code, own in seeds.items()]
    return notes.mark(f"Trained by other code than most runs of this page: {'; '.join(parts)}.")


def _of_seeds(seeds: list[int], total: int) -> str:
    listed = ", ".join(map(str, seeds))
    return "" if len(seeds) == total else f", seed{'s' if len(seeds) > 1 else ''} {listed}"


def _lost(row: Row) -> str:
    """Say what happened to the seeds without a value: `diverged (2 of 3)`, `1 of 3 failed`, `failed: MESSAGE`."""
    total, parts = len(row.outcomes), []
    for status in STATUSES[1:]:
        runs = [run for run in row.outcomes if run.status == status]
        reason = f": {escape(shorten(runs[0].message, LONGEST_MESSAGE))}" if runs and status == "failed" else ""
        if runs and status == "diverged":
            parts.append(f"diverged ({len(runs)} of {total})")
        elif runs:
            parts.append(status + reason if len(runs) == total else f"{len(runs)} of {total} {status}")
    return ", ".join(parts)


def _contrast(row: Row, decimals: int) -> str:
    if row.is_reference:
        return "ref"
    if row.contrast is None:
        return DASH + _why_no_contrast(row)
    fewer = f" (n = {row.contrast.n})" if 1 < row.contrast.n < row.n else ""
    return contrast_text(row.contrast, decimals) + fewer


def _why_no_contrast(row: Row) -> str:
    """Name the side that diverged in all its runs."""
    if row.divergence is None:
        return ""
    lost = [count > 0 and left == 0 for count, left in (row.divergence.variant, row.divergence.reference)]
    return {(True, True): " (both diverged)", (True, False): " (diverged)", (False, True): " (reference diverged)"}.get(
        (lost[0], lost[1]), ""
    )


def _verdict(row: Row) -> str:
    if row.verdict is None:
        return ""
    return row.verdict.word or f"{DASH} ({row.verdict.reason})"


def _cost_columns(page: Page, notes: Footnotes) -> list[Column]:
    params = [row.cost.params if row.cost else None for row in page.rows]
    macs = [row.cost.macs if row.cost else None for row in page.rows]
    timed = [row for row in page.rows if row.shared or row.images_per_second is not None]
    all_shared = bool(timed) and all(row.images_per_second is None for row in timed)
    header = "img/s" + (notes.mark(SHARED) if all_shared else "")
    return [
        _in_one_unit("params ({})", params, PARAM_UNITS),
        _in_one_unit("{}", macs, MAC_UNITS),
        Column(header, tuple(_speed(row, not all_shared, notes) for row in page.rows)),
    ]


def _in_one_unit(header: str, values: list[int | None], units: tuple[tuple[str, int], ...]) -> Column:
    unit, size = unit_of([value for value in values if value is not None], units)
    return Column(header.format(unit), tuple(DASH if value is None else three_digits(value / size) for value in values))


def _speed(row: Row, mark: bool, notes: Footnotes) -> str:
    if row.images_per_second is None:
        return DASH + (notes.mark(SHARED) if row.shared and mark else "")
    return three_digits(row.images_per_second)
