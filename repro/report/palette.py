"""Colours and line styles of variants: safe for colour-blind readers, the same in both panels of a figure. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F6A93")
"""Okabe and Ito (2008) without black and yellow, and a grey violet as the seventh."""
REFERENCE = "#333333"
DASHES: tuple[str, ...] = ("-", "--", "-.", ":")
REFERENCE_DASHES: tuple[str, ...] = ("--", ":", "-.")
MOST_SHADES = 4


@dataclass(frozen=True)
class Style:
    """Colour (`#rrggbb`) and line style (matplotlib's) of one variant."""

    color: str
    dash: str


def styles(pairs: Sequence[tuple[str, str]]) -> dict[str, Style]:
    """Give every variant a style of its own.

    Args:
        pairs: (variant, its reference) in table order. With several references each group has a hue and its members
            are shades of it; with one reference, or groups too large for shades, each variant has a hue.
    """
    groups: dict[str, list[str]] = {}
    for variant, reference in pairs:
        groups.setdefault(reference, []).append(variant)
    largest = max((len(members) for members in groups.values()), default=0)
    if 1 < len(groups) <= len(HUES) and largest <= MOST_SHADES:
        return _shaded(groups)
    return _hued(pairs)


def _shaded(groups: dict[str, list[str]]) -> dict[str, Style]:
    found = {}
    for hue, (reference, members) in zip(HUES, groups.items(), strict=False):
        members = sorted(members, key=lambda name: name != reference)  # the reference is the darkest
        for index, name in enumerate(members):
            amount = -0.45 + 0.8 * index / max(1, len(members) - 1) if len(members) > 1 else 0.0
            found[name] = Style(_mixed(hue, amount), "--" if name == reference else "-")
    return found


def _hued(pairs: Sequence[tuple[str, str]]) -> dict[str, Style]:
    found, used, references = {}, 0, 0
    for variant, reference in pairs:
        if variant == reference:
            found[variant] = Style(REFERENCE, REFERENCE_DASHES[references % len(REFERENCE_DASHES)])
            references += 1
            continue
        found[variant] = Style(HUES[used % len(HUES)], DASHES[used // len(HUES) % len(DASHES)])
        used += 1
    return found


def _mixed(hue: str, amount: float) -> str:
    """Mix with black (amount -1 … 0) or white (0 … 1)."""
    target = 255 if amount > 0 else 0
    channels = (int(hue[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(value + (target - value) * abs(amount)):02x}" for value in channels)
