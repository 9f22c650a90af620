"""EfficientNet (Tan & Le, ICML 2019, arXiv:1905.11946): B0 with its width and depth multiplied.

Made of torchvision's public blocks; its weights fit.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from repro.models.library import adapt_input
from repro.models.library_config import EfficientnetConfig

_STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
"""B0 (Table 1): expansion, kernel, stride, input and output channels, layers of each stage."""


def build_efficientnet(config: EfficientnetConfig, channels: int, classes: int) -> nn.Module:
    """Build the network that maps `(N, channels, H, W)` to logits `(N, classes)`.

    Channels are multiplied by `width` and rounded to a multiple of 8, layers by `depth` and rounded up (§3.3 and the
    authors' code); the probability of dropping a block grows linearly with its place.
    """
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    network: nn.Module = EfficientNet(
        [MBConvConfig(*stage, width_mult=config.width, depth_mult=config.depth) for stage in _STAGES],
        dropout=config.dropout,
        stochastic_depth_prob=config.stochastic_depth,
        num_classes=classes,
        norm_layer=partial(nn.BatchNorm2d, eps=config.norm_eps, momentum=config.norm_momentum),
    )
    adapt_input(network, channels)
    return network
