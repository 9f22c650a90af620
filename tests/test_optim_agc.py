"""Clipping of gradients: by unit against the formula and timm, by norm, and what is left alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.utils import adaptive_clip_grad
from torch import Tensor, nn
from torchvision import models

from repro.models import build
from repro.models.auxiliary import mark_heads
from repro.models.layers import ScaledStdConv2d
from repro.models.presets import load_preset
from repro.optim.agc import AdaptiveClip, classifier_weights
from repro.optim.clip import build_clip
from repro.optim.config import ClipConfig


class Bag(nn.Module):
    """Parameters of any shapes, and a classifier that is not in question."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        super().__init__()
        self.values = nn.ParameterList([nn.Parameter(value) for value in values])
        self.fc = nn.Linear(1, 1)


def bag(shapes: Sequence[tuple[int, ...]], seed: int, zeros: Sequence[int] = (), still: Sequence[int] = ()) -> Bag:
    """Weights and gradients of unequal sizes; `zeros` begin with zero weights, `still` do not learn."""
    generator = torch.Generator().manual_seed(seed)
    net = Bag([torch.randn(shape, generator=generator) for shape in shapes])
    for place, parameter in enumerate(net.values):
        units = [len(parameter), *[1] * (parameter.ndim - 1)] if parameter.ndim else []
        spread = 10 ** (4 * torch.rand(units, generator=generator) - 3)
        parameter.grad = torch.randn(parameter.shape, generator=generator) * spread
        with torch.no_grad():
            if place in zeros:
                parameter.view(-1)[: parameter[0].numel() if parameter.ndim else 1] = 0
            if place in still:
                parameter.grad.zero_()
    return net


def unit_axes(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The released rule: one unit where at most one axis is longer than 1, else one for each output."""
    return tuple(range(1, len(shape))) if sum(length > 1 for length in shape) > 1 else None


def by_formula(weight: Tensor, gradient: Tensor, clipping: float, eps: float) -> Tensor:
    """Brock et al. 2021b, equation 3, in double precision."""
    weight, gradient, axes = weight.double(), gradient.double(), unit_axes(tuple(weight.shape))
    sums = [t.square().sum() if axes is None else t.square().sum(axes, keepdim=True) for t in (weight, gradient)]
    weights, slopes = sums[0].sqrt().clamp(min=eps), sums[1].sqrt()
    over = slopes > clipping * weights
    return torch.where(over, gradient * (clipping * weights / torch.where(over, slopes, torch.ones(()))), gradient)


lengths = st.integers(1, 4)
shapes = st.one_of(
    st.just(()),
    st.tuples(lengths),
    st.tuples(lengths, lengths),
    st.tuples(lengths, lengths, lengths),
    st.tuples(lengths, st.integers(1, 3), st.sampled_from([1, 3]), st.sampled_from([1, 3])),
)


@settings(max_examples=60)
@given(
    chosen=st.lists(shapes, min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
    clipping=st.floats(0.002, 1),
    eps=st.floats(1e-3, 0.1),
    data=st.data(),
)
def test_it_is_the_papers_formula(
    chosen: list[tuple[int, ...]], seed: int, clipping: float, eps: float, data: st.DataObject
) -> None:
    places = st.lists(st.integers(0, len(chosen) - 1))
    net = bag(chosen, seed, data.draw(places, "zero weights"), data.draw(places, "zero gradients"))
    expected = [by_formula(p.detach(), p.grad, clipping, eps) for p in net.values]
    AdaptiveClip(net, clipping, eps)()
    for parameter, gradient in zip(net.values, expected, strict=True):
        torch.testing.assert_close(parameter.grad.double(), gradient, rtol=1e-5, atol=1e-9)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), clipping=st.floats(0.002, 1), groups=st.sampled_from([1, 2, 6]))
def test_it_is_timms_where_the_units_are_the_same(seed: int, clipping: float, groups: int) -> None:
    shapes = [(), (5,), (1,), (4, 3), (6, 6 // groups, 3, 3), (4, 2, 5), (3, 2, 1, 1)]
    ours, theirs = (bag(shapes, seed, zeros=[2, 4], still=[3]) for _ in range(2))
    AdaptiveClip(ours, clipping, 1e-3)()
    adaptive_clip_grad(list(theirs.values), clipping, 1e-3)
    for one, other in zip(ours.values, theirs.values, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_the_gains_of_a_standardised_convolution_are_one_unit() -> None:
    """As in the authors' code, where they are a vector; timm's `(C, 1, 1, 1)` are C units."""
    net = nn.Sequential(ScaledStdConv2d(2, 4, 3), nn.Linear(4, 2))
    gain = net[0].get_parameter("gain")
    gain.grad = torch.tensor([3.0, 0.0, 4.0, 0.0]).view_as(gain)
    AdaptiveClip(net, 0.5)()
    torch.testing.assert_close(gain.grad.flatten(), torch.tensor([3.0, 0.0, 4.0, 0.0]) * (0.5 * 2 / 5))


def test_what_is_below_the_limit_is_left_to_the_last_bit() -> None:
    net = bag([(4, 3, 3, 3), (5,)], seed=0)
    kept = [parameter.grad.mul_(1e-6).clone() for parameter in net.values]
    AdaptiveClip(net, 0.01)()
    assert all(torch.equal(p.grad, before) for p, before in zip(net.values, kept, strict=True))


class Headed(nn.Module):
    """A network with an auxiliary classifier between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.aux = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
        self.fc = nn.Linear(4, 2)
        mark_heads(self, ("aux",))


def test_the_classifiers_weights_alone_are_spared() -> None:
    net = Headed()
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    AdaptiveClip(net, 0.01)()
    spared = {name for name, p in net.named_parameters() if torch.equal(p.grad, torch.full_like(p, 1e3))}
    assert spared == {"fc.weight", "aux.4.weight"}


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet20", ["fc.weight"]),
        ("nf_resnet50", ["fc.weight"]),
        ("mobilenet_v1", ["fc.weight"]),
        ("lenet5", ["fc5.weight"]),
        ("vgg11", ["classifier.6.weight"]),
        ("googlenet", ["fc.weight", "aux1.fc2.weight", "aux2.fc2.weight"]),
    ],
)
def test_the_classifiers_of_presets(name: str, weights: list[str]) -> None:
    with torch.device("meta"):
        net = build(load_preset(name), 3, 10)
    assert names(net, classifier_weights(net)) == weights


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("densenet121", ["classifier.weight"]),
        ("dm_nfnet_f0", ["head.fc.weight"]),
        ("mobilenetv3_large_100", ["classifier.weight"]),
        ("deit_tiny_distilled_patch16_224", ["head.weight", "head_dist.weight"]),
        ("crossvit_9_240", ["head.0.weight", "head.1.weight"]),
        ("caformer_s18", ["head.fc.fc2.weight"]),
    ],
)
def test_the_classifiers_of_timm(name: str, weights: list[str]) -> None:
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=10)
    assert names(net, classifier_weights(net)) == weights


@pytest.mark.parametrize(
    ("name", "weight"), [("squeezenet1_1", "classifier.1.weight"), ("convnext_tiny", "classifier.2.weight")]
)
def test_the_classifiers_of_torchvision(name: str, weight: str) -> None:
    with torch.device("meta"):
        net = models.get_model(name, weights=None)
    assert names(net, classifier_weights(net)) == [weight]


def names(net: nn.Module, parameters: list[nn.Parameter]) -> list[str]:
    known = {id(parameter): name for name, parameter in net.named_parameters()}
    return [known[id(parameter)] for parameter in parameters]


def test_parameters_without_a_gradient_are_passed_over() -> None:
    net = bag([(4, 3), (2, 2, 3, 3), (5,)], seed=1)
    expected = by_formula(net.values[1].detach(), net.values[1].grad, 0.1, 1e-3)
    net.values[0].grad = net.values[2].grad = None
    AdaptiveClip(net, 0.1)()
    assert net.values[0].grad is None
    torch.testing.assert_close(net.values[1].grad.double(), expected, rtol=1e-5, atol=1e-9)
    net.zero_grad()
    AdaptiveClip(net, 0.1)()


def test_a_gradient_that_is_not_finite_passes_on() -> None:
    net = bag([(3, 2), (2,)], seed=2)
    net.values[0].grad[1, 0] = torch.inf
    net.values[1].grad[0] = torch.nan
    AdaptiveClip(net, 0.1)()
    assert net.values[0].grad.isfinite().all(1).tolist() == [True, False, True]
    assert net.values[1].grad.isnan().all()


@pytest.mark.parametrize(
    "config", [ClipConfig(norm=1.0), ClipConfig(agc=0.01)], ids=["global norm", "adaptive clipping"]
)
def test_clipping_does_not_look_at_values_on_the_host(config: ClipConfig) -> None:
    """A tensor on the meta device has no values to look at."""
    with torch.device("meta"):
        net = build(load_preset("nf_resnet50"), 3, 10)
    for parameter in net.parameters():
        parameter.grad = torch.empty_like(parameter)
    clip = build_clip(net, config)
    assert clip is not None
    clip()


@given(scale=st.floats(1e-3, 1e3), norm=st.floats(0.1, 10))
def test_the_global_norm_is_bounded_and_the_direction_kept(scale: float, norm: float) -> None:
    net = bag([(4, 3), (2, 2, 3, 3), (5,)], seed=3)
    before = torch.cat([parameter.grad.mul_(scale).flatten() for parameter in net.values])
    clip = build_clip(net, ClipConfig(norm=norm))
    assert clip is not None
    clip()
    after = torch.cat([parameter.grad.flatten() for parameter in net.values])
    torch.testing.assert_close(after, before * min(1.0, norm / float(before.norm())), rtol=1e-4, atol=0)


def test_nothing_is_clipped_by_default() -> None:
    assert build_clip(nn.Linear(2, 2), ClipConfig()) is None


def test_the_recipes_limit_reaches_the_clip() -> None:
    clip = build_clip(nn.Linear(2, 2), ClipConfig(agc=0.02, agc_eps=0.01))
    assert isinstance(clip, AdaptiveClip)
    assert (clip.clipping, clip.eps) == (0.02, 0.01)
