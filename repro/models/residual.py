"""The residual family: one network in which every published tweak is one argument of `ResidualConfig`.

Two rows of a table that differ in one axis differ here in that axis and in nothing else: stem, initialisation and head
are shared. Knows no data, no recipe and no trainer. `unit.py` has the residual unit.

Sources: He et al., "Deep Residual Learning", CVPR 2016 (arXiv:1512.03385) and "Identity Mappings", ECCV 2016
(arXiv:1603.05027); Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016 (arXiv:1605.07146); Xie et al.,
"Aggregated Residual Transformations", CVPR 2017 (arXiv:1611.05431); Hu et al., "Squeeze-and-Excitation Networks",
CVPR 2018 (arXiv:1709.01507); He et al., "Bag of Tricks", CVPR 2019 (arXiv:1812.01187); Radosavovic et al., "Designing
Network Design Spaces", CVPR 2020 (arXiv:2003.13678); Bello et al., "Revisiting ResNets", NeurIPS 2021
(arXiv:2103.07579); Brock et al., ICLR 2021 (arXiv:2101.08692) and ICML 2021 (arXiv:2102.06171).
"""

from __future__ import annotations

from torch import Tensor, nn

from repro.models.residual_config import ResidualConfig
from repro.models.unit import Named, ResidualUnit, conv, layer, sequential

_STEMS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "cifar": ((1, 3, 1),),
    "imagenet": ((1, 7, 2),),
    "deep": ((2, 3, 2), (2, 3, 1), (1, 3, 1)),
    "deep_strided": ((2, 3, 2), (2, 3, 1), (1, 3, 1), (1, 3, 2)),
    "simple": ((1, 3, 2),),
    "quad": ((8, 3, 2), (4, 3, 1), (2, 3, 1), (1, 3, 2)),
}
"""The stem's convolutions: the part of the stem's width, kernel, stride. `deep` is Fig. 2b of arXiv:1812.01187,
`deep_strided` ResNet-RS's, `simple` RegNet's, `quad` NFNet's."""

_POOLED = ("imagenet", "deep")

_AFTER_STEM = {"pre": "", "relu_only_pre": "bn"}
"""What follows the stem's last convolution; `bn relu` where a unit does not begin with an activation of its own."""

_BEFORE_POOL = {"pre": "bn relu", "relu_only_pre": "relu"}
"""What precedes the global pooling, for the orders whose units end without an activation."""


class ResidualNet(nn.Module):
    """Stem, stages of residual units, global average pooling, linear classifier: `(N, C, H, W)` to `(N, classes)`.

    The first unit of every stage but the first halves the resolution; the first stage's strides by `first_stride`.
    Raises InputError where axes contradict.
    """

    def __init__(self, config: ResidualConfig, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = _stem(config, channels)
        self.stages = nn.Sequential(*_stages(config))
        self.final = _final(config)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.fc = nn.Linear(config.final_width or config.out_width(-1), classes)
        _initialise(self, config.norm == "none")
        if config.zero_init:
            zero_branches(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, C, H, W)` to logits `(N, classes)`."""
        x = self.final(self.stages(self.stem(x)))
        logits: Tensor = self.fc(self.dropout(self.pool(x).flatten(1)))
        return logits


def zero_branches(network: nn.Module) -> None:
    """Zero the last scale of every branch: its last BN's weight, or its last convolution where no BN follows.

    Each unit then starts as its shortcut; where that is the identity, so is the unit, exactly: for `pre`,
    `relu_only_pre` and, on its non-negative inputs, `post` (Goyal et al., arXiv:1706.02677, §5.1).
    `bn_after_addition` normalises what the shortcut brings.
    """
    for unit in network.modules():
        if isinstance(unit, ResidualUnit):
            nn.init.zeros_(unit.branch.get_parameter(f"{unit.last}.weight"))


def _initialise(network: nn.Module, norm_free: bool) -> None:
    """He initialisation by fan-out (arXiv:1502.01852, §2.2); batch norm and classifier keep torch's own.

    Without batch norm: by fan-in, which keeps the variance of what passes forward, and a classifier of N(0, 0.01)
    (arXiv:2102.06171, appendix). Biases of convolutions are zero.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in" if norm_free else "fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif norm_free and isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


def _stem(config: ResidualConfig, channels: int) -> nn.Sequential:
    """The convolutions of `_STEMS`, each with its norm and activation but for the last, numbered but for the last."""
    layers: list[Named] = []
    plan = _STEMS[config.stem]
    for number, (part, kernel, stride) in enumerate(plan, start=1):
        last = number == len(plan)
        tail = "" if last else str(number)
        width = -(-config.stem_width // part)
        layers.append((f"conv{tail}", conv(config, channels, width, kernel, stride)))
        kinds = _AFTER_STEM.get(config.order, "bn relu") if last else "bn relu"
        layers += [(f"{kind}{tail}", layer(config, kind, width)) for kind in _kept(config, kinds)]
        channels = width
    if config.stem in _POOLED:
        layers.append(("pool", nn.MaxPool2d(3, stride=2, padding=1)))
    return sequential(layers)


def _kept(config: ResidualConfig, kinds: str) -> list[str]:
    """Leave the batch norms out of a network without normalisation."""
    return [kind for kind in kinds.split() if kind != "bn" or config.norm == "batch"]


def _stages(config: ResidualConfig) -> list[nn.Sequential]:
    stages, inputs, before = [], config.stem_width, 0
    variance = 1.0  # of a unit's input at initialisation, by the recursion of arXiv:2101.08692, §3
    for stage, depth in enumerate(config.depths):
        units = []
        for index in range(depth):
            stride = 1 if index else (2 if stage else config.first_stride)
            before += 1
            drop = config.stochastic_depth * before / config.units
            first = stage == index == 0
            unit = ResidualUnit(config, stage, inputs, stride, first=first, drop=drop, variance=variance)
            variance = (1.0 if unit.projects else variance) + config.alpha**2
            units.append(unit)
            inputs = config.out_width(stage)
        stages.append(nn.Sequential(*units))
    return stages


def _final(config: ResidualConfig) -> nn.Sequential:
    """What precedes the pooling: NFNet's 1x1 convolution, and the activation that pre-activation units leave out."""
    layers: list[Named] = []
    kinds, width = _BEFORE_POOL.get(config.order, ""), config.out_width(-1)
    if config.final_width:
        layers.append(("conv", conv(config, width, config.final_width, 1)))
        kinds, width = "bn relu", config.final_width
    return sequential([*layers, *((kind, layer(config, kind, width)) for kind in _kept(config, kinds))])
