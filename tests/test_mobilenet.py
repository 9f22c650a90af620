"""MobileNet v1: equality with timm's, the costs of Tables 3 to 7, and the twins that they compare."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from repro.errors import InputError
from repro.models import build
from repro.models.mobilenet import MobileNet
from repro.models.presets import load_preset
from repro.paths import options

torch.set_num_threads(1)

PRESETS = [name for name in options("model") if load_preset(name).family == "mobilenet"]


def network(name: str = "mobilenet_v1", channels: int = 3, classes: int = 10, **axes: Any) -> MobileNet:
    built = build(load_preset(name, **axes), channels, classes)
    assert isinstance(built, MobileNet)
    return built


def macs(module: nn.Module, image: Tensor) -> int:
    """MACs of the convolutions and linear layers of one image."""
    spent: list[int] = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda m, _, out: spent.append(m.weight.numel() * out[0, 0].numel()))
    module(image)
    return sum(spent)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


COSTS = [
    # preset, input, MACs, printed in M, parameters, printed in M
    ("mobilenet_v1_conv", 224, 4_867_293_184, 4866, 29_294_088, 29.3),
    ("mobilenet_v1", 224, 568_740_352, 569, 4_231_976, 4.2),
    ("mobilenet_v1_075", 224, 325_400_448, 325, 2_585_560, 2.6),
    ("mobilenet_v1_shallow", 224, 307_323_392, 307, 2_887_976, 2.9),
    ("mobilenet_v1_050", 224, 149_497_088, 149, 1_331_592, 1.3),
    ("mobilenet_v1_025", 224, 41_030_272, 41, 470_072, 0.5),
    ("mobilenet_v1", 192, 418_121_728, 418, 4_231_976, 4.2),
    ("mobilenet_v1", 160, 290_675_200, 290, 4_231_976, 4.2),
    ("mobilenet_v1", 128, 186_400_768, 186, 4_231_976, 4.2),
    ("mobilenet_v1_050", 160, 76_524_800, 76, 1_331_592, 1.3),
]
"""Tables 4 to 7 and 9 (its 1.32 M parameters are printed as 1.3 M in Table 6)."""


@pytest.mark.parametrize("case", COSTS, ids=lambda case: f"{case[0]}-{case[1]}")
def test_costs_are_those_of_the_paper(case: tuple[str, int, int, int, int, float]) -> None:
    name, size, exact, printed, params, printed_params = case
    with torch.device("meta"):
        net = network(name, classes=1000).eval()
        assert (macs(net, torch.zeros(1, 3, size, size)), parameters(net)) == (exact, params)
    without_classifier = exact - net.fc.weight.numel()
    # 4866 M leaves the classifier out, 290 M and 76 M are cut off, the others are rounded
    assert printed in (round(exact / 1e6), exact // 10**6, round(without_classifier / 1e6))
    assert round(params / 1e6, 1) == printed_params


@pytest.mark.parametrize(
    ("axes", "size", "millions", "params"),
    [
        ({"separable": False}, 14, "462", "2.36"),
        ({}, 14, "52.3", "0.27"),
        ({"width": 0.75}, 14, "29.6", "0.15"),
        ({"width": 0.75}, 10, "15.1", "0.15"),
    ],
    ids=["full", "separable", "0.75", "0.75 at 0.714"],
)
def test_one_inner_layer_costs_what_table_3_prints(axes: dict[str, Any], size: int, millions: str, params: str) -> None:
    with torch.device("meta"):
        layer = network(**axes).layers[6].eval()
        channels = load_preset("mobilenet_v1", **axes).scaled(512)
        spent = macs(layer, torch.zeros(1, channels, size, size))
    weights = sum(m.weight.numel() for m in layer.modules() if isinstance(m, nn.Conv2d))
    assert f"{spent / 1e6:.{len(millions.partition('.')[2])}f}" == millions
    assert f"{weights / 1e6:.2f}" == params


@pytest.mark.parametrize(("name", "width"), [("mobilenetv1_100", 1.0), ("mobilenetv1_125", 1.25)])
def test_it_is_timms(name: str, width: float) -> None:
    ours = network(width=width, classes=7).eval()
    theirs = timm.create_model(name, num_classes=7).eval()
    assert parameters(ours) == parameters(theirs)
    torch.manual_seed(0)
    for own, other in zip(tensors(ours), tensors(theirs), strict=True):
        if other.ndim == 1:
            other.data.uniform_(0.6, 1.4)
        own.data.copy_(other.data)
    images = torch.randn(2, 3, 96, 96)
    expected = theirs(images)
    torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert reaches_six(ours, images)


def reaches_six(net: MobileNet, images: Tensor) -> bool:
    """Whether ReLU6 differs from a plain ReLU on these images: else the comparison would not tell them apart."""
    tops: list[float] = []
    for layer in net.modules():
        if isinstance(layer, nn.ReLU6):
            layer.register_forward_hook(lambda _, __, out: tops.append(out.max().item()))
    net(images)
    return len(tops) == 27 and max(tops) == 6.0


def tensors(net: nn.Module) -> list[Tensor]:
    """Parameters and statistics in order, without the counters of batches."""
    return [tensor for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains(name: str) -> None:
    torch.manual_seed(0)
    net = network(name, channels=1)
    F.cross_entropy(net(torch.randn(2, 1, 64, 64)), torch.tensor([1, 2])).backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)
    assert gradients[0] is not None
    assert gradients[0].abs().max() > 0


def test_the_full_twin_differs_in_its_convolutions_only() -> None:
    full, separable = network(separable=False), network()
    assert [kinds(layer) for layer in full.layers] == [["Conv2d", "BatchNorm2d", "ReLU6"]] * 13
    assert [kinds(layer) for layer in separable.layers] == [["Conv2d", "BatchNorm2d", "ReLU6"] * 2] * 13
    x = torch.randn(1, 3, 64, 64)
    assert full.layers(full.stem(x)).shape == separable.layers(separable.stem(x)).shape == (1, 1024, 2, 2)


def kinds(layer: nn.Module) -> list[str]:
    return [type(module).__name__ for module in layer.children()]


def test_the_shallow_network_lacks_the_five_layers_of_512() -> None:
    def shapes(net: MobileNet) -> list[torch.Size]:
        return [p.shape for name, p in net.named_parameters() if "conv" in name]

    deep, shallow = shapes(network()), shapes(network(shallow=True))
    dropped = [torch.Size([512, 1, 3, 3]), torch.Size([512, 512, 1, 1])] * 5
    assert deep[:13] + dropped + deep[23:] == deep
    assert deep[:13] + deep[23:] == shallow


@settings(deadline=None, max_examples=6)
@given(width=st.floats(0.01, 0.5), separable=st.booleans(), shallow=st.booleans(), size=st.integers(1, 40))
def test_every_network_runs(width: float, separable: bool, shallow: bool, size: int) -> None:
    with torch.device("meta"):
        net = network(width=width, separable=separable, shallow=shallow, classes=3)
        assert net(torch.zeros(2, 3, size, size)).shape == (2, 3)
    assert min(m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)) >= 8


def test_initialisation_is_by_fan_in_also_for_depthwise_convolutions() -> None:
    torch.manual_seed(0)
    layer = network().layers[8]
    for name, fan_in in (("conv_depthwise", 9), ("conv_pointwise", 512)):
        weight = layer.get_parameter(f"{name}.weight")
        assert weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"width": 0}, "model mobilenet_v1: width is 0: input should be greater than 0"),
        ({"seperable": False}, r"model mobilenet_v1: unknown key 'seperable'; did you mean 'separable'\?"),
        ({"shallow": 2}, "model mobilenet_v1: shallow is 2: input should be a valid boolean"),
    ],
    ids=["width", "axis", "value"],
)
def test_mistakes_are_named(axes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_preset("mobilenet_v1", **axes)
