"""Every parameter has a kind by the layer that owns it, and is in one group of the optimiser."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from repro.models import build
from repro.models.presets import load_preset
from repro.optim.groups import GroupSize, group_sizes, kinds, parameter_groups


def preset(name: str, classes: int = 1000) -> nn.Module:
    with torch.device("meta"):
        return build(load_preset(name), 3, classes)


def sizes(net: nn.Module) -> dict[str, tuple[int, int]]:
    return {size.kind: (size.tensors, size.parameters) for size in group_sizes(net)}


def test_resnet50_in_closed_form() -> None:
    """He et al. 2015, Table 1: convolutions without a bias, each with a batch norm of a scale and a shift."""
    weights, channels, inputs = 3 * 49 * 64, 64, 64
    for depth, width in zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True):
        weights += inputs * 4 * width  # the projection
        channels += depth * (width + width + 4 * width) + 4 * width
        for _ in range(depth):
            weights += inputs * width + 9 * width * width + width * 4 * width
            inputs = 4 * width
    assert sizes(preset("resnet50")) == {
        "weight": (53 + 1, weights + 2048 * 1000),
        "norm": (2 * 53, 2 * channels),
        "bias": (1, 1000),
    }


def test_mobilenet_in_closed_form() -> None:
    """Howard et al. 2017, Table 1: thirteen depthwise 3x3 convolutions, on as many channels as the layer gets."""
    inputs = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024)
    found = sizes(preset("mobilenet_v1"))
    assert found["depthwise"] == (13, 9 * sum(inputs))
    assert found["weight"][0] == 1 + 13 + 1
    assert found["bias"] == (1, 1000)


def test_shufflenet_has_one_depthwise_convolution_a_unit_and_its_grouped_ones_are_ordinary() -> None:
    """Zhang et al. 2018, Table 1, 3 groups: 4, 8 and 4 units whose bottleneck has a quarter of 240, 480, 960."""
    found = sizes(preset("shufflenet_v1_g3"))
    assert found["depthwise"] == (16, 9 * (4 * 60 + 8 * 120 + 4 * 240))
    assert found["weight"][0] == 1 + 2 * 16 + 1


def test_a_norm_free_network_has_gains_and_biases() -> None:
    """NF-ResNet-50: 53 standardised convolutions, each with a gain and a bias per channel; SkipInit in 16 units."""
    net = preset("nf_resnet50")
    channels = sum(module.out_channels for module in net.modules() if isinstance(module, nn.Conv2d))
    assert sizes(net) | {"weight": ()} == {
        "weight": (),
        "bias": (53 + 1, channels + 1000),
        "gain": (53 + 16, channels + 16),
    }


@pytest.mark.parametrize(
    ("name", "parameter", "kind"),
    [
        ("nf_regnet_b0", "stem.conv.gain", "gain"),
        ("nf_regnet_b0", "stages.0.0.conv2.weight", None),
        ("dm_nfnet_f0", "stages.0.0.skipinit_gain", "gain"),
        ("dm_nfnet_f0", "stages.0.0.attn_last.fc1.bias", "bias"),
        ("convnext_atto", "stages.0.blocks.0.gamma", "gain"),
        ("convnext_atto", "stages.0.blocks.0.conv_dw.weight", "depthwise"),
        ("convnext_atto", "stages.0.blocks.0.conv_dw.bias", "bias"),
        ("convnext_atto", "stages.0.blocks.0.norm.weight", "norm"),
        ("convnextv2_atto", "stages.0.blocks.0.mlp.grn.weight", "norm"),
        ("resnetv2_50x1_bit", "norm.bias", "norm"),
        ("efficientnet_b0", "bn1.weight", "norm"),
        ("efficientnet_b0", "blocks.0.0.se.conv_reduce.bias", "bias"),
        ("beit_base_patch16_224", "blocks.0.attn.q_bias", "bias"),
        ("beit_base_patch16_224", "blocks.0.attn.relative_position_bias_table", None),
        ("beit_base_patch16_224", "cls_token", None),
        ("ese_vovnet39b_evos", "stem.0.bn.v", "norm"),
    ],
)
def test_kinds_in_timm(name: str, parameter: str, kind: str | None) -> None:
    with torch.device("meta"):
        net = timm.create_model(name)
    assert kinds(net)[parameter] == kind


@pytest.mark.parametrize(
    ("name", "parameter", "kind"),
    [
        ("mobilenet_v2", "features.1.conv.0.0.weight", "depthwise"),
        ("mobilenet_v2", "features.0.0.weight", None),
        ("convnext_tiny", "features.1.0.layer_scale", "gain"),
        ("convnext_tiny", "features.0.1.weight", "norm"),
        ("vit_b_32", "encoder.layers.encoder_layer_0.self_attention.in_proj_bias", "bias"),
        ("vit_b_32", "encoder.layers.encoder_layer_0.ln_1.bias", "norm"),
    ],
)
def test_kinds_in_torchvision(name: str, parameter: str, kind: str | None) -> None:
    with torch.device("meta"):
        net = models.get_model(name, weights=None)
    assert kinds(net)[parameter] == kind


@pytest.mark.parametrize("name", ["resnet20", "nf_resnet50", "mobilenet_v1", "googlenet"])
def test_every_parameter_is_in_one_group_in_the_networks_order(name: str) -> None:
    net = preset(name)
    order = {id(parameter): place for place, parameter in enumerate(net.parameters())}
    assert list(kinds(net)) == [name for name, _ in net.named_parameters()]
    groups = parameter_groups(net, 1e-4, ["norm", "bias", "gain", "depthwise"])
    places = [[order[id(parameter)] for parameter in group["params"]] for group in groups]
    assert sorted(chain(*places)) == list(range(len(order)))
    assert all(own == sorted(own) for own in places)
    assert [group["weight_decay"] for group in groups] == [1e-4, 0.0]


def test_a_group_has_only_the_kinds_that_are_named() -> None:
    net = preset("nf_resnet50")
    spared = {id(p) for p in parameter_groups(net, 1e-4, ["gain"])[1]["params"]}
    assert Counter(kinds(net)[name] for name, p in net.named_parameters() if id(p) in spared) == {"gain": 69}


@pytest.mark.parametrize("no_decay", [[], ["gain"], ["depthwise", "gain"]], ids=["none", "gain", "both"])
def test_there_is_no_empty_group(no_decay: list[str]) -> None:
    net = preset("resnet20")
    (group,) = parameter_groups(net, 1e-4, no_decay)
    assert [id(p) for p in group["params"]] == [id(p) for p in net.parameters()]


def test_without_decay_there_is_nothing_to_part() -> None:
    assert len(parameter_groups(preset("resnet20"), 0.0, ["norm", "bias"])) == 1


def test_frozen_and_shared_parameters() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    first.bias.requires_grad_(False)
    net = nn.Sequential(first, second)
    assert kinds(net) == {"0.weight": None, "0.bias": "bias", "1.bias": "bias"}
    assert [id(p) for p in parameter_groups(net, 0.1)[0]["params"]] == [id(first.weight), id(second.bias)]
    assert group_sizes(net, ["bias"]) == [GroupSize("weight", True, 1, 16), GroupSize("bias", False, 1, 4)]


def test_a_convolution_of_one_channel_is_not_depthwise() -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 16, 3, groups=8))
    assert [kind for name, kind in kinds(net).items() if name.endswith("weight")] == [None, "depthwise", None]
