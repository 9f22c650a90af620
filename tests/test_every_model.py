"""Every preset in `conf/model/` builds, runs forward and backward, and gives every parameter a finite gradient.

They are made small first, by family, so that all of it takes a minute. A residual network gets two units in its first
stage and one in the others, and a quarter of its widths where its groups have a fixed one (RegNet, NFNet); a chain's
layers are capped, EfficientNet's scaling is divided. The others stay as they are. What still has more than `REAL`
parameters runs on the meta device: shapes without numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import InputError
from repro.models import build
from repro.models.auxiliary import Outputs
from repro.models.config import Family
from repro.models.presets import load_preset
from repro.paths import options

torch.set_num_threads(1)

CLASSES = 10
REAL = 16_000_000
SIZES = (32, 64, 75, 299)
"""Inputs (pixels), of which a network gets the smallest that it takes."""


def _residual(config: Any) -> dict[str, Any]:
    unit, part = config.group_width or 1, 4 if config.group_width else 1
    widths = [max(unit, width // part // unit * unit) for width in config.widths]
    depths = [2, *(1 for _ in widths[1:])]
    final = config.final_width and config.final_width // part
    return {"regnet": None, "depths": depths, "widths": widths, "final_width": final}


def _chain(config: Any) -> dict[str, Any]:
    caps = {"filters": 64, "features": 64}
    layers = [layer.model_dump() for layer in config.layers]
    return {"layers": [{k: min(v, caps[k]) if k in caps and v else v for k, v in layer.items()} for layer in layers]}


SMALL: dict[str, Callable[[Any], dict[str, Any]]] = {
    "residual": _residual,
    "chain": _chain,
    "efficientnet": lambda config: {"width": config.width / 2, "depth": config.depth / 4},
}
"""What is changed in the presets of a family; the others are small or run on the meta device."""


def small(name: str) -> Family:
    config = load_preset(name)
    return load_preset(name, **SMALL.get(config.family, lambda _: {})(config))


def network_of(config: Family, channels: int = 3) -> nn.Module:
    """Build on the CPU, or on the meta device what has more than `REAL` parameters."""
    with torch.device("meta"):
        network = build(config, channels, CLASSES)
    if sum(parameter.numel() for parameter in network.parameters()) > REAL:
        return network
    torch.manual_seed(0)
    return build(config, channels, CLASSES)


def evaluated(network: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """Return two random images `(2, channels, size, size)` of the smallest of `SIZES`, and what is made of them."""
    device = next(network.parameters()).device
    for size in SIZES:
        images = torch.rand(2, channels, size, size, device=device)
        try:
            with torch.no_grad():
                return images, network.eval()(images)
        except (InputError, RuntimeError):
            continue
    raise AssertionError(f"takes none of {SIZES}")


def check(network: nn.Module, channels: int = 3) -> None:
    """Run forward in both modes and backward; every parameter must get a finite gradient."""
    images, evaluation = evaluated(network, channels)
    assert_logits(evaluation)
    out = network.train()(images)
    heads = (out.logits, *out.auxiliary) if isinstance(out, Outputs) else (out,)
    labels = torch.zeros(2, dtype=torch.long, device=images.device)
    sum(F.cross_entropy(assert_logits(logits), labels) for logits in heads).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.is_meta or parameter.grad.isfinite().all(), name


def assert_logits(logits: Tensor) -> Tensor:
    assert logits.shape == (2, CLASSES)
    assert logits.is_meta or logits.isfinite().all()
    return logits


@pytest.mark.parametrize("name", options("model"))
def test_a_preset_runs_forward_and_backward(name: str) -> None:
    check(network_of(small(name)))


@pytest.mark.parametrize(
    "name",
    ["resnet50d", "regnety_002", "zfnet", "lenet5", "mobilenet_v1", "shufflenet_v1_g3", "efficientnet_b1",
     "googlenet", "shufflenet_v2_x1_0", "timm/resnet10t", "timm/efficientnet_lite0"],
)  # fmt: skip
def test_a_network_for_grey_images_runs_forward_and_backward(name: str) -> None:
    check(network_of(small(name), channels=1), channels=1)


REPRESENTATIVES = {
    "residual": "nfnet_f6",
    "chain": "zfnet",
    "mobilenet": "mobilenet_v1",
    "shufflenet": "shufflenet_v1_g3",
    "efficientnet": "efficientnet_b7",
    "library": "googlenet",
}
"""Of every family a preset that runs on the CPU once it is small."""


def test_every_family_runs_with_numbers() -> None:
    presets = {name: load_preset(name) for name in options("model")}
    assert set(REPRESENTATIVES) == {config.family for config in presets.values()}
    for family, name in REPRESENTATIVES.items():
        assert presets[name].family == family
        assert not next(network_of(small(name)).parameters()).is_meta
