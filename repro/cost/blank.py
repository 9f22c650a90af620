"""Networks for counting, without weights where that is possible: no count depends on their values.

Nothing is trained from them, and torch's random generators stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from repro.errors import InputError
from repro.models import build
from repro.models.config import ModelConfig

T = TypeVar("T")


def with_network(config: ModelConfig, size: int, channels: int, classes: int, work: Callable[[nn.Module], T]) -> T:
    """Do `work` with the network on the meta device; with one on the CPU where that is not possible.

    Raises InputError for a combination of axes that has no network, and, with the network's own words, where it cannot
    take an image `(channels, size, size)`.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            return work(meta_network(config, channels, classes))
        except Exception:  # of any kind: what a library does on the meta device is not foreseen everywhere
            network = build(config, channels, classes)
        try:
            return work(network)
        except InputError:
            raise
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            shape = f"{channels} × {size} × {size}"
            raise InputError(f"model {config.name}: cannot take an image of {shape} ({reason})") from error


def meta_network(config: ModelConfig, channels: int, classes: int) -> nn.Module:
    """Build the network on the meta device: shapes without weights. Raises InputError as `build` does."""
    with torch.device("meta"):
        return build(config, channels, classes)
