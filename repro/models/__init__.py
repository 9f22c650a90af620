"""The networks, built from typed configurations. Knows no data, no recipe, no trainer and no configuration tree.

torch is imported when a network is built, so that presets can be listed and read without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from repro.models.config import ModelConfig

if TYPE_CHECKING:
    from torch import nn

_BUILDERS = {
    "residual": "repro.models.residual:ResidualNet",
    "chain": "repro.models.chain:Chain",
    "mobilenet": "repro.models.mobilenet:MobileNet",
    "shufflenet": "repro.models.shufflenet:ShuffleNet",
    "efficientnet": "repro.models.efficientnet:build_efficientnet",
    "library": "repro.models.library:build_library",
}
"""Who builds each family: a callable of (configuration, channels, classes)."""


def build(config: ModelConfig, channels: int, classes: int) -> nn.Module:
    """Build the network that maps `(N, channels, H, W)` to logits `(N, classes)`, initialised from torch's RNG.

    A network with auxiliary classifiers returns `models.auxiliary.Outputs` in training mode.
    Raises InputError for a combination of axes that has no network.
    """
    module, _, name = _BUILDERS[config.family].partition(":")
    network: nn.Module = getattr(import_module(module), name)(config, channels, classes)
    return network
