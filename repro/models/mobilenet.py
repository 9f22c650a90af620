"""MobileNet v1: depthwise separable convolutions, and the full convolutions that they are compared with.

Source: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017
(arXiv:1704.04861), Table 1 and §4. Knows no data, no recipe and no trainer.
"""

from __future__ import annotations

from torch import Tensor, nn

from repro.models.layers import convolution, plain_squeeze
from repro.models.mobile_config import MobilenetConfig
from repro.models.unit import Named, sequential

_LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Output channels and stride of each layer behind the first convolution (Table 1). Its last stride, printed as 2, would
leave 4 x 4 places where the table has 7 x 7."""

_REPEATED = (512, 1)
"""The five layers of 14 x 14 x 512 that the shallow network of Table 5 has not."""


class MobileNet(nn.Module):
    """A convolution, thirteen layers, global average pooling, linear classifier: `(N, C, H, W)` to `(N, classes)`.

    The activation is ReLU6, as in the authors' code and in timm; the paper's text says ReLU.
    """

    def __init__(self, config: MobilenetConfig, channels: int, classes: int) -> None:
        super().__init__()
        width = config.scaled(32)
        self.stem = sequential(_convolved("", channels, width, 3, stride=2))
        layers = []
        for outputs, stride in _LAYERS:
            if config.shallow and (outputs, stride) == _REPEATED:
                continue
            layers.append(_layer(config, width, config.scaled(outputs), stride))
            width = config.scaled(outputs)
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, C, H, W)` to logits `(N, classes)`."""
        logits: Tensor = self.fc(self.pool(self.layers(self.stem(x))).flatten(1))
        return logits


def initialise(network: nn.Module) -> None:
    """He initialisation by fan-in (arXiv:1502.01852, §2.2), right for grouped convolutions too; the rest is torch's."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")


def _layer(config: MobilenetConfig, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """One layer of Fig. 3: a full convolution (left), or a depthwise and a pointwise one (right)."""
    squeeze = plain_squeeze(outputs, config.se_reduction)
    if not config.separable:
        return sequential([*_convolved("", inputs, outputs, 3, stride), *squeeze])
    return sequential(
        [
            *_convolved("_depthwise", inputs, inputs, 3, stride, groups=inputs),
            *_convolved("_pointwise", inputs, outputs, 1),
            *squeeze,
        ]
    )


def _convolved(tail: str, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[Named]:
    return [
        (f"conv{tail}", convolution(inputs, outputs, kernel, stride, groups)),
        (f"bn{tail}", nn.BatchNorm2d(outputs)),
        (f"relu{tail}", nn.ReLU6(inplace=True)),
    ]
