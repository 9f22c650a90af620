"""Loss and errors of a held-out split, gathered by the batch on the device and reduced once. Knows no Lightning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Accuracy, MeanMetric, MetricCollection


class HeldOut(nn.Module):
    """Sums over batches and devices; each sample counts once, whatever the sizes of the batches."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.accuracy = MetricCollection(
            {
                "top1": Accuracy("multiclass", num_classes=classes, validate_args=False),
                "top5": Accuracy("multiclass", num_classes=classes, top_k=min(5, classes), validate_args=False),
            }
        )
        # a check, like validate_args, would wait for the device; in double precision the order of sums does not show
        self.loss = MeanMetric(nan_strategy="disable").set_dtype(torch.float64)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Take in the logits `(B, classes)` and labels `(B,)` of one batch."""
        self.accuracy.update(logits, labels)
        self.loss.update(F.cross_entropy(logits, labels, reduction="none").double())

    def compute(self) -> dict[str, float]:
        """Return loss (nats), top1_error and top5_error (%) over all devices, and begin anew."""
        values = {"loss": float(self.loss.compute())}
        for name, value in self.accuracy.compute().items():
            values[f"{name}_error"] = round(100 * (1 - float(value)), 4)
        self.accuracy.reset()
        self.loss.reset()
        return values
