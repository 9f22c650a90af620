"""The LightningModule of image classification: loss, metrics, optimiser and schedule.

Knows nothing of files, studies or architectures; `train.py` puts it together with a network and data.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Accuracy, MeanMetric, MetricCollection

from repro.config import RecipeConfig
from repro.models.auxiliary import Outputs
from repro.optim.schedules import Schedule

Batch = tuple[Tensor, Tensor]


class Classifier(L.LightningModule):
    """Trains `net` with cross-entropy; measures loss (nats), top-1 and top-5 error (%) on each split.

    Per step it does what a bare loop does: no metric object, no logging call and no host synchronisation. Losses and
    hits of an epoch stay on the device and are reduced once, by `train_metrics`.
    """

    def __init__(self, net: nn.Module, recipe: RecipeConfig, classes: int) -> None:
        super().__init__()
        self.net = net
        self.recipe = recipe
        self.schedule: Schedule | None = None
        self._losses: list[Tensor] = []
        self._hits: list[Tensor] = []
        self._seen = 0
        accuracy = {
            "top1": Accuracy("multiclass", num_classes=classes),
            "top5": Accuracy("multiclass", num_classes=classes, top_k=min(5, classes)),
        }
        self.held_out = nn.ModuleDict(
            {
                split: MetricCollection({name: metric.clone() for name, metric in accuracy.items()})
                for split in ("val", "test")
            }
        )
        self.held_out_loss = nn.ModuleDict({"val": MeanMetric(), "test": MeanMetric()})

    def forward(self, images: Tensor) -> Tensor | Outputs:
        """Map images `(N, C, H, W)` to logits `(N, classes)`, with those of auxiliary classifiers in training mode."""
        outputs: Tensor | Outputs = self.net(images)
        return outputs

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build SGD with the recipe's momentum and decay; decay on every parameter, as in He et al. 2015."""
        recipe = self.recipe
        return torch.optim.SGD(
            self.parameters(),
            lr=recipe.peak_lr,
            momentum=recipe.optimizer.momentum,
            nesterov=recipe.optimizer.nesterov,
            weight_decay=recipe.weight_decay,
            foreach=True,
        )

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's losses."""
        self._losses.clear()
        self._hits.clear()
        self._seen = 0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate of this optimiser step."""
        assert self.schedule is not None
        lr = self.schedule(self.trainer.global_step)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = lr

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch of images `(B, C, H, W)` and labels `(B,)`, auxiliary losses included."""
        images, labels = batch
        outputs = self(images)
        logits, auxiliary = outputs if isinstance(outputs, Outputs) else (outputs, ())
        loss = self._cross_entropy(logits, labels)
        for head in auxiliary:
            loss = loss + self.recipe.auxiliary_weight * self._cross_entropy(head, labels)
        self._losses.append(loss.detach())
        self._hits.append((logits.detach().argmax(1) == labels).sum())
        self._seen += len(labels)
        return loss

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)

    def train_metrics(self) -> dict[str, float]:
        """Reduce the epoch's training loss and top-1 error over steps and devices; the one synchronisation of it."""
        loss = torch.stack(self._losses).mean()
        error = 100 * (1 - torch.stack(self._hits).sum() / self._seen)
        both = self.trainer.strategy.reduce(torch.stack([loss, error]), reduce_op="mean")
        return {"train_loss": float(both[0]), "train_top1_error": float(both[1])}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch of the validation split."""
        self._count("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch of the test split."""
        self._count("test", batch)

    def _count(self, split: str, batch: Batch) -> None:
        images, labels = batch
        logits = self(images).float()
        accuracy: Any = self.held_out[split]
        mean_loss: Any = self.held_out_loss[split]
        accuracy.update(logits, labels)
        mean_loss.update(F.cross_entropy(logits, labels), len(labels))

    def held_out_metrics(self, split: str) -> dict[str, float]:
        """Compute and reset a held-out split's loss and errors over all devices; each sample counts once."""
        accuracy: Any = self.held_out[split]
        mean_loss: Any = self.held_out_loss[split]
        values = {f"{split}_loss": float(mean_loss.compute())}
        for name, value in accuracy.compute().items():
            values[f"{split}_{name}_error"] = round(100 * (1 - float(value)), 4)
        accuracy.reset()
        mean_loss.reset()
        return values
