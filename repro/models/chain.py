"""A network that is a plain list of layers: LeNet-5, AlexNet, ZFNet, VGG and what a file lists besides.

Knows no data, no recipe and no trainer; `chain_config.py` says what each kind of layer takes.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import InputError
from repro.models.chain_config import (
    ActivationConfig,
    AnyLayer,
    BatchNormConfig,
    ChainConfig,
    ConvConfig,
    DropoutConfig,
    FlattenConfig,
    GlobalPoolConfig,
    LinearConfig,
    PoolConfig,
    ResponseNormConfig,
    Shape,
)

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
_GAINS: dict[type[nn.Module], float] = {nn.ReLU: 2**0.5, nn.Tanh: 5 / 3, nn.Sigmoid: 1.0}  # torch.nn.init's
_POOLS: dict[str, type[nn.MaxPool2d] | type[nn.AvgPool2d]] = {"max_pool": nn.MaxPool2d, "avg_pool": nn.AvgPool2d}


class Chain(nn.Sequential):
    """The layers of a `ChainConfig`, each under its own name: `(N, C, H, W)` to `(N, classes)`.

    Images of another size than `native` are averaged to the native places before the flatten, as torchvision's AlexNet
    and VGG do. Raises InputError for channels that the first layers cannot take.
    """

    def __init__(self, config: ChainConfig, channels: int, classes: int) -> None:
        try:
            entries = config.entries(channels, classes, config.native.size)
        except ValueError as error:
            raise InputError(f"model {config.name}: {error}") from None
        super().__init__()
        self.title, self.smallest = config.name, config.smallest()
        for name, layer, entry in zip(config.names, config.layers, entries, strict=True):
            if hasattr(self, name):
                raise InputError(f"model {config.name}: no layer can be called {name!r}; torch's networks have that")
            self.add_module(name, _layer(layer, entry, classes))
        _initialise(list(self))
        _save_memory(list(self))

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(N, C, H, W)` to logits `(N, classes)`. Raises InputError where a window does not fit them."""
        height, width = x.shape[-2:]
        if min(height, width) < self.smallest:
            raise InputError(
                f"model {self.title}: images of {height} x {width} are too small, its windows need at least "
                f"{self.smallest} x {self.smallest}"
            )
        for layer in self:
            x = layer(x)
        return x


class FlattenAt(nn.Module):
    """Flatten images of `places` (height, width); others are averaged to as many places first, exact ones are not."""

    def __init__(self, places: tuple[int, int]) -> None:
        super().__init__()
        self.places = places

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, C height width)`."""
        if tuple(x.shape[-2:]) != self.places:
            x = F.adaptive_avg_pool2d(x, self.places)
        return x.flatten(1)

    def extra_repr(self) -> str:
        """Show the places."""
        return f"places={self.places}"


def _layer(layer: AnyLayer, entry: Shape, classes: int) -> nn.Module:
    """Build the module of one layer whose input has the shape `entry` at the native size."""
    match layer:
        case ActivationConfig():
            return _ACTIVATIONS[layer.kind]()
        case ConvConfig():
            window = (layer.kernel, layer.stride, layer.padding)
            return nn.Conv2d(entry[0], layer.filters, *window, groups=layer.groups, bias=layer.bias)
        case LinearConfig():
            return nn.Linear(entry[0], layer.features or classes, bias=layer.bias)
        case PoolConfig():
            return _POOLS[layer.kind](layer.kernel, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
        case ResponseNormConfig():
            return nn.LocalResponseNorm(layer.size, layer.alpha * layer.size, layer.beta, layer.k)
        case GlobalPoolConfig():
            return nn.AdaptiveAvgPool2d(1)
        case BatchNormConfig():
            return nn.BatchNorm2d(entry[0])
        case FlattenConfig():
            return FlattenAt((entry[1], entry[2]))
        case DropoutConfig():
            return nn.Dropout(layer.p)


def _initialise(layers: list[nn.Module]) -> None:
    """Weights of variance gain^2 / fan-in for the activation that follows, zero biases (arXiv:1502.01852, §2.2).

    The original initialisations do not train VGG's deeper networks from scratch (arXiv:1409.1556, §3.1).
    """
    gain = 1.0  # of what follows the last linear layer: nothing
    for layer in reversed(layers):
        if type(layer) in _GAINS:
            gain = _GAINS[type(layer)]
        elif isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=gain / layer.weight[0].numel() ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            gain = 1.0


def _save_memory(layers: list[nn.Module]) -> None:
    """Let a ReLU overwrite its input where no gradient needs that."""
    for before, layer in pairwise(layers):
        if isinstance(layer, nn.ReLU) and isinstance(before, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            layer.inplace = True
