"""The LightningModule of image classification: loss, optimiser, schedule, clipping, averaging and metrics.

Knows nothing of files, studies or architectures; `train.py` puts it together with a network and data.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.config import RecipeConfig
from repro.models.auxiliary import Outputs
from repro.optim.batch_norm import recalibrate
from repro.optim.clip import build_clip
from repro.optim.ema import Ema
from repro.optim.loss import build_loss
from repro.optim.optimizers import build_optimizer
from repro.optim.schedules import Schedule
from repro.training.distributed import copy_from_first_rank
from repro.training.held_out import HeldOut

Batch = tuple[Tensor, Tensor]


class Classifier(L.LightningModule):
    """Trains `net` by the recipe; measures loss (nats), top-1 and top-5 error (%) on each split.

    Per step it does what a bare loop does: no metric object, no logging call and no host synchronisation. Losses and
    hits of an epoch stay on the device and are reduced once, by `train_metrics`.

    Where the recipe averages the weights, held-out splits come twice: loader 0 is counted with the average, which is
    the run's result, loader 1 with the raw weights.
    """

    def __init__(self, net: nn.Module, recipe: RecipeConfig, classes: int, *, fused: bool = False) -> None:
        super().__init__()
        self.net = net
        self.recipe = recipe
        self.fused = fused
        self.schedule: Schedule | None = None
        self.ema: Ema | None = None
        self.loss = build_loss(recipe)
        self._clip = build_clip(net, recipe.clip)
        self._losses: list[Tensor] = []
        self._hits: list[Tensor] = []
        self._seen = 0
        self._weights_in_use = ExitStack()
        self.held_out = nn.ModuleDict({split: HeldOut(classes) for split in ("val", "val_raw", "test", "test_raw")})

    def forward(self, images: Tensor) -> Tensor | Outputs:
        """Map images `(N, C, H, W)` to logits `(N, classes)`, with those of auxiliary classifiers in training mode."""
        outputs: Tensor | Outputs = self.net(images)
        return outputs

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the recipe's optimiser over its weight-decay groups."""
        return build_optimizer(self.net, self.recipe, fused=self.fused)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip as the recipe says; Lightning calls this after unscaling, before the optimiser's step."""
        if self._clip is not None:
            self._clip()

    def on_fit_start(self) -> None:
        """Begin the average, now that the network is on its device."""
        if self.recipe.ema.decay is not None and self.ema is None:
            self.ema = Ema(self.net, self.recipe.ema)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate of this optimiser step."""
        assert self.schedule is not None
        lr = self.schedule(self.trainer.global_step)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = lr

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, auxiliary losses included.

        Images `(B, C, H, W)`; targets are labels `(B,)` or, where images were mixed, shares `(B, classes)`.
        """
        images, targets = batch
        outputs = self(images)
        logits, auxiliary = outputs if isinstance(outputs, Outputs) else (outputs, ())
        loss = self.loss(logits, targets)
        for head in auxiliary:
            loss = loss + self.recipe.auxiliary_weight * self.loss(head, targets)
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        self._losses.append(loss.detach())
        self._hits.append((logits.detach().argmax(1) == labels).sum())
        self._seen += len(labels)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take an optimiser's step, and the new weights into the average."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.net, self.trainer.global_step + 1)  # counted when this returns

    def train_metrics(self) -> dict[str, float]:
        """Reduce the epoch's training loss and top-1 error over steps and devices, and begin anew.

        The one synchronisation of an epoch.
        """
        loss = torch.stack(self._losses).mean()
        error = 100 * (1 - torch.stack(self._hits).sum() / self._seen)
        both = self.trainer.strategy.reduce(torch.stack([loss, error]), reduce_op="mean")
        self._losses, self._hits, self._seen = [], [], 0
        return {"train_loss": float(both[0]), "train_top1_error": float(both[1])}

    def epoch_state(self) -> dict[str, Any]:
        """Return the losses and hits of the epoch so far `(batches,)` on the CPU, and how many images were seen."""
        losses, hits = (torch.stack(kept).cpu() if kept else None for kept in (self._losses, self._hits))
        return {"losses": losses, "hits": hits, "seen": self._seen}

    def load_epoch_state(self, state: dict[str, Any]) -> None:
        """Go on with an epoch from `epoch_state()`."""
        losses, hits = (
            [] if kept is None else list(kept.to(self.device).unbind()) for kept in (state["losses"], state["hits"])
        )
        self._losses, self._hits, self._seen = losses, hits, state["seen"]

    def on_validation_start(self) -> None:
        """Put the weights of the result into the network, with new batch statistics where the recipe wants them."""
        self._use_average()

    def on_test_start(self) -> None:
        """Put the weights of the result into the network, with new batch statistics where the recipe wants them."""
        self._use_average()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count one batch of the validation split."""
        self._count("val", batch, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count one batch of the test split."""
        self._count("test", batch, dataloader_idx)

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Go over to the raw weights where their turn begins."""
        self._turn(batch_idx, dataloader_idx)

    def on_test_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Go over to the raw weights where their turn begins."""
        self._turn(batch_idx, dataloader_idx)

    def on_validation_end(self) -> None:
        """Leave the network with its raw weights."""
        self._weights_in_use.close()

    def on_test_end(self) -> None:
        """Leave the network with its raw weights."""
        self._weights_in_use.close()

    def leave_evaluation(self) -> None:
        """Put the raw weights back in the middle of an evaluation that is given up; it is made anew as a whole."""
        self._weights_in_use.close()

    def held_out_metrics(self, split: str) -> dict[str, float]:
        """Compute and reset a held-out split's loss and errors over all devices; each sample counts once."""
        turns = (split,) if self.recipe.ema.decay is None else (split, f"{split}_raw")
        return {f"{turn}_{name}": value for turn in turns for name, value in self._tally(turn).compute().items()}

    def averaged_weights(self) -> dict[str, Tensor] | None:
        """Return the average as it is evaluated, named as in `net.state_dict()`; null where the recipe keeps none."""
        if self.ema is None:
            return None
        with self.ema.applied(self.net):
            self._recalibrate()
            return {name: value.clone() for name, value in self.net.state_dict().items()}

    def _use_average(self) -> None:
        if self.ema is not None:
            self._weights_in_use.enter_context(self.ema.applied(self.net))
        self._settle_statistics()

    def _turn(self, batch_idx: int, dataloader_idx: int) -> None:
        if dataloader_idx == 1 and batch_idx == 0:
            self._weights_in_use.close()
            self._settle_statistics()

    def _settle_statistics(self) -> None:
        """Evaluate with rank 0's running statistics, or with new ones: what every rank counts with is what is saved."""
        copy_from_first_rank(self.net.buffers())
        self._recalibrate()

    def _recalibrate(self) -> None:
        steps = self.recipe.batch_norm.recalibrate
        if steps:
            batches = iter(self.trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
            with self.trainer.precision_plugin.forward_context():
                recalibrate(self.net, (images for (images, _), _ in zip(batches, range(steps), strict=False)))
            for buffer in self.net.buffers():
                if buffer.is_floating_point():  # each device has seen its own share of these batches
                    buffer.copy_(self.trainer.strategy.reduce(buffer, reduce_op="mean"))

    def _count(self, split: str, batch: Batch, turn: int) -> None:
        images, labels = batch
        self._tally(f"{split}_raw" if turn else split).update(self._scores(images), labels)

    def _scores(self, images: Tensor) -> Tensor:
        """Logits `(B, classes)` of `(B, C, H, W)`; of views `(B, V, C, H, W)` the log of their mean probability."""
        if images.ndim == 4:
            return self.net(images).float()
        logits = self.net(images.flatten(0, 1)).float().unflatten(0, images.shape[:2])
        return F.softmax(logits, -1).mean(1).log()

    def _tally(self, name: str) -> HeldOut:
        tally = self.held_out[name]
        assert isinstance(tally, HeldOut)
        return tally
