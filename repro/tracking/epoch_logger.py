"""Lightning's W&B logger, given a W&B run that is bounded in time, and logging by optimiser step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from repro.results import Result
from repro.tracking.uploads import HOW_TO_UPLOAD
from repro.tracking.wandb_runs import Tracked, finish


class EpochLogger(WandbLogger):
    """One row an epoch at its optimiser step; what is not of an epoch is of the run's summary."""

    def __init__(self, tracked: Tracked) -> None:
        run = tracked.run
        super().__init__(
            name=run.name, project=run.project, id=run.id, save_dir=tracked.directory, experiment=tracked.run
        )
        self._tracked = tracked
        self._broken = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log an epoch's row, or metrics of the whole run; a tracker that has died is named once and then left."""
        if self._broken:
            return
        try:
            if step is not None and "epoch" in metrics:
                self._tracked.log(metrics, step)
            else:
                self._tracked.run.summary.update(dict(metrics))
        except Exception as error:
            self._broken = True
            warnings.warn(f"W&B has died ({error}); the run goes on, {HOW_TO_UPLOAD}", stacklevel=2)

    @rank_zero_only
    def conclude(self, result: Result | None) -> None:
        """End the W&B run with the run's result."""
        finish(self._tracked, result)
