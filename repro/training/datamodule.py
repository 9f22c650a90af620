"""The splits of a run as Lightning asks for them."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from repro.config import RunConfig
from repro.data import Loader, Splits, load
from repro.optim.schedules import build_schedule
from repro.training.distributed import check_shares


class RunData(L.LightningDataModule):
    """The splits of a run on the device of this rank."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config
        self.splits: Splits | None = None

    def setup(self, stage: str) -> None:
        """Load the splits once; Lightning calls this on every rank when its device is known."""
        if self.splits is not None:
            return
        trainer: Any = self.trainer
        self.splits = load(
            self.config.data,
            self.config.recipe.augment,
            self.config.recipe.evaluation,
            batch_size=self.config.recipe.batch_size,
            seed=self.config.seed,
            device=trainer.strategy.root_device,
            channels_last=self.config.trainer.channels_last,
            rank=trainer.global_rank,
            world=trainer.world_size,
            accumulate=self.config.accumulation,
        )
        check_shares(self.splits.sizes, trainer.world_size)
        model: Any = trainer.lightning_module
        model.schedule = build_schedule(self.config.recipe, len(self.splits.train) // self.config.accumulation)
        trainer.fit_loop.epoch_loop.max_steps = model.schedule.total

    def close(self) -> None:
        """End the loaders' workers, however the run has ended."""
        if self.splits is not None:
            self.splits.train.close()

    def train_dataloader(self) -> Any:
        """Batches of the training split."""
        assert self.splits is not None
        return self.splits.train

    def val_dataloader(self) -> Any:
        """Batches of the held-out slice of train, twice where averaged weights are evaluated beside the raw ones."""
        assert self.splits is not None
        return self._turns(self.splits.val)

    def test_dataloader(self) -> Any:
        """Batches of the test split; used once, after the last epoch."""
        assert self.splits is not None
        return self._turns(self.splits.test)

    def _turns(self, loader: Loader) -> Any:
        return loader if self.config.recipe.ema.decay is None else [loader, loader]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Batches are on the device already."""
        return batch
