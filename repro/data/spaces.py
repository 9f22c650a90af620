"""Which image operation each training image gets, and how strongly: policies and colour jitter, drawn on the CPU.

What is drawn is a function of (seed, epoch, position): `operations` int64 `(N, L)` are numbers of `OPERATIONS`, L one
after the other for each of N positions, and `amounts` float32 `(N, L)` are their amounts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from repro.data.config import PolicyConfig
from repro.data.order import cpu_generator
from repro.data.resident.operations import NUMBERS

Drawn = tuple[Tensor, Tensor]
Amount = Callable[[Tensor, Tensor, int], Tensor]
"""Turns levels (1 is a space's strongest), signs (-1 or 1) and the image size into amounts."""

SMALL = 64  # pixels up to which AutoAugment's policy is CIFAR's
AUTO_LEVELS, TRIVIAL_LEVELS = 10, 31  # even steps from 0 to the strongest
STRONGEST = 10.0  # magnitude at which timm cuts off, unless the policy's own is higher


def draw_policy(config: PolicyConfig, size: int, count: int, seed: int, epoch: int) -> Drawn:
    """Draw the operations of a policy for `count` images of `size`; L is 0 where there is none."""
    stream = cpu_generator("policy", seed, epoch)
    if config.name == "rand_augment":
        return _rand_augment(config, size, count, stream)
    if config.name == "auto_augment":
        return _auto_augment(size, count, stream)
    if config.name == "trivial_augment":
        return _trivial_augment(size, count, stream)
    return torch.zeros(count, 0, dtype=torch.int64), torch.zeros(count, 0)


def draw_jitter(strengths: tuple[float, float, float, float], count: int, seed: int, epoch: int) -> Drawn:
    """Draw the changes of brightness, contrast, saturation and hue, in random order, as torchvision's ColorJitter."""
    stream = cpu_generator("color", seed, epoch)
    strength = torch.tensor(strengths)
    turned = (torch.rand(count, 4, generator=stream) * 2 - 1) * strength
    amounts = torch.cat([_factors(strength[:3], turned[:, :3]), turned[:, 3:]], 1)
    names = ("Brightness", "Contrast", "Color", "Hue")
    used = [name if strong else "Identity" for name, strong in zip(names, strengths, strict=True)]
    order = torch.rand(count, 4, generator=stream).argsort(1)
    return torch.tensor([NUMBERS[name] for name in used])[order], amounts.gather(1, order)


def _factors(strength: Tensor, turned: Tensor) -> Tensor:
    """Spread even draws from -strength to strength over factors from max(0, 1 - strength) to 1 + strength."""
    low = (1 - strength).clamp(min=0)
    return low + (turned + strength) / (2 * strength).clamp(min=1e-12) * (1 + strength - low)


def _rand_augment(config: PolicyConfig, size: int, count: int, stream: torch.Generator) -> Drawn:
    space = INCREASING if config.increasing else RANDOM
    shape = (count, config.layers)
    chosen = torch.randint(len(space), shape, generator=stream)
    magnitudes = config.magnitude + config.std * torch.randn(shape, generator=stream, dtype=torch.float64)
    levels = magnitudes.clamp(0, max(STRONGEST, config.magnitude)) / STRONGEST
    applied = torch.rand(shape, generator=stream) < config.probability
    return _in_space(space, chosen, levels, _signs(shape, stream), applied, size)


def _trivial_augment(size: int, count: int, stream: torch.Generator) -> Drawn:
    shape = (count, 1)
    chosen = torch.randint(len(WIDE), shape, generator=stream)
    levels = torch.randint(TRIVIAL_LEVELS, shape, generator=stream).double() / (TRIVIAL_LEVELS - 1)
    return _in_space(WIDE, chosen, levels, _signs(shape, stream), torch.ones(shape, dtype=torch.bool), size)


def _auto_augment(size: int, count: int, stream: torch.Generator) -> Drawn:
    """Draw one of the policy's pairs of operations for each image, and which of the two are applied."""
    names, chances, levels = _pairs(size <= SMALL)
    pair = torch.randint(len(names), (count,), generator=stream)
    shape = (count, 2)
    applied = torch.rand(shape, generator=stream) < chances[pair]
    return _in_space(LEARNED, names[pair], levels[pair], _signs(shape, stream), applied, size)


@cache
def _pairs(small: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Operations (numbers in LEARNED), probabilities and levels of torchvision's table, each `(pairs, 2)`."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    table = AutoAugment(AutoAugmentPolicy.CIFAR10 if small else AutoAugmentPolicy.IMAGENET).policies
    places = {name: place for place, name in enumerate(LEARNED)}
    names = torch.tensor([[places[name] for name, _, _ in pair] for pair in table])
    chances = torch.tensor([[chance for _, chance, _ in pair] for pair in table])
    levels = torch.tensor([[(level or 0) for _, _, level in pair] for pair in table]).double() / (AUTO_LEVELS - 1)
    return names, chances, levels


def _signs(shape: tuple[int, int], stream: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=stream) * 2 - 1


def _in_space(
    space: dict[str, Amount], chosen: Tensor, levels: Tensor, signs: Tensor, applied: Tensor, size: int
) -> Drawn:
    """Turn places in a space into numbers of `OPERATIONS`, and levels into amounts; not applied: the identity."""
    operations, amounts = torch.full_like(chosen, NUMBERS["Identity"]), torch.zeros(chosen.shape)
    for place, (name, amount) in enumerate(space.items()):
        here = (chosen == place) & applied
        operations[here] = NUMBERS[name]
        amounts[here] = amount(levels[here], signs[here], size).float()
    return operations, amounts


def _signed(strongest: float) -> Amount:
    return lambda level, sign, size: strongest * level * sign


def _shift(strongest: float) -> Amount:
    """Translation by a part of the image."""
    return lambda level, sign, size: strongest * size * level * sign


def _whole(amount: Amount) -> Amount:
    """Cut off the fraction of pixels."""
    return lambda level, sign, size: amount(level, sign, size).trunc()


def _about_one(strongest: float) -> Amount:
    """Factor of an enhancement that gets stronger in both directions."""
    return lambda level, sign, size: (1 + strongest * level * sign).clamp(min=0.0)


def _bits(fewer: int) -> Amount:
    """Bits that posterising leaves: `fewer` than 8 at the strongest."""
    return lambda level, sign, size: 8 - (fewer * level).round()


def _none(level: Tensor, sign: Tensor, size: int) -> Tensor:
    return level * 0


def _from_255(level: Tensor, sign: Tensor, size: int) -> Tensor:
    return 255 * (1 - level)


_PLAIN: dict[str, Amount] = {"AutoContrast": _none, "Equalize": _none, "Invert": _none}
_ENHANCED = ("Color", "Contrast", "Brightness", "Sharpness")
_MOVED = {"Rotate": _signed(30.0), "ShearX": _signed(0.3), "ShearY": _signed(0.3)}

RANDOM: dict[str, Amount] = {
    **_PLAIN,
    **_MOVED,
    **{f"Translate{axis}": _shift(0.45) for axis in "XY"},
    **dict.fromkeys(_ENHANCED, lambda level, sign, size: 0.1 + 1.8 * level),
    "Posterize": lambda level, sign, size: (4 * level).trunc().clamp(max=8),
    "Solarize": lambda level, sign, size: (256 * level).trunc().clamp(max=256),
    "SolarizeAdd": lambda level, sign, size: (110 * level).trunc().clamp(max=128),
}
"""timm's RandAugment: the level 1 is its magnitude 10."""

INCREASING: dict[str, Amount] = {
    **RANDOM,
    **dict.fromkeys(_ENHANCED, lambda level, sign, size: (1 + 0.9 * level * sign).clamp(min=0.1)),
    "Posterize": lambda level, sign, size: 4 - (4 * level).trunc().clamp(max=4),
    "Solarize": lambda level, sign, size: 256 - (256 * level).trunc().clamp(max=256),
}
"""timm's RandAugment with operations that all get stronger with the magnitude."""

LEARNED: dict[str, Amount] = {
    **_PLAIN,
    **_MOVED,
    **{f"Translate{axis}": _whole(_shift(150 / 331)) for axis in "XY"},
    **dict.fromkeys(_ENHANCED, _about_one(0.9)),
    "Posterize": _bits(4),
    "Solarize": _from_255,
}
"""What AutoAugment chooses from (arXiv:1805.09501), as torchvision scales it."""

WIDE: dict[str, Amount] = {
    "Identity": _none,
    "ShearX": _signed(0.99),
    "ShearY": _signed(0.99),
    "TranslateX": _whole(_signed(32.0)),
    "TranslateY": _whole(_signed(32.0)),
    "Rotate": _signed(135.0),
    **dict.fromkeys(_ENHANCED, _about_one(0.99)),
    "Posterize": _bits(6),
    "Solarize": _from_255,
    "AutoContrast": _none,
    "Equalize": _none,
}
"""TrivialAugment's wide space (arXiv:2103.10158), as torchvision scales it."""
