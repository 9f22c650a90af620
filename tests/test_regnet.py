"""The RegNet rule: all 24 published networks, and what every network of the rule has in common."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.errors import InputError
from repro.models import build
from repro.models.presets import load_preset
from repro.models.regnet import stages_of

torch.set_num_threads(1)

PUBLISHED: dict[str, tuple[tuple[int, float, float, float, int], str]] = {
    # pycls, model zoo: depth, w0, wa, wm, group width; million parameters
    "regnetx_002": ((13, 24, 36.44, 2.49, 8), "2.68"),
    "regnetx_004": ((22, 24, 24.48, 2.54, 16), "5.16"),
    "regnetx_006": ((16, 48, 36.97, 2.24, 24), "6.20"),
    "regnetx_008": ((16, 56, 35.73, 2.28, 16), "7.26"),
    "regnetx_016": ((18, 80, 34.01, 2.25, 24), "9.19"),
    "regnetx_032": ((25, 88, 26.31, 2.25, 48), "15.30"),
    "regnetx_040": ((23, 96, 38.65, 2.43, 40), "22.12"),
    "regnetx_064": ((17, 184, 60.83, 2.07, 56), "26.21"),
    "regnetx_080": ((23, 80, 49.56, 2.88, 120), "39.57"),
    "regnetx_120": ((19, 168, 73.36, 2.37, 112), "46.11"),
    "regnetx_160": ((22, 216, 55.59, 2.1, 128), "54.28"),
    "regnetx_320": ((23, 320, 69.86, 2.0, 168), "107.81"),
    "regnety_002": ((13, 24, 36.44, 2.49, 8), "3.16"),
    "regnety_004": ((16, 48, 27.89, 2.09, 8), "4.34"),
    "regnety_006": ((15, 48, 32.54, 2.32, 16), "6.06"),
    "regnety_008": ((14, 56, 38.84, 2.4, 16), "6.26"),
    "regnety_016": ((27, 48, 20.71, 2.65, 24), "11.20"),
    "regnety_032": ((21, 80, 42.63, 2.66, 24), "19.44"),
    "regnety_040": ((22, 96, 31.41, 2.24, 64), "20.65"),
    "regnety_064": ((25, 112, 33.22, 2.27, 72), "30.58"),
    "regnety_080": ((17, 192, 76.82, 2.19, 56), "39.18"),
    "regnety_120": ((19, 168, 73.36, 2.37, 112), "51.82"),
    "regnety_160": ((18, 200, 106.23, 2.48, 112), "83.59"),
    "regnety_320": ((20, 232, 115.89, 2.53, 232), "145.05"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_rule_gives_the_published_network(name: str) -> None:
    rule, millions = PUBLISHED[name]
    config = load_preset(name)
    assert config.regnet is not None
    assert (*config.regnet.model_dump().values(), config.group_width) == rule
    with torch.device("meta"):
        network = build(config, channels=3, classes=1000)
    assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f}" == millions


def test_depths_and_widths_of_one_network() -> None:
    # Radosavovic et al., Fig. 11: RegNetX-3.2GF and RegNetY-4.0GF
    assert load_preset("regnetx_032").widths == (96, 192, 432, 1008)
    assert load_preset("regnetx_032").depths == (2, 6, 15, 2)
    assert load_preset("regnety_040").widths == (128, 192, 512, 1088)


@given(
    depth=st.integers(1, 63),
    w0=st.integers(1, 32).map(lambda eighth: 8 * eighth),
    wa=st.floats(0, 255),
    wm=st.floats(1.5, 3),
    group_width=st.sampled_from([1, 2, 8, 16, 24, 40, 112]),
)
def test_every_network_of_the_design_space(depth: int, w0: int, wa: float, wm: float, group_width: int) -> None:
    widths, depths = stages_of(depth, w0, wa, wm, group_width)
    assert sum(depths) == depth
    assert len(depths) == len(widths)
    assert min(depths) >= 1
    assert list(widths) == sorted(widths)
    assert all(width % min(width, group_width) == 0 for width in widths)
    if group_width == 8:
        assert all(width % 8 == 0 for width in widths)
        assert widths[0] == w0


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"regnet": {"depth": 0}}, "model regnetx_002: regnet.depth is 0: input should be greater than 0"),
        ({"regnet": {"wm": 1.0}}, "model regnetx_002: regnet.wm is 1.0: input should be greater than 1"),
        ({"regnet": {"slope": 1.0}}, "model regnetx_002: unknown key 'regnet.slope'; "),
        ({"group_width": "wide"}, "model regnetx_002: group_width is 'wide': input should be a valid integer"),
        ({"depths": (1, 2)}, r"depths=\(1, 2\) contradicts regnet, which gives \[1, 1, 4, 7\]; set one of them, the"),
        ({"widths": 8}, r"widths=8 contradicts regnet, which gives \[24, 56, 152, 368\]"),
        ({"regnet": None}, "model regnetx_002: depths is None: input should be a valid tuple"),
        ({"block": "basic"}, "group_width=8 needs block=bottleneck"),
    ],
    ids=["depth", "wm", "key", "group width", "depths", "widths", "no rule", "block"],
)
def test_mistakes_in_the_rule_are_named(axes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_preset("regnetx_002", **axes)


def test_given_stages_may_repeat_the_rule() -> None:
    config = load_preset("regnetx_002")
    assert load_preset("regnetx_002", depths=config.depths, widths=list(config.widths)) == config
