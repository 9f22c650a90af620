"""Counted costs against published ones and against fvcore's tracer, the classes of operators, the cache of prices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.cost import blank, count
from repro.cost.count import cached_price, known_price, price
from repro.errors import InputError
from repro.models.layers import ScaledStdConv2d
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


OPERATORS: dict[str, tuple[Callable[[Tensor], Tensor], int, int, int]] = {
    # network on (1, 4, 6, 6): MACs, pooling, elementwise
    "relu": (F.relu, 0, 0, 144),
    "in place": (lambda x: F.relu_(x + 1), 0, 0, 288),
    "addition and product": (lambda x: (x + x) * 3, 0, 0, 288),
    "softmax": (lambda x: x.softmax(1), 0, 0, 144),
    "sum over channels": (lambda x: x.sum(1), 0, 0, 144),
    "mean over channels": (lambda x: x.mean(1), 0, 0, 144),
    "layer norm": (lambda x: F.layer_norm(x, (6,)), 0, 0, 144),
    "resize": (lambda x: F.interpolate(x, scale_factor=2), 0, 0, 576),
    "local response norm": (nn.LocalResponseNorm(5), 0, 0, 144),
    "max pool": (lambda x: F.max_pool2d(x, 3, 2, 1), 0, 4 * 9 * 9, 0),
    "average pool": (lambda x: F.avg_pool2d(x, 2), 0, 4 * 9 * 4, 0),
    "global pool": (lambda x: F.adaptive_avg_pool2d(x, 1), 0, 144, 0),
    "global maximum": (lambda x: F.adaptive_max_pool2d(x, 1), 0, 144, 0),
    "mean over places": (lambda x: x.mean((2, 3)), 0, 144, 0),
    "maximum over places": (lambda x: x.amax((2, 3)), 0, 144, 0),
    "adaptive pool with windows that overlap": (lambda x: F.adaptive_avg_pool2d(x, 4), 0, 4 * 8 * 8, 0),
    "adaptive pool that changes nothing": (lambda x: F.adaptive_avg_pool2d(x, 6), 0, 0, 0),
    "shapes and copies": (lambda x: torch.cat([F.pad(x, (1, 1)).flatten(1), x.flatten(1).clone()], 1), 0, 0, 0),
    "dropout": (lambda x: F.dropout(x, 0.5, training=False), 0, 0, 0),
    "matrix product": (lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2), 4 * 36 * 4, 0, 0),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x, x, x),
        2 * 4 * 6 * 6 * 6,
        0,
        3 * 144,  # both factors scaled, softmax
    ),
    "linear": (nn.Linear(6, 5), 4 * 6 * 6 * 5, 0, 0),
    "convolution": (nn.Conv2d(4, 8, 3, groups=2), 4 * 4 * 8 * 2 * 9, 0, 0),
    "convolution with a stride": (nn.Conv2d(4, 8, 3, stride=2, padding=1), 3 * 3 * 8 * 4 * 9, 0, 0),
    "transposed convolution": (nn.ConvTranspose2d(4, 8, 2, stride=2), 6 * 6 * 8 * 4 * 4, 0, 0),
    "convolution of one dimension": (lambda x: F.conv1d(x.flatten(2), torch.ones(2, 4, 3)), 34 * 2 * 4 * 3, 0, 0),
    "what does not depend on the image": (lambda x: x * (torch.ones(6, 6) @ torch.ones(6, 6)).relu(), 0, 0, 144),
}


class Calls(nn.Module):
    """A module that calls a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_class_of_every_operator(name: str) -> None:
    function, *expected = OPERATORS[name]
    cost = count.count(Calls(function), (4, 6, 6))
    assert ([cost.macs, cost.pooling, cost.elementwise], cost.uncounted) == (expected, ())


def test_an_operator_of_no_class_is_named() -> None:
    cost = count.count(Calls(lambda x: x.sort().values.sort().values + x.cumprod(1)), (1, 4, 4))
    assert cost.uncounted == ("cumprod × 1", "sort × 2")
    assert cost.elementwise == 16


def test_the_standardisation_of_weights_is_no_work_per_image() -> None:
    plain, standardized = (count.count(layer, (3, 8, 8)) for layer in (
        nn.Conv2d(3, 4, 3), ScaledStdConv2d(3, 4, 3)
    ))  # fmt: skip
    assert (standardized.macs, standardized.elementwise) == (plain.macs, 0)
    assert standardized.params == plain.params + 4


FVCORE = [
    *("torchvision/resnet18", "torchvision/resnext50_32x4d", "torchvision/densenet121", "torchvision/mobilenet_v2"),
    *(
        "torchvision/shufflenet_v2_x0_5",
        "torchvision/googlenet",
        "torchvision/squeezenet1_1",
        "timm/vit_tiny_patch16_224",
    ),
    *("timm/convnext_atto", "timm/regnety_002", "resnet20", "nf_resnet50", "preresnet20", "seresnet110", "lenet5"),
]


@pytest.mark.parametrize("name", FVCORE)
def test_macs_are_fvcores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fvcore's own tracer, with real tensors on the CPU, counts as many in convolutions, linear layers and products."""
    from fvcore.nn import FlopCountAnalysis

    monkeypatch.setenv("TIMM_FUSED_ATTN", "0")  # for which fvcore has no rule
    config = load_preset(name, **({"arguments": {"aux_logits": False}} if "googlenet" in name else {}))
    size = min(config.native.size, 224 if "vit" in name else 96)
    network = blank.meta_network(config, config.native.channels, 10).to_empty(device="cpu").eval()
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    analysis = FlopCountAnalysis(network, torch.zeros(1, config.native.channels, size, size))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with torch.no_grad():
        found = analysis.by_operator()
    expected = sum(found[kind] for kind in ("conv", "linear", "addmm", "matmul", "bmm", "einsum"))
    assert price(config, size, config.native.channels, 10).macs == expected


def test_a_network_that_the_meta_device_cannot_run_is_counted_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> nn.Module:
        raise NotImplementedError("no kernel")

    expected = price(TINY, 8, 3, 10)
    monkeypatch.setattr(blank, "meta_network", refuse)
    assert price(TINY, 8, 3, 10) == expected


def test_an_image_that_is_too_small_is_one_message() -> None:
    with pytest.raises(InputError, match=r"model torchvision/densenet121: cannot take an image of 3 × 8 × 8 \("):
        price(load_preset("torchvision/densenet121"), 8, 3, 10)


def test_counting_draws_nothing() -> None:
    before = torch.get_rng_state()
    price(load_preset("mobilenet_v2"), 32, 3, 10)
    assert torch.equal(torch.get_rng_state(), before)


def test_counting_warns_of_nothing() -> None:
    code = (
        "import torch, warnings; warnings.simplefilter('error'); from repro.cost.count import price; "
        "from repro.models.presets import load_preset; price(load_preset('resnet20', shortcut='D'), 9, 3, 10)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")


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
