"""What every preset says besides its architecture: its name, the input it was published with, and how well it did."""

from __future__ import annotations

from pydantic import PositiveInt

from repro.typed import NonNegative, Typed


class Native(Typed):
    """The input a preset was published with; `repro cost` prices it there."""

    size: PositiveInt
    channels: PositiveInt = 3
    classes: PositiveInt


class Published(Typed):
    """The error (%) that a source gives for this network; what is not `verified` decides nothing."""

    top1_error: NonNegative
    data: str = "ImageNet-1k val, 224 centre crop"
    """Data set, split and crop."""
    source: str
    """Who measured it: paper and table, or repository."""
    verified: bool = True


class Preset(Typed):
    """The fields that all families share; none of them changes what the network computes."""

    name: str
    native: Native
    published: Published | None = None
