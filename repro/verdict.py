"""Published contrast + reproduced contrast -> verdict. A pure rule: no files, no torch, no formatting of tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from repro.stats import MOST_SEEDS, Contrast, seeds_needed

Word = Literal["effect reproduced", "not reproduced", "inconclusive"]
Direction = Literal["lower", "higher"]

NEGLIGIBLE = 1e-9
"""Differences below this are rounding of float64, not effects."""


@dataclass(frozen=True)
class Verdict:
    """What the seeds say about a published effect. `word` is None when nothing was published to compare with."""

    word: Word | None
    reason: str
    seeds_needed: int | None = None
    """For an inconclusive contrast: the seeds that would settle it at the observed effect and spread."""


def judge(contrast: Contrast | None, published: float | None, expected: Direction | None) -> Verdict:
    """Judge the sign of an effect, never its size: an effect is there when its interval excludes 0.

    Args:
        contrast: the reproduced one; None when no seed has finished runs of both rows.
        published: the verified published contrast, variant minus reference; it goes before `expected`.
        expected: the published direction of the metric's value relative to the reference, where no number is.
    """
    sign = _published_sign(published, expected)
    if sign is None:
        return Verdict(None, "no published contrast")
    if sign == 0:
        return Verdict(None, "published no difference")
    if contrast is None:
        return Verdict("inconclusive", "no seed has finished runs of both rows")
    if contrast.low is None or contrast.high is None:
        return Verdict("inconclusive", "one seed has no interval")
    if max(abs(contrast.low), abs(contrast.high)) < NEGLIGIBLE:
        return Verdict("inconclusive", "no effect seen: all seeds give the same values")
    if contrast.low > 0 or contrast.high < 0:
        return _decided(contrast, sign)
    return _open(contrast, sign)


def summary(verdicts: Sequence[Verdict]) -> str:
    """Count the verdicts in one line: `effect reproduced in 2 of 3 contrasts, 1 inconclusive`."""
    words = [verdict.word for verdict in verdicts if verdict.word is not None]
    if not words:
        return "none: no contrast has a published effect to compare with"
    noun = "contrast" if len(words) == 1 else "contrasts"
    parts = [f"effect reproduced in {words.count('effect reproduced')} of {len(words)} {noun}"]
    others: tuple[Word, ...] = ("not reproduced", "inconclusive")
    parts += [f"{words.count(word)} {word}" for word in others if word in words]
    return ", ".join(parts)


def _published_sign(published: float | None, expected: Direction | None) -> int | None:
    if published is not None:
        return 0 if abs(published) < NEGLIGIBLE else int(math.copysign(1, published))
    return {"lower": -1, "higher": 1}[expected] if expected else None


def _decided(contrast: Contrast, sign: int) -> Verdict:
    if contrast.mean * sign > 0:
        return Verdict("effect reproduced", "the interval excludes 0 on the published side")
    return Verdict("not reproduced", "the interval excludes 0 on the side opposite to the published one")


def _open(contrast: Contrast, sign: int) -> Verdict:
    """Word a contrast whose interval contains 0."""
    if abs(contrast.mean) < NEGLIGIBLE or contrast.sd is None:
        return Verdict("inconclusive", "no effect seen: the mean difference is 0")
    needed = seeds_needed(contrast.mean, contrast.sd)
    cost = f"{needed} seeds" if needed else f"more than {MOST_SEEDS:,} seeds"
    if contrast.mean * sign < 0:
        reason = f"no effect seen: the mean has the sign opposite to the published one; {cost} would settle it"
    else:
        reason = f"the interval contains 0; {cost} would settle it"
    return Verdict("inconclusive", reason + " at the observed effect and spread", needed)
