"""The residual unit: a branch of convolutions, norms and activations in any published order, and its shortcut."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from math import sqrt

import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import InputError
from repro.models.layers import GAMMA, Scale, SqueezeExcitation, activation, convolution
from repro.models.residual_config import ResidualConfig

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


class ResidualUnit(nn.Module):
    """One unit of any structure: `after(shortcut(x) + branch(before(x)))`, without the sum in a plain net.

    `shared`: the shortcut starts after the first activation instead of at the unit's input. Pre-activation units do so
    where the shortcut is a projection, and in the network's first unit where it follows the stem's convolution
    (arXiv:1603.05027, appendix). Behind a max-pool only a projection does, as in timm's released networks: the paper's
    own ImageNet networks have a projection there. `drop`: probability of dropping the branch (arXiv:1603.09382).
    `variance`: expected of the unit's input; beta is its root (arXiv:2101.08692, §3). `last`: the branch's layer that
    `zero_init` zeroes. `inplace`: the sum may overwrite the branch's output; a ReLU needs its own for the gradient.
    """

    def __init__(
        self,
        config: ResidualConfig,
        stage: int,
        inputs: int,
        stride: int,
        *,
        first: bool = False,
        drop: float = 0.0,
        variance: float = 1.0,
    ) -> None:
        super().__init__()
        outputs = config.out_width(stage)
        layers, before, after = _arranged(config, stage, inputs, stride, sqrt(variance) if config.beta else 1.0)
        inner = layers[before : len(layers) - after]
        self.last = inner[-1][0]
        squeeze = _squeezes(config, stage, inputs, outputs)
        self.before = sequential(layers[:before])
        self.branch = sequential(_with_squeeze(inner, squeeze, config) + _tail(config, drop))
        self.shortcut = _shortcut(config, inputs, outputs, stride)
        self.projects = isinstance(self.shortcut, nn.Sequential)
        self.shared = before > 0 and (self.projects or (first and config.stem == "cifar" and config.norm == "batch"))
        if "identity" in squeeze:
            self.shortcut = sequential([("path", self.shortcut or nn.Identity()), ("se", squeeze["identity"])])
        self.after = sequential([*layers[len(layers) - after :], *_named("se", squeeze.get("post"))])
        self.inplace = config.order != "relu_before_addition"

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C_in, H, W)` to `(N, C_out, H / stride, W / stride)`, rounded up."""
        active = self.before(x)
        out = self.branch(active)
        if self.shortcut is not None:
            path = self.shortcut(active if self.shared else x)
            if self.inplace:
                out += path
            else:
                out = out + path
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


def sequential(layers: Iterable[Named]) -> nn.Sequential:
    """Chain named layers."""
    return nn.Sequential(OrderedDict(layers))


def conv(config: ResidualConfig, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Build one of the network's convolutions; it has a bias where no batch norm follows anywhere."""
    return convolution(
        inputs,
        outputs,
        kernel,
        stride,
        groups,
        padding=config.padding,
        bias=config.norm == "none",
        standardized=config.weight_standardization,
    )


def layer(config: ResidualConfig, kind: str, channels: int, inplace: bool = True, beta: float = 1.0) -> nn.Module:
    """Build one of the network's batch norms (`bn`) or activations (`relu`, whichever function it is)."""
    if kind == "bn":
        return nn.BatchNorm2d(channels)
    return activation(config.activation, (GAMMA[config.activation] if config.gamma else 1.0) / beta, inplace)


def _arranged(
    config: ResidualConfig, stage: int, inputs: int, stride: int, beta: float
) -> tuple[list[Named], int, int]:
    """Put norms and activations around a unit's convolutions; how many of its layers are shared, how many come after.

    The first activation, which acts on the unit's own input where no norm precedes it, divides by beta.
    """
    order, before, after = _ORDERS[config.order]
    every = order.split()
    kinds = [kind for kind in every if kind != "bn" or config.norm == "batch"]
    convolutions = _convolutions(config, stage, inputs, stride)
    layers: list[Named] = []
    for number, convolved in enumerate(convolutions, start=1):
        channels = convolved.out_channels if kinds[0] == "conv" or order == "relu conv bn" else convolved.in_channels
        own_input = number == 1 and kinds[0] == "relu"  # which the shortcut needs unchanged
        for kind in kinds:
            if kind == "conv" and config.block_dropout and number == len(convolutions) > 1:
                layers.append(("dropout", nn.Dropout(config.block_dropout)))
            scaled = beta if number == 1 else 1.0
            made = convolved if kind == "conv" else layer(config, kind, channels, not own_input, scaled)
            layers.append((f"{kind}{number}", made))
    missing = [kind not in kinds for kind in every]
    return layers, before - sum(missing[:before]), after - sum(missing[len(every) - after :])


def _convolutions(config: ResidualConfig, stage: int, inputs: int, stride: int) -> list[nn.Conv2d]:
    """The convolutions of one unit in order; `single` is the 1-layer skip of arXiv:1603.05027, Table 3."""
    width = config.widths[stage]
    if config.block == "single":
        return [conv(config, inputs, width, 3, stride)]
    if config.block == "basic":
        return [conv(config, inputs, width, 3, stride), conv(config, width, width, 3)]
    inner, groups = config.inner_width(stage), config.groups_of(stage)
    first, second = (stride, 1) if config.stride_place == "1x1" else (1, stride)
    return [
        conv(config, inputs, inner, 1, first),
        *(conv(config, inner, inner, 3, 1 if later else second, groups) for later in range(config.middle)),
        conv(config, inner, config.out_width(stage), 1),
    ]


def _squeezes(config: ResidualConfig, stage: int, inputs: int, outputs: int) -> dict[str, nn.Module]:
    """Return the unit's squeeze-and-excitation under its position; empty where the stage has none."""
    se = config.se
    if se.reduction is None or (se.stages is not None and stage + 1 not in se.stages):
        return {}
    channels = {"pre": inputs, "3x3": config.inner_width(stage)}.get(se.position, outputs)
    hidden = max(1, round((inputs if se.of == "input" else channels) / se.reduction))
    return {se.position: SqueezeExcitation(channels, hidden, se.squeeze, se.gate, se.bias, se.gain)}


def _with_squeeze(layers: list[Named], squeeze: dict[str, nn.Module], config: ResidualConfig) -> list[Named]:
    """Put SE into the branch: before it, behind the 3x3 convolution and its own norm and activation, or behind all."""
    number = config.middle + 1
    place = max((i for i, (name, _) in enumerate(layers, start=1) if name.endswith(str(number))), default=len(layers))
    return [
        *_named("se", squeeze.get("pre")),
        *layers[:place],
        *_named("se", squeeze.get("3x3")),
        *layers[place:],
        *_named("se", squeeze.get("standard")),
    ]


def _named(name: str, made: nn.Module | None) -> list[Named]:
    return [] if made is None else [(name, made)]


def _tail(config: ResidualConfig, drop: float) -> list[Named]:
    """What scales a whole branch: stochastic depth, alpha, SkipInit."""
    layers: list[Named] = []
    if drop:
        from torchvision.ops import StochasticDepth

        layers.append(("drop", StochasticDepth(drop, mode="row")))
    if config.alpha != 1.0 or config.skip_init:
        layers.append(("scale", Scale(config.alpha, config.skip_init)))
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
        layers.append(("pool", nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)))
        stride = 1
    layers.append(("conv", conv(config, inputs, outputs, 1, stride)))
    if config.order != "pre" and config.norm == "batch":
        layers.append(("bn", layer(config, "bn", outputs)))
    return sequential(layers)
