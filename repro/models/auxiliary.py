"""What a network with auxiliary classifiers returns in training mode."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Outputs(NamedTuple):
    """Logits of the network and of its auxiliary classifiers, each `(N, classes)`."""

    logits: Tensor
    auxiliary: tuple[Tensor, ...]
