"""Our networks against torchvision's and timm's: the same parameters, the same function, the same gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.regnet import BlockParams

from repro.errors import InputError
from repro.models import build
from repro.models.presets import load_preset
from repro.models.weights import Source, load_foreign, renamed

torch.set_num_threads(1)

CLASSES = 1000
D: dict[str, Any] = {"stem": "deep", "shortcut": "D"}
TIMM_NF: dict[str, Any] = {"skip_init": False, "shortcut": "D"}
TIMM_NFNET: dict[str, Any] = {"skip_init": False, "padding": "zeros"}
Twins = dict[tuple[Source, str], tuple[str, dict[str, Any]]]


def torchvision_regnets() -> Twins:
    """torchvision rounds the widths of three of them to other multiples of the group width than the authors."""
    widths = {
        "regnetx_004": ((1, 2, 7, 12), (32, 64, 160, 400)),
        "regnety_008": ((1, 3, 8, 2), (64, 144, 320, 784)),
        "regnety_080": ((2, 4, 10, 1), (224, 448, 896, 2016)),
    }
    sizes = {"400mf": "004", "800mf": "008", "1_6gf": "016", "3_2gf": "032", "8gf": "080", "16gf": "160", "32gf": "320"}
    twins: Twins = {}
    for space in "xy":
        for size, number in sizes.items():
            ours = f"regnet{space}_{number}"
            depths, wide = widths.get(ours, (None, None))
            own = {} if wide is None else {"regnet": None, "depths": depths, "widths": wide}
            twins["torchvision", f"regnet_{space}_{size}"] = (ours, own)
    return twins


TWINS: Twins = {
    ("torchvision", "resnet18"): ("resnet18", {}),
    ("torchvision", "resnet34"): ("resnet34", {}),
    ("torchvision", "resnet50"): ("resnet50", {}),
    ("torchvision", "resnet101"): ("resnet101", {}),
    ("torchvision", "resnet152"): ("resnet152", {}),
    ("torchvision", "wide_resnet50_2"): ("wide_resnet50_2", {}),
    ("torchvision", "resnext50_32x4d"): ("resnext50_32x4d", {}),
    ("torchvision", "resnext101_32x8d"): ("resnext101_32x8d", {}),
    ("torchvision", "resnext101_64x4d"): ("resnext101_64x4d", {}),
    **torchvision_regnets(),
    ("timm", "resnet50"): ("resnet50b", {}),
    ("timm", "resnet200"): ("resnet200", {}),
    ("timm", "resnet18d"): ("resnet18", D),
    ("timm", "resnet50c"): ("resnet50c", {}),
    ("timm", "resnet50d"): ("resnet50d", {}),
    ("timm", "resnext101_32x4d"): ("resnext101_32x4d", {}),
    **{("timm", name): (name, {}) for name in ("seresnet50", "seresnet101", "seresnet152")},
    **{("timm", name): (name, {}) for name in ("seresnext50_32x4d", "seresnext101_32x4d")},
    ("timm", "resnetv2_18"): ("preresnet18", {}),
    ("timm", "resnetv2_34"): ("preresnet34", {}),
    ("timm", "resnetv2_50"): ("preresnet50", {}),
    ("timm", "resnetv2_101"): ("preresnet101", {}),
    ("timm", "resnetv2_152"): ("preresnet152", {}),
    ("timm", "resnetv2_18d"): ("preresnet18", D),
    ("timm", "resnetv2_50d"): ("preresnet50", D),
    **{("timm", f"resnetrs{depth}"): (f"resnetrs{depth}", {}) for depth in (50, 101, 152, 200, 270, 350, 420)},
    **{
        ("timm", f"regnet{space}_{size}"): (f"regnet{space}_{size}", {})
        for space in "xy"
        for size in ("002", "004", "006", "008", "016", "032", "040", "064", "080", "120", "160", "320")
    },
    ("timm", "nf_resnet50"): ("nf_resnet50", TIMM_NF),
    ("timm", "nf_resnet101"): ("nf_resnet101", TIMM_NF),
    ("timm", "nf_seresnet50"): ("nf_resnet50", {**TIMM_NF, "se": {"reduction": 16, "gain": 2.0}}),
    ("timm", "nfnet_l0"): (
        "nfnet_f0",
        {
            **TIMM_NFNET,
            **{"widths": (64, 128, 384, 384), "expansion": 4, "group_width": 64, "final_width": 2304},
            **{"se": {"reduction": 4}, "activation": "silu"},
        },
    ),
    **{("timm", f"nfnet_f{number}"): (f"nfnet_f{number}", TIMM_NFNET) for number in range(7)},
    **{("timm", f"dm_nfnet_f{number}"): (f"nfnet_f{number}", {}) for number in range(7)},
}

GIANTS = {
    *("resnext101_32x8d", "resnext101_64x4d", "regnet_x_16gf", "regnet_x_32gf", "regnet_y_16gf"),
    *("regnet_y_32gf", "regnetx_160", "regnetx_320", "regnety_120", "regnety_160", "regnety_320"),
    *(f"resnetrs{depth}" for depth in (101, 200, 270, 350, 420)),
    *(f"{family}_f{number}" for family in ("nfnet", "dm_nfnet") for number in range(1, 7)),
}
"""Compared entry by entry and not by what they compute: they have the layers of the smaller of their kind."""

COMPUTED = [twin for twin in TWINS if twin[1] not in GIANTS]

TRAINED: list[tuple[Source, str]] = [
    ("torchvision", "resnet18"),
    ("torchvision", "resnext50_32x4d"),
    ("torchvision", "regnet_y_400mf"),
    ("timm", "resnet50d"),
    ("timm", "seresnet50"),
    ("timm", "resnetv2_50"),
    ("timm", "resnetrs50"),
    ("timm", "regnetx_002"),
]

_QUARTER_F0 = {"widths": (32, 64, 192, 192), "stem_width": 32, "group_width": 32, "final_width": 768}

NORM_FREE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nf_resnet50": ({"width_factor": 0.25}, {"widths": (16, 32, 64, 128), "stem_width": 16}),
    "nfnet_f0": ({"width_factor": 0.25, "group_size": 32}, _QUARTER_F0),
    "dm_nfnet_f0": ({"width_factor": 0.25, "group_size": 32}, _QUARTER_F0),
}
"""Networks of a quarter of the width: timm's arguments and our axes."""


def ids(pairs: Any) -> list[str]:
    return [f"{source}-{name}" for source, name in pairs]


@contextmanager
def on_meta() -> Iterator[None]:
    """Build without memory; torchvision's RegNets compute their widths with tensors that must have values."""
    widths = BlockParams.from_init_params

    def with_values(*arguments: Any, **keywords: Any) -> BlockParams:
        with torch.device("cpu"):
            return widths(*arguments, **keywords)

    with torch.device("meta"), patch.object(BlockParams, "from_init_params", with_values):
        yield


def theirs_blank(source: Source, name: str, **arguments: Any) -> nn.Module:
    """Their network on the meta device."""
    create = torchvision.models.get_model if source == "torchvision" else timm.create_model
    with on_meta():
        return create(name, **arguments)


def ours_blank(source: Source, name: str, **changed: Any) -> nn.Module:
    """Our network of the same name on the meta device; nothing is dropped, which only regularises."""
    preset, axes = TWINS[source, name]
    with on_meta():
        config = load_preset(preset, **{"dropout": 0.0, "stochastic_depth": 0.0, **axes, **changed})
        return build(config, channels=3, classes=CLASSES)


def foreign(source: Source, name: str, **arguments: Any) -> nn.Module:
    """Their network, every tensor random, so that two that change places show."""
    return randomised(theirs_blank(source, name, **arguments).to_empty(device="cpu"))


def ours(source: Source, name: str, **changed: Any) -> nn.Module:
    """Our network of the same name without weights."""
    return ours_blank(source, name, **changed).to_empty(device="cpu")


def randomised(network: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=draw)
        elif name.endswith("num_batches_tracked"):
            tensor.zero_()
        elif name.endswith("gain") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.0, generator=draw)
        elif tensor.ndim == 4:
            tensor.uniform_(-1, 1, generator=draw).mul_((6 / tensor[0].numel()) ** 0.5)
        else:
            tensor.uniform_(-0.1, 0.1, generator=draw)
    return network


def images() -> Tensor:
    """Two images that are halved to 7x7, then to 4x4: an odd size, where conventions of rounding and padding differ."""
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("source", "name"), TWINS, ids=ids(TWINS))
def test_entries_agree(source: Source, name: str) -> None:
    theirs, mine = theirs_blank(source, name), ours_blank(source, name)
    assert parameters(mine) == parameters(theirs)
    found = {name: tensor.squeeze().shape for name, tensor in mine.state_dict().items()}
    expected = {name: tensor.squeeze().shape for name, tensor in renamed(theirs.state_dict(), source).items()}
    assert found == expected


@pytest.mark.parametrize(("source", "name"), COMPUTED, ids=ids(COMPUTED))
def test_outputs_agree(source: Source, name: str) -> None:
    theirs, mine = foreign(source, name).eval(), ours(source, name).eval()
    load_foreign(mine, theirs.state_dict(), source, name)
    with torch.inference_mode():
        expected = theirs(images())
        assert expected.std(dim=0).max() > 1e-3 * expected.abs().max()  # the outputs depend on the image
        assert relative_error(mine(images()), expected) < 1e-5


def loss_of(network: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(network(images().double()), torch.tensor([3, 7]))


@pytest.mark.parametrize(("source", "name"), TRAINED, ids=ids(TRAINED))
def test_one_training_step_agrees(source: Source, name: str) -> None:
    theirs, mine = foreign(source, name).double().train(), ours(source, name).double().train()
    load_foreign(mine, theirs.state_dict(), source)
    for network in (theirs, mine):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        loss_of(network).backward()
        optimizer.step()
    found, expected = mine.state_dict(), renamed(theirs.state_dict(), source)
    assert all(relative_error(found[key].view_as(expected[key]), expected[key]) < 1e-9 for key in expected)


@pytest.mark.parametrize("name", NORM_FREE)
def test_gradients_agree_without_batch_norm(name: str) -> None:
    """Folding scales a parameter, and its gradient by the inverse: their product stays.

    The gradients of the filters differ by the ratio of their constant to the variance, which large filters make small.
    """
    arguments, axes = NORM_FREE[name]
    theirs, mine = foreign("timm", name, **arguments).double(), ours("timm", name, **axes).double()
    with torch.no_grad():
        for module in theirs.modules():
            if hasattr(module, "gain_init"):
                module.weight.mul_(1e3)  # type: ignore[operator]
    load_foreign(mine, theirs.state_dict(), "timm", name)
    for network in (theirs, mine):
        loss_of(network.train()).backward()
    expected = renamed({name: products(p) for name, p in theirs.named_parameters()}, "timm")
    found = {name: products(p) for name, p in mine.named_parameters()}
    assert found.keys() == expected.keys()
    assert all(relative_error(found[key], expected[key]) < 1e-6 for key in expected)


def products(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.detach() * parameter.grad


def test_two_weights_that_change_places_show() -> None:
    theirs, mine = foreign("torchvision", "resnet18").eval(), ours("torchvision", "resnet18").eval()
    state = theirs.state_dict()
    first, second = "layer1.0.bn1.running_mean", "layer1.0.bn2.running_mean"
    state[first], state[second] = state[second], state[first]
    load_foreign(mine, state, "torchvision")
    with torch.inference_mode():
        assert relative_error(mine(images()), theirs(images())) > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"layer1.2.bn1.weight": torch.ones(64)},
            "1 entries have no place in the model: 'stages.0.2.branch.bn1.weight'",
        ),
        ({"fc.bias": None}, "1 entries are missing: 'fc.bias'"),
        ({"fc.bias": torch.ones(10)}, r"1 entries have another shape: 'fc.bias' of \(10,\), expected \(1000,\)"),
        ({"stem.conv.weight": torch.ones(1)}, "123 entries fall onto 122 names"),
    ],
    ids=["unused", "missing", "shape", "collision"],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(change: dict[str, Tensor | None], message: str) -> None:
    state = {**foreign("torchvision", "resnet18").state_dict(), **change}
    mine = randomised(ours("torchvision", "resnet18"))
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    with pytest.raises(InputError, match=f"^torchvision weights: {message}"):
        load_foreign(mine, {name: tensor for name, tensor in state.items() if tensor is not None}, "torchvision")
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.state_dict().items())


@pytest.mark.parametrize(
    ("axes", "architecture", "message"),
    [
        ({}, None, r"need their architecture's name, such as nf_resnet50, nfnet_f0 or dm_nfnet_f0 \(none was given\)"),
        ({}, "resnet50", r"need their architecture's name, such as .* \(found 'resnet50'\)"),
        ({"gamma": False}, "nf_resnet50", r"apply gamma; the model needs gamma=true \(found gamma=false\)"),
        ({"skip_init": True}, "nf_resnet50", r"16 entries are missing: 'stages.0.0.branch.scale.gain', "),
    ],
    ids=["no architecture", "another architecture", "no gamma", "SkipInit"],
)
def test_weights_without_batch_norm_are_checked(axes: dict[str, Any], architecture: str | None, message: str) -> None:
    with torch.device("meta"):
        mine = build(load_preset("nf_resnet50", **{**TIMM_NF, **axes}), channels=3, classes=CLASSES)
        state = timm.create_model("nf_resnet50").state_dict()
    with pytest.raises(InputError, match=f"^timm weights.* {message}"):
        load_foreign(mine, state, "timm", architecture)


def test_weights_of_another_network_name_some_entries_and_count_the_rest() -> None:
    with pytest.raises(InputError, match=r"entries have no place in the model: 'stages.* and \d+ more"):
        load_foreign(ours("torchvision", "resnet18"), foreign("torchvision", "resnet34").state_dict(), "torchvision")


def test_old_weights_without_the_batch_counter_load() -> None:
    state = foreign("torchvision", "resnet18").state_dict()
    mine = randomised(ours("torchvision", "resnet18"))
    load_foreign(mine, {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, "torchvision")
    assert torch.equal(mine.state_dict()["stages.1.0.shortcut.conv.weight"], state["layer2.0.downsample.0.weight"])
