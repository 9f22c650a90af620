"""Statistics over seeds: mean and spread, paired contrasts with t intervals, seeds still needed, rank agreement.

Pure functions of numbers. Knows nothing of runs, files or torch; scipy is imported when a quantile is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev

CONFIDENCE = 0.95
MOST_SEEDS = 1000
FEWEST_PAIRS = 3


@dataclass(frozen=True)
class Contrast:
    """Mean of the per-seed differences, variant minus reference, and its t interval; same unit as the metric."""

    mean: float
    sd: float | None
    """Sample standard deviation of the differences; None for one seed."""
    n: int
    low: float | None
    high: float | None


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation (n - 1); the latter is None for one value.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("the mean of no values is not defined; expected at least one")
    return fmean(values), stdev(values) if len(values) > 1 else None


def paired_contrast(
    variant: Mapping[int, float], reference: Mapping[int, float], confidence: float = CONFIDENCE
) -> Contrast | None:
    """Compare two sets of runs seed by seed (Student's paired t interval); None when they share no seed.

    Args:
        variant: the metric by seed.
        reference: the metric by seed of what it is compared with.
        confidence: coverage of the two-sided interval.
    """
    differences = [variant[seed] - reference[seed] for seed in sorted(variant.keys() & reference.keys())]
    if not differences:
        return None
    mean, sd = mean_std(differences)
    if sd is None:
        return Contrast(mean, None, 1, None, None)
    half = float(_half_widths(confidence, len(differences))[-1]) * sd
    return Contrast(mean, sd, len(differences), mean - half, mean + half)


def seeds_needed(mean: float, sd: float, confidence: float = CONFIDENCE) -> int | None:
    """Return the fewest seeds whose interval would exclude 0 if mean and spread stayed as observed.

    A guide and no promise: with that many seeds a true effect of this size is resolved about every second time.
    None when the mean is 0, or when more than `MOST_SEEDS` would be needed.
    """
    if mean == 0:
        return None
    widths = _half_widths(confidence, MOST_SEEDS)
    return next((n for n, width in enumerate(widths, start=2) if width * sd < abs(mean)), None)


def kendall(published: Sequence[float], reproduced: Sequence[float]) -> tuple[float, float] | None:
    """Return Kendall's tau-b of two rankings and its two-sided p (Kendall 1938).

    p is exact without ties and a normal approximation with them (see `has_ties`). None with fewer than three pairs,
    or when all values of one side are equal, which is no ranking.
    """
    if len(published) != len(reproduced):
        raise ValueError(f"{len(published)} published and {len(reproduced)} reproduced values; expected pairs")
    if len(published) < FEWEST_PAIRS or min(len(set(published)), len(set(reproduced))) < 2:
        return None
    from scipy.stats import kendalltau

    method = "asymptotic" if has_ties(published) or has_ties(reproduced) else "exact"
    found = kendalltau(published, reproduced, method=method)
    return float(found.statistic), float(found.pvalue)


def fisher(variant: tuple[int, int], reference: tuple[int, int]) -> float:
    """Return the two-sided p of Fisher's exact test (1922) for two rows of (diverged, finished) runs."""
    from scipy.stats import fisher_exact

    return float(fisher_exact([variant, reference]).pvalue)


def seeds_needed_for_rates(variant: tuple[int, int], reference: tuple[int, int], level: float) -> int | None:
    """Return the fewest seeds at which Fisher's test would reach `level` if the shares of diverged runs stayed.

    None when they are equal, or when more than `MOST_SEEDS` would be needed.
    """
    shares = [diverged / (diverged + finished) for diverged, finished in (variant, reference)]
    if shares[0] == shares[1]:
        return None
    for seeds in range(2, MOST_SEEDS + 1):
        lost = [round(share * seeds) for share in shares]
        if fisher((lost[0], seeds - lost[0]), (lost[1], seeds - lost[1])) < level:
            return seeds
    return None


def has_ties(values: Sequence[float]) -> bool:
    """Return True when two values are equal, so that no exact p of a rank correlation is known."""
    return len(set(values)) < len(values)


@lru_cache(maxsize=32)
def _half_widths(confidence: float, largest: int) -> tuple[float, ...]:
    """Half-width of the t interval of a mean over its standard deviation, for n = 2 … `largest`; falls with n."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, expected between 0 and 1, for example 0.95")
    from scipy.special import stdtrit

    tail = (1 + confidence) / 2
    return tuple(float(stdtrit(n - 1, tail)) / math.sqrt(n) for n in range(2, largest + 1))
