"""The verdict as a table of cases: published sign against the interval of the reproduced contrast."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.stats import Contrast, paired_contrast
from repro.verdict import Direction, Divergence, Verdict, judge, summary


def contrast(low: float, high: float, n: int = 3, sd: float = 1.0) -> Contrast:
    return Contrast((low + high) / 2, sd, n, low, high)


ONE_SEED = Contrast(-5.0, None, 1, None, None)
BELOW, ABOVE = contrast(-3.3, -1.5), contrast(1.5, 3.3)
AROUND_LOW, AROUND_HIGH = contrast(-3.0, 1.0), contrast(-1.0, 3.0)


@pytest.mark.parametrize(
    ("found", "published", "expected", "word"),
    [
        pytest.param(BELOW, -0.24, None, "effect reproduced", id="published lower, interval below 0"),
        pytest.param(ABOVE, 0.24, None, "effect reproduced", id="published higher, interval above 0"),
        pytest.param(ABOVE, -0.24, None, "not reproduced", id="published lower, interval above 0"),
        pytest.param(BELOW, 0.24, None, "not reproduced", id="published higher, interval below 0"),
        pytest.param(AROUND_LOW, -0.24, None, "inconclusive", id="interval contains 0"),
        pytest.param(AROUND_HIGH, -0.24, None, "inconclusive", id="contains 0, mean on the other side"),
        pytest.param(contrast(-2.0, 0.0), -0.24, None, "inconclusive", id="interval touches 0"),
        pytest.param(ONE_SEED, -0.24, None, "inconclusive", id="one seed"),
        pytest.param(None, -0.24, None, "inconclusive", id="no pair of runs"),
        pytest.param(contrast(0, 0, sd=0.0), -0.24, None, "inconclusive", id="all differences are 0"),
        pytest.param(contrast(-1e-13, -1e-14), -0.24, None, "inconclusive", id="rounding is no effect"),
        pytest.param(contrast(-2, -2, sd=0.0), -0.24, None, "effect reproduced", id="no spread, but an effect"),
        pytest.param(BELOW, None, "lower", "effect reproduced", id="direction lower"),
        pytest.param(BELOW, None, "higher", "not reproduced", id="direction higher"),
        pytest.param(AROUND_LOW, None, "lower", "inconclusive", id="direction, contains 0"),
        pytest.param(BELOW, 0.24, "lower", "not reproduced", id="number goes before direction"),
        pytest.param(BELOW, None, None, None, id="nothing published"),
        pytest.param(None, None, None, None, id="nothing at all"),
        pytest.param(ONE_SEED, None, None, None, id="nothing published, one seed"),
        pytest.param(BELOW, 0.0, None, None, id="published no difference"),
        pytest.param(BELOW, 8.1 - 8.1 + 1e-15, "lower", None, id="published no difference but for rounding"),
    ],
)
def test_word(found: Contrast | None, published: float | None, expected: Direction | None, word: str | None) -> None:
    assert judge(found, published, expected).word == word


@pytest.mark.parametrize(
    ("found", "published", "reason", "needed"),
    [
        pytest.param(BELOW, None, "no published contrast", None, id="nothing published"),
        pytest.param(BELOW, 0.0, "published no difference", None, id="published no difference"),
        pytest.param(ONE_SEED, -1.0, "one seed has no interval", None, id="one seed"),
        pytest.param(None, -1.0, "no seed has finished runs of both rows", None, id="no pair"),
        pytest.param(AROUND_LOW, -1.0, "interval contains 0; 7 seeds would settle it", 7, id="right side"),
        pytest.param(AROUND_HIGH, -1.0, "no effect seen: the mean has the sign opposite", 7, id="other side"),
        pytest.param(contrast(-1, 1), -1.0, "no effect seen: the mean difference is 0", None, id="mean 0"),
        pytest.param(contrast(0, 0, sd=0.0), -1.0, "all seeds give the same values", None, id="no difference"),
        pytest.param(contrast(-1, 0.99), -1.0, "more than 1,000 seeds", None, id="hopeless"),
        pytest.param(BELOW, -1.0, "excludes 0 on the published side", None, id="reproduced"),
        pytest.param(BELOW, 1.0, "on the side opposite to the published one", None, id="not reproduced"),
    ],
)
def test_reason_and_seeds(found: Contrast | None, published: float | None, reason: str, needed: int | None) -> None:
    verdict = judge(found, published, None)
    assert reason in verdict.reason
    assert verdict.seeds_needed == needed


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=2, max_size=9), st.sampled_from([-1, 1]))
def test_both_rows_swapped_with_the_publication_is_the_same_verdict(pairs: list[tuple[int, int]], sign: int) -> None:
    variant, reference = ({seed: pair[side] / 10 for seed, pair in enumerate(pairs)} for side in (0, 1))
    there = judge(paired_contrast(variant, reference), sign, None)
    back = judge(paired_contrast(reference, variant), -sign, None)
    assert there == back
    assert judge(paired_contrast(variant, reference), 100 * sign, None) == there, "the published size decides nothing"


def lost(variant: int, reference: int, of: int = 5, better: Direction = "lower") -> Divergence:
    return Divergence((variant, of - variant), (reference, of - reference), better)


@pytest.mark.parametrize(
    ("found", "published", "diverged", "word", "reason"),
    [
        pytest.param(None, 1.0, lost(5, 0), "effect reproduced", "on the published side", id="all, published worse"),
        pytest.param(None, -1.0, lost(5, 0), "not reproduced", "opposite", id="all, published better"),
        pytest.param(None, -1.0, lost(0, 5), "effect reproduced", "0 of 5 seeds diverged, 5 of 5", id="the reference"),
        pytest.param(None, -1.0, lost(5, 0, better="higher"), "effect reproduced", "published side", id="an accuracy"),
        pytest.param(None, 1.0, lost(5, 5), "inconclusive", "no seed has finished", id="both rows"),
        pytest.param(None, 1.0, lost(3, 0, of=3), "inconclusive", "4 seeds would settle it", id="three seeds"),
        pytest.param(ONE_SEED, 1.0, lost(4, 0), "effect reproduced", "p = 0.048", id="four of five"),
        pytest.param(AROUND_LOW, 1.0, lost(1, 0), "inconclusive", "1 of 5 seeds diverged", id="one, interval open"),
        pytest.param(ABOVE, 1.0, lost(1, 0), "effect reproduced", "the interval excludes 0", id="both say worse"),
        pytest.param(BELOW, -1.0, lost(1, 0), "inconclusive", "favours the row that lost more", id="survivors better"),
        pytest.param(BELOW, 1.0, lost(1, 0), "inconclusive", "favours the row that lost more", id="survivors opposite"),
        pytest.param(BELOW, -1.0, lost(1, 1), "effect reproduced", "the interval", id="equally many say nothing"),
        pytest.param(None, None, lost(5, 0), None, "no published contrast", id="nothing published"),
    ],
)
def test_divergence(
    found: Contrast | None, published: float | None, diverged: Divergence, word: str | None, reason: str
) -> None:
    verdict = judge(found, published, None, diverged)
    assert verdict.word == word
    assert reason in verdict.reason


@given(st.integers(0, 5), st.integers(0, 5), st.sampled_from([-1.0, 1.0]), st.sampled_from([BELOW, ABOVE, None]))
def test_divergence_is_symmetric(one: int, other: int, sign: float, found: Contrast | None) -> None:
    there = judge(found, sign, None, lost(one, other))
    turned = {id(BELOW): ABOVE, id(ABOVE): BELOW}.get(id(found))
    back = judge(turned, -sign, None, lost(other, one))
    assert (there.word, there.seeds_needed) == (back.word, back.seeds_needed)


YES, NO, OPEN, NONE = (
    Verdict("effect reproduced", ""),
    Verdict("not reproduced", ""),
    Verdict("inconclusive", "", 9),
    Verdict(None, ""),
)


@pytest.mark.parametrize(
    ("verdicts", "line"),
    [
        pytest.param([YES, OPEN, YES], "effect reproduced in 2 of 3 contrasts, 1 inconclusive", id="design"),
        pytest.param([YES], "effect reproduced in 1 of 1 contrast", id="one"),
        pytest.param(
            [NO, OPEN, OPEN], "effect reproduced in 0 of 3 contrasts, 1 not reproduced, 2 inconclusive", id="no"
        ),
        pytest.param([YES, NONE], "effect reproduced in 1 of 1 contrast", id="those without a word do not count"),
        pytest.param([NONE], "none: no contrast has a published effect to compare with", id="nothing published"),
        pytest.param([], "none: no contrast has a published effect to compare with", id="no rows"),
    ],
)
def test_summary(verdicts: list[Verdict], line: str) -> None:
    assert summary(verdicts) == line
