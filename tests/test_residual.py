"""The residual family: the five orders of Fig. 4, the shortcuts, and what zero-init means."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from repro.errors import InputError
from repro.models import build
from repro.models.presets import load_preset
from repro.models.residual import ResidualNet
from repro.models.residual_config import ResidualConfig
from repro.models.unit import ResidualUnit, ZeroPadShortcut

torch.set_num_threads(1)

ORDERS = ("post", "bn_after_addition", "relu_before_addition", "relu_only_pre", "pre")
SMALL = {"depths": (2, 2), "widths": (4, 8), "stem_width": 4}


def small(**axes: Any) -> ResidualConfig:
    return load_preset("resnet20", **{**SMALL, **axes})


def network(**axes: Any) -> ResidualNet:
    torch.manual_seed(0)
    built = build(small(**axes), channels=3, classes=5)
    assert isinstance(built, ResidualNet)
    return built


def shaken(net: ResidualNet) -> ResidualNet:
    """Give every batch norm a scale, a shift and statistics that no other has."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                assert tensor is not None
                tensor.uniform_(-0.5, 0.5)
    return net.eval()


def unit(net: ResidualNet, stage: int, index: int) -> ResidualUnit:
    return net.get_submodule(f"stages.{stage}.{index}")  # type: ignore[return-value]


def parts(block: ResidualUnit) -> dict[str, nn.Module]:
    """Every layer of a unit by its own name: conv1, bn1, ..."""
    return {name.rsplit(".", 1)[-1]: module for name, module in block.named_modules()}


def convolutions(block: ResidualUnit) -> list[nn.Conv2d]:
    return [module for module in block.branch if isinstance(module, nn.Conv2d)]


FIGURE_4: dict[str, Callable[..., Tensor]] = {
    "post": lambda x, c1, b1, c2, b2: F.relu(x + b2(c2(F.relu(b1(c1(x)))))),
    "bn_after_addition": lambda x, c1, b1, c2, b2: F.relu(b2(x + c2(F.relu(b1(c1(x)))))),
    "relu_before_addition": lambda x, c1, b1, c2, b2: x + F.relu(b2(c2(F.relu(b1(c1(x)))))),
    "relu_only_pre": lambda x, c1, b1, c2, b2: x + b2(c2(F.relu(b1(c1(F.relu(x)))))),
    "pre": lambda x, c1, b1, c2, b2: x + c2(F.relu(b2(c1(F.relu(b1(x)))))),
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_unit_computes_figure_4(order: str) -> None:
    block = unit(shaken(network(order=order)), 0, 1)
    x = torch.randn(2, 4, 6, 6)
    layer = parts(block)
    expected = FIGURE_4[order](x.clone(), layer["conv1"], layer["bn1"], layer["conv2"], layer["bn2"])
    torch.testing.assert_close(block(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("order", ORDERS)
def test_a_unit_leaves_its_input_as_it_was(order: str) -> None:
    x = torch.randn(2, 4, 6, 6)
    before = x.clone()
    unit(network(order=order), 0, 1)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("block", "kernels"),
    [("single", [3]), ("basic", [3, 3]), ("bottleneck", [1, 3, 1])],
    ids=["1-layer skip", "basic", "bottleneck"],
)
def test_structures(block: str, kernels: list[int]) -> None:
    assert [conv.kernel_size[0] for conv in convolutions(unit(network(block=block), 1, 1))] == kernels


@pytest.mark.parametrize(("place", "strides"), [("1x1", [2, 1, 1]), ("3x3", [1, 2, 1])])
def test_stride_place(place: str, strides: list[int]) -> None:
    block = unit(network(block="bottleneck", shortcut="B", stride_place=place), 1, 0)
    assert [conv.stride[0] for conv in convolutions(block)] == strides


@pytest.mark.parametrize(
    ("stem", "order", "layers", "shape"),
    [
        ("cifar", "post", "conv bn relu", (4, 32, 32)),
        ("cifar", "relu_only_pre", "conv bn", (4, 32, 32)),
        ("cifar", "pre", "conv", (4, 32, 32)),
        ("imagenet", "post", "conv bn relu pool", (4, 8, 8)),
        ("imagenet", "pre", "conv pool", (4, 8, 8)),
        ("deep", "post", "conv1 bn1 relu1 conv2 bn2 relu2 conv bn relu pool", (4, 8, 8)),
        ("deep", "pre", "conv1 bn1 relu1 conv2 bn2 relu2 conv pool", (4, 8, 8)),
    ],
)
def test_stems(stem: str, order: str, layers: str, shape: tuple[int, ...]) -> None:
    net = network(stem=stem, order=order)
    assert [name for name, _ in net.stem.named_children()] == layers.split()
    assert net.stem(torch.randn(2, 3, 32, 32)).shape[1:] == shape


@pytest.mark.parametrize(
    ("order", "layers"),
    [
        ("post", ""),
        ("bn_after_addition", ""),
        ("relu_before_addition", ""),
        ("relu_only_pre", "relu"),
        ("pre", "bn relu"),
    ],
)
def test_what_precedes_the_pooling(order: str, layers: str) -> None:
    assert [name for name, _ in network(order=order).final.named_children()] == layers.split()


@pytest.mark.parametrize(
    ("axes", "place", "shared"),
    [
        ({"order": "pre"}, (0, 0), True),
        ({"order": "relu_only_pre"}, (0, 0), True),
        ({"order": "pre"}, (0, 1), False),
        ({"order": "pre", "shortcut": "A"}, (1, 0), False),
        ({"order": "pre", "shortcut": "B"}, (1, 0), True),
        ({"order": "pre", "shortcut": "C"}, (1, 1), True),
        ({"order": "pre", "shortcut": "D"}, (1, 0), True),
        ({"order": "pre", "stem": "imagenet"}, (0, 0), False),
        ({"order": "pre", "stem": "imagenet", "block": "bottleneck", "shortcut": "B"}, (0, 0), True),
        ({"order": "post", "shortcut": "B"}, (1, 0), False),
    ],
    ids=lambda value: "-".join(f"{v}" for v in (value.values() if isinstance(value, dict) else [value])),
)
def test_where_the_pre_activation_is_shared(axes: dict[str, Any], place: tuple[int, int], shared: bool) -> None:
    block = unit(shaken(network(**axes)), *place)
    x = torch.randn(2, convolutions(block)[0].in_channels, 8, 8)
    assert block.shortcut is not None
    active = F.relu(parts(block)["bn1"](x)) if axes["order"] == "pre" else F.relu(x)
    rest = block.branch(active) if axes["order"] != "post" else block.branch(x)
    expected = block.after(block.shortcut(active if shared else x) + rest)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=0)


def test_option_a_pads_with_zeros_and_has_no_parameters() -> None:
    shortcut, x = ZeroPadShortcut(extra=3, stride=2), torch.randn(2, 4, 7, 5)
    out = shortcut(x)
    assert out.shape == (2, 7, 4, 3)
    assert torch.equal(out[:, :4], x[:, :, ::2, ::2])
    assert out[:, 4:].abs().sum() == 0
    assert not list(shortcut.parameters())


def test_option_d_averages_before_it_projects() -> None:
    block = unit(shaken(network(shortcut="D")), 1, 0)
    x = torch.randn(2, 4, 8, 8)
    layer, mean = parts(block.shortcut), F.avg_pool2d(x, 2)  # type: ignore[arg-type]
    assert block.shortcut is not None
    torch.testing.assert_close(block.shortcut(x), layer["bn"](layer["conv"](mean)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("shortcut", "projections"), [("none", 0), ("A", 0), ("B", 1), ("C", 4), ("D", 1)], ids=["none", "A", "B", "C", "D"]
)
def test_projections(shortcut: str, projections: int) -> None:
    names = [name for name, _ in network(shortcut=shortcut).named_modules()]
    assert sum(name.endswith("shortcut.conv") for name in names) == projections


@pytest.mark.parametrize(("shortcut", "additions"), [("none", 0), ("A", 4)], ids=["plain", "residual"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_plain_net_adds_nothing(order: str, shortcut: str, additions: int) -> None:
    graph = fx.symbolic_trace(network(order=order, shortcut=shortcut)).graph
    assert sum("add" in str(node.target) for node in graph.nodes if node.op == "call_function") == additions


@pytest.mark.parametrize("order", ["post", "bn_after_addition", "relu_only_pre", "pre"])
def test_a_zeroed_branch_is_zero_and_can_train(order: str) -> None:
    chosen = unit(network(order=order, shortcut="B", zero_init=True), 1, 1)
    x = torch.randn(3, 8, 5, 5)
    assert chosen.branch(chosen.before(x)).abs().max() == 0
    chosen(x).square().sum().backward()
    gradient = chosen.branch[-1].weight.grad
    assert isinstance(gradient, Tensor)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"order": "relu_before_addition", "zero_init": True}, "zero_init=true has no form for order=relu_before_addi"),
        ({"shortcut": "none", "zero_init": True}, "zero_init=true needs a shortcut"),
        ({"shortcut": "none", "skip_init": True}, r"skip_init=true needs a shortcut \(found shortcut=none\)"),
        (
            {"shortcut": "none", "stochastic_depth": 0.5},
            r"stochastic_depth=0.5 needs a shortcut \(found shortcut=none\)",
        ),
        ({"shortcut": "A", "stem_width": 8}, "shortcut=A pads with zeros and cannot go from 8 to 4 channels; use B"),
        ({"beta": True}, r"beta=true needs order=pre and norm=none \(found order=post, norm=batch\)"),
        ({"norm": "none", "zero_init": True}, "zero_init=true zeroes the last batch norm's scale; with norm=none use"),
        ({"middle": 2}, r"middle=2 needs block=bottleneck \(found block=basic\)"),
        ({"block": "bottleneck", "group_width": 3}, "group_width=3 does not divide the width 4 of stage 1"),
        ({"block": "bottleneck", "group_width": 4, "groups": 2}, "group_width=4 fixes the channels of a group"),
        ({"block": "bottleneck", "groups": 3}, "groups=3 does not divide the width 4 of stage 1"),
        ({"se": {"reduction": 2, "stages": (3,)}}, "se.stages names stage 3, and the network has 2"),
        ({"se": {"reduction": 2, "position": "3x3"}}, r"se.position=3x3 needs block=bottleneck \(found block=basic\)"),
        ({"se": {"reduction": 2, "position": "identity"}, "shortcut": "none"}, "se.position=identity needs a shortcut"),
    ],
    ids=[
        *("ReLU ends the branch", "plain", "plain SkipInit", "plain stochastic depth", "fewer channels", "beta"),
        *("norm-free", "middle", "group width", "two rules of groups", "groups", "se stage", "se 3x3", "se identity"),
    ],
)
def test_contradicting_axes_are_refused(axes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(**axes)


def test_initialisation_is_he_by_fan_out() -> None:
    net = network(widths=(32, 64))
    weight = parts(unit(net, 1, 0))["conv1"].weight
    assert isinstance(weight, Tensor)
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(bool((m.weight == 1).all()) and bool((m.bias == 0).all()) for m in norms)


@st.composite
def axes_of_a_network(draw: st.DrawFn) -> dict[str, Any]:
    """Any value of any axis, consistent or not."""
    stages = draw(st.integers(1, 3))
    of_stages = {"min_size": stages, "max_size": stages}
    axes: dict[str, Any] = {
        "depths": draw(st.lists(st.integers(1, 2), **of_stages)),
        "widths": sorted(draw(st.lists(st.sampled_from([4, 6, 8]), **of_stages))),
    }
    neutral = {axis: getattr(small(), axis) for axis in CHOICES}
    changed = draw(st.sets(st.sampled_from(sorted(CHOICES)), max_size=8))
    axes |= {axis: draw(st.sampled_from(CHOICES[axis])) if axis in changed else neutral[axis] for axis in CHOICES}
    if draw(st.booleans()):
        axes["se"] = {axis: draw(st.sampled_from(values)) for axis, values in SQUEEZES.items()}
    return axes


CHOICES: dict[str, list[Any]] = {
    "block": ["single", "basic", "bottleneck"],
    "expansion": [1, 2, 4],
    "middle": [1, 2],
    "order": list(ORDERS),
    "shortcut": ["none", "A", "B", "C", "D"],
    "stem": ["cifar", "imagenet", "deep", "deep_strided", "simple", "quad"],
    "stem_width": [1, 2, 4],
    "first_stride": [1, 2],
    "stride_place": ["1x1", "3x3"],
    "groups": [1, 2],
    "width_per_group": [None, 24],
    "group_width": [None, 2, 16],
    "final_width": [None, 7],
    "activation": ["relu", "silu", "gelu"],
    "norm": ["batch", "none"],
    "weight_standardization": [False, True],
    "gamma": [False, True],
    "alpha": [1.0, 0.2],
    "beta": [False, True],
    "skip_init": [False, True],
    "stochastic_depth": [0.0, 0.5],
    "dropout": [0.0, 0.3],
    "block_dropout": [0.0, 0.3],
    "padding": ["zeros", "same", "circular"],
    "zero_init": [False, True],
}
SQUEEZES: dict[str, list[Any]] = {
    "reduction": [0.5, 4, 100],
    "position": ["standard", "pre", "post", "identity", "3x3"],
    "squeeze": ["avg", "max", "none"],
    "gate": ["sigmoid", "relu", "tanh"],
    "stages": [None, (1,), (3,)],
    "bias": [False, True],
    "of": ["output", "input"],
    "gain": [1.0, 2.0],
}


def built_or_refused(axes: dict[str, Any]) -> tuple[nn.Module | None, str]:
    try:
        return build(small(**axes), channels=2, classes=3), ""
    except InputError as error:
        return None, str(error)


@settings(deadline=None, max_examples=150)
@given(axes=axes_of_a_network(), size=st.integers(3, 17))
def test_axes_make_a_network_that_trains_or_one_clear_message(axes: dict[str, Any], size: int) -> None:
    net, message = built_or_refused(axes)
    event("built" if net else "refused")
    if net is None:
        assert re.fullmatch(r"[^\n]{20,250}", message)
        assert re.search("found|needs|excludes|divide|multiple|names stage|use ", message)
        return
    logits = net(torch.randn(4, 2, size, size))
    assert logits.shape == (4, 3)
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())
