"""What a recipe says about optimisation: optimiser, schedule, averaging, clipping. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from repro.duration import Duration
from repro.errors import InputError
from repro.typed import BelowOne, Fraction, Positive, Typed


def _duration(text: object) -> str:
    try:
        return str(Duration.parse(str(text)))
    except InputError as error:
        raise ValueError(str(error)) from None


DurationText = Annotated[str, BeforeValidator(_duration)]

ParameterKind = Literal["norm", "bias", "gain", "depthwise"]
"""What a parameter can be besides an ordinary weight: scale or shift of a normalisation; bias of another layer; gain of
a standardised convolution or of a residual branch; weight of a depthwise convolution. See `optim/groups.py`."""


class OptimizerConfig(Typed):
    """The update rule. `rmsprop_tf` has TensorFlow's epsilon inside the root and its initial 1 (timm's RMSpropTF)."""

    name: Literal["sgd", "rmsprop_tf", "adamw", "lamb"] = "sgd"
    momentum: Fraction = 0.9
    nesterov: bool = False
    alpha: Fraction = 0.9
    """Of rmsprop_tf: decay of the mean of squared gradients."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    """Of adamw and lamb."""
    eps: Positive = 1e-6
    """Of all but sgd."""

    @property
    def has_fused(self) -> bool:
        """Whether its whole update can be one kernel."""
        return self.name in ("sgd", "adamw")

    @model_validator(mode="after")
    def _fits(self) -> OptimizerConfig:
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise ValueError(
                f"nesterov=true needs name=sgd with momentum > 0 (found name={self.name}, momentum={self.momentum})"
            )
        return self


class ScheduleConfig(Typed):
    """The learning rate as a closed form of the step; see `optim/schedules.py`.

    `step` multiplies by `gamma` at each milestone; `exponential` by `gamma` every `every` (in whole steps of it where
    `staircase`), counted from the start of the run, warm-up included, as TensorFlow does; `cosine` and `polynomial` (of
    `power`; 1 is linear) go from 1 to `final_factor` between the end of the warm-up and the end of the run.
    """

    name: Literal["constant", "step", "cosine", "polynomial", "exponential"]
    warmup: DurationText = "0%"
    warmup_shape: Literal["linear", "constant"] = "linear"
    warmup_factor: Fraction = 0.0
    milestones: tuple[DurationText, ...] = ()
    gamma: Fraction = 0.1
    every: DurationText = "1ep"
    staircase: bool = True
    power: Positive = 1.0
    final_factor: Fraction = 0.0


class EmaConfig(Typed):
    """An exponential moving average of weights and buffers; off while `decay` is null.

    Its weights are then the run's result, and the raw ones are evaluated beside them. `warmup` caps the decay at
    (1 + t) / (10 + t) after t updates, as TensorFlow does.
    """

    decay: BelowOne | None = None
    every: PositiveInt = 1
    """Optimiser steps between two updates."""
    warmup: bool = False


class ClipConfig(Typed):
    """Clipping of gradients before each step: by their global norm, or by unit relative to the weights (AGC).

    AGC: Brock et al., arXiv:2102.06171, section 4; the classifier is left alone.
    """

    norm: Positive | None = None
    agc: Positive | None = None
    agc_eps: Positive = 1e-3

    @model_validator(mode="after")
    def _one(self) -> ClipConfig:
        if self.norm is not None and self.agc is not None:
            raise ValueError(f"norm={self.norm} and agc={self.agc}: set one of them, the other null")
        return self


class BatchNormConfig(Typed):
    """What a recipe changes of batch normalisation.

    `momentum`: weight of the newest batch in the running statistics (1 - the papers' decay; the network's own where
    null, mostly PyTorch's 0.1).
    `sync`: statistics over all devices. `recalibrate`: training batches from which the statistics are computed anew
    before an evaluation (0: none).
    """

    momentum: Fraction | None = None
    sync: bool = False
    recalibrate: Annotated[int, Field(ge=0)] = 0
