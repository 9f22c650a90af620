"""What a recipe changes of batch normalisation: momentum, statistics over devices, statistics computed anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repro.errors import InputError


def set_momentum(net: nn.Module, momentum: float) -> None:
    """Set the weight of the newest batch in the running statistics: 1 - the decay that TensorFlow's papers give."""
    for norm in _batch_norms(net):
        norm.momentum = momentum


def synchronise(net: nn.Module) -> nn.Module:
    """Return `net` with statistics over all devices in training; its parameters and buffers are the same objects.

    Torch's own conversion would lose the activations that timm's batch norms hold. Between several devices they must
    be GPUs: torch's SyncBatchNorm raises ValueError on a CPU. Without it each device normalises by the statistics of
    its own images, and its running statistics are its own: see `repro.training.distributed`.
    """
    from timm.layers.norm_act import convert_sync_batchnorm

    converted: nn.Module = convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
    return converted


@torch.no_grad()
def recalibrate(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics by their plain mean over `batches` of images `(B, C, H, W)`, in place.

    Each batch has the same weight (torch's `momentum=None`): of means, and of unbiased variances within batches. Only
    batch norms are in training mode: dropout and stochastic depth are off and no random number is drawn. Modes,
    momenta and counts of batches are restored, also when an exception is raised; statistics that no batch reaches, as
    those of auxiliary classifiers, stay. Arithmetic is that of the caller's autocast.

    Raises:
        InputError: no batch.
    """
    images = iter(batches)
    first = next(images, None)
    if first is None:
        raise InputError("recipe.batch_norm.recalibrate: there is no batch of images to compute statistics from")
    with _averaging(net):
        for batch in chain([first], images):
            net.forward(batch)  # not a call, which would compile a network once more for these modes


def _batch_norms(net: nn.Module) -> list[_BatchNorm]:
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def _averaging(net: nn.Module) -> Iterator[None]:
    """Have the batch norms average from here on, and restore all but the statistics that they computed."""
    norms = [norm for norm in _batch_norms(net) if norm.running_mean is not None]
    modes = [(module, module.training) for module in net.modules()]
    momenta = [norm.momentum for norm in norms]
    buffers = [{name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)} for norm in norms]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.training = True  # not train(), which would switch on the dropout within timm's batch norms
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for norm, momentum, before in zip(norms, momenta, buffers, strict=True):
            norm.momentum = momentum
            _restore(norm, before)


def _restore(norm: _BatchNorm, before: dict[str, Tensor]) -> None:
    """Bring back the count of training batches and, where no batch came by, the statistics."""
    unreached = not norm.num_batches_tracked
    for name, buffer in norm.named_buffers(recurse=False):
        if unreached or name == "num_batches_tracked":
            buffer.copy_(before[name])
