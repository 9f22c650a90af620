"""The parameters of the residual presets: exact, or to as many digits (million) as the source gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from repro.models import build
from repro.models.presets import load_preset

PARAMETERS: list[tuple[str, dict[str, Any], str]] = [
    # He et al. 2015, Tables 1 and 6
    ("resnet18", {}, "11.69"),
    ("resnet34", {}, "21.80"),
    ("resnet50", {}, "25.56"),
    ("resnet50_v1", {}, "25.56"),
    ("resnet101", {}, "44.55"),
    ("resnet152", {}, "60.19"),
    ("resnet20", {}, "269722"),
    ("resnet32", {}, "464154"),
    ("resnet44", {}, "658586"),
    ("resnet56", {}, "853018"),
    ("resnet56", {"shortcut": "B"}, "855770"),
    ("resnet110", {}, "1727962"),
    ("resnet110", {"shortcut": "B"}, "1730714"),
    ("plain56", {}, "853018"),
    ("resnet110", {"depths": (200, 200, 200)}, "19421274"),
    # He et al. 2016
    ("preresnet110", {}, "1.73"),
    ("preresnet164", {}, "1.70"),
    ("preresnet1001", {}, "10.33"),
    ("preresnet200", {}, "64.67"),
    # Xie et al. 2017, Tables 3, 4 and 7
    ("resnet50", {"groups": 2, "width_per_group": 40}, "25.43"),
    ("resnet50", {"groups": 8, "width_per_group": 14}, "25.60"),
    ("resnet50", {"groups": 16, "width_per_group": 8}, "26.44"),
    ("resnext50_32x4d", {}, "25.03"),
    ("resnext101_32x4d", {}, "44.18"),
    ("resnext101_64x4d", {}, "83.5"),
    ("resnext29_8x64d", {}, "34.4"),
    # Hu et al. 2018, Tables 10, 13, 15 and 16; without biases 2 / 16 of the sum of N C^2 on top of ResNet-50's.
    # Their stages 2, 3, 4 are ours 1, 2, 3: they count the stem
    ("seresnet50", {"se": {"bias": False}}, str(25_557_032 + 2_514_944)),
    ("seresnet50", {"se": {"reduction": 2}}, "45.70"),
    ("seresnet50", {"se": {"reduction": 4}}, "35.64"),
    ("seresnet50", {"se": {"reduction": 8}}, "30.60"),
    ("seresnet50", {}, "28.09"),
    ("seresnet50", {"se": {"reduction": 32}}, "26.83"),
    ("seresnet50", {"se": {"stages": (1,), "bias": False}}, "25.6"),
    ("seresnet50", {"se": {"stages": (2,), "bias": False}}, "25.7"),
    ("seresnet50", {"se": {"stages": (3,), "bias": False}}, "26.3"),  # printed as 26.4
    ("seresnet50", {"se": {"position": "post"}}, "28.09"),
    ("seresnet50", {"se": {"position": "identity"}}, "28.09"),
    ("seresnet50", {"se": {"squeeze": "none", "bias": False}}, "28.1"),
    ("seresnet50", {"se": {"position": "3x3", "bias": False}}, "25.7"),  # printed as 25.8
    # Zagoruyko & Komodakis 2016
    ("wrn_28_10", {}, "36.48"),
    ("wrn_16_8", {}, "10.96"),
    ("wrn_22_8", {}, "17.2"),
    ("wrn_40_1", {}, "0.56"),
    ("wrn_40_2", {}, "2.24"),
    ("wrn_40_4", {}, "8.95"),
    ("wide_resnet50_2", {}, "68.88"),
    # Bello et al. 2021
    ("resnetrs50", {}, "35.69"),
    ("resnetrs101", {}, "63.62"),
    ("resnetrs152", {}, "86.62"),
    ("resnetrs200", {}, "93.21"),
    ("resnetrs270", {}, "129.86"),
    ("resnetrs350", {}, "163.96"),
    ("resnetrs420", {}, "191.89"),
    # Brock et al. 2021, Table 1
    *((f"nfnet_f{n}", {}, p) for n, p in enumerate(["71.5", "132.6", "193.8", "254.9", "316.1", "377.2", "438.4"])),
]


@pytest.mark.parametrize(("name", "axes", "published"), PARAMETERS, ids=lambda value: str(value).replace(" ", ""))
def test_parameters_are_the_published_ones(name: str, axes: dict[str, Any], published: str) -> None:
    config = load_preset(name, **axes)
    with torch.device("meta"):
        net = build(config, config.native.channels, config.native.classes)
    count = sum(p.numel() for p in net.parameters())
    digits = len(published.partition(".")[2])
    assert (f"{count / 1e6:.{digits}f}" if digits else str(count)) == published
