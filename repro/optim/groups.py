"""Which parameters are decayed: the kind of each, by the module that owns it. Knows no model's names."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from repro.optim.config import ParameterKind

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_GAINS = ("gain", "gamma", "scale")


@dataclass(frozen=True)
class GroupSize:
    """How many parameter tensors and numbers of one kind a network has, and whether they are decayed."""

    kind: ParameterKind | Literal["weight"]
    decayed: bool
    tensors: int
    parameters: int


def kinds(net: nn.Module) -> dict[str, ParameterKind | None]:
    """Classify every parameter under its name in `net.named_parameters()`, in that order; None: an ordinary weight.

    `norm`: all of a normalisation, torch's, timm's or torchvision's. `depthwise`: the weight of a convolution with as
    many groups as input channels, and more than one. `bias`: of any other layer. `gain`: one number per channel, or
    one in all, called gain, gamma or scale: of a standardised convolution, SkipInit, layer scale.
    """
    return {name: _kind(owner, leaf, parameter) for name, owner, leaf, parameter in _owned(net)}


def parameter_groups(
    net: nn.Module, weight_decay: float, no_decay: Collection[ParameterKind] = ()
) -> list[dict[str, Any]]:
    """Split the trainable parameters for an optimiser: decayed ones, and those of the kinds in `no_decay`.

    Each is in one group, in the order of `net.parameters()`; a group without any is left out, and where `weight_decay`
    is 0 there is one.
    """
    groups: dict[float, list[nn.Parameter]] = {weight_decay: [], 0.0: []}
    for _, owner, leaf, parameter in _owned(net):
        if parameter.requires_grad:
            groups[0.0 if _kind(owner, leaf, parameter) in no_decay else weight_decay].append(parameter)
    return [{"params": members, "weight_decay": decay} for decay, members in groups.items() if members]


def group_sizes(net: nn.Module, no_decay: Collection[ParameterKind] = ()) -> list[GroupSize]:
    """Count the trainable parameters of each kind that `net` has: ordinary weights, then as in `ParameterKind`.

    Works on the meta device too.
    """
    found: dict[ParameterKind | None, list[int]] = {}
    for _, owner, leaf, parameter in _owned(net):
        if parameter.requires_grad:
            found.setdefault(_kind(owner, leaf, parameter), []).append(parameter.numel())
    return [
        GroupSize(kind or "weight", kind not in no_decay, len(found[kind]), sum(found[kind]))
        for kind in (None, *get_args(ParameterKind))
        if kind in found
    ]


def _owned(net: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    """Yield each parameter once: its whole name, the module that owns it, its name there."""
    seen: set[nn.Parameter] = set()
    for prefix, owner in net.named_modules():
        for leaf, parameter in owner.named_parameters(recurse=False):
            if parameter not in seen:
                seen.add(parameter)
                yield f"{prefix}.{leaf}" if prefix else leaf, owner, leaf, parameter


def _kind(owner: nn.Module, leaf: str, parameter: nn.Parameter) -> ParameterKind | None:
    if isinstance(owner, _NORMS) or _is_other_norm(owner):
        return "norm"
    if isinstance(owner, _ConvNd) and leaf == "weight" and owner.groups == owner.in_channels > 1:
        return "depthwise"
    if "bias" in leaf and parameter.ndim == 1:
        return "bias"
    one_axis = max(parameter.shape, default=1) == math.prod(parameter.shape)
    return "gain" if one_axis and any(name in leaf for name in _GAINS) else None


def _is_other_norm(owner: nn.Module) -> bool:
    """Know timm's EvoNorm and the like by their names, for they have no common base; a NormFreeBlock holds layers."""
    return "Norm" in type(owner).__name__ and not any(list(child.parameters()) for child in owner.children())
