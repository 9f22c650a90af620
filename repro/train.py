"""One run, from a resolved config to a result. The only door to torch and Lightning.

`python -m repro.train RUN_FOLDER` trains the config.yaml in that folder; Lightning's DDP re-executes exactly this
command for the other ranks. Knows nothing of ablations or studies.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from repro import attempts, environment, folder
from repro.callbacks import Clock, EpochRecord
from repro.checkpoint import save_weights
from repro.classifier import Classifier
from repro.config import RunConfig
from repro.cost.count import cached_price
from repro.data import Loader, Splits, load
from repro.distributed import build_strategy, environment_plugins
from repro.errors import InputError
from repro.interrupt import Interrupted
from repro.models import build
from repro.optim.batch_norm import set_momentum, synchronise
from repro.optim.schedules import build_schedule
from repro.record import SHARED, failed, identity, now
from repro.results import Cost, Data, Failure, Result, Timing, write_result
from repro.tracking import build_loggers, close_loggers


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
        model: Any = trainer.lightning_module
        model.schedule = build_schedule(self.config.recipe, len(self.splits.train) // self.config.accumulation)
        trainer.fit_loop.epoch_loop.max_steps = model.schedule.total

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


@dataclass
class _Pieces:
    """What one run is made of."""

    module: Classifier
    data: RunData
    trainer: L.Trainer
    clock: Clock
    record: EpochRecord


def train(config: RunConfig, directory: Path) -> Result:
    """Train one run and write its result; a run that has an outcome in this folder is not trained again.

    Returns the result on rank 0 (and an equal one on the other ranks, which write nothing).

    Raises:
        folder.AlreadyRunningError: another process trains this run.
        Exception: whatever stopped the run, after a `failed` result was written.
    """
    if not _is_first_rank():
        return _run(config, directory, now())
    started = now()
    with folder.locked(directory):
        done = folder.outcome(directory)
        if done is not None and done.id == config.id:
            return done  # another launcher has trained it since this one looked
        folder.set_aside(directory)
        folder.write_config(directory, config)
        attempts.begin(directory)
        try:
            result = _run(config, directory, started)
        except Interrupted as saved:
            attempts.end(directory, "interrupted", saved.step, message=str(saved))
            raise
        except Exception as error:
            failure = _failure(error)
            write_result(directory, failed(config, started, failure))
            attempts.end(directory, "failed", kind=failure.kind, message=failure.message)
            raise
        write_result(directory, result)
        attempts.end(
            directory,
            "diverged" if result.status == "diverged" else "finished",
            result.timing.steps if result.timing else None,
        )
    return result


def _run(config: RunConfig, directory: Path, started: str) -> Result:
    begin = time.perf_counter()
    data, model = config.data, config.model
    cost = cached_price(model, data.size, data.channels, data.classes)
    _prepare_torch(config)
    pieces = _assemble(config, directory)
    setup = time.perf_counter() - begin
    try:
        _fit_and_test(pieces)
    finally:
        close_loggers(pieces.trainer.loggers)
    if pieces.trainer.is_global_zero:
        save_weights(directory, pieces.module.net.state_dict(), pieces.module.averaged_weights())
    return _result(config, pieces, cost, started, setup, time.perf_counter() - begin)


def _fit_and_test(pieces: _Pieces) -> None:
    """Train to the end or to a divergence; read the test split once, and only after a whole training."""
    trainer, module, record = pieces.trainer, pieces.module, pieces.record
    trainer.fit(module, datamodule=pieces.data)
    record.finish(trainer, module)
    if record.diverged:
        return
    steps = trainer.global_step
    trainer.test(module, datamodule=pieces.data, verbose=False)
    tested = module.held_out_metrics("test")
    record.last |= tested
    for logger in trainer.loggers:
        logger.log_metrics(tested, step=steps)


def _prepare_torch(config: RunConfig) -> None:
    """Seed every generator and set the threads, before any operator runs; keep Lightning's advice out of the log."""
    if config.trainer.devices * config.trainer.nodes == 1:
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.pytorch.utilities._pytree")
    torch.set_num_threads(config.trainer.threads)
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    torch.manual_seed(config.seed)


def _assemble(config: RunConfig, directory: Path) -> _Pieces:
    settings = config.trainer
    net = build(config.model, config.data.channels, config.data.classes)
    if settings.channels_last:
        net = net.to(memory_format=torch.channels_last)
    if config.recipe.batch_norm.momentum is not None:
        set_momentum(net, config.recipe.batch_norm.momentum)
    if config.recipe.batch_norm.sync and settings.devices * settings.nodes > 1:
        net = synchronise(net)
    if settings.compile:
        net.compile()
    module = Classifier(net, config.recipe, config.data.classes, fused=settings.fused)
    clock, record = Clock(), EpochRecord(directory)
    trainer = L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=build_strategy(settings),
        plugins=environment_plugins(),
        precision=settings.precision,
        deterministic=settings.deterministic,
        benchmark=not settings.deterministic,
        accumulate_grad_batches=config.accumulation,
        limit_val_batches=1.0 if config.data.val else 0,
        max_epochs=-1,  # the length is in steps and set when the data is known, in RunData.setup
        logger=build_loggers(config, directory),
        callbacks=[clock, record],
        default_root_dir=directory,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    return _Pieces(module, RunData(config), trainer, clock, record)


def _result(config: RunConfig, pieces: _Pieces, cost: Cost, started: str, setup: float, total: float) -> Result:
    splits, record, clock = pieces.data.splits, pieces.record, pieces.clock
    assert splits is not None
    images = pieces.trainer.global_step * config.recipe.batch_size
    gpu = torch.cuda.get_device_name() if config.trainer.accelerator == "gpu" else None
    return Result(
        **identity(config, started),
        status="diverged" if record.diverged else "finished",
        epochs=record.epochs_done,
        last=record.last,
        best=record.best,
        cost=cost,
        timing=Timing(
            setup=setup,
            train=clock.train,
            evaluate=clock.evaluate,
            total=total,
            images_per_second=images / clock.train,
            steps=pieces.trainer.global_step,
            shared=bool(os.environ.get(SHARED)),
        ),
        data=Data(
            name=config.data.name,
            fingerprint=splits.fingerprint,
            train_transform=splits.train_transform,
            test_transform=splits.test_transform,
            **splits.sizes,
        ),
        environment=environment.describe(gpu),
        failure=Failure(kind="nan", message=record.diverged) if record.diverged else None,
    )


def _failure(error: Exception) -> Failure:
    kind: Any = "out_of_memory" if isinstance(error, torch.OutOfMemoryError | MemoryError) else "crash"
    lines = [line for line in "".join(traceback.format_exception(error)).splitlines() if line.strip()]
    first = (str(error).splitlines() or [""])[0]
    return Failure(kind=kind, message=f"{type(error).__name__}: {first}", log=tuple(lines[-8:]))


def _is_first_rank() -> bool:
    """Whether this process is rank 0, asked before Lightning has started any other rank."""
    if "SLURM_PROCID" in os.environ and "SLURM_STEP_ID" in os.environ:
        return os.environ["SLURM_PROCID"] == "0"
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"


def die_with_parent() -> None:
    """End this process when the pipe on its standard input closes, which it does when the launcher dies."""

    def watch() -> None:
        while os.read(0, 4096):  # unbuffered: a lock held at the interpreter's end would be fatal
            continue
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> int:
    """Train the run in the folder that is named. Exit status: 0 finished or diverged, 1 failed, 2 bad input."""
    if arguments[1:] == ["--die-with-parent"]:
        die_with_parent()
    elif len(arguments) != 1:
        print("usage: python -m repro.train RUN_FOLDER", file=sys.stderr)
        return 2
    directory = Path(arguments[0])
    try:
        train(folder.read_config(directory / folder.CONFIG), directory)
    except folder.AlreadyRunningError:
        return folder.BUSY
    except Interrupted as saved:
        print(saved, flush=True)
        return folder.INTERRUPTED
    except InputError as error:
        print(f"repro: {error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
