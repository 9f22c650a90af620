"""The residual family: one network in which every published tweak is one argument of `ResidualConfig`.

Two rows of a table that differ in one axis differ here in that axis and in nothing else: stem, initialisation and head
are shared. Knows no data, no recipe and no trainer.

Sources: He et al., "Deep Residual Learning", CVPR 2016 (arXiv:1512.03385) and "Identity Mappings", ECCV 2016
(arXiv:1603.05027); Xie et al., "Aggregated Residual Transformations", CVPR 2017 (arXiv:1611.05431); He et al., "Bag of
Tricks", CVPR 2019 (arXiv:1812.01187).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from repro.config import ResidualConfig
from repro.errors import InputError

Named = tuple[str, nn.Module]

_ORDERS = {
    "post": ("conv bn relu", 0, 1),
    "bn_after_addition": ("conv bn relu", 0, 2),
    "relu_before_addition": ("conv bn relu", 0, 0),
    "relu_only_pre": ("relu conv bn", 1, 0),
    "pre": ("bn relu conv", 2, 0),
}
"""Fig. 4 (a) to (e) of arXiv:1603.05027: the layers around each convolution of a unit; how many of the unit's first
layers the shortcut can share; how many of its last layers follow the addition."""

_AFTER_STEM = {"pre": "", "relu_only_pre": "bn"}
"""What follows the stem's last convolution; `bn relu` where a unit does not begin with an activation of its own."""

_BEFORE_POOL = {"pre": "bn relu", "relu_only_pre": "relu"}
"""What precedes the global pooling, for the orders whose units end without an activation."""


class ResidualNet(nn.Module):
    """Stem, stages of residual units, global average pooling, linear classifier: `(N, C, H, W)` to `(N, classes)`.

    The first unit of every stage but the first halves the resolution. Raises InputError where axes contradict.
    """

    def __init__(self, config: ResidualConfig, channels: int, classes: int) -> None:
        super().__init__()
        width = config.widths[-1] * config.expansion
        self.stem = _stem(config, channels)
        self.stages = nn.Sequential(*_stages(config))
        self.final = _sequential((kind, _layer(kind, width)) for kind in _BEFORE_POOL.get(config.order, "").split())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)
        _initialise(self)
        if config.zero_init:
            zero_branches(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, C, H, W)` to logits `(N, classes)`."""
        x = self.final(self.stages(self.stem(x)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


class ResidualUnit(nn.Module):
    """One unit of any structure: `after(shortcut(x) + branch(before(x)))`, without the sum in a plain net.

    `shared`: the shortcut starts after the first activation instead of at the unit's input. Pre-activation units do so
    where the shortcut is a projection, and in the network's first unit where it follows the stem's convolution
    (arXiv:1603.05027, appendix). Behind a max-pool only a projection does, as in timm's released networks: the paper's
    own ImageNet networks have a projection there.
    """

    def __init__(self, config: ResidualConfig, stage: int, inputs: int, stride: int, first: bool) -> None:
        super().__init__()
        outputs = config.widths[stage] * config.expansion
        layers = _arrange(config.order, _convolutions(config, stage, inputs, stride))
        _, before, after = _ORDERS[config.order]
        self.before = _sequential(layers[:before])
        self.branch = _sequential(layers[before : len(layers) - after])
        self.after = _sequential(layers[len(layers) - after :])
        self.shortcut = _shortcut(config, inputs, outputs, stride)
        self.shared = before > 0 and (isinstance(self.shortcut, nn.Sequential) or (first and config.stem == "cifar"))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C_in, H, W)` to `(N, C_out, H / stride, W / stride)`, rounded up."""
        active = self.before(x)
        out = self.branch(active)
        if self.shortcut is not None:
            out = self.shortcut(active if self.shared else x) + out
        result: Tensor = self.after(out)
        return result


class ZeroPadShortcut(nn.Module):
    """Option A of arXiv:1512.03385, §3.3: every `stride`-th pixel, and `extra` channels of zeros; no parameters."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, C + extra, H / stride, W / stride)`, rounded up."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def zero_branches(network: nn.Module) -> None:
    """Zero the last scale of every branch: its last BN's weight, or its last convolution where no BN follows.

    Each unit then starts as its shortcut; where that is the identity, so is the unit, exactly: for `pre`,
    `relu_only_pre` and, on its non-negative inputs, `post` (Goyal et al., arXiv:1706.02677, §5.1).
    `bn_after_addition` normalises what the shortcut brings.
    Raises InputError where such a branch could never train: ReLU has no gradient at zero.
    """
    for unit in network.modules():
        if isinstance(unit, ResidualUnit):
            last = unit.branch[-1]
            if unit.shortcut is None:
                raise InputError("zero_init=true needs a shortcut (found shortcut=none): a plain net would be zero")
            if not isinstance(last, nn.BatchNorm2d | nn.Conv2d):
                raise InputError(
                    "zero_init=true has no form for order=relu_before_addition: the ReLU that ends each branch has no "
                    "gradient at zero, so the branches would never train"
                )
            nn.init.zeros_(last.weight)


def _initialise(network: nn.Module) -> None:
    """He initialisation by fan-out (arXiv:1502.01852, §2.2); batch norm and classifier keep torch's own."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _sequential(layers: Iterable[Named]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def _layer(kind: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "bn" else nn.ReLU(inplace=True)


def _stem(config: ResidualConfig, channels: int) -> nn.Sequential:
    """CIFAR: 3x3. ImageNet: 7x7 of stride 2, max-pool. Deep: three 3x3, max-pool (arXiv:1812.01187, Fig. 2b)."""
    width, half = config.stem_width, -(-config.stem_width // 2)
    layers: list[Named] = []
    if config.stem == "deep":
        for number, inputs, stride in ((1, channels, 2), (2, half, 1)):
            layers.append((f"conv{number}", _conv(inputs, half, 3, stride)))
            layers += [(f"{kind}{number}", _layer(kind, half)) for kind in ("bn", "relu")]
    last = {"cifar": (channels, width, 3, 1), "imagenet": (channels, width, 7, 2), "deep": (half, width, 3, 1)}
    layers.append(("conv", _conv(*last[config.stem])))
    layers += [(kind, _layer(kind, width)) for kind in _AFTER_STEM.get(config.order, "bn relu").split()]
    if config.stem != "cifar":
        layers.append(("pool", nn.MaxPool2d(3, stride=2, padding=1)))
    return _sequential(layers)


def _stages(config: ResidualConfig) -> list[nn.Sequential]:
    stages, inputs = [], config.stem_width
    for stage, depth in enumerate(config.depths):
        units = []
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            units.append(ResidualUnit(config, stage, inputs, stride, first=stage == index == 0))
            inputs = config.widths[stage] * config.expansion
        stages.append(nn.Sequential(*units))
    return stages


def _convolutions(config: ResidualConfig, stage: int, inputs: int, stride: int) -> list[nn.Conv2d]:
    """The convolutions of one unit in order; `single` is the 1-layer skip of arXiv:1603.05027, Table 3."""
    width = config.widths[stage]
    if config.block == "single":
        return [_conv(inputs, width, 3, stride)]
    if config.block == "basic":
        return [_conv(inputs, width, 3, stride), _conv(width, width, 3)]
    inner = config.inner_width(stage)
    first, second = (stride, 1) if config.stride_place == "1x1" else (1, stride)
    return [
        _conv(inputs, inner, 1, first),
        _conv(inner, inner, 3, second, config.groups),
        _conv(inner, width * config.expansion, 1),
    ]


def _arrange(order: str, convolutions: list[nn.Conv2d]) -> list[Named]:
    """Put batch norms and activations around the convolutions, numbered from 1, as `order` says."""
    kinds = _ORDERS[order][0].split()
    layers: list[Named] = []
    for number, conv in enumerate(convolutions, start=1):
        channels = conv.out_channels if kinds.index("bn") > kinds.index("conv") else conv.in_channels
        layers += [(f"{kind}{number}", conv if kind == "conv" else _layer(kind, channels)) for kind in kinds]
    if kinds[0] == "relu":  # it acts on the unit's own input, which the shortcut needs unchanged
        layers[0] = ("relu1", nn.ReLU())
    return layers


def _shortcut(config: ResidualConfig, inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """Options A, B, C of arXiv:1512.03385, §4.1; D pools before it projects (arXiv:1812.01187, Fig. 2c)."""
    same = stride == 1 and inputs == outputs
    if config.shortcut == "none":
        return None
    if same and config.shortcut != "C":
        return nn.Identity()
    if config.shortcut == "A":
        if outputs < inputs:
            raise InputError(f"shortcut=A pads with zeros and cannot go from {inputs} to {outputs} channels; use B")
        return ZeroPadShortcut(outputs - inputs, stride)
    return _projection(config, inputs, outputs, stride)


def _projection(config: ResidualConfig, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A 1x1 convolution and, unless BN comes before convolutions, its BN."""
    layers: list[Named] = []
    if config.shortcut == "D" and stride > 1:
        layers.append(("pool", nn.AvgPool2d(2, stride, ceil_mode=True)))
        stride = 1
    layers.append(("conv", _conv(inputs, outputs, 1, stride)))
    if config.order != "pre":
        layers.append(("bn", _layer("bn", outputs)))
    return _sequential(layers)
