"""Different operations on different images of one batch: images with the same operation go together.

Who goes with whom is worked out on the CPU for a whole epoch and brought to the device once, so that no step waits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from repro.data.resident.operations import OPERATIONS


@dataclass(frozen=True)
class _Layer:
    """One operation for each image, by batch: `order` and its `inverse` int64 `(batches, B)`, amounts in that order."""

    order: Tensor
    inverse: Tensor
    amounts: Tensor
    sizes: list[list[int]]
    """Of the groups of each batch, in the order of OPERATIONS; empty ones count as 0."""


class Grouped:
    """The operations of one epoch for the batches of one rank."""

    def __init__(self, operations: Tensor, amounts: Tensor, slices: list[slice], fill: Tensor) -> None:
        """Group numbers of `OPERATIONS` and amounts, `(N, L)` on the CPU, on the device of `fill` `(C, 1, 1)`."""
        positions = torch.stack([torch.arange(part.start, part.stop) for part in slices])
        self.fill = fill
        self.layers = [
            _layer(chosen[positions], strength[positions], fill.device)
            for chosen, strength in zip(operations.unbind(1), amounts.unbind(1), strict=True)
        ]

    def __call__(self, images: Tensor, number: int) -> Tensor:
        """Change uint8 images `(B, C, H, W)` of batch `number`."""
        for layer in self.layers:
            images = self._apply(layer, images, number)
        return images

    def _apply(self, layer: _Layer, images: Tensor, number: int) -> Tensor:
        sizes = layer.sizes[number]
        groups = torch.split_with_sizes(images.index_select(0, layer.order[number]), sizes)
        amounts = torch.split_with_sizes(layer.amounts[number].view(-1, 1, 1, 1), sizes)
        changed = [
            operation(group, amount, self.fill)
            for operation, group, amount in zip(OPERATIONS.values(), groups, amounts, strict=True)
            if len(group)
        ]
        return torch.cat(changed).index_select(0, layer.inverse[number])


def _layer(operations: Tensor, amounts: Tensor, device: torch.device) -> _Layer:
    """Sort each batch, `(batches, B)`, by operation."""
    order = operations.argsort(dim=1, stable=True)
    sizes = torch.zeros(len(operations), len(OPERATIONS), dtype=torch.int64)
    sizes.scatter_add_(1, operations, torch.ones_like(operations))
    return _Layer(order.to(device), order.argsort(1).to(device), amounts.gather(1, order).to(device), sizes.tolist())
