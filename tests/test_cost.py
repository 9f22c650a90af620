"""Counted costs against published ones, the per-layer table against the counter, and the cache of prices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from repro.cost import count
from repro.cost.blank import blank_network
from repro.cost.count import cached_price, known_price, price
from repro.cost.layers import Layer, layer_table
from repro.errors import InputError
from repro.models.presets import load_preset
from repro.models.residual_config import ResidualConfig
from repro.results import Cost

torch.set_num_threads(1)

PUBLISHED: list[tuple[str, dict[str, Any], int, str, str]] = [
    # He et al. 2015, arXiv:1512.03385: Table 1 has the stride in the 1x1 (3.8, 7.6, 11.3 GMACs)
    ("resnet18", {}, 224, "11.69 M", "1.814 G"),
    ("resnet34", {}, 224, "21.80 M", "3.664 G"),
    ("resnet50", {}, 224, "25.56 M", "4.089 G"),
    ("resnet50", {"stride_place": "1x1"}, 224, "25.56 M", "3.858 G"),
    ("resnet101", {}, 224, "44.55 M", "7.801 G"),
    ("resnet101", {"stride_place": "1x1"}, 224, "44.55 M", "7.570 G"),
    ("resnet152", {}, 224, "60.19 M", "11.514 G"),
    ("resnet152", {"stride_place": "1x1"}, 224, "60.19 M", "11.282 G"),
    ("resnet152", {}, 320, "60.19 M", "23.50 G"),
    # §4.2, Table 6: option A adds no parameters, so the plain nets cost the same
    ("resnet20", {}, 32, "269722", "40.55 M"),
    ("resnet32", {}, 32, "464154", "68.86 M"),
    ("resnet44", {}, 32, "658586", "97.17 M"),
    ("resnet56", {}, 32, "853018", "125.49 M"),
    ("resnet110", {}, 32, "1727962", "252.89 M"),
    ("plain56", {}, 32, "853018", "125.49 M"),
    # He et al. 2016, arXiv:1603.05027
    ("resnet200", {}, 224, "64.67 M", "15.01 G"),
    ("resnet200", {}, 320, "64.67 M", "30.63 G"),
    ("preresnet200", {}, 224, "64.67 M", "15.007 G"),
    ("preresnet110", {}, 32, "1.73 M", "0.253 G"),
    ("preresnet164", {}, 32, "1.70 M", "0.245 G"),
    # Xie et al. 2017, arXiv:1611.05431, Tables 3, 4 and 7
    ("resnet50", {"groups": 2, "width_per_group": 40}, 224, "25.43 M", "4.125 G"),
    ("resnet50", {"groups": 4, "width_per_group": 24}, 224, "25.29 M", "4.160 G"),
    ("resnet50", {"groups": 8, "width_per_group": 14}, 224, "25.60 M", "4.267 G"),
    ("resnext50_32x4d", {}, 224, "25.03 M", "4.230 G"),
    ("resnet101", {"groups": 2, "width_per_group": 40}, 224, "44.46 M", "7.844 G"),
    ("resnet101", {"groups": 4, "width_per_group": 24}, 224, "44.36 M", "7.886 G"),
    ("resnet101", {"groups": 8, "width_per_group": 14}, 224, "45.10 M", "8.077 G"),
    ("resnext101_32x4d", {}, 224, "44.18 M", "7.970 G"),
    ("resnet101", {"width_per_group": 100}, 224, "85.6 M", "15.27 G"),
    ("resnet101", {"groups": 2, "width_per_group": 64}, 224, "84.2 M", "15.12 G"),
    ("resnext101_64x4d", {}, 224, "83.5 M", "15.46 G"),
    ("resnext29_8x64d", {}, 32, "34.4 M", "5.39 G"),
    ("resnext29_16x64d", {}, 32, "68.2 M", "10.69 G"),  # the paper prints 68.1 M
]


def named(case: tuple[Any, ...]) -> str:
    name, axes, size = case[:3]
    return "-".join([name, *(f"{axis}={value}" for axis, value in axes.items()), str(size)])


def rounded(value: int, like: str) -> str:
    """Write a count with the unit and as many decimals as the published one has."""
    if " " not in like:
        return str(value)
    number, unit = like.split()
    decimals = len(number.partition(".")[2])
    return f"{value / {'M': 1e6, 'G': 1e9}[unit]:.{decimals}f} {unit}"


def native_price(config: ResidualConfig, size: int | None = None) -> Cost:
    return price(config, size or config.native.size, config.native.channels, config.native.classes)


@pytest.mark.parametrize(("name", "axes", "size", "params", "macs"), PUBLISHED, ids=map(named, PUBLISHED))
def test_published_costs(name: str, axes: dict[str, Any], size: int, params: str, macs: str) -> None:
    cost = native_price(load_preset(name, **axes), size)
    assert (rounded(cost.params, params), rounded(cost.macs, macs)) == (params, macs)


@pytest.mark.parametrize(
    ("name", "axes", "params", "macs"),
    [
        ("resnet110", {"depths": (200, 200, 200)}, "19421274", "2.829 G"),
        ("resnet1001", {}, "10.33 M", "1.488 G"),
        ("preresnet1001", {}, "10.33 M", "1.488 G"),
    ],
    ids=["ResNet-1202", "ResNet-1001", "ResNet-1001 pre-activation"],
)
def test_published_costs_of_a_thousand_layers(name: str, axes: dict[str, Any], params: str, macs: str) -> None:
    found = sums(layer_table(load_preset(name, **axes), 32, 3, 10))
    assert (rounded(found[0], params), rounded(found[1], macs)) == (params, macs)


PYCLS = {
    # facebookresearch/pycls, dev/model_complexity.json: params, flops (with the classifier's bias), acts
    ("resnet56", "B"): (855_770, 125_747_850, 544_778),
    ("resnet110", "B"): (1_730_714, 253_149_834, 1_060_874),
    ("plain56", "none"): (853_018, 125_485_706, 532_490),
    ("resnet50", "B"): (25_557_032, 4_089_185_256, 11_315_688),
    ("resnext50_32x4d", "B"): (25_028_904, 4_230_480_872, 14_602_216),
    ("resnext101_32x4d", "B"): (44_177_704, 7_969_997_800, 21_426_152),
}


@pytest.mark.parametrize(("name", "shortcut"), PYCLS, ids="-".join)
def test_pycls_golden_complexity(name: str, shortcut: str) -> None:
    config = load_preset(name, shortcut=shortcut)
    cost = native_price(config)
    pooled = 64 * 56 * 56 if config.stem == "imagenet" else 0  # pycls counts the stem's max-pool as an activation
    found = (cost.params, cost.macs + config.native.classes, cost.activations + pooled)
    assert found == PYCLS[name, shortcut]


def sums(rows: list[Layer]) -> tuple[int, int, int]:
    return sum(row.params for row in rows), sum(row.macs for row in rows), sum(row.activations for row in rows)


@settings(deadline=None, max_examples=30)
@given(
    order=st.sampled_from(["post", "bn_after_addition", "relu_before_addition", "relu_only_pre", "pre"]),
    shortcut=st.sampled_from(["none", "A", "B", "C", "D"]),
    block=st.sampled_from(["single", "basic", "bottleneck"]),
    stem=st.sampled_from(["cifar", "imagenet", "deep"]),
    size=st.integers(4, 40),
)
def test_the_layers_add_up_to_the_price(order: str, shortcut: str, block: str, stem: str, size: int) -> None:
    config = load_preset(
        "resnet20", depths=(1, 2), widths=(4, 8), stem_width=4, order=order, shortcut=shortcut, block=block, stem=stem
    )
    cost = price(config, size, channels=2, classes=7)
    assert sums(layer_table(config, size, channels=2, classes=7)) == (cost.params, cost.macs, cost.activations)


@pytest.mark.parametrize("name", ["resnet50", "preresnet18", "resnet50d", "resnext50_32x4d", "preresnet164"])
def test_the_layers_of_a_preset_add_up_to_its_price(name: str) -> None:
    config = load_preset(name)
    cost = native_price(config)
    rows = layer_table(config, config.native.size, config.native.channels, config.native.classes)
    assert sums(rows) == (cost.params, cost.macs, cost.activations)


def test_rows_of_the_layer_table() -> None:
    rows = {row.name: row for row in layer_table(load_preset("resnext50_32x4d"), 224, 3, 1000)}
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
        activations=802_816,
    )
    assert rows["stages.0.0.branch.conv2"].params == 128 * 4 * 9
    assert rows["stages.0.0.branch.conv2"].groups == 32
    assert (rows["stem.pool"].kind, rows["stem.pool"].kernel, rows["stem.pool"].macs) == ("max_pool", (3, 3), 0)
    assert (rows["pool"].kind, rows["pool"].kernel, rows["pool"].output) == ("avg_pool", (7, 7), (2048, 1, 1))
    assert (rows["stem.bn"].kind, rows["stem.bn"].params, rows["stem.bn"].activations) == ("norm", 128, 0)
    assert (rows["fc"].input, rows["fc"].params, rows["fc"].macs) == ((2048, 1, 1), 2_049_000, 2_048_000)


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_an_operator_without_a_counting_rule_is_an_error() -> None:
    with pytest.raises(InputError, match="no counting rule for aten::scaled_dot_product_attention; the MACs would be"):
        count.count(Attention(), (1, 4, 4))


def test_counting_warns_of_nothing() -> None:
    code = (
        "import torch, warnings; warnings.simplefilter('error'); from repro.cost.count import price; "
        "from repro.models.presets import load_preset; price(load_preset('resnet20', shortcut='D'), 9, 3, 10)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")


def test_a_network_for_counting_is_blank_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    network = blank_network(load_preset("resnet50d"), channels=3, classes=10)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(not tensor.any() for tensor in network.state_dict().values())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prices"


TINY = load_preset("resnet20", depths=(1,), widths=(4,), stem_width=4)


def test_a_price_is_counted_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert known_price(TINY, 8, 3, 10) is None
    first = cached_price(TINY, 8, 3, 10)
    monkeypatch.setattr(count, "price", lambda *_: pytest.fail("counted again"))
    assert cached_price(TINY, 8, 3, 10) == known_price(TINY, 8, 3, 10) == first
    assert [json.loads(path.read_text()) for path in cache.iterdir()] == [first.model_dump(mode="json")]


@pytest.mark.parametrize(
    ("change", "size", "channels", "classes", "known"),
    [
        ({"name": "mine"}, 8, 3, 10, True),
        ({"native": TINY.native.model_copy(update={"size": 16})}, 8, 3, 10, True),
        ({"order": "pre"}, 8, 3, 10, False),
        ({}, 16, 3, 10, False),
        ({}, 8, 1, 10, False),
        ({}, 8, 3, 5, False),
    ],
    ids=["name", "native input", "axis", "size", "channels", "classes"],
)
def test_what_a_price_depends_on(
    cache: Path, change: dict[str, Any], size: int, channels: int, classes: int, known: bool
) -> None:
    cached_price(TINY, 8, 3, 10)
    found = known_price(TINY.model_copy(update=change), size, channels, classes)
    assert (found is not None) is known


def test_another_counter_does_not_read_old_prices(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_price(TINY, 8, 3, 10)
    monkeypatch.setattr(count, "COUNTER_VERSION", count.COUNTER_VERSION + 1)
    assert known_price(TINY, 8, 3, 10) is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"params": 1}', b"\xff\xfe"], ids=["empty", "cut", "old", "binary"])
def test_a_damaged_cache_is_counted_again(cache: Path, content: bytes) -> None:
    expected = cached_price(TINY, 8, 3, 10)
    (file,) = cache.iterdir()
    file.write_bytes(content)
    assert known_price(TINY, 8, 3, 10) is None
    assert cached_price(TINY, 8, 3, 10) == expected == known_price(TINY, 8, 3, 10)


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("a file where the folder should be")
    assert cached_price(TINY, 8, 3, 10) == price(TINY, 8, 3, 10)


def test_a_known_price_is_read_without_torch(cache: Path) -> None:
    expected = cached_price(load_preset("resnet20"), 8, 3, 10)
    code = (
        "import sys; from repro.cost.count import cached_price; from repro.models.presets import load_preset; "
        "print(cached_price(load_preset('resnet20'), 8, 3, 10).macs, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True, check=True)
    assert run.stdout == f"{expected.macs} False\n"
