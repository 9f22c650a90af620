"""The parts of a result that are known without having trained: who the run is, and that it failed. Imports no torch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from repro import environment
from repro.config import RunConfig
from repro.results import Failure, Result
from repro.typed import digest

SHARED = "REPRO_SHARED_DEVICE"
"""Variable that a launcher sets for runs that share a device: their speed is no measurement and is marked."""


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def identity(config: RunConfig, started: str) -> dict[str, Any]:
    """Fields of a result that say which run it is and when it was made."""
    return {
        "id": config.id,
        "seed": config.seed,
        "ablation": config.labels.ablation,
        "scale": config.labels.scale,
        "variant": config.labels.variant,
        "config_hash": digest(config.model_dump(mode="json")),
        "started": started,
        "finished": now(),
    }


def failed(config: RunConfig, started: str, failure: Failure) -> Result:
    """Build the result of a run that did not reach its end."""
    fields = identity(config, started)
    return Result(**fields, status="failed", epochs=0, environment=environment.describe(), failure=failure)
