"""ShuffleNet v1: bottlenecks of grouped pointwise convolutions whose channels are shuffled between the groups.

Source: Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", CVPR 2018
(arXiv:1707.01083), Fig. 2 and Table 1. Knows no data, no recipe and no trainer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.models.layers import convolution, plain_squeeze
from repro.models.mobile_config import ShufflenetConfig
from repro.models.mobilenet import initialise
from repro.models.unit import Named, sequential

_DEPTHS = (4, 8, 4)  # units of stages 2 to 4 (Table 1)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Deal the channels of `(N, C, H, W)` out so that each group of the result has C / groups^2 of every group of `x`.

    Channel i of group j goes to place i groups + j (Fig. 1c); `channel_shuffle(x, C // groups)` brings it back. It is
    a permutation whatever C / groups is.
    """
    count, channels, height, width = x.shape
    return x.view(count, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


class ChannelShuffle(nn.Module):
    """`channel_shuffle` as a layer."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to the same shape."""
        return channel_shuffle(x, self.groups)

    def extra_repr(self) -> str:
        """Show the groups."""
        return f"groups={self.groups}"


class ShuffleUnit(nn.Module):
    """Fig. 2b, ReLU(x + branch(x)), or with stride 2 its Fig. 2c, ReLU of the averaged x beside the branch.

    The branch: a grouped 1x1 convolution, the shuffle, a 3x3 depthwise convolution without an activation behind it, a
    grouped 1x1 convolution; each followed by a batch norm. `first`: the 1x1 convolution that sees the stem's few
    channels has no groups (Table 1).
    """

    def __init__(self, config: ShufflenetConfig, stage: int, inputs: int, *, stride: int, first: bool) -> None:
        super().__init__()
        groups, inner = config.groups, config.inner_width(stage)
        added = config.widths[stage] - (inputs if stride == 2 else 0)
        layers: list[Named] = [
            *_normed(1, convolution(inputs, inner, 1, groups=1 if first else groups)),
            ("relu", nn.ReLU(inplace=True)),
            *_normed(2, convolution(inner, inner, 3, stride, groups=inner)),
            *_normed(3, convolution(inner, added, 1, groups=groups)),
            *plain_squeeze(added, config.se_reduction),
        ]
        if config.shuffle and groups > 1:
            layers.insert(3, ("shuffle", ChannelShuffle(groups)))
        self.branch = sequential(layers)
        self.pool = nn.AvgPool2d(3, stride, padding=1) if stride == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C_in, H, W)` to `(N, C_out, H / stride, W / stride)`, rounded up."""
        if self.pool is None:
            return F.relu(x + self.branch(x))
        return F.relu(torch.cat([self.pool(x), self.branch(x)], dim=1))


class ShuffleNet(nn.Module):
    """Stem, three stages of shuffle units, global average pooling, linear classifier: `(N, C, H, W)` to `(N, classes)`.

    MACs at 224 for 1, 2, 3, 4 and 8 groups: 143.1, 140.8, 137.5, 134.3 and 138.4 M. Table 1's 143, 140, 137, 133 and
    137 M leave the classifier out.
    """

    def __init__(self, config: ShufflenetConfig, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = sequential(
            [
                *_normed("", convolution(channels, config.stem, 3, stride=2)),
                ("relu", nn.ReLU(inplace=True)),
                ("pool", nn.MaxPool2d(3, stride=2, padding=1)),
            ]
        )
        self.stages = nn.Sequential(*(_stage(config, stage) for stage in range(len(_DEPTHS))))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(config.widths[-1], classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, C, H, W)` to logits `(N, classes)`."""
        logits: Tensor = self.fc(self.pool(self.stages(self.stem(x))).flatten(1))
        return logits


def _stage(config: ShufflenetConfig, stage: int) -> nn.Sequential:
    inputs = config.widths[stage - 1] if stage else config.stem
    first = ShuffleUnit(config, stage, inputs, stride=2, first=stage == 0)
    width = config.widths[stage]
    rest = [ShuffleUnit(config, stage, width, stride=1, first=False) for _ in range(1, _DEPTHS[stage])]
    return nn.Sequential(first, *rest)


def _normed(tail: int | str, conv: nn.Conv2d) -> list[Named]:
    return [(f"conv{tail}", conv), (f"bn{tail}", nn.BatchNorm2d(conv.out_channels))]
