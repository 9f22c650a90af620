"""Typed configuration of one run. Hydra's tree is turned into these objects once, at the door.

Imports nothing heavy: planning, listing and reporting use it without torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from repro.data.config import AugmentConfig, DataConfig, EvaluationConfig
from repro.models.config import ModelConfig
from repro.optim.config import (
    BatchNormConfig,
    ClipConfig,
    DurationText,
    EmaConfig,
    OptimizerConfig,
    ParameterKind,
    ScheduleConfig,
)
from repro.typed import Fraction, NonNegative, Positive, Typed, digest


class Expected(Typed):
    """A published result of a recipe. One that is not `verified` is shown, but nothing is judged by it."""

    model: str
    top1_error: float
    protocol: str
    source: str
    verified: bool = True


class About(Typed):
    """Where a recipe comes from: paper and section, data, published hardware and numbers, and what is not as there."""

    paper: str
    section: str
    data: str
    images: PositiveInt
    """Training images of an epoch; with it `repro show` turns durations into steps."""
    model: str
    """The preset that the recipe is best known for."""
    hardware: str
    expected: tuple[Expected, ...] = ()
    deviations: tuple[str, ...] = ()


class RecipeConfig(Typed):
    """How a run is trained. `batch_size` is the global batch, whatever the number of devices.

    `lr` is for a batch of `lr_batch` and grows linearly with the global batch (Goyal et al., arXiv:1706.02677); where
    `lr_batch` is null it is used as it is. `no_decay`: kinds of parameters without weight decay. `bce_threshold`: with
    `loss: bce`, targets above it count as 1 and the others as 0 (null: as they are).
    """

    name: str
    about: About | None = None
    duration: DurationText
    batch_size: PositiveInt
    lr: Positive
    lr_batch: PositiveInt | None = None
    optimizer: OptimizerConfig
    weight_decay: NonNegative
    no_decay: tuple[ParameterKind, ...] = ()
    schedule: ScheduleConfig
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    bce_threshold: Fraction | None = None
    label_smoothing: Fraction = 0.0
    auxiliary_weight: NonNegative = 0.3
    """Of the loss of each auxiliary classifier, where a network has any (Szegedy et al., arXiv:1409.4842, §5)."""
    ema: EmaConfig = EmaConfig()
    clip: ClipConfig = ClipConfig()
    batch_norm: BatchNormConfig = BatchNormConfig()
    augment: AugmentConfig = AugmentConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def peak_lr(self) -> float:
        """The learning rate that the schedule's factor multiplies."""
        return self.lr if self.lr_batch is None else self.lr * self.batch_size / self.lr_batch


class TrainerConfig(Typed):
    """Where and in which arithmetic a run is trained.

    `devices`, `nodes`, `strategy` and `timeout` do not change its identity.
    """

    accelerator: Literal["cpu", "gpu"]
    devices: PositiveInt = 1
    nodes: PositiveInt = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    threads: PositiveInt = 1
    channels_last: bool = True
    compile: bool = False
    fused: bool = False
    """One fused kernel for the optimiser's update, where the optimiser has one."""
    micro_batch: PositiveInt | None = None
    """Most images on a device at once; a larger share of the batch is accumulated. Changes batch statistics."""
    deterministic: bool = True
    timeout: PositiveInt = 300
    """Seconds after which a rank that waits for another one gives up, and the run has failed."""

    @model_validator(mode="after")
    def _several(self) -> TrainerConfig:
        if self.devices * self.nodes > 1 and self.strategy != "ddp":
            raise ValueError(f"devices={self.devices}, nodes={self.nodes} need trainer.strategy=ddp (or trainer=ddp)")
        return self


class LoggerConfig(Typed):
    """Trackers beside the CSV file that every run writes."""

    name: Literal["csv", "tensorboard", "wandb"] = "csv"
    project: str = "repro"
    entity: str | None = None
    mode: Literal["auto", "online", "offline"] = "auto"
    timeout: PositiveInt = 8
    tags: tuple[str, ...] = ()


class CheckpointConfig(Typed):
    """What a run keeps on disk so that it can go on. Not part of its identity: a run that goes on ends the same."""

    every: Positive = 10.0
    """Minutes between two checkpoints; one is also written at an interruption."""
    epoch_ends: bool = False
    """Also after every epoch."""
    keep: bool = False
    """Whether the last checkpoint of a run that has finished stays."""
    weights: bool = True
    """Whether `final.ckpt`, the weights of a run that has finished, is written; `repro evaluate` reads it."""


class Labels(Typed):
    """Which table, at which scale, and which row a run belongs to; not part of its identity."""

    ablation: str | None = None
    scale: str
    variant: str | None = None


NEUTRAL: dict[str, Any] = {
    "model": {"published"},
    "labels": True,
    "dir": True,
    "logger": True,
    "checkpoint": True,
    "recipe": {"about"},
    "data": {"root", "workers", "download"},
    "trainer": {"devices", "nodes", "strategy", "timeout"},
}
"""Fields that do not change what is trained: published facts, paths, devices, workers, loggers, checkpoints, labels."""


class RunConfig(Typed):
    """One run, completely: what `config.yaml` in a run's folder holds."""

    seed: Annotated[int, Field(ge=0)]
    model: ModelConfig
    data: DataConfig
    recipe: RecipeConfig
    trainer: TrainerConfig
    logger: LoggerConfig
    checkpoint: CheckpointConfig = CheckpointConfig()
    labels: Labels
    dir: str | None = None

    @model_validator(mode="after")
    def _batch(self) -> RunConfig:
        world = self.trainer.devices * self.trainer.nodes
        if self.recipe.batch_size % world:
            raise ValueError(
                f"recipe.batch_size={self.recipe.batch_size} is the global batch and does not divide over "
                f"{world} devices"
            )
        return self

    @model_validator(mode="after")
    def _possible(self) -> RunConfig:
        settings, recipe, clip = self.trainer, self.recipe, self.recipe.clip
        views = recipe.evaluation.views
        if recipe.bce_threshold is not None and recipe.loss != "bce":
            raise ValueError(
                f"recipe.bce_threshold={recipe.bce_threshold:g} is of recipe.loss=bce; found {recipe.loss}"
            )
        if views != "centre" and not self.data.mirror:
            raise ValueError(
                f"recipe.evaluation.views={views} averages over mirror images, and a mirrored image of "
                f"data={self.data.name} is of no class (data.mirror=false); set recipe.evaluation.views=centre"
            )
        if settings.accelerator == "cpu" and settings.precision == "16-mixed":
            raise ValueError(
                "trainer.precision=16-mixed needs trainer.accelerator=gpu: there is no float16 training on a CPU; "
                "use bf16-mixed"
            )
        if settings.fused and not recipe.optimizer.has_fused:
            raise ValueError(
                f"trainer.fused=true: {recipe.optimizer.name} has no fused update; expected recipe.optimizer.name sgd "
                "or adamw, or trainer.fused=false"
            )
        if self.recipe.batch_norm.sync and settings.devices * settings.nodes > 1 and settings.accelerator == "cpu":
            raise ValueError(
                "recipe.batch_norm.sync=true on several devices needs trainer.accelerator=gpu: PyTorch's synchronised "
                "batch norm has no CPU version"
            )
        if settings.fused and settings.precision == "16-mixed" and (clip.norm is not None or clip.agc is not None):
            raise ValueError(
                "trainer.fused=true with trainer.precision=16-mixed unscales the gradients within the step, after "
                "recipe.clip would have clipped them; use bf16-mixed, or trainer.fused=false"
            )
        return self

    @property
    def accumulation(self) -> int:
        """Equal parts in which a device trains its share of the global batch, none above `trainer.micro_batch`."""
        share = self.recipe.batch_size // (self.trainer.devices * self.trainer.nodes)
        fewest = -(-share // (self.trainer.micro_batch or share))
        return next(parts for parts in range(fewest, share + 1) if share % parts == 0)

    @property
    def id(self) -> str:
        """Hash of everything that changes what is trained: 12 hexadecimal digits."""
        return digest(self.model_dump(mode="json", exclude=NEUTRAL))
