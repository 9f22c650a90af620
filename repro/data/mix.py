"""Mixing of pairs of training images and of their labels on the device, by timm's Mixup, as a function of the step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from repro.data.config import MixConfig
from repro.data.seeds import derive

if TYPE_CHECKING:
    from timm.data.mixup import Mixup


class Mixing:
    """Mixes training batches as `config` says; while it is off, batches stay as they are.

    Each rank mixes the images of its own batch. What is drawn is a function of (seed, epoch, step, rank), where `step`
    counts the batches of a rank in an epoch.
    """

    def __init__(self, config: MixConfig, classes: int, seed: int, rank: int = 0) -> None:
        self.classes = classes
        self.key = (seed, rank)
        self.mixers = _mixers(config, classes)

    def __call__(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Mix images float32 `(B, C, H, W)`, normalised, in place; turn labels int64 `(B,)` into targets.

        Targets are float32 `(B, classes)` and sum to 1, also in a batch that happens not to be mixed; labels are not
        smoothed here. Image i is mixed with image B - 1 - i of its part, as timm does; the odd one out is left alone.
        """
        if not self.mixers:
            return images, labels
        parts = zip(
            self.mixers, images.tensor_split(len(self.mixers)), labels.tensor_split(len(self.mixers)), strict=True
        )
        seed, rank = self.key
        with _drawing_from(derive("mix", seed, epoch, step, rank)):
            return images, torch.cat([self._targets(*part) for part in parts])

    def _targets(self, mixer: Mixup | None, images: Tensor, labels: Tensor) -> Tensor:
        """Mix one part in place and return its targets; timm takes even numbers only."""
        even = len(labels) // 2 * 2 if mixer else 0
        alone = torch.zeros(len(labels) - even, self.classes, device=labels.device)
        alone.scatter_(1, labels[even:, None], 1.0)
        return torch.cat([mixer(images[:even], labels[:even])[1], alone]) if mixer and even else alone


def _mixers(config: MixConfig, classes: int) -> list[Mixup | None]:
    """One mixer for each part of a batch: the whole of it, or mixup for its first half and CutMix for its second."""
    if not config.on:
        return []
    if config.mode == "batch":
        return [_mixer(config.mixup, config.cutmix, config, classes)]
    return [_mixer(config.mixup, 0.0, config, classes), _mixer(0.0, config.cutmix, config, classes)]


def _mixer(mixup: float, cutmix: float, config: MixConfig, classes: int) -> Mixup | None:
    from timm.data import mixup as timm_mixup

    if not mixup and not cutmix:
        return None
    build: Any = timm_mixup.Mixup  # not annotated in timm
    chances = {"prob": config.probability, "switch_prob": config.switch}
    return build(mixup, cutmix, **chances, label_smoothing=0.0, num_classes=classes)


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Start numpy's global generator, which timm's Mixup draws from, at `seed` (63 bits); put it back after."""
    state = np.random.get_state()
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    try:
        yield
    finally:
        np.random.set_state(state)
