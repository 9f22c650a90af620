"""The layers that torch lacks: scaled activations, standardised and TensorFlow-padded convolutions, squeeze-and-
excitation, and the scalar on a branch. They know no network.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import InputError

GAMMA = {"relu": 1.7139588594436646, "silu": 1.7881293296813965, "gelu": 1.7015043497085571}
"""Gains that keep unit variance through an activation of Gaussian input, measured by the authors (Brock et al.,
arXiv:2101.08692, §4.3, and their code, nfnets/base.py); ReLU's is sqrt(2 / (1 - 1/pi)) = 1.71286 in theory."""

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


def activation(kind: str, factor: float = 1.0, inplace: bool = True) -> nn.Module:
    """Build an activation, in place where it can be and may be, times a constant factor."""
    plain = nn.GELU() if kind == "gelu" else _ACTIVATIONS[kind](inplace=inplace)
    return plain if factor == 1.0 else ScaledActivation(plain, factor)


class ScaledActivation(nn.Module):
    """An activation times a constant: gamma (arXiv:2101.08692, §4.3), divided by a unit's beta where it has one.

    The product takes no memory of its own. ReLU, which needs its output for the gradient, is scaled before it: the
    same for a positive factor.
    """

    def __init__(self, plain: nn.Module, factor: float) -> None:
        super().__init__()
        self.plain, self.factor = plain, factor
        self.before = isinstance(plain, nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to the same shape."""
        if self.before:
            return F.relu_(x.mul_(self.factor) if self.plain.inplace else x * self.factor)
        out: Tensor = self.plain(x).mul_(self.factor)
        return out

    def extra_repr(self) -> str:
        """Show the factor."""
        return f"factor={self.factor:.4f}"


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: output `ceil(input / stride)`, the odd pixel at the far side."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, C', ceil(H / stride), ceil(W / stride))`."""
        return self._conv_forward(_padded_as_same(self, x), self.weight, self.bias)


class ScaledStdConv2d(nn.Conv2d):
    """Scaled weight standardisation with a learnt gain per filter (arXiv:2101.08692, §4.2, and 2102.06171, §2).

    Each filter W becomes gain (W - mean) / sqrt(N var), with N its fan-in. The authors' floor of 1e-4 under N var is
    an addend here (`epsilon`, to var), so that one fused normalisation does the work. Raises InputError for N = 1.
    """

    def __init__(self, *arguments: Any, same: bool = False, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))
        self.fan_in = self.weight[0].numel()
        if self.fan_in == 1:
            raise InputError(
                "weight_standardization=true has no form for filters of a single weight (found a 1x1 convolution of "
                f"{self.in_channels} channels in {self.groups} groups)"
            )
        self.epsilon = 1e-4 / self.fan_in
        self.same = same

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, C', H', W')`."""
        if self.same:
            x = _padded_as_same(self, x)
        return self._conv_forward(x, self.standardized(), self.bias)

    def standardized(self) -> Tensor:
        """Return the weight that convolves, of the weight's shape."""
        scale = self.gain.flatten() * self.fan_in**-0.5
        flat = self.weight.reshape(1, self.out_channels, -1)
        unit = F.batch_norm(flat, None, None, weight=scale, training=True, momentum=0.0, eps=self.epsilon)
        return unit.reshape_as(self.weight)


def convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    *,
    padding: str = "zeros",
    bias: bool = False,
    standardized: bool = False,
) -> nn.Conv2d:
    """Build a convolution that keeps the resolution up to its stride; `padding`: zeros, same or circular."""
    same = padding == "same" and (stride > 1 or kernel % 2 == 0)  # else all sides are padded alike
    keywords: dict[str, Any] = {"groups": groups, "bias": bias, "padding": 0 if same else kernel // 2}
    if padding == "circular":
        keywords["padding_mode"] = "circular"
    if standardized:
        return ScaledStdConv2d(inputs, outputs, kernel, stride, same=same, **keywords)
    return (SameConv2d if same else nn.Conv2d)(inputs, outputs, kernel, stride, **keywords)


def _padded_as_same(conv: nn.Conv2d, x: Tensor) -> Tensor:
    sides: list[int] = []
    for size, kernel, stride in zip(x.shape[:1:-1], conv.kernel_size[::-1], conv.stride[::-1], strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides) if any(sides) else x


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from all of them (Hu et al., arXiv:1709.01507, §3).

    `squeeze`: avg or max over the image, or none (a gate for each pixel, Table 16); `gate`: sigmoid, relu or tanh
    (Table 12), times `gain`.
    """

    def __init__(self, channels: int, hidden: int, squeeze: str, gate: str, bias: bool, gain: float) -> None:
        super().__init__()
        pools = {"avg": nn.AdaptiveAvgPool2d(1), "max": nn.AdaptiveMaxPool2d(1), "none": nn.Identity()}
        gates = {"sigmoid": nn.Sigmoid(), "relu": nn.ReLU(inplace=True), "tanh": nn.Tanh()}
        self.pool = pools[squeeze]
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.relu = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(hidden, channels, 1, bias=bias)
        self.gate = gates[gate]
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to the same shape."""
        gate: Tensor = self.gate(self.expand(self.relu(self.reduce(self.pool(x)))))
        return x * (gate if self.gain == 1.0 else gate * self.gain)


def plain_squeeze(channels: int, reduction: int | None) -> list[tuple[str, nn.Module]]:
    """Make the SE block of §3 without biases, as a list of one named layer; an empty one for no reduction."""
    if reduction is None:
        return []
    return [("se", SqueezeExcitation(channels, max(1, round(channels / reduction)), "avg", "sigmoid", False, 1.0))]


class Scale(nn.Module):
    """Multiply a branch by alpha (arXiv:2101.08692, §3) and, `learnt`, by a scalar that starts at zero (SkipInit, De &
    Smith, arXiv:2002.10444)."""

    def __init__(self, alpha: float, learnt: bool) -> None:
        super().__init__()
        self.alpha = alpha
        self.gain = nn.Parameter(torch.zeros(())) if learnt else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to the same shape."""
        return x * (self.alpha if self.gain is None else self.gain * self.alpha)
