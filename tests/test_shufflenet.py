"""ShuffleNet v1: the shuffle permutes channels and mixes groups, the unit is Fig. 2's, the costs are the paper's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from repro.errors import InputError
from repro.models import build
from repro.models.presets import load_preset
from repro.models.shufflenet import ShuffleNet, ShuffleUnit, channel_shuffle
from repro.paths import options

torch.set_num_threads(1)

PRESETS = [name for name in options("model") if load_preset(name).family == "shufflenet"]


def network(name: str = "shufflenet_v1_g3", channels: int = 3, classes: int = 10, **axes: Any) -> ShuffleNet:
    torch.manual_seed(0)
    built = build(load_preset(name, **axes), channels, classes)
    assert isinstance(built, ShuffleNet)
    return built


def spent(net: nn.Module, size: int = 224) -> tuple[int, int]:
    """MACs of the convolutions and of the linear layer of one image."""
    macs = {nn.Conv2d: 0, nn.Linear: 0}

    def add(module: nn.Module, _: Any, out: Tensor) -> None:
        macs[type(module)] += module.get_parameter("weight").numel() * out[0, 0].numel()

    for layer in net.modules():
        if type(layer) in macs:
            layer.register_forward_hook(add)
    net.eval()(torch.zeros(1, 3, size, size))
    return macs[nn.Conv2d], macs[nn.Linear]


COSTS = {
    # MACs, parameters, printed in the paper in M
    "shufflenet_v1_g1": (143_078_976, 1_531_936, 143),
    "shufflenet_v1_g2": (140_836_512, 1_733_848, 140),
    "shufflenet_v1_g3": (137_460_672, 1_865_728, 137),
    "shufflenet_v1_g4": (134_339_776, 1_968_344, 133),
    "shufflenet_v1_g8": (138_365_952, 2_434_768, 137),
    "shufflenet_v1_g1_x0_5": (38_517_408, 534_484, 38),
    "shufflenet_v1_g2_x0_5": (38_570_608, 643_932, 38),
    "shufflenet_v1_g3_x0_5": (37_589_856, 718_324, 38),
    "shufflenet_v1_g4_x0_5": (37_468_832, 778_040, 38),
    "shufflenet_v1_g8_x0_5": (40_469_760, 1_011_448, 38),
    "shufflenet_v1_g1_x0_25": (13_162_320, 209_908, 13),
    "shufflenet_v1_g2_x0_25": (13_386_292, 267_224, 13),
    "shufflenet_v1_g3_x0_25": (13_300_656, 306_124, 13),
    "shufflenet_v1_g4_x0_25": (13_357_352, 338_700, 13),
    "shufflenet_v1_g8_x0_25": (12_426_240, 454_504, 13),
    "shufflenet_v1_g3_x1_5": (292_443_552, 3_442_168, 292),
    "shufflenet_v1_g3_x2_0": (524_045_184, 5_450_776, 524),
}
"""Table 1 for 1x; Table 2 prints one figure for all groups, Table 5 those of 1.5x and 2x."""

OFF = {"shufflenet_v1_g4_x0_5": 1, "shufflenet_v1_g8_x0_5": 2, "shufflenet_v1_g8_x0_25": 1}
"""By how many M these miss Table 2's one figure. 8 groups do not divide a first convolution of 12 or 6: 16 and 8."""


@pytest.mark.parametrize("name", PRESETS)
def test_costs_are_those_of_the_paper(name: str) -> None:
    exact, params, printed = COSTS[name]
    with torch.device("meta"):
        net = network(name, classes=1000)
        convolutions, classifier = spent(net)
    assert (convolutions + classifier, sum(p.numel() for p in net.parameters())) == (exact, params)
    # Tables 1 and 2 leave the classifier out, Table 5 does not
    distance = min(abs(round(count / 1e6) - printed) for count in (convolutions, exact))
    assert distance == OFF.get(name, 0)


@pytest.mark.parametrize("name", ["shufflenet_v1_g3", "shufflenet_v1_g8"])
def test_the_shuffle_is_free(name: str) -> None:
    with torch.device("meta"):
        on, off = network(name), network(name, shuffle=False)
        assert spent(on, 64) == spent(off, 64)
    assert on.state_dict().keys() == off.state_dict().keys()


@settings(deadline=None)
@given(groups=st.integers(1, 8), each=st.integers(1, 9), places=st.integers(1, 3))
def test_the_shuffle_is_a_permutation_with_an_inverse(groups: int, each: int, places: int) -> None:
    channels = groups * each
    x = torch.arange(2.0 * channels * places).view(2, channels, 1, places)
    shuffled = channel_shuffle(x, groups)
    order = shuffled[0, :, 0, 0].div(places).long()
    assert sorted(order.tolist()) == list(range(channels))
    assert torch.equal(shuffled, x[:, order])
    assert torch.equal(channel_shuffle(shuffled, each), x)
    assert torch.equal(shuffled, F.channel_shuffle(x, groups))


def test_the_shuffle_deals_every_group_out_to_all() -> None:
    x = torch.arange(9.0).view(1, 9, 1, 1)
    assert channel_shuffle(x, 3).flatten().tolist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]  # Fig. 1c


def shaken(unit: nn.Module) -> ShuffleUnit:
    """Give every batch norm a scale, a shift and statistics that no other has."""
    for module in unit.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5)
    assert isinstance(unit, ShuffleUnit)
    return unit.eval()


def mixing(unit: ShuffleUnit, channels: int, groups: int) -> Tensor:
    """Which group of the branch's output (row) depends on which group of its input (column)."""
    x = torch.randn(1, channels, 6, 6, requires_grad=True)
    rows = []
    for part in unit.branch(x).chunk(groups, dim=1):
        (gradient,) = torch.autograd.grad(part.square().sum(), x, retain_graph=True)
        rows.append(torch.stack([piece.abs().max() > 0 for piece in gradient.chunk(groups, dim=1)]))
    return torch.stack(rows)


@pytest.mark.parametrize("groups", [2, 3, 4, 8])
@pytest.mark.parametrize("index", [0, 1], ids=["stride 2", "stride 1"])
def test_only_the_shuffle_mixes_groups(groups: int, index: int) -> None:
    for shuffle, expected in ((False, torch.eye(groups).bool()), (True, torch.ones(groups, groups).bool())):
        config: dict[str, Any] = {"shuffle": shuffle, "width": 0.5}
        net = network(f"shufflenet_v1_g{groups}", **config)
        unit = shaken(net.stages[1][index])  # type: ignore[index]
        channels = load_preset(f"shufflenet_v1_g{groups}", **config).widths[index]
        assert torch.equal(mixing(unit, channels, groups), expected)


def test_a_unit_computes_figure_2b() -> None:
    unit = shaken(network().stages[0][1])  # type: ignore[index]
    part, x = dict(unit.branch.named_children()), torch.randn(2, 240, 6, 6)
    inner = channel_shuffle(F.relu(part["bn1"](part["conv1"](x))), 3)
    expected = F.relu(x + part["bn3"](part["conv3"](part["bn2"](part["conv2"](inner)))))
    torch.testing.assert_close(unit(x), expected, rtol=0, atol=0)


def test_a_unit_of_stride_2_computes_figure_2c() -> None:
    unit, x = shaken(network().stages[0][0]), torch.randn(2, 24, 7, 7)  # type: ignore[index]
    out = unit(x)
    assert out.shape == (2, 240, 4, 4)
    assert torch.equal(out[:, :24], F.relu(F.avg_pool2d(x, 3, stride=2, padding=1)))
    assert torch.equal(out[:, 24:], F.relu(unit.branch(x)))


def test_only_the_first_pointwise_convolution_of_the_network_has_no_groups() -> None:
    units = [unit for stage in network().stages for unit in stage]  # type: ignore[union-attr]
    groups = [[conv.groups for conv in unit.branch if isinstance(conv, nn.Conv2d)] for unit in units]
    assert [len(stage) for stage in network().stages] == [4, 8, 4]  # type: ignore[arg-type]
    assert groups[0] == [1, 60, 3]
    assert groups[1:] == [[3, 60, 3]] * 3 + [[3, 120, 3]] * 8 + [[3, 240, 3]] * 4


def test_the_bottleneck_is_a_quarter_of_the_output() -> None:
    config = load_preset("shufflenet_v1_g8")
    assert [(config.widths[stage], config.inner_width(stage)) for stage in range(3)] == [
        (384, 96),
        (768, 192),
        (1536, 384),
    ]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains(name: str) -> None:
    net = network(name, channels=1)
    images = torch.randn(2, 1, 64, 64)
    before = images.clone()
    F.cross_entropy(net(images), torch.tensor([1, 2])).backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    assert torch.equal(images, before)
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)
    assert gradients[0] is not None
    assert gradients[0].abs().max() > 0


@settings(deadline=None)
@given(groups=st.sampled_from([1, 2, 3, 4, 8]), width=st.floats(0.1, 4))
def test_every_width_divides_into_its_groups(groups: int, width: float) -> None:
    config = load_preset("shufflenet_v1_g1", groups=groups, width=width)
    assert not any(number % groups for number in (config.stem, *config.widths))
    assert all(abs(config.inner_width(stage) - config.widths[stage] / 4) <= groups / 2 for stage in range(3))


@settings(deadline=None, max_examples=6)
@given(groups=st.sampled_from([1, 2, 3, 4, 8]), width=st.floats(0.1, 3), size=st.integers(1, 70))
def test_every_network_runs(groups: int, width: float, size: int) -> None:
    with torch.device("meta"):
        net = network(groups=groups, width=width)
        assert net(torch.zeros(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "axes", "message"),
    [
        ("shufflenet_v1_g3", {"groups": 5}, "model shufflenet_v1_g3: groups is 5, expected 1, 2, 3, 4 or 8"),
        ("shufflenet_v1_g3", {"shufle": False}, r"unknown key 'shufle'; did you mean 'shuffle'\?"),
        ("shufflenet_v1_g8", {"stem_width": 12}, "model shufflenet_v1_g8: stem_width=12 is no multiple of groups=8"),
        ("shufflenet_v1_g1", {"width": 0.01, "stem_width": 3}, "stem_width=3 leaves the first unit nothing to add"),
        ("shufflenet_v1_g3", {"width": -1}, "width is -1: input should be greater than 0"),
    ],
    ids=["groups", "axis", "stem", "too narrow", "width"],
)
def test_mistakes_are_named(name: str, axes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_preset(name, **axes)
