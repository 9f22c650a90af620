"""The memory of a training step: against closed forms, against what autograd and optimisers really keep on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import timm.optim
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from repro.cost import blank
from repro.cost.blank import meta_network
from repro.cost.memory import saved_bytes, training_memory
from repro.errors import InputError
from repro.models.config import ModelConfig
from repro.models.presets import load_preset

torch.set_num_threads(1)

TINY = load_preset("resnet20", depths=(1,), widths=(4,), stem_width=4)


def chain(inputs: int, width: int, inplace: bool) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=inplace)
    )


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(2, 5),
    inputs=st.integers(1, 3),
    width=st.integers(1, 4),
    size=st.integers(1, 9),
    inplace=st.booleans(),
)
def test_a_chain_by_closed_form(batch: int, inputs: int, width: int, size: int, inplace: bool) -> None:
    """Batch norm keeps the convolution's output, mean and deviation; ReLU its own output, in place or not."""
    with torch.device("meta"):
        found = saved_bytes(chain(inputs, width, inplace), torch.zeros(batch, inputs, size, size))
    assert found == 4 * (2 * batch * width * size**2 + 2 * width)


CASES = [
    "resnet20",
    "seresnet110",
    "nf_resnet50",
    "densenet121",
    "mobilenet_v2",
    "shufflenet_v1_g3",
    "vit_ti_16",
    "lenet5",
]


@pytest.mark.parametrize("name", CASES)
def test_the_meta_device_keeps_what_the_cpu_keeps(name: str) -> None:
    config = load_preset(name)
    size = config.native.size if name in ("vit_ti_16", "lenet5") else 32
    shape = (2, config.native.channels, size, size)
    real = meta_network(config, shape[1], 10).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*real.parameters(), *real.buffers()):
            tensor.zero_()
    memory = training_memory(config, size, shape[1], 10, batch=2)
    assert memory.activations == saved_bytes(real, torch.zeros(shape))
    assert memory.parameters == sum(4 * parameter.numel() for parameter in real.parameters())
    assert memory.images == 4 * shape[1] * size**2 * 2


@pytest.mark.parametrize("name", ["resnet50", "nfnet_f0", "efficientnet_b0", "googlenet"])
def test_activations_grow_by_the_image(name: str) -> None:
    config = load_preset(name)
    at = {batch: training_memory(config, 64, 3, 10, batch).activations for batch in (2, 3, 4, 64)}
    each = at[3] - at[2]
    assert at[4] - at[3] == each > 0
    assert at[64] == at[2] + 62 * each


OPTIMIZERS: dict[str, Callable[[Iterable[Any]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters),
    "lamb": lambda parameters: timm.optim.Lamb(parameters),
    "rmsprop": lambda parameters: timm.optim.RMSpropTF(parameters, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_an_optimiser_is_what_it_keeps(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 6))
    optimizer = OPTIMIZERS[name](network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    own = sum(4 * parameter.numel() for parameter in network.parameters())
    config = TINY
    memory = training_memory(config, 8, 3, 10, batch=2, optimizer=name)
    steps = 4 * len(list(network.parameters())) if name in ("adamw", "rmsprop") else 0
    ours = 4 * len(list(meta_network(config, 3, 10).parameters())) if steps else 0
    assert (kept - steps) / own == (memory.optimizer_state - ours) / memory.gradients


def test_the_parts_and_their_total() -> None:
    memory = training_memory(TINY, 8, 3, 10, batch=4, optimizer="adamw")
    params = memory.parameters // 4
    assert memory.gradients == memory.parameters == 4 * params
    assert memory.buffers == sum(
        4 * 2 * 4 + 8 for _ in range(3)
    )  # three batch norms of 4 channels, with their counters
    assert memory.total == 2 * 4 * params + memory.optimizer_state + memory.buffers + memory.images + memory.activations


def test_auxiliary_classifiers_are_kept_too() -> None:
    sizes = [
        training_memory(load_preset("googlenet", arguments={"aux_logits": heads}), 224, 3, 10, batch=2).activations
        for heads in (False, True)
    ]
    assert sizes[1] > sizes[0]


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_network_that_the_meta_device_cannot_run(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = training_memory(TINY, 8, 3, 10, batch)

    def refuse(config: ModelConfig, channels: int, classes: int) -> nn.Module:
        raise NotImplementedError("no kernel")

    monkeypatch.setattr(blank, "meta_network", refuse)
    assert training_memory(TINY, 8, 3, 10, batch) == expected


def test_nothing_is_drawn_and_nothing_is_trained() -> None:
    before = torch.get_rng_state()
    training_memory(load_preset("mobilenet_v2"), 32, 3, 10, batch=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("batch", "optimizer", "message"),
    [
        (0, "sgd", "batch 0: expected a positive number of images"),
        (2, "adam", "unknown optimizer 'adam'; did you mean 'adamw'"),
        (1, "sgd", "Expected more than 1 value per channel when training"),
    ],
    ids=["no images", "optimiser", "one value to normalise"],
)
def test_mistakes(batch: int, optimizer: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        training_memory(load_preset("mobilenet_v2"), 32, 3, 10, batch, optimizer)
