"""Every published or printed cost that can be recounted: cost tables of the lectures layer by layer, and parameters,
MACs and activations of whole networks. A figure is compared to the last digit that its source gives.

Sections (§) are those of the registry of published numbers that the figures were taken from: 1 to 11 go by paper, 12 is
the lectures' tables recounted, 13 their summary, 18 what can be checked without training.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from repro.cost.count import cached_price, count
from repro.cost.layers import MAIN, Layer, layer_table
from repro.models.layers import SqueezeExcitation
from repro.models.presets import load_preset
from repro.results import Cost

torch.set_num_threads(1)

Axes = dict[str, Any]
UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}


def rounded(value: float, like: str) -> str:
    """Write a count with the unit and as many decimals as the expected one has."""
    number, _, unit = like.partition(" ")
    decimals = len(number.partition(".")[2])
    return f"{value / UNITS.get(unit, 1):,.{decimals}f}{' ' if unit else ''}{unit}"


def priced(name: str, axes: Axes, size: int | None) -> Cost:
    config = load_preset(name, **axes)
    return cached_price(config, size or config.native.size, config.native.channels, config.native.classes)


def rows_of(name: str, size: int | None = None) -> list[Layer]:
    config = load_preset(name)
    rows = layer_table(config, size or config.native.size, config.native.channels, config.native.classes)
    return [row for row in rows if row.kind in MAIN]


# Layer: output side, memory KiB, parameters, MFLOP as in the lectures: MACs, or a pooling's operations.
Row = tuple[str, int, str, int, str]
LAYERS: dict[tuple[str, str, int | None], list[Row]] = {
    ("12.1", "alexnet_torchvision", 227): [
        ("conv1", 56, "784.00", 23_296, "72.856"),
        ("pool1", 27, "182.25", 0, "0.420"),
        ("conv2", 27, "546.75", 307_392, "223.949"),
        ("pool2", 13, "126.75", 0, "0.292"),
        ("conv3", 13, "253.50", 663_936, "112.140"),
        ("conv4", 13, "169.00", 884_992, "149.520"),
        ("conv5", 13, "169.00", 590_080, "99.680"),
        ("pool5", 6, "36.00", 0, "0.083"),
        ("fc6", 1, "16", 37_752_832, "37.749"),
        ("fc7", 1, "16", 16_781_312, "16.777"),
        ("fc8", 1, "3.91", 4_097_000, "4.096"),
    ],
    ("12.2", "alexnet", None): [
        ("conv1", 55, "1134.38", 34_944, "105.415"),
        ("pool1", 27, "273.38", 0, "0.630"),
        ("conv2", 27, "729.00", 614_656, "447.898"),
        ("pool2", 13, "169.00", 0, "0.389"),
        ("conv3", 13, "253.50", 885_120, "149.520"),
        ("conv4", 13, "253.50", 1_327_488, "224.281"),
        ("conv5", 13, "169.00", 884_992, "149.520"),
        ("pool5", 6, "36.00", 0, "0.083"),
        ("fc6", 1, "16", 37_752_832, "37.749"),
        ("fc7", 1, "16", 16_781_312, "16.777"),
        ("fc8", 1, "3.91", 4_097_000, "4.096"),
    ],
    ("12.3", "zfnet", None): [
        ("conv1", 110, "4537.50", 14_208, "170.755"),
        ("pool1", 55, "1134.38", 0, "2.614"),
        ("conv2", 26, "676.00", 614_656, "415.334"),
        ("pool2", 13, "169.00", 0, "0.389"),
        ("conv3", 13, "338.00", 1_180_160, "199.361"),
        ("conv4", 13, "676.00", 4_719_616, "797.442"),
        ("conv5", 13, "338.00", 4_719_104, "797.442"),
        ("pool5", 6, "72.00", 0, "0.166"),
        ("fc6", 1, "16", 75_501_568, "75.497"),
        ("fc7", 1, "16", 16_781_312, "16.777"),
        ("fc8", 1, "3.91", 4_097_000, "4.096"),
    ],
    ("12.4", "lenet5", None): [
        ("conv1", 28, "18.38", 156, "0.117600"),
        ("pool1", 14, "4.59", 0, "0.004704"),
        ("conv2", 10, "6.25", 2_416, "0.240000"),
        ("pool2", 5, "1.56", 0, "0.001600"),
        ("fc3", 1, "0.47", 48_120, "0.048000"),
        ("fc4", 1, "0.33", 10_164, "0.010080"),
        ("fc5", 1, "0.04", 850, "0.000840"),
    ],
    ("12.5", "vgg16", None): [
        ("1.1", 224, "12544", 1_792, "86.704"),
        ("1.2", 224, "12544", 36_928, "1849.688"),
        ("pool1", 112, "3136", 0, "3.211"),
        ("2.1", 112, "6272", 73_856, "924.844"),
        ("2.2", 112, "6272", 147_584, "1849.688"),
        ("pool2", 56, "1568", 0, "1.606"),
        ("3.1", 56, "3136", 295_168, "924.844"),
        ("3.2", 56, "3136", 590_080, "1849.688"),
        ("3.3", 56, "3136", 590_080, "1849.688"),
        ("pool3", 28, "784", 0, "0.803"),
        ("4.1", 28, "1568", 1_180_160, "924.844"),
        ("4.2", 28, "1568", 2_359_808, "1849.688"),
        ("4.3", 28, "1568", 2_359_808, "1849.688"),
        ("pool4", 14, "392", 0, "0.401"),
        ("5.1", 14, "392", 2_359_808, "462.422"),
        ("5.2", 14, "392", 2_359_808, "462.422"),
        ("5.3", 14, "392", 2_359_808, "462.422"),
        ("pool5", 7, "98", 0, "0.100"),
        ("fc6", 1, "16", 102_764_544, "102.760"),
        ("fc7", 1, "16", 16_781_312, "16.777"),
        ("fc8", 1, "3.91", 4_097_000, "4.096"),
    ],
    ("12.6", "googlenet_stem", None): [
        ("conv1", 112, "3136", 9_408, "118.014"),
        ("pool1", 56, "784", 0, "1.806"),
        ("conv2", 56, "784", 4_096, "12.845"),
        ("conv3", 56, "2352", 110_592, "346.817"),
        ("pool3", 28, "588", 0, "1.355"),
    ],
}


@pytest.mark.parametrize(("table", "expected"), LAYERS.items(), ids=[f"{t[0]}-{t[1]}" for t in LAYERS])
def test_layer_tables(table: tuple[str, str, int | None], expected: list[Row]) -> None:
    rows = [row for row in rows_of(*table[1:]) if row.kernel != (1, 1) or row.kind == "conv"][: len(expected)]
    found = []
    for row, (name, _, memory, _, flops) in zip(rows, expected, strict=True):
        kib = rounded(row.memory_kib, memory).replace(",", "")
        mega = rounded((row.macs + row.pooling) / 1e6, flops).replace(",", "")
        found.append((name, row.output[1], kib, row.params, mega))
    assert found == expected


# Section, preset, input, parameters, MACs and pooling operations together, memory (MiB) of convolutions, of all rows.
TOTALS: list[tuple[str, str, int | None, int, str, str, str]] = [
    ("12.1", "alexnet_torchvision", 227, 61_100_840, "0.7176 G", "1.877", "2.249"),
    ("12.2", "alexnet", None, 62_378_344, "1.136 G", "2.480", "2.982"),
    ("12.2", "alexnet_grouped", None, 60_965_224, "0.7255 G", "2.480", "2.982"),
    ("12.3", "zfnet", None, 107_627_624, "2.480 G", "6.412", "7.790"),
    ("12.3", "zfnet_small", None, 62_357_608, "1.171 G", "5.751", "7.095"),
    ("12.4", "lenet5", None, 61_706, "422824", "0.024", "0.031"),
    ("12.5", "vgg16", None, 138_357_544, "15476.4 M", "51.68", "57.55"),
    ("12.5", "vgg16_twelve", None, 137_767_464, "13.627 G", "48.617", "54.49"),
]
"""Sums of memory that the registry does not print are of its own rows (12.2 to 12.5)."""


@pytest.mark.parametrize("case", TOTALS, ids=[f"{case[0]}-{case[1]}" for case in TOTALS])
def test_totals_of_the_lecture_tables(case: tuple[str, str, int | None, int, str, str, str]) -> None:
    _, name, size, params, flops, convolutions, every = case
    rows = rows_of(name, size)
    mib = [sum(row.memory_kib for row in rows if row.kind == "conv") / 1024, sum(row.memory_kib for row in rows) / 1024]
    counted = sum(row.macs + row.pooling for row in rows)
    found = (sum(row.params for row in rows), rounded(counted, flops).replace(",", ""))
    assert (*found, rounded(mib[0], convolutions), rounded(mib[1], every)) == (params, flops, convolutions, every)


STAGES = [("vgg16", "9335.1", 1_735_488, "45.94"), ("vgg16_twelve", "7485.5", 1_145_408, "42.875")]


@pytest.mark.parametrize(("name", "flops", "params", "mib"), STAGES, ids=[case[0] for case in STAGES])
def test_first_three_stages_of_vgg(name: str, flops: str, params: int, mib: str) -> None:
    """§12.5: what GoogLeNet's stem is compared with; convolutions alone."""
    rows = [row for row in rows_of(name) if row.kind == "conv" and row.output[1] >= 56]
    kept = sum(row.memory_kib for row in rows) / 1024
    counted = sum(row.macs for row in rows) / 1e6
    assert (rounded(counted, flops).replace(",", ""), sum(row.params for row in rows), rounded(kept, mib)) == (
        flops,
        params,
        mib,
    )


def test_googlenet_stem_as_a_whole() -> None:
    """§12.6: 418 is a digit swap for 481; a classifier behind global pooling has 193 k here, 1,025,000 behind 1024."""
    rows = rows_of("googlenet_stem")[:5]
    memory = sum(row.memory_kib for row in rows)
    mega = sum(row.macs + row.pooling for row in rows) / 1e6
    assert (memory, sum(row.params for row in rows), f"{mega:.1f}") == (7644.0, 124_096, "480.8")


# Section, preset, axes, input, parameters, MACs.
WHOLE: list[tuple[str, str, Axes, int | None, str, str]] = [
    ("2.4", "resnet18", {}, None, "11.69 M", "1.814 G"),
    ("2.4", "resnet34", {}, None, "21.80 M", "3.664 G"),
    ("2.4", "resnet50_v1", {}, None, "25.56 M", "3.858 G"),
    ("2.4", "resnet50", {}, None, "25.56 M", "4.089 G"),
    ("2.4", "resnet101_v1", {}, None, "44.55 M", "7.570 G"),
    ("2.4", "resnet101", {}, None, "44.55 M", "7.801 G"),
    ("2.4", "resnet152_v1", {}, None, "60.19 M", "11.282 G"),
    ("2.4", "resnet152", {}, None, "60.19 M", "11.514 G"),
    ("2.4", "preresnet200", {}, None, "64.67 M", "15.007 G"),
    ("2.5", "resnet20", {}, None, "269,722", "40.55 M"),
    ("2.5", "resnet32", {}, None, "464,154", "68.86 M"),
    ("2.5", "resnet44", {}, None, "658,586", "97.17 M"),
    ("2.5", "resnet56", {}, None, "853,018", "125.49 M"),
    ("2.5", "resnet110", {}, None, "1,727,962", "252.89 M"),
    ("2.5", "resnet110", {"depths": (200, 200, 200)}, None, "19,421,274", "2.829 G"),
    ("2.5", "plain56", {}, None, "853,018", "125,485,696"),
    ("3.1", "resnet50", {"groups": 16, "width_per_group": 8}, None, "26.44 M", "4.462 G"),
    ("3.1", "resnet50", {"groups": 64, "width_per_group": 2}, None, "24.32 M", "4.115 G"),
    ("3.1", "resnet101", {"groups": 16, "width_per_group": 8}, None, "46.85 M", "8.447 G"),
    ("3.1", "resnet101", {"groups": 64, "width_per_group": 2}, None, "42.84 M", "7.732 G"),
    ("4.4", "seresnet50", {"se": {"reduction": 2}}, None, "45.70 M", "4.1093 G"),
    ("4.4", "seresnet50", {"se": {"reduction": 4}}, None, "35.64 M", "4.0992 G"),
    ("4.4", "seresnet50", {"se": {"reduction": 8}}, None, "30.60 M", "4.0942 G"),
    ("4.4", "seresnet50", {}, None, "28.09 M", "4.0917 G"),
    ("4.4", "seresnet50", {"se": {"reduction": 32}}, None, "26.83 M", "4.0904 G"),
    ("5.3", "resnetrs50", {}, 160, "35.69 M", "2.279 G"),
    ("5.3", "resnetrs101", {}, 160, "63.62 M", "4.182 G"),
    ("5.3", "resnetrs101", {}, 192, "63.62 M", "6.012 G"),
    ("5.3", "resnetrs152", {}, 192, "86.62 M", "8.747 G"),
    ("5.3", "resnetrs152", {}, 224, "86.62 M", "11.895 G"),
    ("5.3", "resnetrs152", {}, 256, "86.62 M", "15.528 G"),
    ("5.3", "resnetrs200", {}, 256, "93.21 M", "20.093 G"),
    ("5.3", "resnetrs270", {}, 256, "129.86 M", "26.950 G"),
    ("5.3", "resnetrs350", {}, 256, "163.96 M", "34.377 G"),
    ("5.3", "resnetrs350", {}, 320, "163.96 M", "53.684 G"),
    ("5.3", "resnetrs420", {}, 320, "191.89 M", "63.942 G"),
    ("6.6", "nfnet_f0", {}, 192, "71.5 M", "6.98 G"),
    ("6.6", "nfnet_f0", {}, 256, "71.5 M", "12.38 G"),
    ("6.6", "nfnet_f1", {}, 224, "132.6 M", "17.44 G"),
    ("6.6", "nfnet_f1", {}, 320, "132.6 M", "35.54 G"),
    ("6.6", "nfnet_f2", {}, 256, "193.8 M", "33.14 G"),
    ("6.6", "nfnet_f2", {}, 352, "193.8 M", "62.59 G"),
    ("6.6", "nfnet_f3", {}, 320, "254.9 M", "67.94 G"),
    ("6.6", "nfnet_f3", {}, 416, "254.9 M", "114.76 G"),
    ("6.6", "nfnet_f4", {}, 384, "316.1 M", "121.12 G"),
    ("6.6", "nfnet_f4", {}, 512, "316.1 M", "215.24 G"),
    ("6.6", "nfnet_f5", {}, 416, "377.2 M", "169.50 G"),
    ("6.6", "nfnet_f5", {}, 544, "377.2 M", "289.76 G"),
    ("6.6", "nfnet_f6", {}, 448, "438.4 M", "228.29 G"),
    ("6.6", "nfnet_f6", {}, 576, "438.4 M", "377.28 G"),
    ("7.1", "resnet50b", {}, None, "26 M", "4.089 G"),
    ("7.1", "resnet50c", {}, None, "26 M", "4.329 G"),
    ("7.1", "resnet50d", {}, None, "26 M", "4.329 G"),
    ("8.1", "mobilenet_v1", {}, None, "4.23 M", "568.74 M"),
    ("8.1", "mobilenet_v1_075", {}, None, "2.6 M", "325 M"),
    ("8.1", "mobilenet_v1_050", {}, None, "1.3 M", "149 M"),
    ("8.1", "mobilenet_v1_025", {}, None, "0.5 M", "41 M"),
    ("8.1", "mobilenet_v1", {}, 192, "4.2 M", "418 M"),
    ("8.1", "mobilenet_v1", {}, 160, "4.2 M", "290.7 M"),  # the paper prints 290
    ("8.1", "mobilenet_v1", {}, 128, "4.2 M", "186 M"),
    ("8.1", "mobilenet_v1_050", {}, 160, "1.33 M", "76.5 M"),  # the paper prints 76
    ("8.1", "mobilenet_v1_conv", {}, None, "29.3 M", "4,867 M"),  # the paper prints 4866
    ("8.1", "mobilenet_v1_shallow", {}, None, "2.9 M", "307 M"),
    ("8.2", "mobilenet_v2", {}, None, "3.50 M", "300.8 M"),
    ("8.2", "mobilenet_v2_140", {}, None, "6.11 M", "582.2 M"),
    ("8.3", "mobilenet_v3_large", {}, None, "5.48 M", "216.6 M"),
    ("8.3", "mobilenet_v3_small", {}, None, "2.54 M", "56.5 M"),
    ("8.5", "shufflenet_v2_x0_5", {}, None, "1.37 M", "40.5 M"),
    ("8.5", "shufflenet_v2_x1_0", {}, None, "2.28 M", "144.9 M"),
    ("8.5", "shufflenet_v2_x1_5", {}, None, "3.50 M", "295.8 M"),
    ("8.5", "shufflenet_v2_x2_0", {}, None, "7.39 M", "583.3 M"),
    ("9.1", "efficientnet_b0", {}, 224, "5.29 M", "0.386 G"),
    ("9.1", "efficientnet_b1", {}, 240, "7.79 M", "0.687 G"),
    ("9.1", "efficientnet_b2", {}, 260, "9.11 M", "0.994 G"),
    ("9.1", "efficientnet_b3", {}, 300, "12.23 M", "1.827 G"),
    ("9.1", "efficientnet_b4", {}, 380, "19.34 M", "4.394 G"),
    ("9.1", "efficientnet_b5", {}, 456, "30.39 M", "10.266 G"),
    ("9.1", "efficientnet_b6", {}, 528, "43.04 M", "19.07 G"),
    ("9.1", "efficientnet_b7", {}, 600, "66.35 M", "37.75 G"),
    ("11.1", "densenet121", {}, None, "7.98 M", "2.834 G"),
    ("11.1", "densenet169", {}, None, "14.15 M", "3.360 G"),
    ("11.1", "densenet201", {}, None, "20.01 M", "4.291 G"),
    ("11.1", "densenet161", {}, None, "28.68 M", "7.728 G"),
    ("11.2", "wrn_28_10", {}, None, "36.48 M", "5.243 G"),
    ("11.2", "wrn_16_8", {}, None, "10.96 M", "1.548 G"),
    ("11.2", "wrn_40_4", {}, None, "8.95 M", "1.299 G"),
    ("11.2", "wrn_40_2", {}, None, "2.24 M", "0.328 G"),
    ("11.2", "wrn_40_1", {}, None, "0.56 M", "0.083 G"),
    ("11.2", "wide_resnet50_2", {}, None, "68.88 M", "11.40 G"),
    ("12.1", "alexnet_torchvision", {}, 224, "61,100,840", "714.19 M"),
    ("12.5", "vgg19", {}, None, "143,667,240", "19.632 G"),
    ("13", "googlenet", {}, None, "6,624,904", "1.498 G"),
    ("13", "alexnet_grouped", {}, None, "60.97 M", "0.724 G"),  # 0.726 with poolings, as the registry has it
    ("15", "nasnet_a_large", {}, 331, "88.75 M", "23.78 G"),
    ("18", "vgg16", {}, None, "138,357,544", "15,470,264,320"),
    ("18", "resnet18", {}, None, "11.69 M", "1,814,073,344"),
    ("18", "resnet50", {}, None, "25.56 M", "4,089,184,256"),
    ("18", "resnet50", {"stride_place": "1x1"}, None, "25.56 M", "3,857,973,248"),
    ("18", "resnext50_32x4d", {}, None, "25.03 M", "4,230,479,872"),
    ("18", "mobilenet_v2", {}, None, "3.50 M", "300,774,272"),
]


@pytest.mark.parametrize("case", WHOLE, ids=[f"{case[0]}-{case[1]}-{case[2] or ''}{case[3] or ''}" for case in WHOLE])
def test_whole_networks(case: tuple[str, str, Axes, int | None, str, str]) -> None:
    _, name, axes, size, params, macs = case
    cost = priced(name, axes, size)
    assert (rounded(cost.params, params), rounded(cost.macs, macs), cost.uncounted) == (params, macs, ())


# §10.2: MACs G, parameters M, activations M of pycls.
REGNETS: dict[str, tuple[float, str, str]] = {
    "regnetx_002": (0.199, "2.68", "2.16"),
    "regnetx_004": (0.398, "5.16", "3.14"),
    "regnetx_006": (0.601, "6.20", "3.98"),
    "regnetx_008": (0.800, "7.26", "5.15"),
    "regnetx_016": (1.603, "9.19", "7.93"),
    "regnetx_032": (3.177, "15.30", "11.37"),
    "regnetx_040": (3.964, "22.12", "12.20"),
    "regnetx_064": (6.460, "26.21", "16.37"),
    "regnetx_080": (7.995, "39.57", "14.06"),
    "regnetx_120": (12.087, "46.11", "21.37"),
    "regnetx_160": (15.941, "54.28", "25.52"),
    "regnetx_320": (31.736, "107.81", "36.30"),
    "regnety_002": (0.200, "3.16", "2.17"),
    "regnety_004": (0.402, "4.34", "3.89"),
    "regnety_006": (0.601, "6.06", "4.33"),
    "regnety_008": (0.797, "6.26", "5.25"),
    "regnety_016": (1.612, "11.20", "8.04"),
    "regnety_032": (3.176, "19.44", "11.26"),
    "regnety_040": (3.973, "20.65", "12.29"),
    "regnety_064": (6.355, "30.58", "16.41"),
    "regnety_080": (7.963, "39.18", "17.97"),
    "regnety_120": (12.092, "51.82", "21.38"),
    "regnety_160": (15.912, "83.59", "23.04"),
    "regnety_320": (32.280, "145.05", "30.26"),
}


@pytest.mark.parametrize("name", REGNETS)
def test_regnets(name: str) -> None:
    """pycls's activations hold the classifier's 1,000 outputs too, as two of the printed roundings show."""
    macs, params, activations = REGNETS[name]
    cost = priced(name, {}, None)
    assert abs(cost.macs - macs * 1e9) <= 500_000 + 1000  # half of the printed digit, and pycls's classifier biases
    assert (f"{cost.params / 1e6:.2f}", f"{cost.activations / 1e6:.2f}") == (params, activations)


def convolutions(*layers: nn.Conv2d) -> Cost:
    return count(nn.Sequential(*layers), (192, 28, 28))


MODULES: list[tuple[str, list[nn.Conv2d], int, str]] = [
    ("3x3", [nn.Conv2d(192, 128, 3, padding=1)], 221_312, "173.408 M"),
    ("1x1, 3x3", [nn.Conv2d(192, 96, 1), nn.Conv2d(96, 128, 3, padding=1)], 129_248, "101.155 M"),
    ("1x3, 3x1 valid", [nn.Conv2d(192, 128, (1, 3)), nn.Conv2d(128, 128, (3, 1))], 123_136, "86.901 M"),
    (
        "1x3, 3x1 same",
        [nn.Conv2d(192, 128, (1, 3), padding=(0, 1)), nn.Conv2d(128, 128, (3, 1), padding=(1, 0))],
        123_136,
        "96.338 M",
    ),
]


@pytest.mark.parametrize(("layers", "params", "macs"), [case[1:] for case in MODULES], ids=[c[0] for c in MODULES])
def test_inception_module_examples(layers: list[nn.Conv2d], params: int, macs: str) -> None:
    """§12.7, on 28 x 28 x 192."""
    cost = convolutions(*layers)
    assert (cost.params, rounded(cost.macs, macs)) == (params, macs)


@pytest.mark.parametrize(
    ("width", "side", "percent"), [(64, 56, 0.739), (128, 28, 0.383), (256, 14, 0.244), (512, 7, 0.333)]
)
def test_squeeze_and_excitation_formula(width: int, side: int, percent: float) -> None:
    """§12.8: 8CHW + 2C² + 17C/4 for 4C channels and r = 16, of a bottleneck's 17C²HW."""
    se = SqueezeExcitation(4 * width, width // 4, squeeze="avg", gate="sigmoid", bias=False, gain=1.0)
    cost = count(se, (4 * width, side, side))
    assert cost.macs == cost.params == 2 * width**2
    assert cost.pooling == 4 * width * side**2
    total = cost.pooling + cost.elementwise + cost.macs
    assert total == 8 * width * side**2 + 2 * width**2 + 17 * width // 4
    assert f"{100 * total / (17 * width**2 * side**2):.3f}" == f"{percent:.3f}"


def test_squeeze_and_excitation_of_a_resnet50() -> None:
    """§12.8, §18: 2,514,944 parameters without biases, and as many MACs."""
    plain, squeezed = (
        priced(name, axes, None) for name, axes in (("resnet50", {}), ("seresnet50", {"se": {"bias": False}}))
    )
    assert squeezed.params - plain.params == squeezed.macs - plain.macs == 2_514_944


@pytest.mark.parametrize(("groups", "width", "params"), [
    (1, 64, 69_632), (2, 40, 69_760), (4, 24, 69_888), (8, 14, 71_456), (16, 8, 74_752), (32, 4, 70_144),
    (64, 2, 67_840),
])  # fmt: skip
def test_blocks_of_constant_complexity(groups: int, width: int, params: int) -> None:
    """§18: 8GCc + 9Gc² for a 256-d block, by places; grouped weights are C_in / G deep (§12.8)."""
    inner, side = groups * width, 14
    block = nn.Sequential(
        nn.Conv2d(256, inner, 1, bias=False),
        nn.Conv2d(inner, inner, 3, padding=1, groups=groups, bias=False),
        nn.Conv2d(inner, 256, 1, bias=False),
    )
    cost = count(block, (256, side, side))
    assert cost.params == params == 8 * groups * 64 * width + 9 * groups * width**2
    assert cost.macs == params * side**2


@pytest.mark.parametrize(
    ("width", "speedup"), [(32, 7.02), (64, 7.89), (128, 8.41), (256, 8.69), (512, 8.84), (1024, 8.92)]
)
def test_depthwise_speedup(width: int, speedup: float) -> None:
    """§18: 9C / (9 + C)."""
    full = count(nn.Conv2d(width, width, 3, padding=1), (width, 7, 7))
    split = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, width, 1))
    assert f"{full.macs / count(split, (width, 7, 7)).macs:.2f}" == f"{speedup:.2f}"
