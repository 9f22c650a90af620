"""The update rules: torch's and timm's against their papers' formulas, and what weight decay does in each."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from repro.config import RecipeConfig
from repro.models import build
from repro.models.presets import load_preset
from repro.optim.config import OptimizerConfig, ScheduleConfig
from repro.optim.optimizers import build_optimizer

LR = 0.1


def recipe(weight_decay: float = 0.0, no_decay: tuple[str, ...] = (), **optimizer: object) -> RecipeConfig:
    return RecipeConfig(
        name="test", duration="1ep", batch_size=512, lr=LR / 2, lr_batch=256, weight_decay=weight_decay,
        no_decay=no_decay, optimizer=OptimizerConfig(**optimizer), schedule=ScheduleConfig(name="constant"),
    )  # fmt: skip


def one(value: Tensor) -> nn.Module:
    """A network of one parameter."""
    net = nn.Linear(1, 1, bias=False)
    net.weight = nn.Parameter(value.clone())
    return net


def run(net: nn.Module, optimizer: torch.optim.Optimizer, gradients: list[Tensor]) -> Iterator[Tensor]:
    for gradient in gradients:
        for parameter in net.parameters():
            parameter.grad = gradient.clone()
        optimizer.step()
        yield next(net.parameters()).detach().clone()


START = torch.tensor([[1.0, -2.0, 0.5], [0.1, 3.0, -0.7]])
GRADIENTS = [torch.tensor([[0.3, -5.0, 0.01], [2.0, 0.0, -0.4]]) * scale for scale in (1.0, -0.5, 20.0)]


@pytest.mark.parametrize("nesterov", [False, True], ids=["heavy ball", "nesterov"])
def test_sgd_is_bit_for_bit_the_plain_optimiser(nesterov: bool) -> None:
    torch.manual_seed(0)
    ours = build(load_preset("resnet20"), 3, 10)
    plain = copy.deepcopy(ours)
    chosen = recipe(1e-4, momentum=0.9, nesterov=nesterov)
    optimizers = (
        build_optimizer(ours, chosen),
        torch.optim.SGD(plain.parameters(), lr=LR, momentum=0.9, nesterov=nesterov, weight_decay=1e-4, foreach=True),
    )
    for _ in range(3):
        images = torch.randn(2, 3, 8, 8)
        for net, optimizer in zip((ours, plain), optimizers, strict=True):
            optimizer.zero_grad()
            net(images).square().mean().backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert optimizers[0].state_dict()["param_groups"] == optimizers[1].state_dict()["param_groups"]


def test_rmsprop_is_tensorflows() -> None:
    """Mean of squares from 1, epsilon inside the root, the learning rate inside the momentum; decay is coupled."""
    net = one(START)
    optimizer = build_optimizer(net, recipe(0.1, name="rmsprop_tf", alpha=0.7, momentum=0.8, eps=1e-3))
    weight, squares, velocity = START.double(), torch.ones(2, 3).double(), torch.zeros(2, 3).double()
    for gradient, found in zip(GRADIENTS, run(net, optimizer, GRADIENTS), strict=True):
        total = gradient + 0.1 * weight
        squares = 0.7 * squares + 0.3 * total**2
        velocity = 0.8 * velocity + LR * total / (squares + 1e-3).sqrt()
        weight = weight - velocity
        torch.testing.assert_close(found.double(), weight, rtol=1e-5, atol=1e-6)


def test_adamw_decays_apart_from_the_moments() -> None:
    """Loshchilov & Hutter, arXiv:1711.05101, Algorithm 2, with the decay times the learning rate."""
    net = one(START)
    optimizer = build_optimizer(net, recipe(0.1, name="adamw", betas=(0.8, 0.95), eps=1e-6))
    weight, mean, square = START.double(), torch.zeros(2, 3).double(), torch.zeros(2, 3).double()
    for t, found in enumerate(run(net, optimizer, GRADIENTS), start=1):
        gradient = GRADIENTS[t - 1]
        mean, square = 0.8 * mean + 0.2 * gradient, 0.95 * square + 0.05 * gradient**2
        direction = (mean / (1 - 0.8**t)) / ((square / (1 - 0.95**t)).sqrt() + 1e-6)
        weight = weight * (1 - LR * 0.1) - LR * direction
        torch.testing.assert_close(found.double(), weight, rtol=1e-5, atol=1e-6)


def test_lamb_scales_a_layers_step_by_its_weights_and_clips_nothing() -> None:
    """You et al., arXiv:1904.00962, Algorithm 2; the gradients' norms are 5.4, 2.7 and 108."""
    net = one(START)
    optimizer = build_optimizer(net, recipe(0.1, name="lamb", betas=(0.8, 0.95), eps=1e-6))
    weight, mean, square = START.double(), torch.zeros(2, 3).double(), torch.zeros(2, 3).double()
    for t, found in enumerate(run(net, optimizer, GRADIENTS), start=1):
        gradient = GRADIENTS[t - 1]
        mean, square = 0.8 * mean + 0.2 * gradient, 0.95 * square + 0.05 * gradient**2
        direction = (mean / (1 - 0.8**t)) / ((square / (1 - 0.95**t)).sqrt() + 1e-6) + 0.1 * weight
        weight = weight - LR * weight.norm() / direction.norm() * direction
        torch.testing.assert_close(found.double(), weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("sgd", 1 - LR * 0.5),
        ("adamw", 1 - LR * 0.5),
        ("rmsprop_tf", 1 - LR * 0.5 / (0.9 + 0.1 * 0.5**2 + 1e-6) ** 0.5),
        ("lamb", 1 - LR),
    ],
)
def test_without_a_gradient_only_what_is_decayed_shrinks(name: str, factor: float) -> None:
    """All weights are 1, so the coupled decay of 0.5 is a gradient of 0.5; LAMB's trust ratio makes up for its size."""
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = build_optimizer(net, recipe(0.5, ("norm", "bias"), name=name, momentum=0.0))
    for parameter in net.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    values = {name: parameter.detach() for name, parameter in net.named_parameters()}
    torch.testing.assert_close(values.pop("0.weight"), torch.full((2, 3), factor))
    assert all(torch.equal(value, torch.ones(2)) for value in values.values())


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_fused_update_is_the_same_rule(name: str) -> None:
    results = []
    for fused in (False, True):
        net = one(START)
        optimizer = build_optimizer(net, recipe(0.1, name=name), fused=fused)
        assert optimizer.param_groups[0]["fused"] is (True if fused else None)
        results.append(list(run(net, optimizer, GRADIENTS))[-1])
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop_tf", "lamb"])
def test_the_state_of_a_rule_can_be_saved_and_loaded(name: str) -> None:
    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        net = one(START)
        return net, build_optimizer(net, recipe(0.1, name=name))

    net, optimizer = start()
    *_, whole = run(net, optimizer, GRADIENTS)
    net, optimizer = start()
    *_, half = run(net, optimizer, GRADIENTS[:2])
    state = copy.deepcopy(optimizer.state_dict())
    net, optimizer = start()
    optimizer.load_state_dict(state)
    with torch.no_grad():
        net.weight.copy_(half)
    assert torch.equal(next(run(net, optimizer, GRADIENTS[2:])), whole)
