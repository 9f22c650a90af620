"""Statistics over seeds: against tables computed by hand, against scipy, and against what must always hold."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from repro.stats import (
    Contrast,
    fisher,
    has_ties,
    kendall,
    mean_std,
    paired_contrast,
    seeds_needed,
    seeds_needed_for_rates,
)

ERRORS = st.integers(0, 10_000).map(lambda hundredths: hundredths / 100)
PAIRS = st.dictionaries(st.integers(0, 30), st.tuples(ERRORS, ERRORS), min_size=2, max_size=12)


def _split(pairs: dict[int, tuple[float, float]]) -> tuple[dict[int, float], dict[int, float]]:
    return {seed: pair[0] for seed, pair in pairs.items()}, {seed: pair[1] for seed, pair in pairs.items()}


def _contrast(variant: dict[int, float], reference: dict[int, float], confidence: float = 0.95) -> Contrast:
    found = paired_contrast(variant, reference, confidence)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        pytest.param([5.0], 5.0, None, id="one value has no spread"),
        pytest.param([4.0, 6.0], 5.0, math.sqrt(2), id="two values"),
        pytest.param([2, 4, 4, 4, 5, 5, 7, 9], 5.0, math.sqrt(32 / 7), id="n - 1 in the denominator"),
        pytest.param([3.3, 3.3, 3.3], 3.3, 0.0, id="no spread"),
    ],
)
def test_mean_std(values: list[float], mean: float, std: float | None) -> None:
    assert mean_std(values) == (pytest.approx(mean), std if std is None else pytest.approx(std))


def test_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="mean of no values"):
        mean_std([])


@pytest.mark.parametrize(
    ("variant", "reference", "expected"),
    [
        # differences 1, 2, 3: mean 2, sd 1, t(0.975, 2) = 4.30265, half = 4.30265 / sqrt(3) = 2.48414
        pytest.param({0: 2, 1: 4, 2: 6}, {0: 1, 1: 2, 2: 3}, Contrast(2, 1, 3, -0.48414, 4.48414), id="three seeds"),
        # differences -1, -2: mean -1.5, sd 0.70711, t(0.975, 1) = 12.7062, half = 12.7062 / 2
        pytest.param({0: 4, 1: 3}, {0: 5, 1: 5}, Contrast(-1.5, 0.70711, 2, -7.85310, 4.85310), id="two seeds"),
        pytest.param({0: 4, 1: 3}, {0: 5, 1: 4}, Contrast(-1, 0, 2, -1, -1), id="no spread"),
        pytest.param({0: 4, 7: 3}, {0: 5, 8: 4}, Contrast(-1, None, 1, None, None), id="one common seed"),
        pytest.param({1: 4}, {0: 5}, None, id="no common seed"),
        pytest.param({}, {0: 5}, None, id="no run"),
    ],
)
def test_paired_contrast(variant: dict[int, float], reference: dict[int, float], expected: Contrast | None) -> None:
    found = paired_contrast(variant, reference)
    if expected is None or found is None:
        assert found is expected
        return
    for name in ("mean", "sd", "n", "low", "high"):
        wanted = getattr(expected, name)
        assert getattr(found, name) == (None if wanted is None else pytest.approx(wanted, abs=1e-5)), name


@given(PAIRS, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_interval_agrees_with_scipy(pairs: dict[int, tuple[float, float]], confidence: float) -> None:
    variant, reference = _split(pairs)
    if len({round(a - b, 6) for a, b in pairs.values()}) == 1:
        return  # scipy's interval of equal differences is not defined
    interval = scipy_stats.ttest_rel(list(variant.values()), list(reference.values())).confidence_interval(confidence)
    found = _contrast(variant, reference, confidence)
    assert (found.low, found.high) == (pytest.approx(interval.low, abs=1e-6), pytest.approx(interval.high, abs=1e-6))


@given(PAIRS, ERRORS)
def test_shift_of_both_changes_nothing(pairs: dict[int, tuple[float, float]], shift: float) -> None:
    variant, reference = _split(pairs)
    moved = _contrast({k: v + shift for k, v in variant.items()}, {k: v + shift for k, v in reference.items()})
    assert moved.mean == pytest.approx(_contrast(variant, reference).mean, abs=1e-9)
    assert moved.sd == pytest.approx(_contrast(variant, reference).sd, abs=1e-9)


@given(PAIRS)
def test_swapping_negates(pairs: dict[int, tuple[float, float]]) -> None:
    variant, reference = _split(pairs)
    there, back = _contrast(variant, reference), _contrast(reference, variant)
    assert there.low is not None
    assert there.high is not None
    assert (back.mean, back.low, back.high) == (-there.mean, -there.high, -there.low)


@given(PAIRS)
def test_interval_contains_mean_and_grows_with_confidence(pairs: dict[int, tuple[float, float]]) -> None:
    variant, reference = _split(pairs)
    narrow, wide = _contrast(variant, reference, 0.8), _contrast(variant, reference, 0.99)
    bounds = [wide.low, narrow.low, narrow.mean, narrow.high, wide.high]
    assert bounds == sorted(bound for bound in bounds if bound is not None)


@given(PAIRS, ERRORS)
def test_seeds_of_one_side_only_change_nothing(pairs: dict[int, tuple[float, float]], extra: float) -> None:
    variant, reference = _split(pairs)
    assert _contrast({**variant, 99: extra}, {**reference, 98: extra}) == _contrast(variant, reference)


@pytest.mark.parametrize(
    ("mean", "sd", "needed"),
    [
        # half-width / sd: n = 2: 8.98464, 3: 2.48414, 4: 1.59122, 5: 1.24166, 6: 1.04943, 7: 0.92484
        pytest.param(1.0, 1.0, 7, id="effect of one sd"),
        pytest.param(-1.0, 1.0, 7, id="sign does not matter"),
        pytest.param(1.25, 1.0, 5, id="just above the width of five"),
        pytest.param(1.24, 1.0, 6, id="just below the width of five"),
        pytest.param(9.0, 1.0, 2, id="large effect"),
        pytest.param(0.1, 0.0, 2, id="no spread: an interval needs two"),
        pytest.param(0.0, 1.0, None, id="no effect"),
        pytest.param(0.0, 0.0, None, id="no effect, no spread"),
        pytest.param(0.01, 1.0, None, id="more than a thousand"),
    ],
)
def test_seeds_needed(mean: float, sd: float, needed: int | None) -> None:
    assert seeds_needed(mean, sd) == needed


@settings(max_examples=50)
@given(st.floats(0.05, 10), st.floats(0.01, 10))
def test_seeds_needed_is_the_smallest(mean: float, sd: float) -> None:
    def half(n: int) -> float:
        return float(scipy_stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)

    needed = seeds_needed(mean, sd)
    if needed is None:
        assert half(1000) >= mean
        return
    assert half(needed) < mean
    assert needed == 2 or half(needed - 1) >= mean


@given(st.floats(0.1, 10), st.floats(0.01, 10), st.floats(1, 3))
def test_seeds_needed_is_monotone(mean: float, sd: float, factor: float) -> None:
    def needed(effect: float, spread: float) -> float:
        return seeds_needed(effect, spread) or math.inf

    assert needed(mean * factor, sd) <= needed(mean, sd) <= needed(mean, sd * factor)


@pytest.mark.parametrize(
    ("published", "reproduced", "expected"),
    [
        # exact two-sided p of n distinct pairs in full agreement: 2 / n!
        pytest.param([1, 2, 3, 4], [10, 20, 30, 40], (1, 2 / 24), id="same order"),
        pytest.param([1, 2, 3, 4], [4, 3, 2, 1], (-1, 2 / 24), id="reversed"),
        pytest.param([1, 2, 3, 4], [2, 1, 3, 4], (4 / 6, 2 * 4 / 24), id="one swap"),
        pytest.param([1, 2, 3], [2, 1, 3], (1 / 3, 1.0), id="three pairs"),
        pytest.param([1, 2], [1, 2], None, id="two pairs are no ranking"),
        pytest.param([], [], None, id="nothing"),
        pytest.param([5, 5, 5], [1, 2, 3], None, id="all published values equal"),
    ],
)
def test_kendall(published: list[float], reproduced: list[float], expected: tuple[float, float] | None) -> None:
    assert kendall(published, reproduced) == (None if expected is None else pytest.approx(expected))


def test_kendall_with_ties_is_tau_b() -> None:
    found = kendall([1, 1, 2, 3], [1, 2, 3, 4])
    assert has_ties([1, 1, 2, 3])
    assert found is not None
    assert found[0] == pytest.approx(5 / math.sqrt(5 * 6))  # 5 concordant pairs, 1 tied in the first


def test_kendall_needs_pairs() -> None:
    with pytest.raises(ValueError, match="3 published and 2 reproduced"):
        kendall([1, 2, 3], [1, 2])


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=4, max_size=8, unique_by=(
    lambda pair: pair[0], lambda pair: pair[1]
)))  # fmt: skip
def test_kendall_ranks_only(pairs: list[tuple[int, int]]) -> None:
    published, reproduced = [a for a, _ in pairs], [b for _, b in pairs]
    found = kendall(published, reproduced)
    assert found is not None
    assert kendall([2.5 * a + 1 for a in published], [b**3 for b in reproduced]) == found
    assert kendall(published, [-b for b in reproduced]) == (pytest.approx(-found[0]), pytest.approx(found[1]))


@pytest.mark.parametrize(
    ("variant", "reference", "p"),
    [
        # all of n against none of n: 2 / binomial(2 n, n)
        pytest.param((3, 0), (0, 3), 2 / 20, id="three of three"),
        pytest.param((5, 0), (0, 5), 2 / 252, id="five of five"),
        pytest.param((4, 1), (0, 5), 2 * 5 / 210, id="four of five"),
        pytest.param((2, 3), (2, 3), 1.0, id="equal"),
        pytest.param((0, 0), (3, 0), 1.0, id="no run"),
    ],
)
def test_fisher(variant: tuple[int, int], reference: tuple[int, int], p: float) -> None:
    assert fisher(variant, reference) == pytest.approx(p)
    assert fisher(reference, variant) == pytest.approx(p)


@pytest.mark.parametrize(
    ("variant", "reference", "needed"),
    [
        pytest.param((3, 0), (0, 3), 4, id="all against none"),
        pytest.param((0, 2), (2, 0), 4, id="none against all"),
        pytest.param((1, 1), (0, 3), 10, id="half against none"),
        pytest.param((2, 2), (3, 3), None, id="equal shares"),
    ],
)
def test_seeds_needed_for_shares(variant: tuple[int, int], reference: tuple[int, int], needed: int | None) -> None:
    assert seeds_needed_for_rates(variant, reference, 0.05) == needed


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_fraction(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        paired_contrast({0: 1, 1: 2}, {0: 1, 1: 1}, confidence)
