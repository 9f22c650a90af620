"""What one run is made of, put together from its resolved config: network, data, trainer, and who looks on."""

from __future__ import annotations

import logging
import random
import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import torch

from repro.classifier import Classifier
from repro.config import RunConfig
from repro.models import build
from repro.optim.batch_norm import set_momentum, synchronise
from repro.tracking import build_loggers
from repro.training import interrupt
from repro.training.callbacks import Clock, EpochRecord
from repro.training.datamodule import RunData
from repro.training.distributed import build_strategy, environment_plugins
from repro.training.heartbeat import Heart
from repro.training.resume import Resume, State
from repro.training.saving import Saver


@dataclass
class Pieces:
    """What one run is made of."""

    module: Classifier
    data: RunData
    trainer: L.Trainer
    clock: Clock
    record: EpochRecord


def prepare_torch(config: RunConfig) -> None:
    """Seed every generator and set the threads, before any operator runs; keep Lightning's advice out of the log."""
    if config.trainer.devices * config.trainer.nodes == 1:
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning.pytorch.utilities._pytree")
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # a login node, or a job's own script
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before")  # ours do resume
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()  # those of a run before this one in the process
    torch.set_num_threads(config.trainer.threads)
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    torch.manual_seed(config.seed)


def assemble(config: RunConfig, directory: Path, clock: Clock, heart: Heart | None, state: State | None) -> Pieces:
    """Build everything. `heart` and `state`, what the run goes on from, are rank 0's."""
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
    record = EpochRecord(directory, heart)
    saver = Saver(config, directory, clock, record, heart, state)
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
        callbacks=[Resume(state, clock, record), clock, record, saver],
        default_root_dir=directory,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    interrupt.keep_from(trainer)
    return Pieces(module, RunData(config), trainer, clock, record)
