"""Lightning callbacks of a run: its clock, and the record of its epochs. They write only into the run's folder."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from repro.classifier import Classifier
from repro.folder import CURVE, PROGRESS, Progress, write_progress

COLUMNS = (
    "epoch", "step", "lr", "train_loss", "train_top1_error", "val_loss", "val_top1_error", "val_top5_error", "seconds",
)  # fmt: skip
RAW = ("val_raw_loss", "val_raw_top1_error", "val_raw_top5_error")
"""Of the raw weights, where the recipe averages them and the columns above are the average's."""


class Clock(L.Callback):
    """Seconds spent in training steps and in evaluation, apart from set-up, saving and logging."""

    def __init__(self) -> None:
        self.train = 0.0
        self.evaluate = 0.0
        self._mark = 0.0

    def _lap(self) -> float:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()  # what was queued belongs to the lap that queued it
        now = time.perf_counter()
        lap, self._mark = now - self._mark, now
        return lap

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting training time."""
        self._lap()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count what went before as training; a validation after the last epoch only starts the watch."""
        lap = self._lap()
        if trainer.state.fn == TrainerFn.FITTING:
            self.train += lap

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the validation."""
        self.evaluate += self._lap()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop counting training time."""
        self.train += self._lap()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting the test."""
        self._lap()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the test."""
        self.evaluate += self._lap()


class EpochRecord(L.Callback):
    """One row of metrics an epoch: into `metrics.csv`, the loggers and `progress.json`; stops a run that diverged."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / CURVE
        self.last: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.diverged = ""
        self.columns: tuple[str, ...] = COLUMNS
        self.epochs_done = 0
        self._validated = False
        self._begin = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the curve anew, and forget the progress of a run that was killed here."""
        self._begin = time.perf_counter()
        if trainer.is_global_zero:
            (self.path.parent / PROGRESS).unlink(missing_ok=True)
            averaged = isinstance(pl_module, Classifier) and pl_module.recipe.ema.decay is not None
            self.columns = COLUMNS + (RAW if averaged else ())
            with self.path.open("w", newline="") as file:
                csv.writer(file).writerow(self.columns)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note that the epoch was validated; what it gave is computed off the clock, at the epoch's end."""
        self._validated = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epoch down."""
        assert isinstance(pl_module, Classifier)
        metrics = pl_module.train_metrics()
        if self._validated:
            metrics |= pl_module.held_out_metrics("val")
            self._validated = False
        self._row(trainer, pl_module, metrics)

    def finish(self, trainer: L.Trainer, module: Classifier) -> None:
        """Validate once more when the last epoch was cut short by the number of steps."""
        if self.diverged or "val_loss" in self.last or not trainer.limit_val_batches:
            return
        trainer.validate(module, datamodule=trainer.datamodule, verbose=False)  # type: ignore[attr-defined]
        self.last |= module.held_out_metrics("val")
        self._better(self.last)

    def _row(self, trainer: L.Trainer, module: Classifier, metrics: dict[str, float]) -> None:
        assert module.schedule is not None
        self.epochs_done = trainer.current_epoch + 1
        row: dict[str, Any] = {"epoch": self.epochs_done, "step": trainer.global_step}
        row["lr"] = module.schedule(trainer.global_step - 1)
        row |= metrics
        row["seconds"] = time.perf_counter() - self._begin
        self._judge(trainer, row, metrics)
        if trainer.is_global_zero:
            self._write(trainer, module, row)

    def _judge(self, trainer: L.Trainer, row: dict[str, Any], metrics: dict[str, float]) -> None:
        """Keep the newest and the best metrics; a loss that is not a number ends the run."""
        if not math.isfinite(metrics["train_loss"]):
            self.diverged = f"training loss is {metrics['train_loss']} in epoch {row['epoch']}"
            trainer.should_stop = True
            return
        self.last = {"epoch": row["epoch"], **metrics}
        if "val_top1_error" in metrics:
            self._better(self.last)

    def _better(self, metrics: dict[str, float]) -> None:
        if not self.best or metrics["val_top1_error"] < self.best["val_top1_error"]:
            self.best = dict(metrics)

    def _write(self, trainer: L.Trainer, module: Classifier, row: dict[str, Any]) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)
        for logger in trainer.loggers:
            logger.log_metrics(row, step=row["step"])
        steps = max(1, trainer.num_training_batches // trainer.accumulate_grad_batches)
        epochs = math.ceil(module.schedule.total / steps)  # type: ignore[union-attr]
        metrics: dict[str, float] = {name: row[name] for name in ("train_loss", "val_top1_error") if name in row}
        write_progress(self.path.parent, Progress(row["epoch"], epochs, metrics))
        values = " · ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())
        print(f"epoch {row['epoch']}/{epochs} · lr {row['lr']:.4g} · {values}", flush=True)
