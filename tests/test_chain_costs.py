"""The classic networks cost what their published tables print, row by row, where those are no misprints."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from torch import nn

from repro.models import build
from repro.models.config import Family
from repro.models.presets import load_preset
from repro.paths import options

CHAINS = [name for name in options("model") if load_preset(name).family == "chain"]

# Name, output, parameters with biases, 10^6 operations: multiply-adds, and for a pooling its window's cells per place.
ROWS = {
    "lenet5": """
        conv1 6x28x28 156 0.117600     pool1 6x14x14 0 0.004704     conv2 16x10x10 2416 0.240000
        pool2 16x5x5 0 0.001600        fc3 120 48120 0.048000       fc4 84 10164 0.010080        fc5 10 850 0.000840""",
    "alexnet": """
        conv1 96x55x55 34944 105.415   pool1 96x27x27 0 0.630       conv2 256x27x27 614656 447.898
        pool2 256x13x13 0 0.389        conv3 384x13x13 885120 149.520  conv4 384x13x13 1327488 224.281
        conv5 256x13x13 884992 149.520 pool5 256x6x6 0 0.083
        fc6 4096 37752832 37.749       fc7 4096 16781312 16.777     fc8 1000 4097000 4.096""",
    "alexnet_grouped": """
        conv1 96x55x55 34944 105.415   pool1 96x27x27 0 0.630       conv2 256x27x27 307456 223.949
        pool2 256x13x13 0 0.389        conv3 384x13x13 885120 149.520  conv4 384x13x13 663936 112.140
        conv5 256x13x13 442624 74.760  pool5 256x6x6 0 0.083
        fc6 4096 37752832 37.749       fc7 4096 16781312 16.777     fc8 1000 4097000 4.096""",
    "zfnet": """
        conv1 96x110x110 14208 170.755 pool1 96x55x55 0 2.614       conv2 256x26x26 614656 415.334
        pool2 256x13x13 0 0.389        conv3 512x13x13 1180160 199.361 conv4 1024x13x13 4719616 797.442
        conv5 512x13x13 4719104 797.442  pool5 512x6x6 0 0.166
        fc6 4096 75501568 75.497       fc7 4096 16781312 16.777     fc8 1000 4097000 4.096""",
    "vgg16_twelve": """
        conv1_1 64x224x224 1792 86.704 conv1_2 64x224x224 36928 1849.688  pool1 64x112x112 0 3.211
        conv2_1 128x112x112 73856 924.844  conv2_2 128x112x112 147584 1849.688  pool2 128x56x56 0 1.606
        conv3_1 256x56x56 295168 924.844   conv3_2 256x56x56 590080 1849.688    pool3 256x28x28 0 0.803
        conv4_1 512x28x28 1180160 924.844  conv4_2 512x28x28 2359808 1849.688
        conv4_3 512x28x28 2359808 1849.688 pool4 512x14x14 0 0.401
        conv5_1 512x14x14 2359808 462.422  conv5_2 512x14x14 2359808 462.422
        conv5_3 512x14x14 2359808 462.422  pool5 512x7x7 0 0.100
        fc6 4096 102764544 102.760     fc7 4096 16781312 16.777     fc8 1000 4097000 4.096""",
    "googlenet_stem": """
        conv1 64x112x112 9408 118.014  pool1 64x56x56 0 1.806       conv2 64x56x56 4096 12.845
        conv3 192x56x56 110592 346.817 pool3 192x28x28 0 1.355      fc 1000 193000 0.192""",
}

TOTALS = {
    # parameters, MACs of convolutions and linear layers, what is printed with the poolings besides
    "lenet5": (61_706, 416_520, "422824"),
    "alexnet": (62_378_344, 1_135_256_096, "1.136 G"),
    "alexnet_grouped": (60_965_224, 724_406_816, "0.7255 G"),
    "zfnet": (107_627_624, 2_476_704_896, "2.480 G"),
    "zfnet_small": (62_357_608, 1_168_032_896, "1.171 G"),
    "vgg11_lrn": (132_863_336, 7_609_090_048, "7.615 G"),
    "vgg16_1x1": (133_638_952, 11_770_888_192, "11.777 G"),
    "vgg16_twelve": (137_767_464, 13_620_576_256, "13.627 G"),
    "googlenet_stem": (124_096 + 193_000, 477_867_520, "0.4810 G"),
}


def spent(config: Family) -> tuple[list[list[Any]], int, int]:
    """Rows of a network at its native size, its MACs, and its operations with those of the poolings."""
    with torch.device("meta"):
        net, image = build(config, config.native.channels, config.native.classes).eval(), torch.zeros(1)
    image = torch.zeros(1, config.native.channels, config.native.size, config.native.size, device="meta")
    rows: list[list[Any]] = []
    macs = pooling = 0
    for name, layer in net.named_children():
        image = layer(image)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            work = layer.weight.numel() * prod(image.shape[2:])
            macs += work
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            assert isinstance(layer.kernel_size, int)
            work = image.numel() * layer.kernel_size**2
            pooling += work
        else:
            continue
        params = sum(parameter.numel() for parameter in layer.parameters())
        rows.append([name, "x".join(map(str, image.shape[1:])), params, work])
    return rows, macs, macs + pooling


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_those_of_the_published_tables(name: str) -> None:
    rows = spent(load_preset(name))[0]
    words = ROWS[name].split()
    printed = [words[at : at + 4] for at in range(0, len(words), 4)]
    decimals = [len(row[3].partition(".")[2]) for row in printed]
    shown = [[*map(str, row[:3]), f"{row[3] / 1e6:.{to}f}"] for row, to in zip(rows, decimals, strict=True)]
    assert shown == printed


@pytest.mark.parametrize("name", CHAINS)
def test_totals(name: str) -> None:
    params, macs, printed = TOTALS[name]
    rows, counted, operations = spent(load_preset(name))
    assert (sum(row[2] for row in rows), counted) == (params, macs)
    number, _, unit = printed.partition(" ")
    shown = f"{operations / 1e9:.{len(number.partition('.')[2])}f}" if unit else str(operations)
    assert shown == number
