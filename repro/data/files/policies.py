"""Policies of image operations on PIL images, by timm and torchvision."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from repro.data.config import AugmentConfig, PolicyConfig
from repro.data.spaces import SMALL, STRONGEST
from repro.data.statistics import MEAN_COLOUR
from repro.data.words import policy_words

TRANSLATION = 0.45  # x size, at magnitude 10: as timm has it


def policy_step(augment: AugmentConfig, size: int) -> list[tuple[Callable[[Any], Any], str]]:
    """Return the operation of `augment.policy` on images of `size`, with its words; none where it has no policy."""
    operation = _operation(augment, size)
    return [] if operation is None else [(operation, policy_words(augment.policy, size))]


def _operation(augment: AugmentConfig, size: int) -> Callable[[Any], Any] | None:
    if augment.policy.name == "rand_augment":
        return _rand_augment(augment.policy, _parameters(augment, size))
    if augment.policy.name == "auto_augment":
        return _auto_augment(augment, size)
    if augment.policy.name == "trivial_augment":
        from torchvision.transforms import TrivialAugmentWide

        wide: Any = TrivialAugmentWide(interpolation=_torchvision_mode(augment), fill=list(MEAN_COLOUR))
        return wide
    return None


@dataclass(frozen=True)
class _FromTorch:
    """A policy of timm, which draws from Python's and numpy's global generators, seeded by torch's and put back after.

    Done here and not for every image, as numpy takes 0.1 ms to give its state and to take it back.
    """

    policy: Callable[[Any], Any]

    def __call__(self, image: Any) -> Any:
        seed = int(torch.randint(2**32, ()))
        states = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            return self.policy(image)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _rand_augment(policy: PolicyConfig, parameters: dict[str, Any]) -> Callable[[Any], Any]:
    """Make timm's RandAugment from its parts: its text form takes whole magnitudes only."""
    from timm.data import auto_augment

    library: Any = auto_augment

    parameters |= {"magnitude_std": policy.std, "magnitude_max": max(STRONGEST, policy.magnitude)}
    names = library.rand_augment_choices("", increasing=policy.increasing)
    operations = library.rand_augment_ops(policy.magnitude, policy.probability, parameters, names)
    return _FromTorch(library.RandAugment(operations, policy.layers))


def _auto_augment(augment: AugmentConfig, size: int) -> Callable[[Any], Any]:
    """Make the policy found on ImageNet (timm) or, for small images, on CIFAR (torchvision)."""
    if size <= SMALL:
        from torchvision.transforms import AutoAugment, AutoAugmentPolicy

        mode = _torchvision_mode(augment)
        small: Any = AutoAugment(AutoAugmentPolicy.CIFAR10, mode, fill=list(MEAN_COLOUR))
        return small
    from timm.data.auto_augment import auto_augment_transform

    return _FromTorch(auto_augment_transform("original", _parameters(augment, size)))


def _parameters(augment: AugmentConfig, size: int) -> dict[str, Any]:
    """What timm's operations take: longest translation, colour that fills, interpolation (random where not given)."""
    parameters: dict[str, Any] = {"translate_const": int(size * TRANSLATION), "img_mean": MEAN_COLOUR}
    if augment.interpolation == "random":
        return parameters
    from PIL.Image import Resampling

    return parameters | {"interpolation": Resampling[augment.interpolation.upper()]}


def _torchvision_mode(augment: AugmentConfig) -> Any:
    """Return torchvision's interpolation; its policies know no random one."""
    from torchvision.transforms import InterpolationMode

    return InterpolationMode("bilinear" if augment.interpolation == "random" else augment.interpolation)
