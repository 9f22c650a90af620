"""Trackers beside the CSV file. A tracker that is down is reported once and left out; it never fails a run."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from repro.config import LoggerConfig, RunConfig


def build_loggers(config: RunConfig, directory: Path) -> list[Any]:
    """Return Lightning loggers for a run; empty for `logger=csv`, whose file the run writes itself."""
    if config.logger.name == "csv":
        return []
    try:
        logger = _tensorboard(directory) if config.logger.name == "tensorboard" else _wandb(config, directory)
        logger.log_hyperparams(config.model_dump(mode="json"))
    except Exception as error:
        warnings.warn(f"logger={config.logger.name} is not available ({error}); going on without", stacklevel=2)
        return []
    return [logger]


def _tensorboard(directory: Path) -> Any:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(directory, name="tensorboard", version="")


def _wandb(config: RunConfig, directory: Path) -> Any:
    """Start a W&B run: one per run, id = run id, group = study, job type = variant."""
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    labels, settings = config.labels, config.logger
    logger = WandbLogger(
        project=settings.project,
        entity=settings.entity,
        save_dir=directory,
        id=config.id,
        name=f"{labels.variant or config.model.name}/seed{config.seed}",
        group=f"{labels.ablation}/{labels.scale}" if labels.ablation else None,
        job_type=labels.variant,
        offline=wandb_mode(settings) == "offline",
        settings=wandb.Settings(init_timeout=settings.timeout, finish_timeout=settings.timeout, silent=True),
    )
    logger.experiment  # noqa: B018 - starts the tracker now, so that its failure is caught above
    return logger


def close_loggers(loggers: list[Any]) -> None:
    """Let the trackers write what they hold; at most `timeout` seconds, and never an error."""
    for logger in loggers:
        finish = getattr(logger.experiment, "finish", None)  # W&B's; TensorBoard's files need none
        if finish is None:
            continue
        try:
            finish()
        except Exception as error:
            warnings.warn(f"the tracker did not end in time ({error}); the run is not affected", stacklevel=2)


def wandb_mode(settings: LoggerConfig) -> str:
    """Resolve `mode=auto`: online when a key is known, offline by our own choice when there is none."""
    if settings.mode != "auto":
        return settings.mode
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return "offline"
    return "online" if _has_key() else "offline"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    import netrc

    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)
