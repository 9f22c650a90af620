"""What holds of the residual family by algebra, without training: identity units, ResNeXt forms, SE, betas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from repro.models import build
from repro.models.layers import GAMMA, ScaledActivation, SqueezeExcitation
from repro.models.presets import load_preset
from repro.models.residual import ResidualNet
from repro.models.unit import ResidualUnit

torch.set_num_threads(1)

BLOCKS = ("single", "basic", "bottleneck")
NORM_FREE: dict[str, Any] = {
    **{"order": "pre", "norm": "none", "weight_standardization": True, "gamma": True, "alpha": 0.2, "beta": True},
    **{"shortcut": "B"},
}


def network(**axes: Any) -> ResidualNet:
    """A network of two stages of two units, 4 and 8 wide, whose norms, gains and statistics all differ."""
    torch.manual_seed(0)
    small = {"depths": (2, 2), "widths": (4, 8), "stem_width": 4, "shortcut": "B"}
    built = build(load_preset("resnet20", **{**small, **axes}), channels=3, classes=5)
    assert isinstance(built, ResidualNet)
    for name, tensor in built.state_dict().items():
        if tensor.ndim == 1 and ("bn" in name or "gain" in name):
            tensor.uniform_(*((0.5, 1.5) if name.endswith(("weight", "var")) else (-0.5, 0.5)))
    return built.eval()


def unit(net: ResidualNet, stage: int = 1, index: int = 1) -> ResidualUnit:
    found = net.get_submodule(f"stages.{stage}.{index}")
    assert isinstance(found, ResidualUnit)
    return found


def units(net: ResidualNet) -> list[ResidualUnit]:
    return [module for module in net.modules() if isinstance(module, ResidualUnit)]


def inputs(block: str, channels: int = 8) -> Tensor:
    return torch.randn(3, channels * (4 if block == "bottleneck" else 1), 5, 5)


@pytest.mark.parametrize("block", BLOCKS)
def test_pre_activation_with_a_zero_branch_is_exactly_the_identity(block: str) -> None:
    chosen = unit(network(order="pre", block=block))
    nn.init.zeros_(chosen.branch[-1].weight)  # type: ignore[arg-type]
    x = inputs(block)
    assert torch.equal(chosen(x), x)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_original_unit_with_a_zero_branch_is_a_relu(block: str) -> None:
    chosen = unit(network(order="post", block=block))
    for parameter in chosen.branch[-1].parameters():
        nn.init.zeros_(parameter)
    x = inputs(block)
    assert torch.equal(chosen(x.clone()), x.relu())


@pytest.mark.parametrize(
    "axes",
    [
        {"order": "post", "zero_init": True},
        {"order": "relu_only_pre", "zero_init": True},
        {"order": "pre", "zero_init": True},
        {"order": "post", "skip_init": True},
        {"order": "relu_before_addition", "skip_init": True},
        {"order": "pre", "skip_init": True},
        {**NORM_FREE, "skip_init": True},
        {**NORM_FREE, "skip_init": True, "se": {"reduction": 2, "gain": 2.0}},
    ],
    ids=lambda axes: "-".join(str(axes[key]) for key in axes if key in ("order", "norm")) + f"-{list(axes)[-1]}",
)
@pytest.mark.parametrize("block", BLOCKS)
def test_zero_and_skip_init_make_each_block_the_identity(axes: dict[str, Any], block: str) -> None:
    torch.manual_seed(0)
    small = {"depths": (2, 2), "widths": (4, 8), "stem_width": 4, "shortcut": "B", "block": block}
    net = build(load_preset("resnet20", **{**small, **axes}), channels=3, classes=5)
    assert isinstance(net, ResidualNet)
    x = inputs(block)
    x = x.relu() if axes["order"] == "post" else x  # a post-activation unit only ever sees what a ReLU let pass
    assert torch.equal(unit(net.train())(x), x)


def test_a_grouped_convolution_is_its_block_diagonal_dense_twin() -> None:
    grouped = network(block="bottleneck", groups=2, width_per_group=3)
    dense = network(block="bottleneck", groups=1, width_per_group=6)
    state = grouped.state_dict()
    for name in [name for name in state if name.endswith("branch.conv2.weight")]:
        state[name] = torch.cat([block_diagonal(part, place) for place, part in enumerate(state[name].chunk(2))])
    dense.load_state_dict(state)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(grouped(x), dense(x), rtol=1e-5, atol=1e-5)


def block_diagonal(part: Tensor, place: int) -> Tensor:
    """Widen the filters of one of two groups to all input channels."""
    width = part.shape[1]
    return F.pad(part, (0, 0, 0, 0, place * width, (1 - place) * width))


@settings(deadline=None, max_examples=20)
@given(groups=st.integers(1, 6), width=st.integers(1, 3))
def test_the_three_forms_of_a_resnext_block_agree(groups: int, width: int) -> None:
    """Xie et al., Fig. 3: (a) paths that are added, (b) concatenated before the last 1x1, (c) a grouped convolution."""
    net = network(block="bottleneck", groups=groups, width_per_group=width, widths=(4, 4)).double()
    branch, x = unit(net).branch, torch.randn(2, 16, 5, 5, dtype=torch.float64)
    weights = [branch.get_submodule(f"conv{number}").weight for number in (1, 2, 3)]
    bn1, bn2, bn3 = (branch.get_submodule(f"bn{number}") for number in (1, 2, 3))
    paths = []
    for path in range(groups):
        own = slice(path * width, (path + 1) * width)
        inner = normalised(F.conv2d(x, weights[0][own]), bn1, own).relu()
        inner = normalised(F.conv2d(inner, weights[1][own], padding=1), bn2, own).relu()
        paths.append((inner, weights[2][:, own]))
    added = sum(F.conv2d(inner, last) for inner, last in paths)
    joined = F.conv2d(torch.cat([inner for inner, _ in paths], dim=1), weights[2])
    grouped = branch(x.clone())
    torch.testing.assert_close(bn3(added), grouped)
    torch.testing.assert_close(bn3(joined), grouped)


def normalised(x: Tensor, bn: Any, own: slice) -> Tensor:
    """Batch norm of some of its channels, in evaluation."""
    return F.batch_norm(x, bn.running_mean[own], bn.running_var[own], bn.weight[own], bn.bias[own], eps=bn.eps)


@pytest.mark.parametrize("position", ["standard", "pre", "post", "identity", "3x3"])
@pytest.mark.parametrize("index", [0, 1], ids=["projection", "identity"])
def test_where_squeeze_and_excitation_stands(position: str, index: int) -> None:
    """Hu et al., Fig. 5 (§6.5): behind the branch; before it, the shortcut untouched; behind the last ReLU, after the
    sum; on the shortcut; and behind the 3x3 convolution (Table 15)."""
    with_se = unit(network(block="bottleneck", se={"reduction": 2, "position": position}), index=index)
    (se,) = (module for module in with_se.modules() if isinstance(module, SqueezeExcitation))
    modules = {name.rsplit(".", 1)[-1]: module for name, module in with_se.branch.named_modules()}
    x = torch.randn(2, 32 if index else 16, 6, 6).relu()
    parts = dict(with_se.named_modules())
    path = parts.get("shortcut.path", with_se.shortcut)
    assert isinstance(path, nn.Module)

    def branch(values: Tensor) -> Tensor:
        for number in (1, 2, 3):
            values = modules[f"bn{number}"](modules[f"conv{number}"](values))
            values = values.relu() if number < 3 else values
            values = se(values) if (number, position) == (2, "3x3") else values
        return values

    expected = {
        "standard": lambda: (path(x) + se(branch(x))).relu(),
        "pre": lambda: (path(x) + branch(se(x))).relu(),
        "post": lambda: se((path(x) + branch(x)).relu()),
        "identity": lambda: (se(path(x)) + branch(x)).relu(),
        "3x3": lambda: (path(x) + branch(x)).relu(),
    }[position]()
    torch.testing.assert_close(with_se(x.clone()), expected)


@pytest.mark.parametrize("stages", [(1,), (2,), None], ids=str)
def test_stages_with_squeeze_and_excitation(stages: tuple[int, ...] | None) -> None:
    net = network(se={"reduction": 2, "stages": stages})
    found = {name.split(".")[1] for name, module in net.named_modules() if isinstance(module, SqueezeExcitation)}
    assert found == {str(stage - 1) for stage in stages or (1, 2)}


def test_stochastic_depth_grows_linearly_and_is_nothing_in_evaluation() -> None:
    net, without = network(depths=(2, 3), stochastic_depth=0.5), network(depths=(2, 3))
    rates = [module.p for module in net.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0.5 * layer / 5 for layer in range(1, 6)])
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(net(x), without(x))


@pytest.mark.parametrize("order", ["post", "pre"])
def test_stochastic_depth_drops_the_branch_of_whole_samples(order: str) -> None:
    net = network(order=order, stochastic_depth=0.4)
    block, plain = unit(net, 1, 0), unit(network(order=order), 1, 0)  # the third of four: 0.3
    for module in block.modules():
        module.training = isinstance(module, StochasticDepth)
    x = torch.randn(4000, 4, 4, 4)
    active = plain.before(x)
    assert plain.shortcut is not None
    path = plain.shortcut(active if plain.shared else x)
    dropped, kept = plain.after(path.clone()), plain.after(path + plain.branch(active) / 0.7)
    out = block(x)
    is_dropped, is_kept = (torch.isclose(out, form, atol=1e-5).flatten(1).all(dim=1) for form in (dropped, kept))
    assert bool((is_dropped ^ is_kept).all())
    assert is_dropped.double().mean().item() == pytest.approx(0.3, abs=0.03)  # 4 standard errors


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
def test_beta_follows_the_variance_and_is_reset_at_transitions(activation: str) -> None:
    """Var(x) grows by alpha^2 with each unit and is 1 + alpha^2 after a projection (arXiv:2101.08692, §3)."""
    net = network(depths=(3, 2, 2), widths=(4, 8, 8), block="bottleneck", activation=activation, **NORM_FREE)
    firsts = [block.before[0] for block in units(net)]
    assert all(isinstance(first, ScaledActivation) for first in firsts[1:])
    variances = [(GAMMA[activation] / first.factor) ** 2 for first in firsts]  # type: ignore[operator]
    assert variances == pytest.approx([1, 1.04, 1.08, 1.12, 1.04, 1.08, 1.04])


def test_signals_keep_the_predicted_variance_without_batch_norm() -> None:
    """Forward alone, wide, random: the sum over each channel's variance is what beta divides by (§3, §4.3)."""
    axes = {**NORM_FREE, "alpha": 1.0, "depths": (4, 3), "widths": (64, 128), "stem_width": 64, "padding": "circular"}
    net = network(block="bottleneck", **axes)
    seen: list[float] = []
    for block in units(net):
        block.register_forward_pre_hook(lambda _, given: seen.append(float(given[0].var(dim=(0, 2, 3)).mean())))
    with torch.inference_mode():
        net(torch.randn(8, 3, 16, 16))
    assert seen == pytest.approx([1, 2, 3, 4, 5, 2, 3], rel=0.2)
