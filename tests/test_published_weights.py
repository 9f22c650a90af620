"""Our networks against torchvision's and timm's: the same parameters, the same function, the same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from repro.errors import InputError
from repro.models import build
from repro.models.presets import load_preset
from repro.models.weights import Source, load_foreign

torch.set_num_threads(1)

CLASSES = 1000

TWINS: dict[tuple[Source, str], tuple[str, dict[str, Any]]] = {
    ("torchvision", "resnet18"): ("resnet18", {}),
    ("torchvision", "resnet34"): ("resnet34", {}),
    ("torchvision", "resnet50"): ("resnet50", {}),
    ("torchvision", "resnet101"): ("resnet101", {}),
    ("torchvision", "resnet152"): ("resnet152", {}),
    ("torchvision", "wide_resnet50_2"): ("resnet50", {"width_per_group": 128}),
    ("torchvision", "resnext50_32x4d"): ("resnext50_32x4d", {}),
    ("torchvision", "resnext101_32x8d"): ("resnext101_32x8d", {}),
    ("torchvision", "resnext101_64x4d"): ("resnext101_64x4d", {}),
    ("timm", "resnet200"): ("resnet200", {}),
    ("timm", "resnet18d"): ("resnet18", {"stem": "deep", "shortcut": "D"}),
    ("timm", "resnet50c"): ("resnet50", {"stem": "deep"}),
    ("timm", "resnet50d"): ("resnet50d", {}),
    ("timm", "resnext101_32x4d"): ("resnext101_32x4d", {}),
    ("timm", "resnetv2_18"): ("preresnet18", {}),
    ("timm", "resnetv2_34"): ("preresnet34", {}),
    ("timm", "resnetv2_50"): ("preresnet50", {}),
    ("timm", "resnetv2_101"): ("preresnet101", {}),
    ("timm", "resnetv2_152"): ("preresnet152", {}),
    ("timm", "resnetv2_18d"): ("preresnet18", {"stem": "deep", "shortcut": "D"}),
    ("timm", "resnetv2_50d"): ("preresnet50", {"stem": "deep", "shortcut": "D"}),
}
IDS = [f"{source}-{name}" for source, name in TWINS]


def foreign(source: Source, name: str) -> nn.Module:
    """Their network, every tensor random, so that two that change places show."""
    with torch.device("meta"):
        network = torchvision.models.get_model(name) if source == "torchvision" else timm.create_model(name)
    return randomised(network.to_empty(device="cpu"))


def randomised(network: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=draw)
        elif name.endswith("num_batches_tracked"):
            tensor.zero_()
        elif tensor.ndim == 1 and name.endswith("weight"):
            tensor.uniform_(0.5, 1.0, generator=draw)
        elif tensor.ndim == 4:
            tensor.uniform_(-1, 1, generator=draw).mul_((6 / tensor[0].numel()) ** 0.5)
        else:
            tensor.uniform_(-0.1, 0.1, generator=draw)
    return network


def ours(source: Source, name: str) -> nn.Module:
    """Our network of the same name without weights."""
    preset, axes = TWINS[source, name]
    with torch.device("meta"):
        network = build(load_preset(preset, **axes), channels=3, classes=CLASSES)
    return network.to_empty(device="cpu")


def images() -> Tensor:
    """Two images that are halved to 7x7, then to 4x4: an odd size, where conventions of rounding and padding differ."""
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("source", "name"), TWINS, ids=IDS)
def test_parameters_and_outputs_agree(source: Source, name: str) -> None:
    theirs, mine = foreign(source, name).eval(), ours(source, name).eval()
    load_foreign(mine, theirs.state_dict(), source)
    assert sum(p.numel() for p in mine.parameters()) == sum(p.numel() for p in theirs.parameters())
    with torch.inference_mode():
        expected = theirs(images())
        assert expected.std(dim=0).max() > 1e-3 * expected.abs().max()  # the outputs depend on the image
        assert relative_error(mine(images()), expected) < 1e-5


@pytest.mark.parametrize(
    ("source", "name"), [("torchvision", "resnet18"), ("timm", "resnet50d"), ("timm", "resnetv2_50")], ids=str
)
def test_one_training_step_agrees(source: Source, name: str) -> None:
    theirs, mine = foreign(source, name).train(), ours(source, name).train()
    load_foreign(mine, theirs.state_dict(), source)
    for network in (theirs, mine):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        nn.functional.cross_entropy(network(images()), torch.tensor([3, 7])).backward()
        optimizer.step()
    stepped = ours(source, name)
    load_foreign(stepped, theirs.state_dict(), source)
    found, expected = mine.state_dict(), stepped.state_dict()
    assert all(relative_error(found[key], expected[key]) < 1e-5 for key in expected)


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


def test_weights_of_another_network_name_some_entries_and_count_the_rest() -> None:
    with pytest.raises(InputError, match=r"entries have no place in the model: 'stages.* and \d+ more"):
        load_foreign(ours("torchvision", "resnet18"), foreign("torchvision", "resnet34").state_dict(), "torchvision")


def test_old_weights_without_the_batch_counter_load() -> None:
    state = foreign("torchvision", "resnet18").state_dict()
    mine = randomised(ours("torchvision", "resnet18"))
    load_foreign(mine, {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, "torchvision")
    assert torch.equal(mine.state_dict()["stages.1.0.shortcut.conv.weight"], state["layer2.0.downsample.0.weight"])
