"""The losses of recipes: cross-entropy, and binary cross-entropy over all classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from repro.config import RecipeConfig

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits `(B, K)` and targets: labels `(B,)` int64, or shares of classes `(B, K)` that sum to 1. In nats."""


def build_loss(recipe: RecipeConfig) -> Loss:
    """Build the recipe's loss, the mean over a batch.

    `cross_entropy`: label smoothing e turns a share p of a class into (1 - e) p + e / K (Szegedy et al.,
    arXiv:1512.00567, §7), of labels and of mixed targets alike. `bce`: each class is a question of its own (Wightman et
    al., arXiv:2110.00476, §2.1); targets are smoothed by the same rule, then counted as 1 above `bce_threshold` and as
    0 up to it where there is one; the mean is over images and classes. timm's BinaryCrossEntropy is the same for
    labels, but leaves mixed targets as they are: its Mixup has smoothed them before.
    """
    if recipe.loss == "bce":
        return partial(_binary_cross_entropy, smoothing=recipe.label_smoothing, threshold=recipe.bce_threshold)
    return partial(_cross_entropy, smoothing=recipe.label_smoothing)


def _cross_entropy(logits: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def _binary_cross_entropy(logits: Tensor, targets: Tensor, *, smoothing: float, threshold: float | None) -> Tensor:
    shares = targets if targets.is_floating_point() else _one_hot(targets, logits)
    shares = shares * (1 - smoothing) + smoothing / logits.shape[1]
    if threshold is not None:
        shares = (shares > threshold).float()
    return F.binary_cross_entropy_with_logits(logits.float(), shares)


def _one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """Write labels `(B,)` as float32 `(B, K)`; torch's own one_hot looks at their values on the host."""
    zeros = torch.zeros(logits.shape, dtype=torch.float32, device=logits.device)
    return zeros.scatter_(1, labels[:, None], 1.0)
