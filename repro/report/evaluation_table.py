"""What an evaluation measured, as a table and as records. Pure; imports no torch.

A published value stands beside the measured one with its protocol; nothing is judged here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from repro.evaluation.records import Comparison, Evaluation, Outcome
from repro.report.format import DASH, mean_and_std, number, sentence
from repro.report.sheet import Sheet
from repro.report.table import METRICS, Footnotes
from repro.stats import mean_std

UNVERIFIED = "(unverified)"
COLUMNS = {
    "top1_error": ("top-1 error %", 2),
    "top5_error": ("top-5 error %", 2),
    "nll": ("NLL (nats)", 4),
    "calibration_error": ("calibration error %", 2),
}
"""Header and decimals of each measure."""

CALIBRATION = (
    "Calibration error: expected, 15 equally wide bins of confidence (Guo et al. 2017). Probabilities are averaged "
    "over views, sizes and the networks of an ensemble."
)
UNTOUCHED = "No run's result is changed by it."


def evaluation_sheet(evaluation: Evaluation) -> Sheet:
    """Lay out a line for each network, mean and standard deviation over seeds, and the ensemble."""
    notes = Footnotes()
    lines = [
        line
        for members in _groups(evaluation.outcomes)
        for line in (*(_line(each, notes) for each in members), *_mean_line(members, notes))
    ]
    lines += [_line(evaluation.ensemble, notes)] if evaluation.ensemble else []
    headers = ("", "weights", *(header for header, _ in COLUMNS.values()), "published", "difference")
    below = (*notes.lines(), *_about(evaluation.outcomes), CALIBRATION)
    return Sheet(headers, tuple(lines), left=2, notes=below)


def _groups(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Part the outcomes into rows of an ablation, which have several seeds, and single ones, in their order."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.row or outcome.name, []).append(outcome)
    return list(groups.values())


def _line(outcome: Outcome, notes: Footnotes) -> tuple[str, ...]:
    numbers = (number(getattr(outcome.measures, name), decimals) for name, (_, decimals) in COLUMNS.items())
    return (outcome.name, outcome.weights, *numbers, *_published(outcome.published, notes))


def _mean_line(members: Sequence[Outcome], notes: Footnotes) -> list[tuple[str, ...]]:
    if len(members) < 2:
        return []
    spread = _spread(members)
    numbers = (mean_and_std(*spread[name], decimals) for name, (_, decimals) in COLUMNS.items())
    name = f"{members[0].row}, mean of {len(members)}"
    return [(name, members[0].weights, *numbers, *_published(_mean_comparisons(members), notes))]


def _spread(members: Sequence[Outcome]) -> dict[str, tuple[float, float | None]]:
    """Mean and standard deviation of each measure."""
    return {name: mean_std([getattr(each.measures, name) for each in members]) for name in COLUMNS}


def _mean_comparisons(members: Sequence[Outcome]) -> tuple[Comparison, ...]:
    """Compare the mean over seeds with each published value."""
    found = []
    for same in zip(*(each.published for each in members), strict=True):
        differences = [each.difference for each in same]
        known = [value for value in differences if value is not None]
        mean = mean_std(known)[0] if len(known) == len(differences) else None
        found.append(Comparison(published=same[0].published, difference=mean))
    return tuple(found)


def _published(comparisons: Sequence[Comparison], notes: Footnotes) -> tuple[str, str]:
    """Write the published values and the differences from them, each value with the footnote of its protocol."""
    if not comparisons:
        return DASH, DASH
    cells = [_value(each) + notes.mark(_source(each)) for each in comparisons]
    differences = [DASH if each.difference is None else number(each.difference, 2, True) for each in comparisons]
    return "; ".join(cells), DASH if set(differences) == {DASH} else "; ".join(differences)


def _value(comparison: Comparison) -> str:
    published = comparison.published
    kind = "" if published.metric == "top1_error" else f" ({METRICS[published.metric].removesuffix(' error')})"
    return f"{round(published.value, 3)}{kind}" + ("" if published.verified else f" {UNVERIFIED}")


def _source(comparison: Comparison) -> str:
    other = "" if comparison.published.comparable else " Not measured as here: no difference is taken."
    return f"{comparison.published.protocol}: {sentence(comparison.published.source)}{other}"


def _about(outcomes: Sequence[Outcome]) -> list[str]:
    """Say what was read and how, once for each set of images, and what is particular to a network."""
    read: dict[str, list[str]] = {}
    for outcome in outcomes:
        read.setdefault(_read(outcome), []).append(outcome.name)
    several = len(read) > 1
    lines = [f"{', '.join(names)}: {text}" if several else text for text, names in read.items()]
    if any(outcome.seed is not None for outcome in outcomes):
        lines[-1] += f" {UNTOUCHED}"
    return [*lines, *dict.fromkeys(f"{outcome.name}: {note}" for outcome in outcomes for note in outcome.notes)]


def _read(outcome: Outcome) -> str:
    images = outcome.images
    texts = [text for text in images.transforms if text]
    made = texts[0] if len(texts) == 1 else "; ".join(f"({count}) {text}" for count, text in enumerate(texts, start=1))
    tail = f", {made}" if made else ""
    return (
        f"Read: the {images.split} split of {images.data}, {outcome.measures.images:,} images, each once, data "
        f"fingerprint {images.fingerprint}{tail}."
    )


def records(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return a flat record for each network and the ensemble, numbers in full; null is what is not known."""
    outcomes = [*evaluation.outcomes, *([evaluation.ensemble] if evaluation.ensemble else [])]
    return [_record(outcome) for outcome in outcomes]


def _record(outcome: Outcome) -> dict[str, Any]:
    first = outcome.published[0] if outcome.published else None
    return {
        "name": outcome.name,
        "row": outcome.row,
        "seed": outcome.seed,
        "weights": outcome.weights,
        **asdict(outcome.measures),
        "data": outcome.images.data,
        "split": outcome.images.split,
        "fingerprint": outcome.images.fingerprint,
        "transforms": "; ".join(outcome.images.transforms),
        "published_metric": first.published.metric if first else None,
        "published": first.published.value if first else None,
        "difference": first.difference if first else None,
        "protocol": first.published.protocol if first else None,
    }


def to_tree(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything as data for JSON: outcomes, mean and standard deviation of rows with seeds, the ensemble."""
    groups = [members for members in _groups(evaluation.outcomes) if len(members) > 1]
    rows = [
        {
            "row": members[0].row,
            "seeds": [each.seed for each in members],
            "mean": {name: mean for name, (mean, _) in _spread(members).items()},
            "sd": {name: sd for name, (_, sd) in _spread(members).items()},
            "published": [each.model_dump(mode="json") for each in _mean_comparisons(members)],
        }
        for members in groups
    ]
    return {**evaluation.model_dump(mode="json"), "rows": rows}
