"""The recursion of signal propagation: the papers' formula, the networks' own factors, and where it ends."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm as gauss
from torch import nn

from repro.models import build
from repro.models.layers import GAMMA, ScaledActivation
from repro.models.signal_theory import (
    Moments,
    activated,
    broken_assumptions,
    expected,
    input_variances,
    missing_reason,
)
from repro.models.unit import ResidualUnit
from tests.test_signal import (
    FREE,
    small,
    variances,
)

torch.set_num_threads(1)

depths = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@given(depths=depths, alpha=st.floats(0.05, 2))
@settings(max_examples=30, deadline=None)
def test_recursion_is_the_papers(depths: list[int], alpha: float) -> None:
    config = small(depths=depths, widths=[8] * len(depths), stem_width=8, **{**FREE, "alpha": alpha})
    outputs = [1 + n * alpha**2 for depth in depths for n in range(1, depth + 1)]
    outputs[: depths[0]] = [1 + n * alpha**2 for n in range(1, depths[0] + 1)]
    assert variances(expected(config) or ()) == pytest.approx(outputs, rel=1e-9)
    assert list(input_variances(config))[1 : depths[0]] == pytest.approx(outputs[: depths[0] - 1], rel=1e-9)


@given(
    depths=depths,
    axes=st.sampled_from([{}, {"weight_standardization": True}, {"block": "bottleneck"}, FREE, {"gamma": True}]),
    activation=st.sampled_from(["relu", "gelu", "silu"]),
)
@settings(max_examples=30, deadline=None)
def test_recursion_grows_within_a_stage_and_resets(depths: list[int], axes: dict[str, Any], activation: str) -> None:
    config = small(depths=depths, widths=[8] * len(depths), stem_width=8, activation=activation, **axes)
    theory, start, resets = expected(config) or (), 0, []
    for depth in depths:
        stage = variances(theory[start : start + depth])
        assert all(before < after for before, after in pairwise(stage))
        resets.append(stage[0])
        start += depth
    assert max(resets[1:], default=0) <= 2 * min(resets[1:], default=0) + 1e-12
    assert all(unit.mean_square >= 0 for unit in theory)


@pytest.mark.parametrize("shortcut", ["A", "B", "C", "D"])
@pytest.mark.parametrize("stem_width", [8, 16], ids="stem of {}".format)
def test_input_variances_are_the_networks_betas(shortcut: str, stem_width: int) -> None:
    axes = {"depths": (2, 3), "widths": (16, 32), "stem_width": stem_width, "shortcut": shortcut}
    config = small(**axes, **{**FREE, "alpha": 0.7})
    units = [module for module in build(config, 3, 10).modules() if isinstance(module, ResidualUnit)]
    firsts = [next(layer for layer in unit.modules() if isinstance(layer, ScaledActivation)) for unit in units]
    found = [(GAMMA["relu"] / first.factor) ** 2 for first in firsts]
    assert found == pytest.approx(list(input_variances(config)), rel=1e-6)


@pytest.mark.parametrize("kind", ["relu", "silu", "gelu"])
def test_gamma_gives_unit_variance(kind: str) -> None:
    assert activated(Moments(0, 1), kind).variance ** -0.5 == pytest.approx(GAMMA[kind], rel=1e-3)


@given(mean_square=st.floats(0, 10), variance=st.floats(0.01, 10))
def test_rectified_moments_are_those_of_a_gaussian(mean_square: float, variance: float) -> None:
    nodes = np.linspace(-8, 8, 4001)
    weights = gauss.pdf(nodes)
    means, deviation = sqrt(mean_square) * nodes, sqrt(variance)
    rectified = means * gauss.cdf(means / deviation) + deviation * gauss.pdf(means / deviation)
    found = activated(Moments(mean_square, variance), "relu")
    assert found.mean_square == pytest.approx(float(weights @ rectified**2 / weights.sum()), rel=1e-6)
    assert found.common == pytest.approx(float(weights @ rectified / weights.sum()) ** 2, rel=1e-6)
    assert found.mean_square + found.variance == pytest.approx((mean_square + variance) / 2)


@pytest.mark.parametrize("kind", ["silu", "gelu"])
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (0.5, 2.0), (3.0, 0.1)])
def test_quadrature_agrees_with_drawn_signals(kind: str, mean: float, variance: float) -> None:
    draw = torch.Generator().manual_seed(0)
    centres = sqrt(mean) * torch.randn(2000, 1, generator=draw, dtype=torch.float64)
    signals = centres + sqrt(variance) * torch.randn(2000, 500, generator=draw, dtype=torch.float64)
    out = {"silu": nn.SiLU(), "gelu": nn.GELU()}[kind](signals)
    found = activated(Moments(mean, variance), kind)
    assert found.mean_square == pytest.approx(float(out.mean(1).square().mean()), rel=0.08, abs=2e-3)
    assert found.variance == pytest.approx(float(out.var(1).mean()), rel=0.05)


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        pytest.param({"order": "post"}, "found order=post", id="rectified sum"),
        pytest.param({"order": "bn_after_addition"}, "found order=bn_after_addition", id="norm after the sum"),
        pytest.param({"se": {"reduction": 4, "position": "pre"}}, "found pre, avg, sigmoid", id="squeeze before"),
    ],
)
def test_no_expectation_says_why(axes: dict[str, Any], words: str) -> None:
    config = small(**axes)
    assert expected(config) is None
    assert words in (missing_reason(config) or "")


@pytest.mark.parametrize(
    ("axes", "word"),
    [
        pytest.param({"padding": "zeros"}, "padding=zeros", id="padding"),
        pytest.param({"shortcut": "D"}, "shortcut=D", id="average pooling"),
        pytest.param({"stem": "imagenet"}, "stem=imagenet", id="max-pooling"),
        pytest.param({"se": {"reduction": 4}}, "squeeze-and-excitation", id="gate"),
        pytest.param({**FREE, "shortcut": "A"}, "shortcut=A", id="zero channels"),
        pytest.param({"block": "single"}, "stage 1 carries a rectified signal", id="first shortcut"),
        pytest.param({"zero_init": True}, "stage 1 carries a rectified signal", id="silent branches"),
        pytest.param({"norm": "none"}, "without norm and weight standardisation", id="no normalisation"),
    ],
)
def test_approximations_are_named(axes: dict[str, Any], word: str) -> None:
    (reason,) = broken_assumptions(small(**axes))
    assert reason.startswith(word)
    assert expected(small(**axes)) is not None


def test_theory_and_figure_need_no_torch() -> None:
    code = (
        "import sys; import repro.models.signal_theory, repro.report.signal_figure, repro.verbs.signal;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
