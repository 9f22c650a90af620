"""The memory of a training step in float32, by part: what the optimiser and autograd really keep, counted on the meta
device.

Workspaces, the gradients of activations and fragmentation come on top and depend on the device. Attention is counted as
the products that it is made of, whose matrix of weights is kept; a fused kernel keeps less.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from repro.cost.blank import with_network
from repro.cost.capture import plain_attention
from repro.errors import InputError, unknown
from repro.models.config import ModelConfig

Optimizer = Literal["sgd", "adamw", "lamb", "rmsprop"]

BYTES = 4  # of a float32

_MOMENTS: dict[Optimizer, int] = {"sgd": 1, "adamw": 2, "lamb": 2, "rmsprop": 2}
"""Tensors as large as a parameter that the optimiser keeps for it: momentum; first and second moment; mean square and
momentum."""

_STEPS = ("adamw", "rmsprop")
"""Optimisers that keep a step count, one float32, for each parameter tensor (torch's; timm's LAMB has one for all)."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes at the end of the forward pass of a training step, when they are at their highest.

    `activations`: what autograd keeps for the backward pass, each storage once; `buffers`: running statistics.
    """

    batch: int
    optimizer: Optimizer
    parameters: int
    buffers: int
    gradients: int
    optimizer_state: int
    images: int
    activations: int

    @property
    def total(self) -> int:
        """All parts together."""
        own = self.parameters + self.buffers + self.gradients + self.optimizer_state
        return own + self.images + self.activations


def training_memory(
    config: ModelConfig, size: int, channels: int, classes: int, batch: int, optimizer: str = "sgd"
) -> TrainingMemory:
    """Count the bytes of a training step on `batch` images `(channels, size, size)`.

    Raises InputError for an unknown optimiser, a batch that is not positive, and a network that cannot be built or
    cannot train on such a batch.
    """
    if optimizer not in get_args(Optimizer):
        raise unknown("optimizer", optimizer, get_args(Optimizer))
    if batch < 1:
        raise InputError(f"batch {batch}: expected a positive number of images")
    chosen: Optimizer = optimizer  # type: ignore[assignment]
    shape = (channels, size, size)
    return with_network(config, size, channels, classes, lambda network: _memory(network, shape, batch, chosen))


def _memory(network: nn.Module, shape: tuple[int, int, int], batch: int, optimizer: Optimizer) -> TrainingMemory:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = sum(map(_bytes, trained))
    steps = BYTES * len(trained) if optimizer in _STEPS else 0
    return TrainingMemory(
        batch=batch,
        optimizer=optimizer,
        parameters=sum(map(_bytes, network.parameters())),
        buffers=sum(map(_bytes, network.buffers())),
        gradients=gradients,
        optimizer_state=_MOMENTS[optimizer] * gradients + steps,
        images=batch * prod(shape) * BYTES,
        activations=_activations(network, shape, batch),
    )


def _activations(network: nn.Module, shape: tuple[int, int, int], batch: int) -> int:
    """Count at the batch itself on the meta device; elsewhere at 2 and 3 images, as the bytes grow by the image."""
    device = next(network.parameters()).device
    if device.type == "meta" or batch <= 2:
        return saved_bytes(network, torch.zeros(batch, *shape, device=device))
    two, three = (saved_bytes(network, torch.zeros(images, *shape)) for images in (2, 3))
    return two + (batch - 2) * (three - two)


def saved_bytes(network: nn.Module, images: Tensor) -> int:
    """Count the bytes that autograd keeps when `network` maps `images` `(N, C, H, W)` in training mode.

    Each storage counts once, and those of parameters, buffers and the images themselves do not.
    """
    own = {id(tensor.untyped_storage()) for tensor in (*network.parameters(), *network.buffers(), images)}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in own:
            kept[id(storage)] = storage  # held, so that no other takes its place
        return tensor

    with images.device, plain_attention(), saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network.train()(images)
    del output
    return sum(storage.nbytes() for storage in kept.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
