"""Trackers beside the CSV file. A tracker that is down is reported once and left out; it never fails a run.

`build_loggers` begins and `finish_loggers` ends what one run tells; `publish` tells of a whole study.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.config import LoggerConfig, RunConfig
from repro.results import Result
from repro.tracking.server import first_line, wandb_mode

if TYPE_CHECKING:
    from repro.report.page import Page
    from repro.study import Study

__all__ = ["build_loggers", "finish_loggers", "publish", "wandb_mode"]


def build_loggers(config: RunConfig, directory: Path) -> list[Any]:
    """Return Lightning loggers for a run; none for `logger=csv`, whose file the run writes itself, nor on rank 1 on."""
    if config.logger.name == "csv" or not _is_first_rank():
        return []
    try:
        if config.logger.name == "tensorboard":
            from repro.tracking.event_files import build

            return [build(config, directory)]
        from repro.tracking.epoch_logger import EpochLogger
        from repro.tracking.wandb_runs import start

        return [EpochLogger(start(config, directory))]
    except Exception as error:
        _without(config.logger, error)
        return []


def _without(settings: LoggerConfig, error: Exception) -> None:
    later = ""
    if settings.name == "wandb":
        from repro.tracking.uploads import HOW_TO_UPLOAD
        from repro.tracking.wandb_runs import stop

        stop()
        later = f"; {HOW_TO_UPLOAD}"
    reason = first_line(error)
    warnings.warn(f"logger={settings.name} is not available ({reason}); going on without{later}", stacklevel=3)


def _is_first_rank() -> bool:
    """Whether this process is rank 0, asked before Lightning has set its ranks up."""
    from lightning.pytorch.utilities import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"


def finish_loggers(loggers: list[Any], result: Result | None) -> None:
    """Give the trackers the result and let them write what they hold; bounded in time, and never an error.

    Args:
        loggers: as `build_loggers` returned them.
        result: how the run ended; None where it saved itself and goes on another time.
    """
    for logger in loggers:
        try:
            logger.conclude(result)
        except Exception as error:
            warnings.warn(f"the tracker did not end well ({error}); the run is not affected", stacklevel=2)


def publish(study: Study, page: Page, settings: LoggerConfig) -> None:
    """Tell the tracker of the study's table; where that fails, one line on standard error.

    Args:
        study: whose folder the tracker's files lie in.
        page: the table, as `repro run` reports it.
        settings: of `logger=wandb` or `logger=tensorboard`; nothing is done for `csv`, whose table.csv the report is.
    """
    if settings.name == "csv":
        return
    try:
        if settings.name == "tensorboard":
            from repro.tracking.event_files import publish_text

            publish_text(study.directory, page)
            return
        from repro.tracking.wandb_studies import publish_study

        publish_study(study, page, settings)
    except Exception as error:
        print(f"repro: the table was not published to {settings.name}: {first_line(error)}", file=sys.stderr)
