"""Batch normalisation: momentum, statistics computed anew, statistics over devices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from repro.errors import InputError
from repro.models import build
from repro.models.presets import load_preset
from repro.optim.batch_norm import recalibrate, set_momentum, synchronise


def network() -> nn.Module:
    """Everything that behaves in another way while training, also inside timm's batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        BatchNormAct2d(4, drop_layer=nn.Dropout),
        nn.Conv2d(4, 5, 1),
        nn.BatchNorm2d(5),
    )


def images(count: int, size: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, 5, 5, generator=generator) + batch for batch in range(count)]


def test_the_statistics_are_those_of_the_batches() -> None:
    """Of the first batch norm's input: the mean of all pixels, and the mean of the batches' unbiased variances."""
    net, batches = network(), images(4)
    recalibrate(net, batches)
    inputs = torch.stack([net[0](batch) for batch in batches]).detach()  # (4, N, C, H, W)
    torch.testing.assert_close(net[1].running_mean, inputs.mean((0, 1, 3, 4)))
    variances = torch.stack([batch.var((0, 2, 3)) for batch in inputs])
    torch.testing.assert_close(net[1].running_var, variances.mean(0))


def test_one_batch_is_normalised_as_in_training() -> None:
    """With dropout off, what evaluation gives is what training gives, but for n / (n - 1) in the variance."""
    net, (batch,) = network(), images(1, size=512)
    recalibrate(net, [batch])
    evaluated = net.eval()(batch)
    for module in net:
        module.training = isinstance(module, nn.BatchNorm2d)
    torch.testing.assert_close(evaluated, net(batch), rtol=1e-3, atol=1e-3)


def test_nothing_else_changes() -> None:
    net = network()
    net.train()
    net[2].eval()
    net[1].momentum = 0.3
    net(images(1)[0])
    modes = [module.training for module in net.modules()]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    recalibrate(net, iter(images(3)))
    assert [module.training for module in net.modules()] == modes
    assert [net[place].momentum for place in (1, 3, 5)] == [0.3, 0.1, 0.1]
    assert torch.equal(torch.get_rng_state(), random)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{place}.running_{kind}" for place in (1, 3, 5) for kind in ("mean", "var")}


def test_the_result_does_not_depend_on_what_was_there() -> None:
    first, second = network(), network()
    second.train()
    for batch in images(5):
        second(batch + 3)
    for net in (first, second):
        recalibrate(net, images(3))
    assert torch.equal(first[5].running_var, second[5].running_var)


def test_statistics_that_no_batch_reaches_stay() -> None:
    """An auxiliary classifier is not run in evaluation."""

    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.aux = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x) + self.aux(x) if self.training else self.norm(x)

    net = Headed()
    net(images(1)[0])
    before = {name: value.clone() for name, value in net.aux.state_dict().items()}
    recalibrate(net, images(2))
    assert all(torch.equal(value, before[name]) for name, value in net.aux.state_dict().items())
    assert int(net.norm.num_batches_tracked) == 1


def test_modes_come_back_after_an_exception() -> None:
    def cut_short() -> Iterator[Tensor]:
        yield images(1)[0]
        raise RuntimeError("cut short")

    net = network().train()
    with pytest.raises(RuntimeError, match="cut short"):
        recalibrate(net, cut_short())
    assert all(module.training for module in net.modules())
    assert net[1].momentum == 0.1


def test_without_a_batch_nothing_is_computed() -> None:
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(InputError, match=r"recipe.batch_norm.recalibrate: there is no batch"):
        recalibrate(net, [])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_network_without_batch_norm_is_left_alone() -> None:
    net = nn.Linear(3, 2)
    recalibrate(net, [torch.ones(2, 3)])
    assert net.training


def test_it_works_while_inference_goes_on() -> None:
    outside, inside = network(), network()
    recalibrate(outside, images(2))
    with torch.inference_mode():
        recalibrate(inside, images(2))
    assert torch.equal(outside[5].running_mean, inside[5].running_mean)
    inside.train()(images(1)[0]).sum().backward()


def test_momentum_is_the_weight_of_the_newest_batch() -> None:
    net, (batch,) = network(), images(1)
    set_momentum(net, 0.01)
    net.train()(batch)
    torch.testing.assert_close(net[1].running_mean, 0.01 * net[0](batch).mean((0, 2, 3)))


@pytest.mark.parametrize("source", ["preset", "timm"])
def test_synchronised_networks_keep_weights_and_activations(source: str) -> None:
    """`SyncBatchNorm` on one process is batch normalisation; timm's holds the activation, which must stay."""
    torch.manual_seed(0)
    net = build(load_preset("resnet20"), 3, 10) if source == "preset" else timm.create_model("regnetx_002")
    batch = torch.randn(2, 3, 32, 32)
    expected, parameters = net.eval()(batch), list(net.parameters())
    converted = synchronise(net)
    assert not any(type(module) in (nn.BatchNorm2d, BatchNormAct2d) for module in converted.modules())
    assert all(a is b for a, b in zip(converted.parameters(), parameters, strict=True))
    torch.testing.assert_close(converted.eval()(batch), expected)
