"""A network whose weights are all zero, for counting: no count depends on values, and random ones take time to draw.

Nothing is trained from it, and the random generators stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from repro.models import build
from repro.models.config import ModelConfig


def blank_network(config: ModelConfig, channels: int, classes: int) -> nn.Module:
    """Build the network with zeros for weights and statistics. Draws nothing from torch's RNG.

    Raises InputError for a combination of axes that has no network.
    """
    with _NoDraws():
        network = build(config, channels, classes)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.zero_()
    return network


class _NoDraws(TorchFunctionMode):
    """Leave a tensor as it is where an initialisation would fill it with random numbers."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("kaiming_uniform_", "uniform_", "normal_"):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
