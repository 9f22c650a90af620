"""Configurations of the networks that timm or torchvision build."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from repro.models.preset_config import Preset
from repro.typed import BelowOne, Fraction, Positive


class LibraryConfig(Preset):
    """Any network of timm or torchvision by its name there; `arguments` are passed on to its constructor."""

    family: Literal["library"] = "library"
    source: Literal["timm", "torchvision"]
    architecture: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class EfficientnetConfig(Preset):
    """EfficientNet (Tan & Le, ICML 2019, arXiv:1905.11946) with its compound scaling; resolution is the input's.

    `width` and `depth` multiply B0's channels and layers; `stochastic_depth` is the probability of dropping the last
    block, `dropout` stands before the classifier.
    """

    family: Literal["efficientnet"] = "efficientnet"
    width: Positive = 1.0
    depth: Positive = 1.0
    dropout: BelowOne = 0.2
    stochastic_depth: BelowOne = 0.2
    norm_eps: Positive = 1e-5
    norm_momentum: Fraction = 0.1
