"""TensorBoard: the epochs of a run, its hyper-parameters beside its result, and a study's table as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from repro.config import RunConfig
from repro.report.markdown import to_markdown
from repro.report.page import Page
from repro.results import Result
from repro.tracking import curve

FOLDER = "tensorboard"


def build(config: RunConfig, directory: Path) -> EventFiles:
    """Return the logger of a run; its files lie in RUN/tensorboard."""
    return EventFiles(config, directory)


class EventFiles(TensorBoardLogger):
    """Lightning's logger, whose curve does not go back after an interruption."""

    def __init__(self, config: RunConfig, directory: Path) -> None:
        super().__init__(directory, name=FOLDER, version="", default_hp_metric=False)
        self._config = config
        self._directory = directory
        self._begun = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics; the first time after the epochs of metrics.csv, in place of what an earlier start wrote."""
        if not self._begun and step is not None:
            self._begun = True
            self._begin_anew(step)
        super().log_metrics(dict(metrics), step)

    def _begin_anew(self, before: int) -> None:
        """Have TensorBoard forget the former files, whose end may be lost or be repeated, and write what they held."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

        self.experiment.file_writer.add_event(Event(step=0, session_log=SessionLog(status=SessionLog.START)))
        for step, metrics in curve.rows(self._directory):
            if step < before:
                super().log_metrics(metrics, step)

    @rank_zero_only
    def conclude(self, result: Result | None) -> None:
        """Write hyper-parameters and final metrics, so that TensorBoard's HPARAMS tab compares the runs."""
        if result is not None:
            self.log_hyperparams(hyperparameters(self._config), final_metrics(result))
        self.experiment.flush()
        self.experiment.close()


def hyperparameters(config: RunConfig) -> dict[str, Any]:
    """Flatten what changes a run, and where in a study it stands; lists become text."""
    tree = config.model_dump(mode="json", include={"model", "data", "recipe", "seed"})
    tree["recipe"].pop("about", None)
    return {"variant": config.labels.variant or config.model.name, **_flat(tree)}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


def final_metrics(result: Result) -> dict[str, float]:
    """Metrics of the end, and the price; MACs of one image, training time in seconds."""
    found = {f"final/{name}": value for name, value in result.last.items() if name != "epoch"}
    if result.cost is not None:
        found |= {"final/params": float(result.cost.params), "final/macs": float(result.cost.macs)}
    if result.timing is not None:
        found["final/train_seconds"] = result.timing.train
    return found


def publish_text(directory: Path, page: Page) -> None:
    """Write the study's page as Markdown text into STUDY/tensorboard."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(directory / FOLDER)) as writer:
        writer.add_text("report", to_markdown(page))
