"""Whether a network can be evaluated as it is asked for: its classes, its input size, dense evaluation."""

from __future__ import annotations

import torch
from torch import nn

from repro.data.config import EvaluationConfig
from repro.errors import InputError
from repro.evaluation.records import Target
from repro.models.chain import FlattenAt


def check_network(net: nn.Module, target: Target) -> None:
    """Run one blank image of each size through `net`, in evaluation mode on the CPU.

    Raises InputError where the network cannot take it, has other classes than the data, or has no dense evaluation and
    the views are `full`.
    """
    data = target.config.data
    if any(cut.views == "full" for cut in target.cuts):
        _check_dense(net, target.name)
    for side in dict.fromkeys(_side(cut, data.size) for cut in target.cuts):
        classes = _classes(net, target.name, data.channels, side)
        if classes != data.classes:
            raise InputError(
                f"{target.name}: the weights are for {classes} classes, data={data.name} has "
                f"data.classes={data.classes}"
            )


def _side(cut: EvaluationConfig, size: int) -> int:
    return cut.resize(size) if cut.views == "full" else cut.crop(size)


def _check_dense(net: nn.Module, name: str) -> None:
    """A fully connected layer that sees several places is tied to one size of the map (He et al. 2015 pool to one)."""
    for path, module in net.named_modules():
        places = getattr(module, "places", None) if isinstance(module, FlattenAt) else _pooled_places(module)
        if places not in (None, (1, 1)):
            raise InputError(
                f"{name}: views=full needs a fully convolutional network that ends in global pooling; {path} is made "
                f"for a map of {places[0]} x {places[1]}. Expected centre, flip or ten_crop"
            )


def _pooled_places(module: nn.Module) -> tuple[int, int] | None:
    if not isinstance(module, nn.AdaptiveAvgPool2d):
        return None
    size = module.output_size
    height, width = (size, size) if isinstance(size, int) or size is None else size
    return (height or 1, width or 1)


@torch.inference_mode()
def _classes(net: nn.Module, name: str, channels: int, side: int) -> int:
    try:
        return int(net(torch.zeros(1, channels, side, side)).shape[1])
    except InputError:
        raise
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name}: cannot take images of {channels} x {side} x {side} ({reason})") from None
