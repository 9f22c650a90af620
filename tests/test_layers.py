"""The layers that torch lacks: SAME padding, scaled weight standardisation, gains of activations, SE, the scalar."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from repro.errors import InputError
from repro.models.layers import GAMMA, Scale, ScaledStdConv2d, SqueezeExcitation, activation, convolution

torch.set_num_threads(1)

TENSORFLOW_SAME = [
    # size, kernel, stride: output, pixels before, pixels after
    (8, 3, 1, 8, 1, 1),
    (7, 3, 2, 4, 1, 1),
    (8, 3, 2, 4, 0, 1),
    (224, 7, 2, 112, 2, 3),
    (15, 7, 2, 8, 3, 3),
    (9, 3, 3, 3, 0, 0),
    (10, 3, 3, 4, 1, 1),
    (10, 2, 1, 10, 0, 1),
    (5, 1, 2, 3, 0, 0),
    (1, 3, 2, 1, 1, 1),
]


@pytest.mark.parametrize("standardized", [False, True], ids=["plain", "standardised"])
@pytest.mark.parametrize(("size", "kernel", "stride", "out", "before", "after"), TENSORFLOW_SAME, ids=str)
def test_same_padding_is_tensorflows(
    size: int, kernel: int, stride: int, out: int, before: int, after: int, standardized: bool
) -> None:
    conv = convolution(2, 3, kernel, stride, padding="same", standardized=standardized)
    weight = conv.standardized() if isinstance(conv, ScaledStdConv2d) else conv.weight
    x = torch.randn(2, 2, size, 6)
    columns = -(-6 // stride)
    total = max((columns - 1) * stride + kernel - 6, 0)
    padded = F.pad(x, (total // 2, total - total // 2, before, after))
    found = conv(x)
    assert found.shape == (2, 3, out, columns)
    torch.testing.assert_close(found, F.conv2d(padded, weight, stride=stride))


@pytest.mark.parametrize(("padding", "mode"), [("zeros", "constant"), ("circular", "circular")])
def test_the_other_paddings_are_symmetric(padding: str, mode: str) -> None:
    conv, x = convolution(2, 3, 3, 2, padding=padding, bias=True), torch.randn(2, 2, 8, 5)
    expected = F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), conv.weight, conv.bias, stride=2)
    torch.testing.assert_close(conv(x), expected)


@settings(deadline=None, max_examples=60)
@given(
    groups=st.integers(1, 3),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 4),
    kernel=st.sampled_from([1, 3, 5]),
    scale=st.sampled_from([0.1, 1.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_standardised_filters_have_mean_zero_and_the_norm_of_their_gain(
    groups: int, inputs: int, outputs: int, kernel: int, scale: float, seed: int
) -> None:
    assume(inputs * kernel > 1)
    torch.manual_seed(seed)
    conv = convolution(groups * inputs, groups * outputs, kernel, groups=groups, standardized=True)
    assert isinstance(conv, ScaledStdConv2d)
    gain = conv.gain.data.uniform_(0.5, 2.0).flatten()
    filters = conv.weight.data.normal_(std=scale).flatten(1)
    energy = filters.var(dim=1, correction=0) * filters.shape[1]
    made = conv.standardized().flatten(1)
    torch.testing.assert_close(made.mean(dim=1), torch.zeros_like(gain), rtol=0, atol=1e-5)
    expected = gain * (energy / (energy + 1e-4)).sqrt()  # a filter of equal weights has no direction to keep
    torch.testing.assert_close(made.norm(dim=1), expected, rtol=1e-3, atol=1e-4)


def test_a_filter_of_one_weight_cannot_be_standardised() -> None:
    with pytest.raises(InputError, match=r"no form for filters of a single weight \(found a 1x1 convolution of 4 ch"):
        convolution(4, 4, 1, groups=4, standardized=True)


def test_standardised_filters_do_not_see_the_scale_and_shift_of_the_weights() -> None:
    conv = convolution(8, 4, 3, standardized=True)
    assert isinstance(conv, ScaledStdConv2d)
    conv.weight.data.normal_()
    before = conv.standardized()
    conv.weight.data.mul_(7).add_(3)
    torch.testing.assert_close(conv.standardized(), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", GAMMA)
def test_gamma_keeps_the_variance_of_gaussian_input(kind: str) -> None:
    x = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))
    assert activation(kind, GAMMA[kind])(x).var().item() == pytest.approx(1.0, abs=0.01)  # 4 standard errors


def test_gamma_of_relu_in_theory() -> None:
    assert GAMMA["relu"] == pytest.approx((2 / (1 - 1 / torch.pi)) ** 0.5, rel=1e-3)


@pytest.mark.parametrize(("kind", "plain"), [("relu", nn.ReLU), ("silu", nn.SiLU), ("gelu", nn.GELU)])
def test_an_activation_without_a_factor_is_torchs_own(kind: str, plain: type[nn.Module]) -> None:
    assert type(activation(kind)) is plain
    x = torch.randn(9)
    torch.testing.assert_close(activation(kind, 0.5, inplace=False)(x), plain()(x) / 2)


def squeeze_excitation(**changed: Any) -> SqueezeExcitation:
    settings = {"channels": 6, "hidden": 2, "squeeze": "avg", "gate": "sigmoid", "bias": True, "gain": 1.0, **changed}
    return SqueezeExcitation(**settings)


@pytest.mark.parametrize(
    ("axes", "factor"),
    [({}, 0.5), ({"bias": False}, 0.5), ({"gain": 2.0}, 1.0), ({"gate": "tanh"}, 0.0), ({"gate": "relu"}, 0.0)],
    ids=["sigmoid", "no bias", "gain 2", "tanh", "relu"],
)
@pytest.mark.parametrize("squeeze", ["avg", "max", "none"])
def test_zero_excitation_gates_everything_alike(axes: dict[str, Any], factor: float, squeeze: str) -> None:
    se = squeeze_excitation(squeeze=squeeze, **axes)
    for parameter in se.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 6, 5, 4)
    assert torch.equal(se(x), factor * x)


@pytest.mark.parametrize("squeeze", ["avg", "max", "none"])
def test_squeeze_and_excitation_computes_section_3(squeeze: str) -> None:
    se, x = squeeze_excitation(squeeze=squeeze), torch.randn(2, 6, 5, 4)
    pooled = {"avg": x.mean((2, 3), keepdim=True), "max": x.amax((2, 3), keepdim=True), "none": x}[squeeze]

    def linear(layer: nn.Conv2d, values: Tensor) -> Tensor:
        return torch.einsum("oi,nihw->nohw", layer.weight[:, :, 0, 0], values) + layer.bias[None, :, None, None]  # type: ignore[index]

    gate = linear(se.expand, linear(se.reduce, pooled).relu()).sigmoid()
    torch.testing.assert_close(se(x), x * gate)


def test_the_scalar_of_a_branch() -> None:
    x = torch.randn(3)
    assert torch.equal(Scale(0.2, learnt=False)(x), x * 0.2)
    skip = Scale(0.2, learnt=True)
    assert torch.equal(skip(x), torch.zeros(3))
    assert skip.gain is not None
    skip(x).sum().backward()
    torch.testing.assert_close(skip.gain.grad, 0.2 * x.sum())
