"""The moving average against its closed form and torch's; it is put into a network and taken out again."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from repro.errors import InputError
from repro.optim.config import EmaConfig
from repro.optim.ema import Ema


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))


def train(net: nn.Module, step: int) -> None:
    """Change every weight and, through the batch norm, every buffer."""
    generator = torch.Generator().manual_seed(step)
    net.train()
    net(torch.randn(5, 3, 3, 3, generator=generator))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)


def bits(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@settings(max_examples=20)
@given(decay=st.floats(0, 0.999), warmup=st.booleans(), every=st.integers(1, 4), steps=st.integers(0, 12))
def test_the_average_in_closed_form(decay: float, warmup: bool, every: int, steps: int) -> None:
    """The sum of all weights so far, each times what the later decays left of it."""
    net = network()
    ema = Ema(net, EmaConfig(decay=decay, warmup=warmup, every=every))
    seen = [bits(net)]
    for step in range(1, steps + 1):
        train(net, step)
        ema.update(net, step)
        if step % every == 0:
            seen.append(bits(net))
    assert ema.updates == len(seen) - 1
    decays = [min(decay, (1 + t) / (10 + t)) if warmup else decay for t in range(len(seen) - 1)]
    for name, value in ema.weights().items():
        if not value.is_floating_point():
            assert torch.equal(value, seen[-1][name])
            continue
        share, expected = 1.0, torch.zeros(value.shape, dtype=torch.float64)
        for past, kept in zip(reversed(seen[1:]), reversed(decays), strict=True):
            expected += share * (1 - kept) * past[name]
            share *= kept
        torch.testing.assert_close(value.double(), expected + share * seen[0][name], rtol=1e-4, atol=1e-5)


def test_it_is_torchs_average() -> None:
    """torch's starts as a copy with its first update, ours with the network it was made of."""
    net = network()
    ema = Ema(net, EmaConfig(decay=0.9))
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.update_parameters(net)
    for step in range(1, 6):
        train(net, step)
        ema.update(net, step)
        theirs.update_parameters(net)
    expected = theirs.module.state_dict()
    for name, value in ema.weights().items():
        if value.is_floating_point():  # torch averages counts too
            torch.testing.assert_close(value, expected[name], msg=name)


def test_the_average_fits_the_network() -> None:
    net = network()
    ema = Ema(net, EmaConfig(decay=0.5))
    train(net, 1)
    ema.update(net, 1)
    other = network(seed=1)
    other.load_state_dict(ema.weights())
    with ema.applied(net):
        assert equal(bits(net), bits(other))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode], ids=["training", "inference"])
def test_the_raw_weights_come_back_bit_for_bit(mode: type) -> None:
    net = network()
    ema = Ema(net, EmaConfig(decay=0.5))
    train(net, 1)
    ema.update(net, 1)
    raw, average = bits(net), {name: value.clone() for name, value in ema.weights().items()}
    places = [tensor.data_ptr() for tensor in net.state_dict().values()]
    context = ema.applied(net)
    with mode():
        context.__enter__()
        assert equal(bits(net), average)
        assert [tensor.data_ptr() for tensor in net.state_dict().values()] == places
    context.__exit__(None, None, None)
    assert equal(bits(net), raw)
    assert equal(ema.weights(), average)
    net(torch.randn(2, 3, 3, 3)).sum().backward()


def test_the_raw_weights_come_back_after_an_exception() -> None:
    net = network()
    ema = Ema(net, EmaConfig(decay=0.5))
    train(net, 1)
    raw = bits(net)
    with pytest.raises(RuntimeError, match="cut short"), ema.applied(net):
        raise RuntimeError("cut short")
    assert equal(bits(net), raw)


def test_a_weight_with_two_names_is_swapped_once() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    ema = Ema(net, EmaConfig(decay=0.5))
    start = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight += 1
    ema.update(net, 1)
    assert ema.weights().keys() == net.state_dict().keys()
    with ema.applied(net):
        torch.testing.assert_close(net[1].weight, start + 0.5)
    torch.testing.assert_close(net[1].weight, start + 1)


def test_a_resumed_average_goes_on_bit_for_bit() -> None:
    config = EmaConfig(decay=0.9, warmup=True, every=2)
    net = network()
    ema, saved = Ema(net, config), None
    for step in range(1, 10):
        train(net, step)
        ema.update(net, step)
        if step == 5:
            saved = copy.deepcopy((net.state_dict(), ema.state_dict()))
    assert saved is not None
    other = network(seed=1)
    resumed = Ema(other, config)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for step in range(6, 10):
        train(other, step)
        resumed.update(other, step)
    assert resumed.updates == ema.updates == 4
    assert equal(resumed.weights(), ema.weights())


@pytest.mark.parametrize(
    ("other", "name"),
    [(nn.Linear(3, 2), "0.bias"), (nn.Sequential(nn.Linear(2, 3)), "0.bias")],
    ids=["other names", "other shapes"],
)
def test_the_average_of_another_network_is_refused(other: nn.Module, name: str) -> None:
    ema = Ema(nn.Sequential(nn.Linear(3, 2)), EmaConfig(decay=0.5))
    state = Ema(other, EmaConfig(decay=0.5)).state_dict()
    with pytest.raises(InputError, match=f"the average in the checkpoint is of another network: {name} differs"):
        ema.load_state_dict(state)


def test_an_update_does_not_look_at_values_on_the_host() -> None:
    """A tensor on the meta device has no values to look at."""
    net = network().to("meta")
    ema = Ema(net, EmaConfig(decay=0.5, warmup=True))
    ema.update(net, 1)
    assert ema.updates == 1


def test_no_decay_is_no_average() -> None:
    with pytest.raises(InputError, match=r"recipe.ema.decay=null averages nothing"):
        Ema(network(), EmaConfig())
