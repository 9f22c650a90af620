"""EfficientNet's compound scaling: torchvision's networks at the released coefficients, and rules that hold between."""

from __future__ import annotations

from math import ceil
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.efficientnet import MBConv

from repro.cost.count import price
from repro.models import build
from repro.models.presets import load_preset

torch.set_num_threads(1)

NAMES = [f"efficientnet_b{number}" for number in range(8)]
LAYERS = (1, 2, 2, 3, 3, 4, 1)
CHANNELS = (16, 24, 40, 80, 112, 192, 320)

COSTS = {  # [computed] with torchvision's networks: parameters (M), GMACs at the released resolution
    "efficientnet_b0": ("5.29", "0.386"),
    "efficientnet_b1": ("7.79", "0.687"),
    "efficientnet_b2": ("9.11", "0.994"),
    "efficientnet_b3": ("12.23", "1.827"),
    "efficientnet_b4": ("19.34", "4.394"),
    "efficientnet_b5": ("30.39", "10.266"),
    "efficientnet_b6": ("43.04", "19.07"),
    "efficientnet_b7": ("66.35", "37.75"),
}


def ours(name: str, classes: int = 1000, **axes: Any) -> nn.Module:
    with torch.device("meta"):
        return build(load_preset(name, **axes), 3, classes)


def theirs(name: str) -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = torchvision.models.get_model(name, weights=None)
    return network


def settled(network: nn.Module) -> list[tuple[str, str, str]]:
    """Every module's name, class and what it prints of itself: kernels, strides, eps, probabilities."""
    return [(name, type(module).__name__, module.extra_repr()) for name, module in network.named_modules()]


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_torchvisions_network(name: str) -> None:
    own, other = ours(name), theirs(name)
    assert {key: value.shape for key, value in own.state_dict().items()} == {
        key: value.shape for key, value in other.state_dict().items()
    }
    assert settled(own) == settled(other)
    drops = [block.stochastic_depth.p for block in own.modules() if isinstance(block, MBConv)]
    assert drops == [block.stochastic_depth.p for block in other.modules() if isinstance(block, MBConv)]


def randomised(network: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(0)
    network = network.to_empty(device="cpu").eval()
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
        elif tensor.ndim == 1:
            low = -0.1 if name.endswith(("bias", "running_mean")) else 0.5
            tensor.uniform_(low, low + 0.5, generator=draw)
        else:
            tensor.normal_(std=tensor[0].numel() ** -0.5, generator=draw)
    return network


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b5"])
def test_torchvisions_weights_give_torchvisions_outputs(name: str) -> None:
    other = randomised(theirs(name))
    own = ours(name).to_empty(device="cpu").eval()
    own.load_state_dict(other.state_dict())
    images: Tensor = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = other(images)
        assert expected.std() > 0.01
        assert torch.equal(own(images), expected)


@pytest.mark.parametrize("name", NAMES)
def test_published_costs(name: str) -> None:
    config = load_preset(name)
    cost = price(config, config.native.size, 3, 1000)
    params, macs = COSTS[name]
    decimals = len(macs.partition(".")[2])
    assert (f"{cost.params / 1e6:.2f}", f"{cost.macs / 1e9:.{decimals}f}") == (params, macs)


@settings(deadline=None, max_examples=10)
@given(width=st.floats(0.25, 2.5), depth=st.floats(0.1, 3))
def test_compound_scaling(width: float, depth: float) -> None:
    blocks = [
        module for module in ours("efficientnet_b0", width=width, depth=depth).modules() if isinstance(module, MBConv)
    ]
    assert len(blocks) == sum(ceil(layers * depth) for layers in LAYERS)
    widths = [block.out_channels for block in blocks]
    wanted = [channels * width for channels, n in zip(CHANNELS, LAYERS, strict=True) for _ in range(ceil(n * depth))]
    for found, exact in zip(widths, wanted, strict=True):
        assert found % 8 == 0
        assert found >= 0.9 * exact
        assert found <= max(8, exact + 8)


def test_stochastic_depth_and_dropout_are_axes() -> None:
    network = ours("efficientnet_b0", stochastic_depth=0.4, dropout=0.5)
    drops = [block.stochastic_depth.p for block in network.modules() if isinstance(block, MBConv)]
    assert drops == pytest.approx([0.4 * index / 16 for index in range(16)])
    assert next(module.p for module in network.modules() if isinstance(module, nn.Dropout)) == 0.5
