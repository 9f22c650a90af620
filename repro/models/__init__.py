"""The networks, built from typed configurations. Knows no data, no recipe, no trainer and no configuration tree.

torch is imported when a network is built, so that presets can be listed and read without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from repro.config import ModelConfig

if TYPE_CHECKING:
    from torch import nn


def build(config: ModelConfig, channels: int, classes: int) -> nn.Module:
    """Build the network that maps `(N, channels, H, W)` to logits `(N, classes)`, initialised from torch's RNG.

    Raises InputError for a combination of axes that has no network.
    """
    from repro.models.residual import ResidualNet

    return ResidualNet(config, channels, classes)
