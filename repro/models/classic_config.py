"""Configurations of the networks before and beside the residual family that no library has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from repro.models.preset_config import Preset
from repro.typed import Positive


class ChainConfig(Preset):
    """A plain chain of layers; `models/chain.py` says what each kind takes."""

    family: Literal["chain"] = "chain"
    layers: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]


class ShufflenetConfig(Preset):
    """ShuffleNet v1 (Zhang et al., CVPR 2018, arXiv:1707.01083)."""

    family: Literal["shufflenet"] = "shufflenet"
    groups: PositiveInt
    shuffle: bool = True
    width: Positive = 1.0


class MobilenetConfig(Preset):
    """MobileNet v1 (Howard et al. 2017, arXiv:1704.04861); `separable=false` is its full-convolution twin."""

    family: Literal["mobilenet"] = "mobilenet"
    width: Positive = 1.0
    separable: bool = True
    shallow: bool = False
