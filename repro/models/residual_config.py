"""Every axis of the residual family, typed; `models/residual.py` builds it. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError, model_validator

from repro.models.preset_config import Preset
from repro.models.regnet import stages_of
from repro.typed import BelowOne, NonNegative, Positive, Typed

Stages = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class SqueezeConfig(Typed):
    """Squeeze-and-excitation (Hu et al., arXiv:1709.01507); off while `reduction` is null.

    The hidden layer has the unit's channels / `reduction` (§3.2; `of: input` takes the unit's input channels, as
    RegNetY does); `position` is a row of Table 14 or 15, `squeeze` one of Table 11 (none: Table 16), `gate` one of
    Table 12, `stages` one of Table 13 (null: all; counted from 1, where the paper, which counts the stem, says 2).
    `gain` multiplies the gate (2 in NFNets).
    """

    reduction: Positive | None
    position: Literal["standard", "pre", "post", "identity", "3x3"]
    squeeze: Literal["avg", "max", "none"]
    gate: Literal["sigmoid", "relu", "tanh"]
    stages: tuple[PositiveInt, ...] | None
    bias: bool
    of: Literal["output", "input"]
    gain: Positive


class RegnetConfig(Typed):
    """The linear rule of Radosavovic et al. (arXiv:2003.13678, §3.3) from which depths and widths follow."""

    depth: PositiveInt
    w0: PositiveInt
    wa: NonNegative
    wm: Annotated[float, Field(gt=1)]


_RULE = TypeAdapter(tuple[RegnetConfig, PositiveInt | None])
"""What decides the stages of a RegNet: the rule and the group width."""


class ResidualConfig(Preset):
    """Every axis of the residual family; `models/residual.py` says what each one does, with its source."""

    family: Literal["residual"] = "residual"
    regnet: RegnetConfig | None
    depths: Stages
    widths: Stages
    block: Literal["single", "basic", "bottleneck"]
    expansion: PositiveInt
    middle: PositiveInt
    order: Literal["post", "bn_after_addition", "relu_before_addition", "relu_only_pre", "pre"]
    shortcut: Literal["none", "A", "B", "C", "D"]
    stem: Literal["cifar", "imagenet", "deep", "deep_strided", "simple", "quad"]
    stem_width: PositiveInt
    first_stride: Literal[1, 2]
    stride_place: Literal["1x1", "3x3"]
    groups: PositiveInt
    width_per_group: PositiveInt | None
    group_width: PositiveInt | None
    final_width: PositiveInt | None
    se: SqueezeConfig
    activation: Literal["relu", "silu", "gelu"]
    norm: Literal["batch", "none"]
    weight_standardization: bool
    gamma: bool
    alpha: Positive
    beta: bool
    skip_init: bool
    stochastic_depth: BelowOne
    dropout: BelowOne
    block_dropout: BelowOne
    padding: Literal["zeros", "same", "circular"]
    zero_init: bool

    @model_validator(mode="before")
    @classmethod
    def _by_rule(cls, tree: Any) -> Any:
        """Fill depths and widths in from the RegNet rule."""
        if not isinstance(tree, dict) or tree.get("regnet") is None:
            return tree
        try:
            rule, group = _RULE.validate_python((tree["regnet"], tree.get("group_width")))
        except ValidationError:  # its fields name the mistake; any stages will do to keep it the only one
            return {**tree, "depths": (1,), "widths": (8,)}
        widths, depths = stages_of(rule.depth, rule.w0, rule.wa, rule.wm, group or 1)
        for axis, computed in (("depths", depths), ("widths", widths)):
            given = tree.get(axis)
            if given is not None and (not isinstance(given, list | tuple) or tuple(given) != computed):
                raise ValueError(
                    f"{axis}={given} contradicts regnet, which gives {list(computed)}; set one of them, the other null"
                )
        return {**tree, "depths": depths, "widths": widths}

    @model_validator(mode="after")
    def _consistent(self) -> ResidualConfig:
        if len(self.depths) != len(self.widths):
            raise ValueError(
                f"depths has {len(self.depths)} stages and widths has {len(self.widths)}; expected as many of each"
            )
        self._groups_fit()
        self._norm_free_fits()
        self._branches_fit()
        if self.se.reduction is not None:
            self._squeeze_fits()
        for stage in range(len(self.widths)):
            self.groups_of(stage)
        return self

    def _groups_fit(self) -> None:
        neutral = {"groups": 1, "width_per_group": None, "group_width": None, "middle": 1}
        changed = [f"{axis}={getattr(self, axis)}" for axis, value in neutral.items() if getattr(self, axis) != value]
        if self.block != "bottleneck" and changed:
            raise ValueError(
                f"{', '.join(changed)} needs block=bottleneck (found block={self.block}): a block of fewer than three "
                "layers has no grouped form (Xie et al. 2017, §3.3)"
            )
        if self.group_width is not None and (self.groups > 1 or self.width_per_group is not None):
            raise ValueError(
                f"group_width={self.group_width} fixes the channels of a group and the groups follow; it excludes "
                f"groups={self.groups} and width_per_group={self.width_per_group}"
            )

    def _norm_free_fits(self) -> None:
        if self.beta and (self.order != "pre" or self.norm != "none"):
            raise ValueError(
                f"beta=true needs order=pre and norm=none (found order={self.order}, norm={self.norm}): it divides a "
                "unit's input by its expected standard deviation, which a batch norm would do again"
            )
        if self.norm == "none" and self.zero_init:
            raise ValueError("zero_init=true zeroes the last batch norm's scale; with norm=none use skip_init=true")

    def _branches_fit(self) -> None:
        """A net without shortcuts has nothing left where its branch is zero, and no variance adds up in it."""
        neutral = {"zero_init": False, "skip_init": False, "stochastic_depth": 0.0, "beta": False}
        changed = [axis for axis, value in neutral.items() if getattr(self, axis) != value]
        if self.shortcut == "none" and changed:
            value = str(getattr(self, changed[0])).lower()
            raise ValueError(f"{changed[0]}={value} needs a shortcut (found shortcut=none)")
        if self.zero_init and self.order == "relu_before_addition":
            raise ValueError(
                "zero_init=true has no form for order=relu_before_addition: the ReLU that ends each branch has no "
                "gradient at zero, so the branches would never train; use skip_init=true"
            )

    def _squeeze_fits(self) -> None:
        beyond = [stage for stage in self.se.stages or () if stage > len(self.depths)]
        if beyond:
            raise ValueError(f"se.stages names stage {beyond[0]}, and the network has {len(self.depths)}")
        if self.se.position == "3x3" and self.block != "bottleneck":
            raise ValueError(f"se.position=3x3 needs block=bottleneck (found block={self.block})")
        if self.se.position == "identity" and self.shortcut == "none":
            raise ValueError("se.position=identity needs a shortcut (found shortcut=none)")

    def out_width(self, stage: int) -> int:
        """Output channels of the units of `stage` (0-based): a bottleneck expands its width."""
        return self.widths[stage] * (self.expansion if self.block == "bottleneck" else 1)

    def inner_width(self, stage: int) -> int:
        """Channels inside the units of `stage` (0-based): groups x width per group, growing with the stage's width."""
        if self.width_per_group is None:
            return self.widths[stage]
        wide, rest = divmod(self.groups * self.width_per_group * self.widths[stage], self.widths[0])
        if rest or wide % self.groups:
            raise ValueError(
                f"groups={self.groups} with width_per_group={self.width_per_group} gives stage {stage + 1} a width of "
                f"{self.groups * self.width_per_group * self.widths[stage] / self.widths[0]:g}, "
                "which is no multiple of the groups"
            )
        return wide

    def groups_of(self, stage: int) -> int:
        """Groups of the 3x3 convolutions of `stage` (0-based)."""
        inner = self.inner_width(stage)
        if self.group_width is not None:
            width = min(self.group_width, inner)
            if inner % width:
                raise ValueError(f"group_width={width} does not divide the width {inner} of stage {stage + 1}")
            return inner // width
        if inner % self.groups:
            raise ValueError(f"groups={self.groups} does not divide the width {inner} of stage {stage + 1}")
        return self.groups

    @property
    def units(self) -> int:
        """Number of units."""
        return sum(self.depths)
