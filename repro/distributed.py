"""How the processes of one run find each other and how long they wait. The only place that knows of strategies."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy

from repro.config import TrainerConfig


def build_strategy(settings: TrainerConfig) -> Any:
    """Return Lightning's strategy: several devices exchange gradients, and none waits longer than `timeout`."""
    if settings.strategy == "auto":
        return "auto"
    return DDPStrategy(timeout=timedelta(seconds=settings.timeout))


def environment_plugins() -> list[Any]:
    """Return Lightning's plugins for the cluster that this process runs on; requeueing is not left to Lightning."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
