"""Equal cost: the width per group that keeps a network's cost while its number of groups changes.

Two solvers: the closed form of one block, and for a whole network a search over whole widths by their real prices.
Knows the residual family only: no other one has groups as an axis. Imports torch only where a price is not cached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import gcd, lcm, sqrt
from typing import Literal

from repro.cost.count import own_price
from repro.errors import InputError
from repro.models.config import Family
from repro.models.residual_config import ResidualConfig
from repro.results import Cost

Quantity = Literal["macs", "params"]

TOLERANCE = 0.05
"""Largest relative difference that still counts as equal cost; `equal_cost` in the shipped tables."""

BEYOND = 10.0
"""A block this many times as dear as the reference's is a mistake, not a coarse granularity."""

_KERNEL = 9  # 3 x 3


@dataclass(frozen=True)
class EqualCost:
    """One number of groups and the width per group, in the first stage, that keeps the reference's cost.

    `exact` solves one block's equation, `block` is the whole number nearest to it in the block's cost, and `width` the
    one whose network costs nearest to the reference; `macs` and `params` are relative differences from the reference.
    """

    groups: int
    exact: float
    block: int
    width: int
    cost: Cost
    macs: float
    params: float

    @property
    def name(self) -> str:
        """Name it as Xie et al. (arXiv:1611.05431, Table 3) do: `32x4d`."""
        return named(self.groups, self.width)


def equal_cost_widths(
    config: Family, groups: Sequence[int], of: Quantity = "macs", size: int | None = None
) -> tuple[EqualCost, ...]:
    """Return, for each number of groups, the width per group at which the network costs what `config` costs.

    Args:
        config: the reference, at its own groups and widths.
        groups: numbers of groups, each from 1 on and named once.
        of: what is kept, multiply-accumulates or parameters.
        size: height and width of the input in pixels; the native ones by default.

    Raises InputError for a network without groups to change, and for a list of groups that is none.
    """
    reference = checked(config)
    _check_groups(reference, groups)
    total = own_price(reference, size)
    return tuple(_solved(reference, count, total, of, size) for count in groups)


def spread(rows: Sequence[EqualCost], of: Quantity) -> float:
    """Return the largest minus the smallest cost of the rows, as a part of the reference's cost."""
    differences = [getattr(row, of) for row in rows]
    return float(max(differences) - min(differences))


def exact_width(config: ResidualConfig, groups: int) -> float:
    """Solve one block's equation for the width per group c in the first stage, a real number.

    A block of E input and output channels, with m grouped 3x3 convolutions between two of 1x1, has 2 E G c weights in
    the latter and 9 m G c^2 in the former, and as many MACs per pixel. It keeps the cost of the reference block, of
    inner width W in G0 groups, where

        9 m G c^2 + 2 E G c = K,  K = 2 E W + 9 m W^2 / G0,  so  c = (sqrt(E^2 + 9 m K / G) - E) / (9 m).

    With E = 4C, W = C, m = 1 and G0 = 1 that is 9 G c^2 + 8 G C c - 17 C^2 = 0, the constraint of Xie et al. (CVPR
    2017, arXiv:1611.05431, §5.1). All other stages multiply E, W and c by the same factor.
    """
    outputs, kernels = config.out_width(0), _KERNEL * config.middle
    return (sqrt(outputs**2 + kernels * _reference_block(config) / groups) - outputs) / kernels


def block_cost(config: ResidualConfig, groups: int, width: float) -> float:
    """Count the weights of the convolutions in one block of the first stage, equally its MACs per pixel."""
    return 2 * config.out_width(0) * groups * width + _KERNEL * config.middle * groups * width**2


def width_step(config: ResidualConfig) -> int:
    """Return the number of which a width per group must be a multiple to be a whole number in every stage."""
    first = config.widths[0]
    return lcm(*(first // gcd(first, width) for width in config.widths))


def named(groups: int, width: int) -> str:
    """Name groups and width per group as Xie et al. do: `32x4d`."""
    return f"{groups}x{width}d"


def own_width(config: ResidualConfig) -> tuple[int, int]:
    """Return the network's own groups and width per group, in the first stage."""
    groups = config.groups_of(0)
    return groups, config.inner_width(0) // groups


def with_groups(config: ResidualConfig, groups: int, width: int) -> ResidualConfig:
    """Return the network with other groups and width per group; both must fit, as a multiple of `width_step` does."""
    return config.model_copy(update={"groups": groups, "width_per_group": width})


def checked(config: Family) -> ResidualConfig:
    """Return the network if its groups can change. Raises InputError where they cannot, and says why."""
    if not isinstance(config, ResidualConfig):
        raise InputError(
            f"budget: {config.name} is of the family {config.family!r}, which has no groups to change; expected a "
            "residual network of bottleneck blocks, for example resnet50"
        )
    if config.block != "bottleneck":
        raise InputError(
            f"budget: {config.name} has block={config.block}, and a block of fewer than three layers has no grouped "
            "form (Xie et al. 2017, §3.3); expected block=bottleneck"
        )
    if config.group_width is not None:
        raise InputError(
            f"budget: {config.name} has group_width={config.group_width}, from which its groups follow; set "
            "group_width=null to change them"
        )
    return config


def _check_groups(config: ResidualConfig, groups: Sequence[int]) -> None:
    if not groups:
        raise InputError("budget: groups is empty; expected whole numbers, for example groups=[1,2,4,8,16,32]")
    for count in groups:
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InputError(f"budget: groups has {count!r}; expected whole numbers from 1 on")
    twice = next((count for count in groups if list(groups).count(count) > 1), None)
    if twice is not None:
        raise InputError(f"budget: groups names {twice} twice")
    step, reference = width_step(config), _reference_block(config)
    for count in groups:
        times = block_cost(config, count, step) / reference
        if times > BEYOND:
            raise InputError(
                f"budget: groups has {count}; even {named(count, step)}, the narrowest, has blocks of {times:,.0f} "
                f"times the cost of {config.name}'s"
            )


def _reference_block(config: ResidualConfig) -> float:
    return block_cost(config, *own_width(config))


def _solved(config: ResidualConfig, groups: int, total: Cost, of: Quantity, size: int | None) -> EqualCost:
    @cache
    def price(width: int) -> Cost:
        return own_price(with_groups(config, groups, width), size)

    step, exact = width_step(config), exact_width(config, groups)
    block = _nearest(lambda width: block_cost(config, groups, width), _reference_block(config), exact, step)
    width = _nearest(lambda width: getattr(price(width), of), getattr(total, of), block, step)
    found = price(width)
    return EqualCost(groups, exact, block, width, found, found.macs / total.macs - 1, found.params / total.params - 1)


def _nearest(cost: Callable[[int], float], target: float, start: float, step: int) -> int:
    """Return the multiple of `step`, at least `step`, whose cost is nearest to `target`; the narrower of two.

    `cost` must increase. It is asked little where `start` is near: the interval doubles away from it, then halves.
    """
    low = high = max(1, round(start / step))
    reach = 1
    while low > 1 and cost(low * step) > target:
        low, high, reach = max(1, low - reach), low, 2 * reach
    while cost(high * step) < target:
        low, high, reach = high, high + reach, 2 * reach
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle * step) <= target else (low, middle)
    return min((low * step, high * step), key=lambda width: (abs(cost(width) - target), width))
