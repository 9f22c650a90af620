"""Configurations of the mobile networks that no library builds with all their parameters. Needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, model_validator

from repro.models.preset_config import Preset
from repro.typed import Positive


class ShufflenetConfig(Preset):
    """ShuffleNet v1 (Zhang et al., CVPR 2018, arXiv:1707.01083), scaled in width as in its §3.3.

    `stem_width` null: 24 x width. The paper prints widths for 1x only; where groups do not divide a scaled width, it
    is rounded to their nearest multiple. `se_reduction`: ratio of squeeze-and-excitation on every unit's branch,
    without biases (Hu et al., arXiv:1709.01507, Table 3); null: none.
    """

    family: Literal["shufflenet"] = "shufflenet"
    groups: Literal[1, 2, 3, 4, 8]
    shuffle: bool = True
    width: Positive = 1.0
    stem_width: PositiveInt | None = None
    se_reduction: PositiveInt | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ShufflenetConfig:
        stem, first = self.stem, self.widths[0]
        if stem % self.groups:
            raise ValueError(
                f"stem_width={stem} is no multiple of groups={self.groups}: the first unit's grouped convolution adds "
                f"{first - stem} channels to the stem's"
            )
        if stem >= first:
            raise ValueError(f"stem_width={stem} leaves the first unit nothing to add: it puts out {first} channels")
        return self

    @property
    def stem(self) -> int:
        """Filters of the first convolution."""
        return self.stem_width or self._scaled(24)

    @property
    def widths(self) -> tuple[int, int, int]:
        """Output channels of stages 2 to 4 (Table 1)."""
        first = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}[self.groups]
        return self._scaled(first), self._scaled(2 * first), self._scaled(4 * first)

    def inner_width(self, stage: int) -> int:
        """Channels of the depthwise convolutions of `stage` (0-based): a quarter of its output (§3.3)."""
        return self._multiple(self.widths[stage] / 4)

    def _scaled(self, channels: int) -> int:
        return self._multiple(channels * self.width)

    def _multiple(self, channels: float) -> int:
        return self.groups * max(1, int(channels / self.groups + 0.5))


class MobilenetConfig(Preset):
    """MobileNet v1 (Howard et al. 2017, arXiv:1704.04861).

    `width`: the multiplier alpha (§3.3); the resolution multiplier is the input's size. `separable: false` is Table
    4's twin of full convolutions, `shallow` Table 5's network without the five layers of 14 x 14 x 512. `se_reduction`:
    ratio of squeeze-and-excitation behind every layer, without biases (Hu et al., arXiv:1709.01507, Table 3); null:
    none.
    """

    family: Literal["mobilenet"] = "mobilenet"
    width: Positive = 1.0
    separable: bool = True
    shallow: bool = False
    se_reduction: PositiveInt | None = None

    def scaled(self, channels: int) -> int:
        """Width of a layer that has `channels` at alpha = 1; at least 8, as in the authors' code."""
        return max(8, int(channels * self.width))
