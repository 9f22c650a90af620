"""Networks of timm and torchvision: any name, any channels, their auxiliary classifiers, and clear refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from repro.classifier import Classifier
from repro.config import RecipeConfig
from repro.errors import InputError
from repro.models import build
from repro.models.auxiliary import Outputs, drop_heads
from repro.models.library import adapt_input, input_size
from repro.models.presets import load_preset

torch.set_num_threads(1)

Command = Callable[..., tuple[int, str, str]]

PARAMS = {  # [computed] with timm and torchvision on 1,000 classes, without auxiliary classifiers
    "googlenet": "6.62",
    "densenet121": "7.98",
    "densenet169": "14.15",
    "densenet201": "20.01",
    "densenet161": "28.68",
    "mobilenet_v2": "3.50",
    "mobilenet_v2_140": "6.11",
    "mobilenet_v3_large": "5.48",
    "mobilenet_v3_small": "2.54",
    "shufflenet_v2_x0_5": "1.37",
    "shufflenet_v2_x1_0": "2.28",
    "shufflenet_v2_x1_5": "3.50",
    "shufflenet_v2_x2_0": "7.39",
    "nasnet_a_large": "88.75",
}


def on_meta(name: str, channels: int = 3, classes: int = 10, **axes: Any) -> nn.Module:
    with torch.device("meta"):
        return build(load_preset(name, **axes), channels, classes)


@pytest.mark.parametrize("name", PARAMS)
def test_parameters(name: str) -> None:
    network = drop_heads(on_meta(name, classes=1000))
    assert f"{sum(parameter.numel() for parameter in network.parameters()) / 1e6:.2f}" == PARAMS[name]


@pytest.mark.parametrize("name", ["googlenet", "timm/resnet10t", "torchvision/squeezenet1_1"])
def test_nothing_is_downloaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> NoReturn:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    build(load_preset(name), 3, 10)


def test_the_libraries_are_imported_only_to_build() -> None:
    code = "import sys, repro.models.library; print([name in sys.modules for name in ('timm', 'torchvision')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[False, False]\n"


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize(
    "name",
    ["googlenet", "densenet121", "mobilenet_v3_small", "shufflenet_v2_x0_5", "inception_v4", "efficientnet_b0",
     "torchvision/alexnet", "torchvision/vgg11_bn", "torchvision/convnext_tiny", "torchvision/swin_t",
     "torchvision/vit_b_32", "torchvision/maxvit_t", "timm/convnext_atto"],
)  # fmt: skip
def test_any_number_of_channels(name: str, channels: int) -> None:
    network = on_meta(name, channels).eval()
    size = 299 if name == "inception_v4" else 224
    with torch.no_grad():
        assert network(torch.rand(2, channels, size, size, device="meta")).shape == (2, 10)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert first.in_channels == channels


@settings(deadline=None, max_examples=20)
@given(
    channels=st.integers(1, 8),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    spread=st.floats(0.01, 2),
    bias=st.booleans(),
)
def test_another_first_convolution_keeps_its_shape_and_the_spread_of_its_outputs(
    channels: int, kernel: int, stride: int, spread: float, bias: bool
) -> None:
    torch.manual_seed(channels)
    old = nn.Conv2d(3, 256, kernel, stride, padding=kernel // 2, bias=bias)
    nn.init.normal_(old.weight, std=spread)
    network = nn.Sequential(nn.Sequential(old, nn.ReLU()), nn.Conv2d(256, 4, 1))
    adapt_input(network, channels)
    new = network[0][0]
    assert (new is old) == (channels == 3)
    assert (new.in_channels, new.out_channels) == (channels, 256)
    for field in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"):
        assert getattr(new, field) == getattr(old, field)
    assert new.weight.std().item() * channels**0.5 == pytest.approx(spread * 3**0.5, rel=0.2)
    assert new.bias is None if old.bias is None else torch.equal(new.bias, old.bias)


@pytest.mark.parametrize(
    ("source", "architecture", "size"),
    [
        ("timm", "inception_v3", 299),
        ("timm", "nasnetalarge", 331),
        ("timm", "resnet10t", 176),
        ("timm", "resnet50.a1_in1k", 224),
        ("timm", "vit_base_patch16_384", 384),
        ("torchvision", "inception_v3", 299),
        ("torchvision", "resnet50", 224),
        ("torchvision", "efficientnet_b3", 300),
        ("torchvision", "vit_h_14", 224),
    ],
    ids=lambda value: str(value),
)
def test_input_size_of_a_library(source: str, architecture: str, size: int) -> None:
    assert input_size(source, architecture) == size


def test_input_size_of_an_unknown_architecture() -> None:
    with pytest.raises(InputError, match=r"unknown architecture of timm 'resnet10x'; did you mean 'resnet10t'\?"):
        input_size("timm", "resnet10x")


REFUSED = {
    "name, timm": ("timm/resnet10x", {}, "unknown architecture of timm 'resnet10x'; did you mean 'resnet10t'?"),
    "name, torchvision": (
        "torchvision/resnet19", {}, "unknown architecture of torchvision 'resnet19'; did you mean 'resnet18'?",
    ),
    "tag": ("timm/resnet50.a1_in2k", {}, "unknown architecture of timm 'resnet50.a1_in2k'; did you mean "
            "'resnet50.a1_in1k'?"),
    "a hub's name": ("timm/hf-hub:timm/resnet50", {}, "unknown architecture of timm 'hf-hub:timm/resnet50'"),
    "a detector": ("torchvision/fasterrcnn_resnet50_fpn", {}, "unknown architecture of torchvision"),
    "argument, timm": (
        "timm/resnet10t", {"drop_rte": 0.1}, "timm's resnet10t takes no argument 'drop_rte'; did you mean 'drop_rate'?",
    ),
    "argument, torchvision": (
        "torchvision/mobilenet_v2", {"width_mul": 2},
        "torchvision's mobilenet_v2 takes no argument 'width_mul'; did you mean 'width_mult'?",
    ),
    "value": (
        "torchvision/mobilenet_v2", {"width_mult": "x"}, "torchvision's mobilenet_v2 cannot be built with width_mult=x",
    ),
    "image size": (
        "torchvision/vit_b_16", {"image_size": 30}, "cannot be built with image_size=30: Input shape indivisible",
    ),
    "weights": ("torchvision/resnet18", {"weights": "DEFAULT"}, "arguments.weights cannot be set: a network is built "
                "without weights"),
    "pretrained": ("timm/resnet10t", {"pretrained": True}, "arguments.pretrained cannot be set"),
    "classes": ("timm/resnet10t", {"num_classes": 3}, "arguments.num_classes cannot be set: channels and classes are "
                "those of the data"),
    "features": ("timm/resnet10t", {"features_only": True}, "arguments.features_only cannot be set: a network must "
                 "return logits"),
    "input transform": (
        "torchvision/googlenet", {"transform_input": True}, "arguments.transform_input needs 3 channels",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_a_library_refuses_is_one_sentence(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        on_meta(name, channels=1, arguments=arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


HEADS = {
    "googlenet": ("googlenet", 15, 2),
    "inception_v3": ("inception_v3", 299, 1),
    "timm's inception_v3": ("timm/inception_v3", 299, 1),
}


@pytest.mark.parametrize(("name", "size", "heads"), HEADS.values(), ids=HEADS)
def test_auxiliary_classifiers_speak_in_training_alone(name: str, size: int, heads: int) -> None:
    network = on_meta(name, arguments={"aux_logits": True})
    images = torch.rand(2, 3, size, size, device="meta")
    out = network(images)
    assert isinstance(out, Outputs)
    assert [logits.shape for logits in (out.logits, *out.auxiliary)] == [(2, 10)] * (1 + heads)
    assert isinstance(network.eval()(images), Tensor)
    full = len(list(network.parameters()))
    assert len(list(drop_heads(network).parameters())) < full
    assert network(images).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "auxiliary", "size", "message"),
    [
        ("googlenet", True, 14, "googlenet needs 15 pixels; the input has 14 x 14"),
        (
            "inception_v3",
            True,
            298,
            "inception_v3 needs 299 pixels, or 75 with arguments.aux_logits=false; the input has",
        ),
        ("inception_v3", False, 74, "inception_v3 needs 75 pixels; the input has 74 x 74"),
    ],
)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_too_small_an_input_is_refused(name: str, auxiliary: bool, size: int, message: str, training: bool) -> None:
    network = on_meta(name, arguments={"aux_logits": auxiliary}).train(training)
    with pytest.raises(InputError, match=message):
        network(torch.rand(2, 3, size, size, device="meta"))
    network(torch.rand(2, 3, size + 1, size + 1, device="meta"))


class TwoHeads(nn.Module):
    """A network with two auxiliary classifiers, small enough to check a loss by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.aux1, self.aux2 = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor | Outputs:
        x = x.flatten(1)
        return Outputs(self.fc(x), (self.aux1(x), self.aux2(x))) if self.training else self.fc(x)


def recipe(**changes: Any) -> RecipeConfig:
    common = {"name": "r", "duration": "1ep", "batch_size": 8, "lr": 0.1, "optimizer": {}}
    return RecipeConfig(**{**common, "weight_decay": 0.0, "schedule": {"name": "constant"}, **changes})


@pytest.mark.parametrize("weight", [None, 0.0, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_holds_the_auxiliary_losses(weight: float | None, smoothing: float) -> None:
    torch.manual_seed(0)
    net, images, labels = TwoHeads(), torch.randn(8, 1, 2, 2), torch.arange(8) % 3
    given = {} if weight is None else {"auxiliary_weight": weight}
    module = Classifier(net, recipe(label_smoothing=smoothing, **given), classes=3)
    loss = module.training_step((images, labels), 0)
    main, first, second = (
        F.cross_entropy(head(images.flatten(1)), labels, label_smoothing=smoothing)
        for head in (net.fc, net.aux1, net.aux2)
    )
    assert loss.item() == pytest.approx((main + (0.3 if weight is None else weight) * (first + second)).item())
    loss.backward()
    assert (net.aux1.weight.grad.abs().sum() > 0) == (weight != 0)  # type: ignore[union-attr]
    assert module._hits[0] == (net.fc(images.flatten(1)).argmax(1) == labels).sum()


def test_the_auxiliary_classifiers_of_googlenet_are_trained() -> None:
    torch.manual_seed(0)
    net = build(load_preset("googlenet"), 1, 10)
    module = Classifier(net, recipe(), classes=10)
    module.training_step((torch.rand(4, 1, 32, 32), torch.arange(4)), 0).backward()
    for head in ("aux1", "aux2"):
        for parameter in net.get_submodule(head).parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0


def test_a_network_of_timm_is_trained_on_grey_digits(repro: Command, runs: Path) -> None:
    status, out, err = repro("train", "model=timm/resnet10t", "scale=smoke", "recipe.duration=1ep")
    assert (status, err) == (0, "")
    assert "test error" in out
    assert len(list(runs.glob("train/timm/resnet10t/seed0-*/result.json"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=timm/resnet10x"], "unknown architecture of timm 'resnet10x'; did you mean 'resnet10t'?"),
        (["model=torchvision/resnet19"], "unknown architecture of torchvision 'resnet19'; did you mean 'resnet18'?"),
        (["model=googlenet"], "googlenet needs 15 pixels; the input has 8 x 8"),
        (["-m", "model=timm/resnet10t,timm/resnet18"], "a library's networks are not swept by their names"),
    ],
    ids=["timm", "torchvision", "size", "sweep"],
)
def test_mistakes_are_one_line_before_anything_is_trained(
    words: list[str], message: str, repro: Command, runs: Path
) -> None:
    status, out, err = repro("train", *words, "scale=smoke")
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not runs.exists()
