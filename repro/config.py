"""Typed configuration of one run. Hydra's tree is turned into these objects once, at the door.

Imports nothing heavy: planning, listing and reporting use it without torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from repro.duration import Duration
from repro.errors import InputError
from repro.models.config import ModelConfig
from repro.typed import Fraction, NonNegative, Positive, Typed, digest


def _duration(text: object) -> str:
    try:
        return str(Duration.parse(str(text)))
    except InputError as error:
        raise ValueError(str(error)) from None


DurationText = Annotated[str, BeforeValidator(_duration)]


class AugmentConfig(Typed):
    """Augmentation by the batch on tensors: zero padding before a random crop, and a horizontal flip."""

    pad: Annotated[int, Field(ge=0)] = 0
    flip: bool = False


class DigitsConfig(Typed):
    """scikit-learn's handwritten digits: 1,797 real 8x8 images, upsampled to `size`."""

    name: Literal["digits"] = "digits"
    size: Annotated[int, Field(ge=8)]
    channels: Literal[1] = 1
    classes: Literal[10] = 10
    val: PositiveInt
    test: PositiveInt
    augment: AugmentConfig = AugmentConfig()


class ShapesConfig(Typed):
    """The generated set: 5 shapes x 2 textures."""

    name: Literal["shapes"] = "shapes"
    size: Annotated[int, Field(ge=12)]
    channels: Literal[3] = 3
    classes: Literal[10] = 10
    train: PositiveInt
    val: PositiveInt
    test: PositiveInt
    seed: Annotated[int, Field(ge=0)] = 0
    augment: AugmentConfig = AugmentConfig()


class CifarConfig(Typed):
    """CIFAR-10 or CIFAR-100 from torchvision's files under `root`; `val` images of train are held out."""

    name: Literal["cifar10", "cifar100"]
    root: str
    size: Literal[32] = 32
    channels: Literal[3] = 3
    classes: PositiveInt
    val: PositiveInt
    augment: AugmentConfig = AugmentConfig()


class ImagenetConfig(Typed):
    """A folder tree `root/{train,val}/CLASS/*`: its val folder is the test split, `val` images of train held out."""

    name: Literal["imagenet"] = "imagenet"
    root: str
    size: PositiveInt
    channels: Literal[3] = 3
    classes: PositiveInt
    val: PositiveInt
    train_crop: Literal["scale_jitter", "random_resized"]
    test_resize: PositiveInt
    test_crop: PositiveInt
    workers: Annotated[int, Field(ge=0)] = 8


DataConfig = Annotated[DigitsConfig | ShapesConfig | CifarConfig | ImagenetConfig, Field(discriminator="name")]


class ScheduleConfig(Typed):
    """The learning rate as a closed form of the step; see `optim/schedules.py`."""

    name: Literal["constant", "step", "cosine"]
    warmup: DurationText = "0%"
    warmup_shape: Literal["linear", "constant"] = "linear"
    warmup_factor: Fraction = 0.0
    milestones: tuple[DurationText, ...] = ()
    gamma: Fraction = 0.1
    final_factor: Fraction = 0.0


class RecipeConfig(Typed):
    """How a run is trained. `batch_size` is the global batch, whatever the number of devices."""

    name: str
    duration: DurationText
    batch_size: PositiveInt
    optimizer: Literal["sgd"] = "sgd"
    lr: Positive
    momentum: Fraction
    nesterov: bool
    weight_decay: NonNegative
    label_smoothing: Fraction = 0.0
    auxiliary_weight: NonNegative = 0.3
    """Of the loss of each auxiliary classifier, where a network has any (Szegedy et al., arXiv:1409.4842, §5)."""
    schedule: ScheduleConfig


class TrainerConfig(Typed):
    """Where and in which arithmetic a run is trained. `devices`, `nodes` and `strategy` do not change its identity."""

    accelerator: Literal["cpu", "gpu"]
    devices: PositiveInt = 1
    nodes: PositiveInt = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    threads: PositiveInt = 1
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = True

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
    "data": {"root", "workers"},
    "trainer": {"devices", "nodes", "strategy"},
}
"""Fields that do not change what is trained: published numbers, paths, devices, loader workers, loggers and labels."""


class RunConfig(Typed):
    """One run, completely: what `config.yaml` in a run's folder holds."""

    seed: Annotated[int, Field(ge=0)]
    model: ModelConfig
    data: DataConfig
    recipe: RecipeConfig
    trainer: TrainerConfig
    logger: LoggerConfig
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

    @property
    def id(self) -> str:
        """Hash of everything that changes what is trained: 12 hexadecimal digits."""
        return digest(self.model_dump(mode="json", exclude=NEUTRAL))
