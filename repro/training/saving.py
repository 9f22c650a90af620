"""When a run saves what it goes on from, and how it ends on request: the last of its callbacks.

After an optimiser step, at the end of an epoch, and between the batches of an evaluation, where it is given up and made
anew; all ranks at the same point. A disk that is full, or that may not be written, never ends the run.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from repro import environment
from repro.classifier import Classifier
from repro.config import RunConfig
from repro.training import interrupt
from repro.training.agreement import Agreement
from repro.training.callbacks import Clock, EpochRecord
from repro.training.checkpoint import save_state
from repro.training.heartbeat import Heart
from repro.training.interrupt import Interrupted
from repro.training.log import say
from repro.training.memory import peak_memory
from repro.training.resume import State, capture, capture_rank
from repro.typed import digest

ANOTHER = "another process of the run"


class Saver(L.Callback):
    """Writes checkpoints, heeds requests to end, and tells the heart that the run advances."""

    def __init__(
        self,
        config: RunConfig,
        directory: Path,
        clock: Clock,
        record: EpochRecord,
        heart: Heart | None,
        state: State | None,
    ) -> None:
        """`state`: what the run goes on from; null where it begins, and on all ranks but the first."""
        self.config = config
        self.directory = directory
        self.clock = clock
        self.record = record
        self.heart = heart
        self.saved = self._seen = state["step"] if state else 0
        self._codes = tuple(dict.fromkeys((*(state["codes"] if state else ()), environment.code())))
        self._tried = time.monotonic()
        self._told = False
        self._agreement: Agreement | None = None

    @property
    def agreement(self) -> Agreement:
        """How the ranks agree; there is none before the training begins."""
        assert self._agreement is not None
        return self._agreement

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count the time to the next checkpoint; end at once where that was asked for during set-up."""
        rank, world = trainer.global_rank, trainer.world_size
        self._agreement = Agreement(rank, world, self.config.trainer.timeout)
        self._tried = time.monotonic()
        if self.agreement.now(self._stop, False)[0]:
            raise Interrupted(interrupt.requested() or ANOTHER, self.saved)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After each optimiser step save, or save and end, where it is time."""
        step = trainer.global_step
        if step == self._seen:
            return  # a part of a batch
        self._seen = step
        if self.heart is not None:
            self.heart.moved(step)
        if not self._ends_epoch(trainer):
            self._heed(trainer, pl_module, *self.agreement.at_step(step, self._stop, self._due), within_epoch=True)
        elif self._validates(trainer):
            self._heed(trainer, pl_module, *self.agreement.now(self._stop, self._due, step), within_epoch=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after each epoch where the config says so."""
        self._between(trainer, pl_module, save=self.config.checkpoint.epoch_ends)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the state of a training that is over where its last checkpoint is kept."""
        self._between(trainer, pl_module, save=self.config.checkpoint.keep)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End before an evaluation after the training, where that was asked for."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._between(trainer, pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End before the test, where that was asked for."""
        self._between(trainer, pl_module)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Give a validation up, where that was asked for."""
        self._give_up(trainer, pl_module, within_epoch=trainer.state.fn == TrainerFn.FITTING)

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Give the test up, where that was asked for."""
        self._give_up(trainer, pl_module, within_epoch=False)

    @property
    def _stop(self) -> bool:
        return interrupt.requested() is not None

    @property
    def _due(self) -> bool:
        return time.monotonic() - self._tried >= 60 * self.config.checkpoint.every

    def _ends_epoch(self, trainer: L.Trainer) -> bool:
        return self._trained(trainer) or trainer.global_step >= trainer.max_steps

    def _trained(self, trainer: L.Trainer) -> bool:
        """Whether all batches of the epoch were seen."""
        return bool(trainer.fit_loop.epoch_loop.batch_progress.current.ready >= trainer.num_training_batches)

    def _validates(self, trainer: L.Trainer) -> bool:
        """Whether a validation comes before the epoch's end; otherwise that comes at once, and is the time to save."""
        return self._trained(trainer) and trainer.enable_validation

    def _between(self, trainer: L.Trainer, module: L.LightningModule, *, save: bool = False) -> None:
        if self.record.diverged:
            return  # it has its outcome
        stop, due = self.agreement.now(self._stop, self._due or save, trainer.global_step)
        self._heed(trainer, module, stop, due, within_epoch=False)

    def _give_up(self, trainer: L.Trainer, module: L.LightningModule, *, within_epoch: bool) -> None:
        """Leave an evaluation; of several ranks some have a batch more than others, and none could ask the others."""
        assert isinstance(module, Classifier)
        if self.heart is not None:
            self.heart.moved()
        if trainer.world_size == 1 and self._stop:
            module.leave_evaluation()
            self._heed(trainer, module, True, True, within_epoch=within_epoch)

    def _heed(
        self, trainer: L.Trainer, module: L.LightningModule, stop: bool, save: bool, *, within_epoch: bool
    ) -> None:
        assert isinstance(module, Classifier)
        if not stop and not save:
            return
        if within_epoch and not trainer.validating:
            self.clock.stop_training()
        saved = self._save(trainer, module, within_epoch)
        if stop:
            raise Interrupted(interrupt.requested() or ANOTHER, self.saved, saved=saved)
        self.clock.go_on()

    def _save(self, trainer: L.Trainer, module: Classifier, within_epoch: bool) -> bool:
        """Write a checkpoint; returns whether it is on disk, as far as this process knows."""
        ranks = self.agreement.gathered(capture_rank(module))
        if ranks is None:
            written, self.saved = True, trainer.global_step
        else:
            written = self._write(capture(trainer, module, within_epoch=within_epoch) | {"ranks": ranks})
        self.agreement.wait()  # a process that ends before the first one has written may take it along
        self._tried = time.monotonic()
        return written

    def _write(self, state: dict[str, Any]) -> bool:
        config = self.config
        state |= {
            "id": config.id,
            "codes": self._codes,
            "config_hash": digest(config.model_dump(mode="json")),
            "clock": self.clock.state_dict(),
            "record": self.record.state_dict(),
            "peak_memory": peak_memory(),
        }
        try:
            save_state(self.directory, state)
        except OSError as error:
            if not self._told:
                say(f"step {state['step']}: the checkpoint cannot be written ({error.strerror}); tried again later")
            self._told = True
            return False
        self._told, self.saved = False, state["step"]
        return True
