"""The per-layer table of a network: shapes, parameters, MACs and activations of every convolution, linear layer,
pooling and normalisation, by closed form on the shapes that forward hooks see. Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repro.cost.blank import blank_network
from repro.errors import InputError
from repro.models.config import ModelConfig

Kind = Literal["conv", "linear", "max_pool", "avg_pool", "norm"]
Shape = tuple[int, int, int]
Pair = tuple[int, int]

BYTES = 4  # of a float32


@dataclass(frozen=True)
class Layer:
    """One row, for one image. Shapes are `(C, H, W)`; a linear layer's are `(features, 1, 1)`.

    `filters`, `kernel`, `stride`, `padding` and `groups` are None where a kind has none. `memory_kib` is the output in
    float32; `macs` and `activations` follow the conventions of `repro.cost.count`.
    """

    name: str
    kind: Kind
    input: Shape
    output: Shape
    filters: int | None
    kernel: Pair | None
    stride: Pair | None
    padding: Pair | None
    groups: int | None
    memory_kib: float
    params: int
    macs: int
    activations: int


def layer_table(config: ModelConfig, size: int, channels: int, classes: int) -> list[Layer]:
    """List the layers in the order in which one image `(channels, size, size)` passes them.

    The rows' parameters, MACs and activations add up to `repro.cost.count.price`. Raises InputError for a network that
    cannot be built, or that holds parameters in a layer of another kind.
    """
    network = blank_network(config, channels, classes).eval()
    rows = _observe(network, torch.zeros(1, channels, size, size))
    total, listed = sum(p.numel() for p in network.parameters()), sum(row.params for row in rows)
    if total != listed:
        raise InputError(f"model {config.name}: the layers listed have {listed} parameters, the network has {total}")
    return rows


def _observe(network: nn.Module, image: Tensor) -> list[Layer]:
    rows: list[Layer] = []
    for name, module in network.named_modules():
        if isinstance(module, _LAYERS):
            module.register_forward_hook(_recorder(name, rows))
    with torch.inference_mode():
        network(image)
    return rows


def _recorder(name: str, rows: list[Layer]) -> Callable[[nn.Module, Any, Tensor], None]:
    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        rows.append(_row(name, module, _shape(inputs[0]), _shape(output)))

    return record


def _shape(tensor: Tensor) -> Shape:
    """Return `(C, H, W)` of one image; features without place are `(C, 1, 1)`."""
    channels, height, width = (*tensor.shape[1:], 1, 1)[:3]
    return channels, height, width


def _row(name: str, module: nn.Module, entry: Shape, out: Shape) -> Layer:
    kernel, stride, padding = _window(module, entry, out)
    weighted = isinstance(module, nn.Conv2d | nn.Linear)
    return Layer(
        name=name,
        kind=_kind(module),
        input=entry,
        output=out,
        filters=out[0] if weighted else None,
        kernel=kernel,
        stride=stride,
        padding=padding,
        groups=module.groups if isinstance(module, nn.Conv2d) else None,
        memory_kib=prod(out) * BYTES / 1024,
        params=sum(parameter.numel() for parameter in module.parameters()),
        macs=_macs(module, out),
        activations=prod(out) if weighted else 0,
    )


_LAYERS = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.BatchNorm2d)


def _kind(module: nn.Module) -> Kind:
    if isinstance(module, nn.Conv2d):
        return "conv"
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.BatchNorm2d):
        return "norm"
    return "max_pool" if isinstance(module, nn.MaxPool2d) else "avg_pool"


def _macs(module: nn.Module, out: Shape) -> int:
    """Weights times the places at which they are applied; biases are free."""
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return 0
    return module.weight.numel() * out[1] * out[2]


def _window(module: nn.Module, entry: Shape, out: Shape) -> tuple[Pair | None, Pair | None, Pair | None]:
    """Return kernel, stride and padding; a global pooling is a window as large as its input."""
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
    if isinstance(module, nn.AdaptiveAvgPool2d):
        window = entry[1] // out[1], entry[2] // out[2]
        return window, window, (0, 0)
    return None, None, None


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
