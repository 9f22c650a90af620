"""The per-layer table: its rows, their closed form against the counter, and that nothing is left out or twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from repro.cost.capture import capture, observe
from repro.cost.count import price
from repro.cost.layers import MAIN, Layer, layer_rows, layer_table
from repro.models.presets import load_preset
from repro.paths import options
from tests.test_cost_golden import rounded

torch.set_num_threads(1)


def sums(rows: list[Layer]) -> tuple[int, ...]:
    return tuple(sum(getattr(row, what) for row in rows) for what in ("params", "macs", "pooling", "activations"))


@settings(deadline=None, max_examples=30)
@given(
    order=st.sampled_from(["post", "bn_after_addition", "relu_before_addition", "relu_only_pre", "pre"]),
    shortcut=st.sampled_from(["none", "A", "B", "C", "D"]),
    block=st.sampled_from(["single", "basic", "bottleneck"]),
    stem=st.sampled_from(["cifar", "imagenet", "deep"]),
    reduction=st.sampled_from([None, 2]),
    size=st.integers(4, 40),
)
def test_the_layers_add_up_to_the_price(
    order: str, shortcut: str, block: str, stem: str, reduction: int | None, size: int
) -> None:
    tiny: dict[str, Any] = {"depths": (1, 2), "widths": (4, 8), "stem_width": 4, "se": {"reduction": reduction}}
    config = load_preset("resnet20", **tiny, order=order, shortcut=shortcut, block=block, stem=stem)
    cost = price(config, size, channels=2, classes=7)
    found = sums(layer_table(config, size, channels=2, classes=7))
    assert found == (cost.params, cost.macs, cost.pooling, cost.activations)


@pytest.mark.parametrize("name", options("model"))
def test_closed_form_and_counter_agree_for_every_preset(name: str) -> None:
    """On small images where the network takes them; every parameter is in exactly one row."""
    config = load_preset(name)
    native = config.native
    large = config.family == "chain" or name.startswith(("inception", "googlenet", "vit", "nasnet"))
    found = observe(config, native.size if large else min(native.size, 64), native.channels, native.classes)
    rows = layer_rows(found)
    assert sums(rows) == (sum(found.parameters.values()), found.macs, found.pooling, found.activations)
    assert len({row.name for row in rows}) == len(rows)
    assert found.uncounted == ()


@pytest.mark.parametrize(
    ("name", "axes", "params", "macs"),
    [
        ("resnet110", {"depths": (200, 200, 200)}, "19,421,274", "2.829 G"),
        ("resnet1001", {}, "10.33 M", "1.488 G"),
        ("preresnet1001", {}, "10.33 M", "1.488 G"),
    ],
    ids=["ResNet-1202", "ResNet-1001", "ResNet-1001 pre-activation"],
)
def test_published_costs_of_a_thousand_layers(name: str, axes: dict[str, Any], params: str, macs: str) -> None:
    found = sums(layer_table(load_preset(name, **axes), 32, 3, 10))
    assert (rounded(found[0], params), rounded(found[1], macs)) == (params, macs)


def by_name(name: str, size: int) -> dict[str, Layer]:
    config = load_preset(name)
    return {row.name: row for row in layer_table(config, size, config.native.channels, config.native.classes)}


def test_rows_of_the_layer_table() -> None:
    rows = by_name("resnext50_32x4d", 224)
    assert next(iter(rows.values())) == Layer(
        name="stem.conv",
        kind="conv",
        input=(3, 224, 224),
        output=(64, 112, 112),
        filters=64,
        kernel=(7, 7),
        stride=(2, 2),
        padding=(3, 3),
        groups=1,
        memory_kib=3136.0,
        params=9408,
        macs=118_013_952,
        pooling=0,
        activations=802_816,
    )
    assert rows["stages.0.0.branch.conv2"].params == 128 * 4 * 9
    assert rows["stages.0.0.branch.conv2"].groups == 32
    assert (rows["stem.pool"].kind, rows["stem.pool"].kernel, rows["stem.pool"].macs) == ("max_pool", (3, 3), 0)
    assert rows["stem.pool"].pooling == 64 * 56 * 56 * 9
    assert (rows["pool"].kind, rows["pool"].kernel, rows["pool"].output) == ("avg_pool", (7, 7), (2048, 1, 1))
    assert rows["pool"].pooling == 2048 * 49
    assert (rows["stem.bn"].kind, rows["stem.bn"].params, rows["stem.bn"].activations) == ("norm", 128, 0)
    assert (rows["fc"].input, rows["fc"].params, rows["fc"].macs) == ((2048, 1, 1), 2_049_000, 2_048_000)


def test_rows_of_calls_that_are_no_modules() -> None:
    rows = list(by_name("densenet121", 224).values())
    assert [(row.name, row.kind, row.output) for row in rows[-2:]] == [
        ("avg_pool", "avg_pool", (1024, 1, 1)),
        ("classifier", "linear", (1000, 1, 1)),
    ]


def test_rows_of_a_transformer() -> None:
    """ViT-Ti/16: 196 patches and a class token of 192 features, 3 heads."""
    rows = by_name("vit_ti_16", 224)
    assert (rows["cls_token"].kind, rows["cls_token"].params, rows["pos_embed"].params) == ("other", 192, 197 * 192)
    qkv = rows["blocks.0.attn.qkv"]
    assert (qkv.input, qkv.output, qkv.macs) == ((192, 197, 1), (576, 197, 1), 197 * 192 * 576)
    scores, mixed = rows["blocks.0.attn.matmul"], rows["blocks.0.attn.matmul (2)"]
    assert (scores.kind, scores.input, scores.output) == ("matmul", (3, 197, 64), (3, 197, 197))
    assert scores.macs == mixed.macs == 3 * 197 * 197 * 64
    assert (scores.params, scores.activations) == (0, 0)


def test_rows_of_torchs_own_attention() -> None:
    """Its projections are called as functions with a submodule's weights: the row is the weights' module."""
    config = load_preset("torchvision/vit_b_16")
    rows = {row.name: row for row in layer_table(config, 224, 3, 10)}
    attention = "encoder.layers.encoder_layer_0.self_attention"
    assert rows[attention].params == 3 * 768 * 768 + 3 * 768
    assert rows[f"{attention}.out_proj"].params == 768 * 768 + 768


def test_gains_and_standardised_convolutions() -> None:
    rows = by_name("nf_resnet50", 64)
    conv, gain = rows["stages.0.0.branch.conv2"], rows["stages.0.0.branch.scale.gain"]
    assert (conv.params, conv.macs) == (9 * 64 * 64 + 64 + 64, 9 * 64 * 64 * 16 * 16)
    assert (gain.kind, gain.params) == ("other", 1)


def test_padding_as_the_network_lays_it() -> None:
    rows = by_name("nfnet_f0", 192)
    assert [rows[name].padding for name in ("stem.conv1", "stem.conv2", "stages.0.0.branch.conv1")] == [
        "same",
        (1, 1),
        (0, 0),
    ]
    assert rows["stem.conv1"].input == (3, 192, 192)
    around = capture(nn.Conv2d(1, 1, 5, padding=2, padding_mode="circular"), (1, 8, 8))
    assert (layer_rows(around)[0].padding, layer_rows(around)[0].input) == ((2, 2), (1, 8, 8))


def test_auxiliary_classifiers_are_not_counted() -> None:
    rows = by_name("googlenet", 224)
    assert not [name for name in rows if name.startswith("aux")]
    assert sum(row.params for row in rows.values()) == 6_624_904


class Twice(nn.Module):
    """A layer that is passed twice, a bias that is added apart, and a pooling as a call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.shift = nn.Parameter(torch.zeros(2, 1, 1))
        self.spare = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.conv(self.conv(x)) + self.shift, 2)


def test_a_layer_that_is_passed_twice_has_two_rows_and_one_set_of_parameters() -> None:
    rows = layer_rows(capture(Twice(), (2, 4, 4)))
    assert [(row.name, row.kind, row.params) for row in rows] == [
        ("conv", "conv", 36),
        ("conv (2)", "conv", 0),
        ("shift", "other", 2),
        ("max_pool", "max_pool", 0),
        ("spare.weight", "unused", 9),
        ("spare.bias", "unused", 3),
    ]
    assert sum(row.macs for row in rows if row.kind in MAIN) == 2 * 36 * 16
