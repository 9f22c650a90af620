"""Published contrast + reproduced contrast -> verdict. A pure rule: no files, no torch, no formatting of tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from repro.stats import CONFIDENCE, MOST_SEEDS, Contrast, fisher, seeds_needed, seeds_needed_for_rates

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


@dataclass(frozen=True)
class Divergence:
    """Diverged and finished runs of a variant and of its reference; a diverged run is worse than any value."""

    variant: tuple[int, int]
    reference: tuple[int, int]
    better: Direction
    """The direction of the metric's improvement."""

    @property
    def sign(self) -> int:
        """Sign of the contrast to which the divergences point; 0 where both rows lost the same share of their runs."""
        (lost, kept), (other_lost, other_kept) = self.variant, self.reference
        more = lost * (other_lost + other_kept) - other_lost * (lost + kept)
        return ((more > 0) - (more < 0)) * (1 if self.better == "lower" else -1)

    @property
    def p(self) -> float:
        """Two-sided p of Fisher's exact test of equal shares."""
        return fisher(self.variant, self.reference)

    def __str__(self) -> str:
        """Write `5 of 5 seeds diverged, 0 of 5 of the reference`."""
        (lost, kept), (other_lost, other_kept) = self.variant, self.reference
        return f"{lost} of {lost + kept} seeds diverged, {other_lost} of {other_lost + other_kept} of the reference"


def judge(
    contrast: Contrast | None, published: float | None, expected: Direction | None, diverged: Divergence | None = None
) -> Verdict:
    """Judge the sign of an effect, never its size: an effect is there when its interval excludes 0.

    A diverged run has no value and so no place in the interval. Where divergences point the other way, the interval of
    the runs that are left decides nothing; where it leaves the sign open, Fisher's exact test of the shares of diverged
    runs may decide.

    Args:
        contrast: the reproduced one; None when no seed has finished runs of both rows.
        published: the verified published contrast, variant minus reference; it goes before `expected`.
        expected: the published direction of the metric's value relative to the reference, where no number is.
        diverged: how many runs of both rows diverged; None when none did.
    """
    sign = _published_sign(published, expected)
    if sign is None:
        return Verdict(None, "no published contrast")
    if sign == 0:
        return Verdict(None, "published no difference")
    side = _side(contrast)
    if diverged and side * diverged.sign < 0:
        return Verdict("inconclusive", f"the interval favours the row that lost more of its runs: {diverged}")
    if side:
        return _decided(side == sign, "the interval excludes 0")
    if diverged and diverged.sign:
        return _by_divergence(diverged, sign)
    return _open(contrast, sign, diverged)


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


def _side(contrast: Contrast | None) -> int:
    """Sign of a contrast whose interval excludes 0; else 0."""
    if contrast is None or contrast.low is None or contrast.high is None:
        return 0
    if max(abs(contrast.low), abs(contrast.high)) < NEGLIGIBLE:
        return 0
    return (contrast.low > 0) - (contrast.high < 0)


def _decided(reproduced: bool, evidence: str) -> Verdict:
    if reproduced:
        return Verdict("effect reproduced", f"{evidence} on the published side")
    return Verdict("not reproduced", f"{evidence} on the side opposite to the published one")


def _by_divergence(diverged: Divergence, sign: int) -> Verdict:
    """Word a contrast whose rows lost different shares of their runs, and whose interval decides nothing."""
    level = 1 - CONFIDENCE
    p = diverged.p
    if p < level:
        return _decided(diverged.sign == sign, f"{diverged}: Fisher's exact test (p = {p:.2g}) finds an effect")
    needed = seeds_needed_for_rates(diverged.variant, diverged.reference, level)
    cost = f"{needed} seeds" if needed else f"more than {MOST_SEEDS:,} seeds"
    reason = f"{diverged} (Fisher's exact p = {p:.2g}); {cost} would settle it at the observed shares"
    return Verdict("inconclusive", reason, needed)


def _open(contrast: Contrast | None, sign: int, diverged: Divergence | None) -> Verdict:
    """Word a contrast whose interval does not exclude 0."""
    if contrast is None:
        lost = f": {diverged}" if diverged else ""
        return Verdict("inconclusive", f"no seed has finished runs of both rows{lost}")
    if contrast.low is None or contrast.high is None:
        return Verdict("inconclusive", "one seed has no interval")
    if max(abs(contrast.low), abs(contrast.high)) < NEGLIGIBLE:
        return Verdict("inconclusive", "no effect seen: all seeds give the same values")
    if abs(contrast.mean) < NEGLIGIBLE or contrast.sd is None:
        return Verdict("inconclusive", "no effect seen: the mean difference is 0")
    needed = seeds_needed(contrast.mean, contrast.sd)
    cost = f"{needed} seeds" if needed else f"more than {MOST_SEEDS:,} seeds"
    if contrast.mean * sign < 0:
        reason = f"no effect seen: the mean has the sign opposite to the published one; {cost} would settle it"
    else:
        reason = f"the interval contains 0; {cost} would settle it"
    return Verdict("inconclusive", reason + " at the observed effect and spread", needed)
