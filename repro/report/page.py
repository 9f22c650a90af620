"""The page of a study as data: one row per variant with published and reproduced numbers, contrasts and verdicts.

Pure: takes results that were read before, knows no file and no format. The renderers beside it turn it into text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from repro.ablation import Ablation, Expected, Metric, Published
from repro.report.outcome import STATUSES, Outcome, RunStatus, outcome
from repro.report.provenance import Provenance, codes_by_run, provenance
from repro.results import Cost, Result
from repro.stats import Contrast, has_ties, kendall, mean_std, paired_contrast
from repro.verdict import Divergence, Verdict, judge, summary

Results = Mapping[str, Mapping[int, Result | None]]


@dataclass(frozen=True)
class Row:
    """One variant. Values are of the metric's unit; `contrast` and `verdict` are None for a reference row."""

    variant: str
    reference: str
    published: Published
    published_contrast: float | None
    """Variant minus reference; None unless both numbers are verified."""
    expected: Expected | None
    note: str | None
    outcomes: tuple[Outcome, ...]
    mean: float | None
    std: float | None
    best_mean: float | None
    """Mean validation value at the best epoch: optimistic, beside the result and never instead of it."""
    best_std: float | None
    train_mean: float | None
    """Mean over the last epoch's training batches: tells overfitting from a failure to optimise."""
    train_std: float | None
    contrast: Contrast | None
    divergence: Divergence | None
    """Of this row and its reference, where any of their runs diverged; None for a reference row."""
    verdict: Verdict | None
    cost: Cost | None
    images_per_second: float | None
    shared: bool
    """True when some of its runs shared their device; their speeds are not in `images_per_second`."""
    codes: Mapping[int, str]
    """The code that trained it, by seed, finished runs only."""

    @property
    def is_reference(self) -> bool:
        """True for a row that is compared with nothing but itself."""
        return self.variant == self.reference

    @property
    def values(self) -> dict[int, float]:
        """The metric by seed, finished runs only."""
        return _values(self.outcomes)

    @property
    def n(self) -> int:
        """Number of finished runs."""
        return len(self.values)

    def count(self, status: RunStatus) -> int:
        """Return how many seeds have this status."""
        return sum(run.status == status for run in self.outcomes)

    @property
    def counts(self) -> dict[str, int]:
        """Number of seeds by status."""
        return {status: self.count(status) for status in STATUSES}


@dataclass(frozen=True)
class Rank:
    """Kendall's tau of published against reproduced values over `n` rows; `exact` tells which p it is."""

    tau: float
    p: float
    n: int
    exact: bool


@dataclass(frozen=True)
class Page:
    """Everything that a renderer needs."""

    ablation: Ablation
    scale: str
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    summary: str
    rank: Rank | None
    not_run: tuple[str, ...]
    """Variants of the published table that this scale leaves out."""
    rerun: str
    provenance: Provenance

    @property
    def faithful(self) -> bool:
        """True when scale and data are the paper's, so that values may be compared too."""
        return self.ablation.at(self.scale).faithful

    @property
    def usual_code(self) -> str | None:
        """The code that trained most of the finished runs, the first of several such; None where no run says."""
        counts = Counter(code for row in self.rows for code in row.codes.values())
        return counts.most_common(1)[0][0] if counts else None

    @property
    def references(self) -> tuple[str, ...]:
        """Names of the rows that others are compared with."""
        return tuple(dict.fromkeys(row.reference for row in self.rows))


def build_page(
    ablation: Ablation,
    scale: str,
    results: Results,
    costs: Mapping[str, Cost],
    rerun: str,
    only: Collection[str] | None = None,
) -> Page:
    """Build the page from whatever has been run so far.

    Args:
        ablation: the published table.
        scale: one of its scales; only variants that are run there get a row, in the table's order.
        results: by variant and seed; None, or no entry, for a run that is missing.
        costs: price by variant; a variant without one takes it from its results.
        rerun: the command that makes these results again.
        only: the variants that the study is of; all that the scale has when None.

    Raises:
        InputError: the ablation has no such scale.
    """
    chosen = ablation.at(scale).variants if only is None else only
    names = [name for name in ablation.variants if name in chosen]
    seeds = sorted({seed for name in names for seed in results.get(name, {})})
    runs = {name: {seed: results.get(name, {}).get(seed) for seed in seeds} for name in names}
    outcomes = {name: _outcomes(runs[name], ablation.metric.name) for name in names}
    found = [(name, result) for name, by_seed in runs.items() for result in by_seed.values() if result]
    codes = codes_by_run(result for _, result in found)
    rows = tuple(_row(ablation, name, outcomes, runs[name], costs.get(name), codes) for name in names)
    return Page(
        ablation=ablation,
        scale=scale,
        rows=rows,
        seeds=tuple(seeds),
        summary=summary([row.verdict for row in rows if row.verdict]),
        rank=_rank(rows),
        not_run=tuple(name for name in ablation.variants if name not in chosen),
        rerun=rerun,
        provenance=provenance(found),
    )


def _row(
    ablation: Ablation,
    name: str,
    outcomes: Mapping[str, tuple[Outcome, ...]],
    results: Mapping[int, Result | None],
    cost: Cost | None,
    codes: Mapping[str, str],
) -> Row:
    variant, own = ablation.variants[name], outcomes[name]
    published = ablation.published_contrast(name)
    other = outcomes[variant.reference]
    contrast, divergence = paired_contrast(_values(own), _values(other)), _divergence(own, other, ablation.metric)
    verdict = judge(contrast, published, variant.expected.direction if variant.expected else None, divergence)
    alone = variant.reference == name
    mean, std = _mean_std(run.value for run in own)
    best_mean, best_std = _mean_std(run.best for run in own)
    train_mean, train_std = _mean_std(run.train for run in own)
    images_per_second, shared = _speed(results)
    return Row(
        variant=name,
        reference=variant.reference,
        published=variant.published,
        published_contrast=published,
        expected=variant.expected,
        note=variant.note,
        outcomes=own,
        mean=mean,
        std=std,
        best_mean=best_mean,
        best_std=best_std,
        train_mean=train_mean,
        train_std=train_std,
        contrast=None if alone else contrast,
        divergence=None if alone else divergence,
        verdict=None if alone else verdict,
        cost=cost or _recorded_cost(results),
        images_per_second=images_per_second,
        shared=shared,
        codes={
            seed: codes[run.id] for seed, run in results.items() if run and run.status == "finished" and run.id in codes
        },
    )


def _outcomes(by_seed: Mapping[int, Result | None], metric: str) -> tuple[Outcome, ...]:
    return tuple(outcome(seed, result, metric) for seed, result in by_seed.items())


def _values(outcomes: Iterable[Outcome]) -> dict[int, float]:
    return {run.seed: run.value for run in outcomes if run.value is not None}


def _divergence(own: Iterable[Outcome], reference: Iterable[Outcome], metric: Metric) -> Divergence | None:
    counts = [Counter(run.status for run in outcomes) for outcomes in (own, reference)]
    if not any(count["diverged"] for count in counts):
        return None
    ended = [(count["diverged"], count["finished"]) for count in counts]
    return Divergence(ended[0], ended[1], metric.better)


def _mean_std(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    present = [value for value in values if value is not None]
    return mean_std(present) if present else (None, None)


def _speed(by_seed: Mapping[int, Result | None]) -> tuple[float | None, bool]:
    """Median training speed (images a second) of the finished runs that had their device alone; whether some had not.

    A speed beside other runs is no measurement, and is not published.
    """
    timings = [run.timing for run in by_seed.values() if run and run.status == "finished" and run.timing]
    alone = [timing.images_per_second for timing in timings if not timing.shared]
    speeds = [speed for speed in alone if math.isfinite(speed)]
    return (median(speeds) if speeds else None), any(timing.shared for timing in timings)


def _recorded_cost(by_seed: Mapping[int, Result | None]) -> Cost | None:
    return next((result.cost for result in by_seed.values() if result and result.cost), None)


def _rank(rows: tuple[Row, ...]) -> Rank | None:
    """Rank agreement over all rows that have a verified published value and a reproduced mean."""
    pairs = [
        (row.published.value, row.mean)
        for row in rows
        if row.published.verified and row.published.value is not None and row.mean is not None
    ]
    published, reproduced = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = kendall(published, reproduced)
    if found is None:
        return None
    return Rank(*found, n=len(pairs), exact=not (has_ties(published) or has_ties(reproduced)))
