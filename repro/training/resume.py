"""All that an unfinished run goes on from, and how it goes on: bit for bit on the CPU, at any optimiser step.

What is a closed form of seed, epoch and step (learning rate, order, augmentation, mixing) is not kept; what is not, is:
weights, average, optimiser, the scaler of a mixed precision, and of each rank its random numbers and the losses of the
epoch so far. (Running statistics differ between ranks too, but only rank 0's are ever read.) The Trainer's loop is
told where it is (epoch, step, batch) instead of restoring its own state: its restart leaves out the validation and the
end of an epoch whose last batch was trained. The loaders begin an epoch in its middle.
"""

from __future__ import annotations

import random
from typing import Any

import lightning as L
import numpy as np
import torch

from repro import environment
from repro.classifier import Classifier
from repro.data.seeds import derive
from repro.training.callbacks import Clock, EpochRecord
from repro.training.log import say

State = dict[str, Any]


def capture(trainer: L.Trainer, module: Classifier, *, within_epoch: bool) -> State:
    """Return what rank 0 knows; `within_epoch`: the epoch's last row is still to come."""
    loop: Any = trainer.fit_loop
    batches = loop.epoch_loop.batch_progress.current.ready if within_epoch else 0
    return {
        "step": trainer.global_step,
        "epoch": loop.epoch_progress.current.processed,
        "epoch_step": batches // trainer.accumulate_grad_batches,
        "net": module.net.state_dict(),
        "ema": module.ema.state_dict() if module.ema is not None else None,
        "optimizer": trainer.optimizers[0].state_dict(),
        "precision": trainer.precision_plugin.state_dict(),
    }


def capture_rank(module: Classifier) -> State:
    """Return what differs between the ranks, on the CPU."""
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(module.device) if module.device.type == "cuda" else None,
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "python": random.getstate(),
        **module.epoch_state(),
    }


class Resume(L.Callback):
    """Lets a run go on from a state; the first of the callbacks, so that the others find what they knew."""

    def __init__(self, state: State | None, clock: Clock, record: EpochRecord) -> None:
        """`state`: what rank 0 has read; the other ranks are told. Null: the run begins."""
        self.state = state
        self.clock = clock
        self.record = record

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore everything; of the loop's own progress what is between epochs."""
        assert isinstance(pl_module, Classifier)
        self.state = state = trainer.strategy.broadcast(self.state)
        if state is None:
            return
        if trainer.is_global_zero:
            other = "" if state["codes"][-1] == environment.code() else "; other code has trained it so far"
            say(f"goes on from step {state['step']}, epoch {state['epoch'] + 1}{other}")
        self.clock.load_state_dict(state["clock"])
        self.record.load_state_dict(state["record"])
        pl_module.net.load_state_dict(state["net"])
        if pl_module.ema is not None:
            pl_module.ema.load_state_dict(state["ema"])
        trainer.optimizers[0].load_state_dict(state["optimizer"])
        trainer.precision_plugin.load_state_dict(state["precision"])
        self._restore_rank(trainer, pl_module, state)
        loader = trainer.datamodule.splits.train  # type: ignore[attr-defined]
        for progress in (trainer.fit_loop.epoch_progress.total, trainer.fit_loop.epoch_progress.current):
            _count(progress, state["epoch"])
        if not state["epoch_step"]:
            _count(_steps(trainer), state["step"])
            loader.sampler.set_epoch(max(0, state["epoch"] - 1))  # an evaluation after the last epoch may read it

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go into the middle of the epoch, or to its validation, once.

        The steps are counted only here: the loop would take a run of which all steps are done for one that is over.
        """
        state, self.state = self.state, None
        if state is None or not state["epoch_step"]:
            return
        loop: Any = trainer.fit_loop.epoch_loop
        batch = state["epoch_step"] * trainer.accumulate_grad_batches
        _count(_steps(trainer), state["step"])
        _count(loop.batch_progress.current, batch)
        loop._restarting = True  # the loop then goes on counting, and does not ask for another pass of the loader
        if batch < trainer.num_training_batches:
            trainer.datamodule.splits.train.begin_at(batch)  # type: ignore[attr-defined]
            return
        trainer.validating = True
        loop.val_loop.run()
        trainer.training = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the next epoch begin at its beginning, also after one of which only the validation was left."""
        trainer.fit_loop.epoch_loop._restarting = False

    def _restore_rank(self, trainer: L.Trainer, module: Classifier, state: State) -> None:
        ranks, rank, world = state["ranks"], trainer.global_rank, trainer.world_size
        if len(ranks) != world:
            if rank == 0:
                say(f"it was saved by {len(ranks)} processes and goes on with {world}: not bit for bit")
            module.load_epoch_state(share(ranks, rank, world))
            torch.manual_seed(derive("resume", state["step"], rank))
            return
        own = ranks[rank]
        module.load_epoch_state(own)
        _restore_random(own, module.device)


def share(ranks: list[State], rank: int, world: int) -> State:
    """Divide the losses and hits of an epoch so far, of other ranks than there are now, among those that there are."""
    parts = sum(0 if own["losses"] is None else len(own["losses"]) for own in ranks)
    if not parts:
        return {"losses": None, "hits": None, "seen": 0}
    losses, hits = (torch.cat([own[name] for own in ranks])[rank::world] for name in ("losses", "hits"))
    return {"losses": losses, "hits": hits, "seen": sum(own["seen"] for own in ranks) * len(losses) // parts}


def _restore_random(own: State, device: torch.device) -> None:
    torch.set_rng_state(own["torch"])
    if device.type == "cuda" and own["cuda"] is not None:
        torch.cuda.set_rng_state(own["cuda"], device)
    name, keys, *rest = own["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(own["python"])


def _steps(trainer: L.Trainer) -> Any:
    """The loop's count of optimiser steps, which is `trainer.global_step`."""
    return trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total


def _count(progress: Any, number: int) -> None:
    """Set every counter of a loop's progress."""
    for name in vars(progress):
        setattr(progress, name, number)
