"""The residual family: the five orders of Fig. 4, the shortcuts, and what zero-init means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from repro.errors import InputError
from repro.models import build
from repro.models.presets import load_preset
from repro.models.residual import ResidualNet
from repro.models.unit import ResidualUnit, ZeroPadShortcut
from repro.models.residual_config import ResidualConfig

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


@pytest.mark.parametrize("block", ["single", "basic", "bottleneck"])
def test_pre_activation_with_a_zero_branch_is_exactly_the_identity(block: str) -> None:
    chosen = unit(shaken(network(order="pre", block=block, shortcut="B")), 1, 1)
    nn.init.zeros_(chosen.branch[-1].weight)  # type: ignore[arg-type]
    x = torch.randn(3, convolutions(chosen)[0].in_channels, 5, 5)
    assert torch.equal(chosen(x), x)


@pytest.mark.parametrize("order", ["post", "relu_only_pre", "pre"])
@pytest.mark.parametrize("block", ["single", "basic", "bottleneck"])
def test_zero_init_makes_each_block_the_identity(order: str, block: str) -> None:
    chosen = unit(network(order=order, block=block, shortcut="B", zero_init=True), 1, 1)
    x = torch.randn(3, 32 if block == "bottleneck" else 8, 5, 5)
    x = x.relu() if order == "post" else x  # a post-activation unit only ever sees what a ReLU let pass
    assert torch.equal(chosen(x), x)


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
        ({"shortcut": "A", "stem_width": 8}, "shortcut=A pads with zeros and cannot go from 8 to 4 channels; use B"),
    ],
    ids=["ReLU ends the branch", "plain", "fewer channels"],
)
def test_contradicting_axes_are_refused(axes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network(**axes)


def test_a_grouped_convolution_is_its_block_diagonal_dense_twin() -> None:
    axes: dict[str, Any] = {"block": "bottleneck", "shortcut": "B"}
    grouped = shaken(network(groups=2, width_per_group=3, **axes))
    dense = network(groups=1, width_per_group=6, **axes).eval()
    state = grouped.state_dict()
    for name in [name for name in state if name.endswith("branch.conv2.weight")]:
        first, second = state[name].chunk(2)
        state[name] = torch.cat(
            [F.pad(first, (0, 0, 0, 0, 0, len(first))), F.pad(second, (0, 0, 0, 0, len(second), 0))]
        )
    dense.load_state_dict(state)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(grouped(x), dense(x), rtol=1e-5, atol=1e-5)


def test_initialisation_is_he_by_fan_out() -> None:
    net = network(widths=(32, 64))
    weight = parts(unit(net, 1, 0))["conv1"].weight
    assert isinstance(weight, Tensor)
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(bool((m.weight == 1).all()) and bool((m.bias == 0).all()) for m in norms)


@st.composite
def configurations(draw: st.DrawFn) -> ResidualConfig:
    stages = draw(st.integers(1, 3))
    block, shortcut = draw(st.sampled_from(["single", "basic", "bottleneck"])), draw(st.sampled_from("ABCD"))
    order = draw(st.sampled_from(ORDERS))
    groups = draw(st.sampled_from([1, 2])) if block == "bottleneck" else 1
    return small(
        depths=tuple(draw(st.lists(st.integers(1, 2), min_size=stages, max_size=stages))),
        widths=tuple(sorted(draw(st.lists(st.sampled_from([4, 6, 8]), min_size=stages, max_size=stages)))),
        block=block,
        order=order,
        shortcut=draw(st.sampled_from(["none", shortcut])),
        stem=draw(st.sampled_from(["cifar", "imagenet", "deep"])),
        stem_width=draw(st.integers(1, 4)),
        stride_place=draw(st.sampled_from(["1x1", "3x3"])),
        groups=groups,
        width_per_group=draw(st.sampled_from([None, 2 * 12])) if block == "bottleneck" else None,
    )


@settings(deadline=None, max_examples=40)
@given(config=configurations(), size=st.integers(1, 17), zero_init=st.booleans())
def test_every_consistent_network_builds_runs_and_trains(config: ResidualConfig, size: int, zero_init: bool) -> None:
    possible = config.order != "relu_before_addition" and config.shortcut != "none"
    net = build(config.model_copy(update={"zero_init": zero_init and possible}), channels=2, classes=3)
    logits = net(torch.randn(4, 2, size, size))
    assert logits.shape == (4, 3)
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())
