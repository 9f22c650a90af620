"""Signal propagation at initialisation: measured against the published recursions, and measured without a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from math import pi, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repro.errors import InputError
from repro.models import build, signal
from repro.models.presets import load_preset
from repro.models.residual_config import ResidualConfig
from repro.models.signal import SMALL, Signal, UnitSignal, measure, observe
from repro.models.signal_theory import (
    broken_assumptions,
    expected,
)
from tests.conftest import Outcome

torch.set_num_threads(1)

Command = Callable[..., Outcome]
SIMPLE = {
    "depths": (3, 3, 3),
    "widths": (32, 32, 32),
    "stem_width": 32,
    "shortcut": "B",
    "padding": "circular",
    "order": "pre",
}
"""The network for which the recursions are exact: circular padding, strided projections, one convolution as a stem."""
FREE = {"norm": "none", "weight_standardization": True, "gamma": True, "beta": True, "alpha": 0.2}
TINY = {**SIMPLE, "depths": (2, 1), "widths": (4, 8), "stem_width": 4}
RELU_VARIANCE = (1 - 1 / pi) / 2  # of rectified N(0, 1)


def small(**axes: Any) -> ResidualConfig:
    config = load_preset("resnet20", **{**SIMPLE, **axes})
    assert isinstance(config, ResidualConfig)
    return config


@cache
def measured(**axes: Any) -> tuple[UnitSignal, ...]:
    return measure(small(**axes), 32).units


def variances(units: Sequence[Any]) -> list[float]:
    return [unit.variance for unit in units]


def branches(units: Sequence[Any]) -> list[float]:
    return [unit.branch_variance for unit in units]


def second_moments(units: Sequence[Any]) -> list[float]:
    return [unit.mean_square + unit.variance for unit in units]


def by_stage(values: Sequence[float], depth: int = 3) -> list[Sequence[float]]:
    return [values[start : start + depth] for start in range(0, len(values), depth)]


# Measured against the published recursions (Brock et al. 2021, arXiv:2101.08692, §3 and §4)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_normaliser_free_variance_grows_by_alpha_squared_and_resets(alpha: float) -> None:
    units = measured(**{**FREE, "alpha": alpha})
    published = [1 + n * alpha**2 for n in (1, 2, 3)] * 3
    assert variances(units) == pytest.approx(published, rel=0.05)
    assert branches(units) == pytest.approx([alpha**2] * 9, rel=0.08)
    assert max(unit.mean_square for unit in units) < 0.02, "weight standardisation removes the mean shift"


def test_batch_normalised_signal_grows_linearly_and_resets() -> None:
    units = measured()
    for stage in by_stage(variances(units)):
        assert np.diff(stage) == pytest.approx([1 - 1 / pi] * 2, rel=0.05)
    growth = np.concatenate([np.diff(stage) for stage in by_stage(second_moments(units))])
    assert growth.mean() == pytest.approx(1, rel=0.1)
    for before, after in pairwise(by_stage(variances(units))):
        assert after[0] < 0.7 * before[-1]
        assert after[0] == pytest.approx(2 * (1 - 1 / pi), rel=0.05)
    assert branches(units) == pytest.approx([1 - 1 / pi] * 9, rel=0.05)


def test_without_gamma_every_convolution_loses_two_thirds() -> None:
    units = measured(**{**FREE, "gamma": False, "alpha": 1.0})
    first, second, third = (stage[0] for stage in by_stage(branches(units)))
    assert first == pytest.approx(RELU_VARIANCE**2, rel=0.05), "two convolutions behind one activation each"
    shortcut = 1 + RELU_VARIANCE**2
    assert by_stage(variances(units))[0][0] == pytest.approx(shortcut, rel=0.05)
    assert second / first < 0.5
    assert third / second < 0.5


def test_without_beta_growth_is_geometric_and_never_resets() -> None:
    units = measured(**{**FREE, "beta": False, "alpha": 0.5})
    assert variances(units) == pytest.approx([1.25**n for n in range(1, 10)], rel=0.08)


def test_without_any_normalisation_the_signal_explodes() -> None:
    units = measured(norm="none")
    moments = second_moments(units)
    assert moments[:3] == pytest.approx([4, 8, 16], rel=0.15), "each unit doubles it"
    assert all(after > 1.4 * before for stage in by_stage(moments) for before, after in pairwise(stage))
    assert moments[-1] > 100 * moments[0]


def test_zero_padding_loses_a_few_per_cent() -> None:
    ratio = np.divide(variances(measured(**FREE, padding="zeros")), variances(measured(**FREE)))
    assert ((ratio > 0.85) & (ratio < 0.98)).all()
    assert np.diff(ratio[[0, 3, 6]]).max() < 0, "more in smaller images"


def test_average_pooling_in_the_shortcut_breaks_the_reset() -> None:
    units = (
        measured(**FREE, depths=(1, 1), widths=(32, 32)),
        measured(**FREE, depths=(1, 1), widths=(32, 32), shortcut="D"),
    )
    assert units[0][1].variance == pytest.approx(1.04, rel=0.05)
    assert units[1][1].variance == pytest.approx(0.25 + 0.04, rel=0.1)


# The recursion against measurements of networks that no paper gives a formula for


@pytest.mark.parametrize(
    ("axes", "tolerance"),
    [
        pytest.param({"order": "relu_only_pre"}, 0.05, id="ReLU-only pre-activation"),
        pytest.param({"weight_standardization": True}, 0.05, id="batch norm and weight standardisation"),
        pytest.param({"block": "bottleneck", "expansion": 2, "middle": 2}, 0.05, id="bottleneck with two 3x3"),
        pytest.param({**FREE, "block": "single"}, 0.08, id="one convolution"),
        pytest.param({"shortcut": "none"}, 0.05, id="plain"),
        pytest.param({"shortcut": "A", "widths": (32, 64, 64)}, 0.05, id="shortcut A"),
        pytest.param({"shortcut": "C"}, 0.05, id="shortcut C"),
        pytest.param({"stem": "simple", "first_stride": 2}, 0.05, id="strided stem and first stage"),
        pytest.param({"zero_init": True, "order": "relu_only_pre"}, 0.05, id="zero-init"),
        pytest.param({**FREE, "activation": "gelu", "alpha": 0.5}, 0.08, id="GELU, divided by beta behind it"),
        pytest.param({**FREE, "activation": "silu", "alpha": 1.0}, 0.08, id="SiLU, whose variance then grows faster"),
        pytest.param({**FREE, "gamma": False, "beta": False, "alpha": 1.0}, 0.08, id="standardised weights alone"),
    ],
)
def test_recursion_matches(axes: dict[str, Any], tolerance: float) -> None:
    config, units = small(**axes), measured(**axes)
    theory = expected(config)
    assert theory is not None
    assert broken_assumptions(config) == ()
    assert variances(units) == pytest.approx(variances(theory), rel=tolerance)
    assert branches(units) == pytest.approx(branches(theory), rel=0.1)


def test_squared_means_match() -> None:
    means = np.array([[unit.mean_square for unit in units] for units in (measured(), expected(small()) or ())])
    assert means[0] == pytest.approx(means[1], rel=0.25)
    assert means[0].sum() == pytest.approx(means[1].sum(), rel=0.1)


# What is measured, and that nothing else happens


def network(seed: int = 0, **axes: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build(small(**{**TINY, **axes}), 3, 10)


def moments_of(x: Tensor) -> tuple[float, float]:
    channels = x.detach().double().transpose(0, 1).flatten(1)
    return float(channels.mean(1).square().mean()), float(channels.var(1, unbiased=False).mean())


@pytest.mark.parametrize("order", ["post", "bn_after_addition", "relu_before_addition", "relu_only_pre", "pre"])
@pytest.mark.parametrize("shortcut", ["B", "none"])
def test_numbers_are_those_of_the_tensors(order: str, shortcut: str) -> None:
    net, images = network(order=order, shortcut=shortcut, alpha=0.5), torch.randn(4, 3, 8, 8)
    rows = observe(net, images)
    net.train()
    x = net.get_submodule("stem")(images)
    stages = net.get_submodule("stages")
    for row, place in zip(rows, [(0, 0), (0, 1), (1, 0)], strict=True):
        unit = stages.get_submodule(f"{place[0]}.{place[1]}")
        branch = unit.branch(unit.before(x.clone())).clone()  # type: ignore[operator]
        x = unit(x)
        assert (row.stage, row.index, row.name) == (place[0] + 1, place[1] + 1, f"stages.{place[0]}.{place[1]}")
        assert (row.mean_square, row.variance) == pytest.approx(moments_of(x), rel=1e-4, abs=1e-9)
        assert row.branch_variance == pytest.approx(moments_of(branch)[1], rel=1e-4)


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("on purpose")


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("fails", [False, True], ids=["passes", "fails"])
def test_the_network_is_left_as_it_was(mode: bool, fails: bool) -> None:
    net = network(skip_init=True, stochastic_depth=0.5)
    if fails:
        net.fc = Failing()
    net.train(mode)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    generator, images = torch.get_rng_state(), torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    try:
        observe(net, images)
    except RuntimeError:
        assert fails
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert {module.training for module in net.modules()} == {mode}
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(norm.track_running_stats for norm in norms)
    assert not any(module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_measuring_restores_torchs_generator() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    measure(small(**TINY), 8, 2, (0, 1))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "axes", [{"skip_init": True}, {"stochastic_depth": 0.9}, {"dropout": 0.9}, {"block_dropout": 0.9}], ids=str
)
def test_what_hides_the_branches_is_set_aside(axes: dict[str, Any]) -> None:
    plain, hidden = (measure(small(**{**TINY, **more}), 8, 2, (0, 1)).units for more in ({}, axes))
    assert hidden == plain
    assert min(branches(plain)) > 0


def test_seeds_are_averaged() -> None:
    config = small(**TINY)
    single = [measure(config, 8, 4, (seed,)).units for seed in (3, 8)]
    both = measure(config, 8, 4, (3, 8))
    assert (both.input, both.batch, both.seeds) == ((3, 8, 8), 4, (3, 8))
    for unit, first, second in zip(both.units, *single, strict=True):
        assert first.spread is None
        assert first.variance != second.variance
        assert unit.variance == pytest.approx((first.variance + second.variance) / 2)
        assert unit.spread == pytest.approx(abs(first.variance - second.variance) / sqrt(2))
        assert unit.mean_square == pytest.approx((first.mean_square + second.mean_square) / 2)


def test_a_network_without_units_is_measured_at_its_convolutions() -> None:
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1))
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), gate)
    images = torch.randn(8, 3, 6, 6)
    first, second = observe(net, images)
    assert (first.stage, first.index, first.name, first.branch_variance) == (None, 1, "0", None)
    assert (second.index, second.name) == (2, "3")
    assert (first.mean_square, first.variance) == pytest.approx(moments_of(net[0](images)), rel=1e-5)
    assert second.variance == pytest.approx(moments_of(net[:4](images))[1], rel=1e-5)


def test_default_input_is_small_and_native_where_small_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    few: dict[str, Any] = {"batch": 2, "seeds": (0,)}
    assert measure(small(**TINY), **few).input == (3, 32, 32)
    big = small(**TINY, native={"size": 100, "channels": 1, "classes": 10})
    assert measure(big, **few).input == (1, SMALL, SMALL)

    def whole(*_: Any) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 98 * 98, 3))

    monkeypatch.setattr(signal, "build", whole)
    assert measure(big, **few).input == (1, 100, 100)
    with pytest.raises(InputError, match=r"2 images of 1 × 64 × 64 do not pass \(.*\); its native size is 100"):
        measure(big, 64, **few)


def test_a_network_without_convolutions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "build", lambda *_: nn.Flatten())
    with pytest.raises(InputError, match="neither residual units nor convolutions"):
        measure(small(**TINY), 8, 2, (0,))


def test_an_overflow_is_a_number_not_a_crash() -> None:
    config = small(**TINY, norm="none", alpha=1e20)
    last = measure(config, 8, 2, (0, 1)).units[-1]
    assert not np.isfinite(last.variance)
    assert last.spread is not None
    assert np.isnan(last.spread)


def test_library_networks_are_measured_too() -> None:
    found: Signal = measure(load_preset("timm/test_resnet"), 32, 2, (0,))
    assert len(found.units) > 8
    assert all(unit.stage is None and unit.variance > 0 for unit in found.units)
