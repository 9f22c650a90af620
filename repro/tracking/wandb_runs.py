"""A run on Weights & Biases: one W&B run for each run, made of what the run's folder holds. Imports no torch.

What W&B shows of a run is in its folder as well (config.yaml, metrics.csv, result.json). So a W&B run that was begun
anew first takes the epochs that it does not have, and one that no server ever saw can be uploaded from the folder.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.config import RunConfig
from repro.results import Result
from repro.tracking import curve
from repro.tracking.server import base_url, first_line, import_wandb, unreachable, wandb_mode
from repro.tracking.uploads import HOW_TO_UPLOAD, Waiting, mark_uploaded

RESULT = "repro/result"
"""Key of a W&B run's summary under which the whole result.json stands as text, so that a report needs nothing else."""


class Tracked:
    """A W&B run that has begun, and which optimiser steps it has. Steps never go back."""

    def __init__(self, run: Any, directory: Path, url: str | None = None) -> None:
        self.run = run
        self.directory = directory
        self.url = url
        """Of the server; None offline."""
        self._next: int = run.starting_step
        self._complete = False

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Log an epoch; the first time after those of the folder that W&B does not have."""
        if not self._complete:
            self.catch_up(step)
        self._row(step, metrics)

    def catch_up(self, before: int | None = None) -> None:
        """Log the epochs of metrics.csv that W&B does not have, up to optimiser step `before`."""
        for step, metrics in curve.rows(self.directory):
            if before is None or step < before:
                self._row(step, metrics)
        self._complete = True

    def _row(self, step: int, metrics: Mapping[str, Any]) -> None:
        if step < self._next:
            return  # a run that goes on from a checkpoint repeats what W&B had already
        self.run.log({name: value for name, value in metrics.items() if name != "step"}, step=step, commit=True)
        self._next = step + 1

    def finish(self, result: Result | None) -> None:
        """Hand over the result and end the W&B run: failed with exit code 1, without a result as preempted.

        Raises:
            TimeoutError: the server did not take everything in time.
        """
        self.catch_up()
        if result is None:
            self.run.mark_preempting()
        else:
            self.run.summary.update(summary(result))
        self.run.finish(exit_code=int(result is None or result.status == "failed"))


def summary(result: Result) -> dict[str, Any]:
    """Flatten a result for the columns of W&B's table of runs; MACs of one image, times in seconds."""
    tree: dict[str, Any] = {RESULT: result.model_dump_json(), "status": result.status, **result.last}
    for part, record, names in (
        ("cost", result.cost, ("params", "macs", "activations")),
        ("timing", result.timing, ("setup", "train", "evaluate", "total", "images_per_second", "peak_memory")),
    ):
        tree |= {f"{part}/{name}": getattr(record, name) for name in names if record is not None}
    if result.failure is not None:
        tree |= {"failure/kind": result.failure.kind, "failure/message": result.failure.message}
    return {key: value for key, value in tree.items() if value is not None}


def start(config: RunConfig, directory: Path) -> Tracked:
    """Begin the run's W&B run, or go on with it: online where there is a key and a server that answers, else offline.

    Raises:
        Exception: whatever W&B raises when it cannot begin.
    """
    url = base_url() if wandb_mode(config.logger) == "online" else None
    reason = None if url is None else unreachable(url)
    if reason is not None:
        warnings.warn(
            f"the W&B server {url} cannot be reached ({reason}); tracked offline, {HOW_TO_UPLOAD}", stacklevel=2
        )
        url = None
    run = begin(config, directory, "offline" if url is None else "online", config.logger.timeout)
    return Tracked(run, directory, url)


def begin(config: RunConfig, folder: Path, mode: str, timeout: float) -> Any:
    """Call `wandb.init` for a run, with its files below `folder`/wandb. Raises what W&B raises."""
    labels, settings = config.labels, config.logger
    variant = labels.variant or config.model.name
    tags = (labels.ablation, labels.scale, config.model.name, config.recipe.name, *settings.tags)
    return init(
        folder,
        mode,
        timeout,
        project=settings.project,
        entity=settings.entity,
        id=config.id,
        name=f"{variant}/seed{config.seed}",
        group=group(labels.ablation, labels.scale) if labels.ablation else None,
        job_type=variant,
        tags=list(dict.fromkeys(tag for tag in tags if tag)),
        config=config.model_dump(mode="json", exclude={"dir"}),
    )


def group(ablation: str, scale: str) -> str:
    """Name the W&B group of a study."""
    return f"{ablation}/{scale}"


def init(folder: Path, mode: str, timeout: float, **fields: Any) -> Any:
    """Call `wandb.init` so that it only takes what it is given, and gives up after `timeout` seconds.

    Console, code, git, packages and machine are not W&B's to collect: log.txt and result.json have what matters, the
    environment's variables stay where they are, and samples of a shared machine's load say nothing about a run.
    """
    wandb = import_wandb()
    settings = wandb.Settings(
        init_timeout=timeout,
        finish_timeout=timeout,
        finish_timeout_raises=True,
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    wandb.setup(wandb.Settings(silent=True))  # otherwise it tells on the log where it has the key from
    return wandb.init(dir=str(folder), mode=mode, resume="allow", reinit="finish_previous", settings=settings, **fields)


def finish(tracked: Tracked, result: Result | None) -> None:
    """End the W&B run and W&B's own process, in bounded time and never with an error; note what the server has."""
    try:
        tracked.finish(result)
        if tracked.url is not None:
            mark_uploaded(tracked.directory, tracked.url, result)
    except Exception as error:
        reason = first_line(error)
        warnings.warn(f"W&B did not take everything ({reason}); the run is whole, {HOW_TO_UPLOAD}", stacklevel=2)
    finally:
        stop()


def stop() -> None:
    """End W&B's own process, which a killed or forked parent would leave behind."""
    try:
        import_wandb().teardown()
    except Exception as error:
        warnings.warn(f"W&B's process did not end ({error})", stacklevel=2)


def upload(waiting: Waiting, url: str, timeout: float) -> None:
    """Bring the W&B run on the server at `url` to what the run's folder holds; appends to what is there.

    Raises:
        Exception: whatever W&B raises, TimeoutError among it; the folder is as it was.
    """
    with tempfile.TemporaryDirectory(prefix="repro-sync-") as scratch:
        run = begin(waiting.config, Path(scratch), "online", timeout)
        Tracked(run, waiting.directory).finish(waiting.result)
    mark_uploaded(waiting.directory, url, waiting.result)
