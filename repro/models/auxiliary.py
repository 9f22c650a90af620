"""What a network with auxiliary classifiers returns in training mode, and how to take them off."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Outputs(NamedTuple):
    """Logits of the network and of its auxiliary classifiers, each `(N, classes)`."""

    logits: Tensor
    auxiliary: tuple[Tensor, ...]


_HEADS = "auxiliary_heads"


def mark_heads(network: nn.Module, heads: tuple[str, ...]) -> None:
    """Write down which children of `network` are auxiliary classifiers: training alone runs them."""
    setattr(network, _HEADS, heads)


def drop_heads(network: nn.Module) -> nn.Module:
    """Take the auxiliary classifiers off, in place: what is left is the network that is evaluated, not one to train."""
    for head in getattr(network, _HEADS, ()):
        setattr(network, head, nn.Identity())
    return network
