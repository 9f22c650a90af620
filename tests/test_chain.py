"""Chains of layers: equality with torchvision's networks, inputs of other sizes, and what a wrong file is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from repro.errors import InputError
from repro.models import build
from repro.models.chain import Chain, FlattenAt
from repro.models.chain_config import KINDS, ChainConfig
from repro.models.presets import load_preset
from repro.paths import options

torch.set_num_threads(1)

CHAINS = [name for name in options("model") if load_preset(name).family == "chain"]


def chain(name: str, **axes: Any) -> ChainConfig:
    config = load_preset(name, **axes)
    assert isinstance(config, ChainConfig)
    return config


def of(*layers: dict[str, Any], size: int = 8, channels: int = 3) -> ChainConfig:
    """A chain of the given layers with a head."""
    head = ({"kind": "flatten"}, {"kind": "linear"})
    return chain("lenet5", layers=[*layers, *head], native={"size": size, "channels": channels, "classes": 5})


def smaller(name: str) -> ChainConfig:
    """The preset with the head of its smallest input."""
    return chain(name, native={"size": chain(name).smallest(), "classes": 10})


def as_layers(net: nn.Module) -> list[dict[str, Any]]:
    """Write torchvision's AlexNet or VGG down as the layers of a chain."""
    layers = [WRITTEN[type(m)](m) for m in (*net.features, nn.Flatten(), *net.classifier)]  # type: ignore[misc]
    layers[-1]["features"] = None
    return layers


WRITTEN: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    nn.Conv2d: lambda m: {
        "kind": "conv",
        "filters": m.out_channels,
        "kernel": m.kernel_size[0],
        "stride": m.stride[0],
        "padding": m.padding[0],
    },
    nn.BatchNorm2d: lambda m: {"kind": "batch_norm"},
    nn.ReLU: lambda m: {"kind": "relu"},
    nn.MaxPool2d: lambda m: {"kind": "max_pool", "kernel": m.kernel_size, "stride": m.stride, "padding": m.padding},
    nn.Dropout: lambda m: {"kind": "dropout", "p": m.p},
    nn.Flatten: lambda m: {"kind": "flatten"},
    nn.Linear: lambda m: {"kind": "linear", "features": m.out_features},
}


def slim(name: str) -> nn.Module:
    """torchvision's network with narrow fully connected layers: what is proven is the wiring."""
    with torch.device("meta"):
        net = torchvision.models.get_model(name, num_classes=10)
        linear = [index for index, module in enumerate(net.classifier) if isinstance(module, nn.Linear)]
        widths = [net.classifier[linear[0]].in_features, 48, 32, 10]
        for index, inputs, outputs in zip(linear, widths, widths[1:], strict=False):
            net.classifier[index] = nn.Linear(inputs, outputs)
    torch.manual_seed(0)
    net = net.to_empty(device="cpu")
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
            nn.init.uniform_(module.bias, -0.1, 0.1)  # type: ignore[arg-type]
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return net


@pytest.mark.parametrize(
    ("name", "size"), [("alexnet", 127), ("alexnet", 224), ("vgg11", 64), ("vgg11_bn", 48), ("vgg16", 64)]
)
def test_a_chain_is_torchvisions_network(name: str, size: int) -> None:
    theirs = slim(name)
    config = chain("lenet5", layers=as_layers(theirs), native={"size": 224, "channels": 3, "classes": 10})
    ours = build(config, 3, 10)
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        own.data.copy_(other.data)
    images, labels = torch.randn(2, 3, size, size), torch.tensor([3, 7])
    outputs, gradients = [], []
    for net in (ours, theirs):
        torch.manual_seed(1)  # of the dropouts
        outputs.append(net.train()(images.clone()))
        F.cross_entropy(outputs[-1], labels).backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
    assert any(bool(gradient.abs().max() > 1e-4) for gradient in gradients[0])


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("alexnet_torchvision", "alexnet"),
        *((f"vgg{n}{bn}", f"vgg{n}{bn}") for n in (11, 13, 16, 19) for bn in ("", "_bn")),
    ],
)
def test_presets_of_torchvision(name: str, same: str) -> None:
    with torch.device("meta"):
        ours, theirs = build(load_preset(name), 3, 1000), torchvision.models.get_model(same)
    shapes = [{key: tensor.shape for key, tensor in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", CHAINS)
def test_a_preset_trains_at_its_smallest_input(name: str) -> None:
    config = smaller(name)
    torch.manual_seed(0)
    net = build(config, config.native.channels, 10)
    images = torch.randn(2, config.native.channels, config.native.size, config.native.size)
    before = images.clone()
    F.cross_entropy(net(images), torch.tensor([1, 2])).backward()
    assert torch.equal(images, before)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())
    first = next(net.parameters()).grad
    assert first is not None
    assert first.abs().max() > 0


@pytest.mark.parametrize("name", CHAINS)
def test_a_preset_runs_at_other_sizes_and_says_which_are_too_small(name: str) -> None:
    config = chain(name)
    with torch.device("meta"):
        net = build(config, 3, 7)
        least = config.smallest()
        assert net(torch.zeros(2, 3, least, least + 5)).shape == (2, 7)
        assert net(torch.zeros(2, 3, config.native.size + 33, config.native.size)).shape == (2, 7)
        if least > 1:
            message = (
                f"model {name}: images of {least - 1} x 300 are too small, its windows need at least {least} x {least}"
            )
            with pytest.raises(InputError, match=message):
                net(torch.zeros(2, 3, least - 1, 300))


def test_at_the_native_size_nothing_is_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    x, flatten = torch.randn(2, 4, 6, 5), FlattenAt((6, 5))
    larger = torch.randn(2, 4, 12, 5)
    assert torch.equal(flatten(larger), F.adaptive_avg_pool2d(larger, (6, 5)).flatten(1))
    monkeypatch.delattr(F, "adaptive_avg_pool2d")
    assert torch.equal(flatten(x), x.flatten(1))


def test_local_response_norm_is_the_papers_formula() -> None:
    a = torch.randn(2, 9, 3, 4) * 30
    layer = build(of({"kind": "local_response_norm", "size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}), 3, 5)[0]  # type: ignore[index]
    padded = F.pad(a.square(), (0, 0, 0, 0, 2, 2))
    sums = torch.stack([padded[:, channel : channel + 5].sum(dim=1) for channel in range(9)], dim=1)
    torch.testing.assert_close(layer(a), a / (2 + 1e-4 * sums) ** 0.75)


def test_alexnet_has_the_papers_constants() -> None:
    with torch.device("meta"):
        norms = [m for m in build(load_preset("alexnet"), 3, 9).modules() if isinstance(m, nn.LocalResponseNorm)]
    assert [(m.size, m.alpha / m.size, m.beta, m.k) for m in norms] == [(5, pytest.approx(1e-4), 0.75, 2.0)] * 2


def test_two_groups_are_two_networks_side_by_side() -> None:
    net = build(smaller("alexnet_grouped"), 3, 10)
    conv = net.conv2
    assert isinstance(conv, nn.Conv2d)
    x = torch.randn(1, 96, 5, 5)
    changed = torch.cat([x[:, :48], torch.randn(1, 48, 5, 5)], dim=1)
    same = (conv(x) == conv(changed)).all(dim=(0, 2, 3))
    assert same.tolist() == [True] * 128 + [False] * 128


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2**0.5), ("tanh", 5 / 3), ("sigmoid", 1.0), (None, 1.0)])
def test_initialisation_keeps_the_variance(activation: str | None, gain: float) -> None:
    torch.manual_seed(0)
    following = [{"kind": "batch_norm"}, {"kind": activation}] if activation else []
    net = build(of({"kind": "conv", "filters": 128, "kernel": 3, "groups": 4}, *following, channels=64), 64, 5)
    weight, bias = net[0].weight, net[0].bias  # type: ignore[index]
    assert weight.std().item() == pytest.approx(gain / (16 * 9) ** 0.5, rel=0.02)
    assert bool((bias == 0).all())


def test_a_relu_overwrites_only_what_no_gradient_needs() -> None:
    layers = ({"kind": "relu"}, {"kind": "conv", "filters": 4, "kernel": 3}, {"kind": "relu"}, {"kind": "relu"})
    net = build(of(*layers, {"kind": "tanh"}, {"kind": "relu"}), 3, 5)
    assert [m.inplace for m in net.modules() if isinstance(m, nn.ReLU)] == [False, True, False, False]
    net(torch.randn(2, 3, 8, 8)).sum().backward()


def test_names_are_those_of_the_file_or_numbered_kinds() -> None:
    names = chain("googlenet_stem").names
    assert names == ("conv1", "relu1", "pool1", "conv2", "relu2", "conv3", "relu3", "pool3", "pool", "flatten1", "fc")
    assert tuple(name for name, _ in build(smaller("googlenet_stem"), 1, 3).named_children()) == names


@pytest.mark.parametrize("channels", [1, 4])
def test_the_first_layer_takes_the_datas_channels(channels: int) -> None:
    net = build(smaller("zfnet_small"), channels, 3)
    assert isinstance(net, Chain)
    assert net(torch.randn(1, channels, 65, 65)).shape == (1, 3)


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    if draw(st.booleans()):
        return {"kind": "conv", "filters": 2, "kernel": kernel, "stride": stride, "padding": draw(st.integers(0, 3))}
    kind, padding = draw(st.sampled_from(["max_pool", "avg_pool"])), draw(st.integers(0, kernel // 2))
    return {"kind": kind, "kernel": kernel, "stride": stride, "padding": padding, "ceil_mode": draw(st.booleans())}


@settings(deadline=None, max_examples=60)
@given(layers=st.lists(windows(), min_size=1, max_size=4), size=st.integers(1, 24))
def test_shapes_are_torchs(layers: list[dict[str, Any]], size: int) -> None:
    try:
        config = of(*layers, size=size)
    except InputError:
        assume(False)
        raise
    x = torch.randn(1, 3, size, size)
    net = build(config, 3, 5)
    for entry, layer in zip(config.entries(3, 5, size), net.children(), strict=True):
        assert tuple(x.shape[1:]) == entry
        x = layer(x)
    assert x.shape == (1, 5)


@settings(deadline=None, max_examples=60)
@given(layers=st.lists(windows(), min_size=1, max_size=4))
def test_the_smallest_input_is_where_torch_begins_to_take_it(layers: list[dict[str, Any]]) -> None:
    net = build(of(*layers, size=400), 3, 5)
    assert isinstance(net, Chain)
    plain = nn.Sequential(*list(net.children())[: len(layers)])
    assert plain(torch.randn(1, 3, net.smallest, net.smallest)).numel() > 0
    if net.smallest > 1:
        with pytest.raises(RuntimeError):
            plain(torch.randn(1, 3, net.smallest - 1, net.smallest - 1))


CONV = {"kind": "conv", "filters": 4, "kernel": 3}
POOL = {"kind": "max_pool", "kernel": 2, "stride": 2}
FLAT, LOGITS = {"kind": "flatten"}, {"kind": "linear"}
LISTED = ", ".join(KINDS)

MISTAKES: dict[str, tuple[list[Any], str]] = {
    "kind": ([{"kind": "convv"}], rf"layers.0: kind is 'convv', expected one of {LISTED}; did you mean 'conv'\?$"),
    "no kind": ([CONV, {"filters": 3}], f"layers.1: kind is None, expected one of {LISTED}$"),
    "no mapping": ([CONV, "relu"], f"layers.1: kind is None, expected one of {LISTED}$"),
    "key": ([{**CONV, "kernal": 5}], r"unknown key 'layers.0.kernal'; did you mean 'kernel'\?"),
    "missing": ([CONV, {"kind": "conv", "kernel": 3}], "layers.1.filters is missing"),
    "value": ([{**CONV, "stride": 0}], "layers.0.stride is 0: input should be greater than 0"),
    "name": ([{**CONV, "name": "Conv 1"}], "layers.0.name is 'Conv 1': string should match pattern"),
    "padding": ([{**POOL, "padding": 2}], "layers.0: padding=2 is more than half of kernel=2"),
    "window": ([CONV, {**CONV, "kernel": 31}], r"layers.1 \(conv2\): a window of 31 does not fit an input of 30$"),
    "padded": ([{**CONV, "kernel": 40, "padding": 1}], r"layers.0 \(conv1\): a window of 40 .* of 32 padded by 1$"),
    "groups": ([{**CONV, "groups": 2}], r"layers.0 \(conv1\): groups=2 does not divide 1 channels and 4 filters"),
    "linear on an image": (
        [CONV, LOGITS],
        r"layers.1 \(linear1\): needs a flatten before it \(its input is 4 x 30 x 30",
    ),
    "conv on features": ([FLAT, CONV], r"layers.1 \(conv1\): needs an image, and the flatten before it leaves none"),
    "name twice": ([CONV, {**CONV, "name": "conv1"}], "layers.1: the name 'conv1' is that of layers.0"),
}
"""Layers before a head, and what is said of them."""


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_name_the_layer(case: str) -> None:
    layers, message = MISTAKES[case]
    with pytest.raises(InputError, match=f"model lenet5: {message}"):
        load_preset("lenet5", layers=[*layers, FLAT, LOGITS])


@pytest.mark.parametrize(
    "layers", [[CONV, FLAT], [FLAT, {**LOGITS, "features": 10}], [FLAT, LOGITS, {"kind": "relu"}]], ids=str
)
def test_a_chain_ends_with_logits(layers: list[Any]) -> None:
    with pytest.raises(InputError, match=r"model lenet5: layers must end with \{kind: linear\}, features null"):
        load_preset("lenet5", layers=layers)


def test_a_chain_has_layers() -> None:
    with pytest.raises(InputError, match=r"model lenet5: layers is \[\]: tuple should have at least 1 item"):
        load_preset("lenet5", layers=[])


@pytest.mark.parametrize(
    ("layers", "channels", "message"),
    [
        ([{**CONV, "groups": 2}], 3, r"model lenet5: layers.0 \(conv1\): groups=2 does not divide 3 channels"),
        (
            [{**CONV, "name": "forward"}],
            2,
            "model lenet5: no layer can be called 'forward'; torch's networks have that",
        ),
        ([{**CONV, "name": "smallest"}], 2, "model lenet5: no layer can be called 'smallest'"),
    ],
    ids=["groups", "torch's name", "our name"],
)
def test_mistakes_that_show_when_it_is_built(layers: list[Any], channels: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(of(*layers, channels=2), channels, 5)


def test_a_native_size_that_is_too_small_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"model alexnet: layers.7 \(pool2\): a window of 3 does not fit an input of 2"
    ):
        load_preset("alexnet", native={"size": 32})
