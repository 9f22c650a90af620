"""Signal propagation at initialisation: measured against the published recursions, and measured without a trace."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from math import pi, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm as gauss
from torch import Tensor, nn

from repro.errors import InputError
from repro.models import build, signal
from repro.models.layers import GAMMA, ScaledActivation
from repro.models.presets import load_preset
from repro.models.residual_config import ResidualConfig
from repro.models.signal import SMALL, Signal, UnitSignal, measure, observe
from repro.models.signal_theory import (
    Moments,
    activated,
    broken_assumptions,
    expected,
    input_variances,
    missing_reason,
)
from repro.models.unit import ResidualUnit
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


# The recursion itself

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


# The command

FEW = ("depths=[2,1]", "widths=[4,8]", "stem_width=4", "--seeds", "2", "--batch", "4", "--input", "16")


def test_command_prints_a_table(repro: Command) -> None:
    status, output, _ = repro("signal", "preresnet20", *FEW)
    assert status == 0
    lines = output.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert rows[0] == ["unit", "squared mean", "variance", "expected", "branch variance", "expected"]
    assert [row[0] for row in rows[2:]] == ["1.1", "1.2", "2.1"]
    assert all("±" in row[2] for row in rows[2:])
    assert len({len(line) for line in lines if line.startswith("|")}) == 1, "aligned"
    assert "measured on 4 images of N(0, 1) noise, 3 × 16 × 16, 2 seeds (native 32: --input 32)" in output
    assert "approximation here: padding=zeros loses variance at the borders" in output


def test_command_as_json_and_csv(repro: Command) -> None:
    tree = json.loads(repro("signal", "preresnet20", *FEW, "--json")[1])
    assert (tree["input"], tree["batch"], tree["seeds"]) == ([3, 16, 16], 4, [0, 1])
    assert tree == json.loads(repro("signal", "preresnet20", *FEW, "--format", "json")[1])
    _, output, notes = repro("signal", "preresnet20", *FEW, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(output)))
    assert [float(row["variance"]) for row in rows] == [unit["variance"] for unit in tree["units"]]
    assert list(rows[0]) == list(tree["units"][0])
    assert "measured on 4 images" in notes


def test_command_says_that_skip_init_is_set_aside(repro: Command) -> None:
    axes = ("norm=none", "weight_standardization=true", "gamma=true", "beta=true", "alpha=0.2", "skip_init=true")
    exact = ("shortcut=B", "padding=circular", "model.stem=cifar")
    _, output, _ = repro("signal", "preresnet20", *axes, *exact, *FEW)
    assert "SkipInit gains set to 1; at their initial 0 every branch is silent" in output
    assert "expected: the recursion of an infinitely wide network" in output
    assert [line.split("|")[4].strip() for line in output.splitlines() if line.startswith("| 1.")] == ["1.040", "1.080"]


def test_command_json_is_strict(repro: Command) -> None:
    status, output, _ = repro("signal", "resnet20", *FEW, "norm=none", "alpha=1e+20", "--json")
    assert status == 0

    def refuse(word: str) -> None:
        raise AssertionError(word)

    units = json.loads(output, parse_constant=refuse)["units"]
    assert units[-1]["variance"] is None
    assert units[0]["expected_variance"] is None


@pytest.mark.parametrize("suffix", [".png", ".svg", ".PDF"])
def test_command_writes_the_figure(repro: Command, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"figure{suffix}"
    status, output, _ = repro("signal", "resnet20", *FEW, "--out", str(path))
    assert status == 0
    assert output.splitlines()[-1] == str(path)
    assert path.stat().st_size > 5_000
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["preresnett50"], "unknown model 'preresnett50'; did you mean 'preresnet50'?"),
        (["resnet20", "alfa=1"], "model resnet20: unknown key 'alfa'; did you mean 'alpha'?"),
        (["resnet20", "alpha"], "'alpha' is not of the form KEY=VALUE"),
        (["resnet20", "alpha=[1"], "'alpha=[1': '[1' is not a value"),
        (["resnet20", "se=1", "se.gain=2"], "'se.gain=2': se was given a value before"),
        (["resnet20", "--seeds", "0"], "--seeds='0': expected how many"),
        (["resnet20", "--batch", "-1"], "--batch -1: expected a whole number of images from 1 on"),
        (["resnet20", "--input", "2.5"], "--input 2.5: expected a whole number of pixels from 1 on"),
        (["resnet20", "--out", "figure.jpg"], "--out figure.jpg: expected a file that ends in .png, .svg, .pdf"),
        (["resnet20", "--out", "."], "--out .: expected a file that ends in"),
        (["resnet20", "--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["resnet20", "--batch", "1", "--input", "1"], "1 images of 3 × 1 × 1 do not pass (Expected more than 1 value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line(repro: Command, arguments: list[str], message: str) -> None:
    status, output, error = repro("signal", *arguments)
    assert (status, output) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_unwritable_figures_are_refused(repro: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    status, output, error = repro("signal", "resnet20", *FEW, "--out", str(tmp_path / "file" / "figure.png"))
    assert (status, output) == (2, ""), "before anything is measured"
    assert "the folder cannot be made" in error
    (tmp_path / "folder.png").mkdir()
    status, _, error = repro("signal", "resnet20", *FEW, "--out", str(tmp_path / "folder.png"))
    assert status == 2
    assert "that is a folder" in error


def test_a_figure_that_fails_late_loses_neither_table_nor_older_figure(
    repro: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "figure.svg"
    path.write_text("older")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("repro.results.os.replace", full)
    status, output, error = repro("signal", "resnet20", *FEW, "--out", str(path))
    assert status == 2
    assert "| 2.1 " in output
    assert error == f"repro: --out {path}: the figure cannot be written (No space left on device)\n"
    assert path.read_text() == "older"
    assert [item.name for item in tmp_path.iterdir() if item.is_file()] == ["figure.svg"]
