"""Lightning callbacks of a run: its clock, and the record of its epochs. They write only into the run's folder."""

from __future__ import annotations

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from repro.classifier import Classifier
from repro.folder import CURVE
from repro.results import write_atomic
from repro.training.heartbeat import Heart
from repro.training.log import say

COLUMNS = (
    "epoch", "step", "lr", "train_loss", "train_top1_error", "val_loss", "val_top1_error", "val_top5_error", "seconds",
)  # fmt: skip
RAW = ("val_raw_loss", "val_raw_top1_error", "val_raw_top5_error")
"""Of the raw weights, where the recipe averages them and the columns above are the average's."""


class Clock(L.Callback):
    """Seconds spent in training steps and in evaluation, apart from set-up, saving and logging.

    They add up over the attempts of a run, without what was lost when one was killed.
    """

    def __init__(self) -> None:
        self.train = 0.0
        self.evaluate = 0.0
        self.set_up = 0.0
        self._before = 0.0
        self._begin = time.perf_counter()
        self._mark = self._begin

    @property
    def total(self) -> float:
        """Seconds of the run so far."""
        return self._before + time.perf_counter() - self._begin

    def state_dict(self) -> dict[str, float]:
        """Return what the next attempt goes on from."""
        return {"train": self.train, "evaluate": self.evaluate, "set_up": self.set_up, "total": self.total}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Add the time of the attempts before this one."""
        self.train += state["train"]
        self.evaluate += state["evaluate"]
        self.set_up += state["set_up"]
        self._before = state["total"]

    def _lap(self) -> float:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()  # what was queued belongs to the lap that queued it
        now = time.perf_counter()
        lap, self._mark = now - self._mark, now
        return lap

    def stop_training(self) -> None:
        """Stop counting training time for what is none, within an epoch."""
        self.train += self._lap()

    def go_on(self) -> None:
        """Start counting again."""
        self._lap()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the watch; a run that goes on may begin with a validation."""
        self._lap()

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
    """One row of metrics an epoch: into `metrics.csv`, the loggers and `progress.json`; stops a run that diverged.

    All rows are kept, so that a curve that a full disk or a death cut off is written anew.
    """

    def __init__(self, directory: Path, heart: Heart | None) -> None:
        """`heart`: null for a process that writes nothing."""
        self.path = directory / CURVE
        self.heart = heart
        self.rows: list[dict[str, Any]] = []
        self.last: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.diverged = ""
        self.columns: tuple[str, ...] = COLUMNS
        self.epochs_done = 0
        self._validated = False
        self._whole = False  # whether the file on disk holds all rows
        self._told = False  # that it cannot be written
        self._begin = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Return what the next attempt goes on from."""
        names = ("rows", "last", "best", "epochs_done")
        return {name: getattr(self, name) for name in names} | {"seconds": time.perf_counter() - self._begin}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.rows, self.last, self.best = list(state["rows"]), dict(state["last"]), dict(state["best"])
        self.epochs_done = state["epochs_done"]
        self._begin = time.perf_counter() - state["seconds"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the columns, and start the watch of a run that begins."""
        self._begin = time.perf_counter()
        averaged = isinstance(pl_module, Classifier) and pl_module.recipe.ema.decay is not None
        self.columns = COLUMNS + (RAW if averaged else ())

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the curve so far, and tell how far the run is."""
        assert isinstance(pl_module, Classifier)
        if trainer.is_global_zero:
            self._write_curve()
            self._tell(trainer, pl_module)

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

    def close(self) -> None:
        """See that the whole curve is on disk. Raises OSError where it cannot be written."""
        if not self._whole:
            write_atomic(self.path, self._curve())

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
        self.rows.append(row)
        self._append(row)
        for logger in trainer.loggers:
            logger.log_metrics(row, step=row["step"])
        metrics, epochs = self._tell(trainer, module)
        values = " · ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())
        say(f"epoch {row['epoch']}/{epochs} · lr {row['lr']:.4g} · {values}")

    def _tell(self, trainer: L.Trainer, module: Classifier) -> tuple[dict[str, float], int]:
        """Let the heart know the newest row's metrics and the number of epochs."""
        assert module.schedule is not None
        steps = max(1, trainer.num_training_batches // trainer.accumulate_grad_batches)
        epochs = math.ceil(module.schedule.total / steps)
        row = self.rows[-1] if self.rows else {}
        metrics: dict[str, float] = {name: row[name] for name in ("train_loss", "val_top1_error") if name in row}
        if self.heart is not None:
            self.heart.epoch, self.heart.epochs, self.heart.metrics = self.epochs_done, epochs, metrics
            self.heart.steps = module.schedule.total
            self.heart.beat()
        return metrics, epochs

    def _append(self, row: dict[str, Any]) -> None:
        """Add a row to the file; the whole file where the last one could not be written."""
        if not self._whole:
            self._write_curve()
            return
        try:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        except OSError as error:
            self._complain(error)

    def _write_curve(self) -> None:
        try:
            write_atomic(self.path, self._curve(), durable=False)
        except OSError as error:
            self._complain(error)
        else:
            self._whole, self._told = True, False

    def _complain(self, error: OSError) -> None:
        if not self._told:
            say(f"{self.path.name}: cannot be written ({error.strerror}); tried again after each epoch")
        self._whole, self._told = False, True

    def _curve(self) -> str:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()
