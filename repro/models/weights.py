"""The names of torchvision's and timm's released weights as ours. Downloads nothing and knows no network's layout.

The rules are tables of (pattern, replacement), applied to each of their names from the first to the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor, nn

from repro.errors import InputError

Source = Literal["torchvision", "timm"]
Rules = tuple[tuple[str, str], ...]

_RESNET: Rules = (
    (r"^(conv|bn)1\.", r"stem.\1."),
    *((rf"^layer{number}\.", f"stages.{number - 1}.") for number in range(1, 5)),
    (r"^(stages\.\d+\.\d+)\.(conv|bn)(\d)", r"\1.branch.\2\3"),
)
"""torchvision's and timm's `resnet`: units whose branch starts with a convolution."""

_PROJECTION: Rules = ((r"\.downsample\.0\.", ".shortcut.conv."), (r"\.downsample\.1\.", ".shortcut.bn."))
_POOLED_PROJECTION: Rules = ((r"\.downsample\.1\.", ".shortcut.conv."), (r"\.downsample\.2\.", ".shortcut.bn."))
_DEEP_STEM: Rules = (
    (r"^conv1\.0\.", "stem.conv1."),
    (r"^conv1\.1\.", "stem.bn1."),
    (r"^conv1\.3\.", "stem.conv2."),
    (r"^conv1\.4\.", "stem.bn2."),
    (r"^conv1\.6\.", "stem.conv."),
)

_PREACTIVATION: Rules = (
    (r"^stem\.conv3\.", "stem.conv."),
    (r"^stem\.norm(\d)\.", r"stem.bn\1."),
    (r"^stages\.(\d+)\.blocks\.(\d+)\.", r"stages.\1.\2."),
    (r"^(stages\.\d+\.\d+)\.norm1\.", r"\1.before.bn1."),
    (r"^(stages\.\d+\.\d+)\.norm(\d)\.", r"\1.branch.bn\2."),
    (r"^(stages\.\d+\.\d+)\.conv(\d)\.", r"\1.branch.conv\2."),
    (r"\.downsample\.conv\.", ".shortcut.conv."),
    (r"^norm\.", "final.bn."),
    (r"^head\.fc\.", "fc."),
)
"""timm's `resnetv2`, in its pre-activation form."""

_COUNTER = "num_batches_tracked"  # does not change what a network computes; weights of before 2018 lack it


def load_foreign(model: nn.Module, state: Mapping[str, Tensor], source: Source) -> None:
    """Fill `model` with the state dict of the same network in torchvision or timm (`resnet`, `resnetv2`).

    Strict both ways: raises InputError, and changes nothing, where one of their entries has no place in the model, one
    of the model's is left empty, or a shape differs. What has no weights (order of addition and activation, place of
    the stride) cannot be checked here: take the preset of the same name.
    """
    renamed = _renamed(state, source)
    own = model.state_dict()
    expected = [name for name in own if name in renamed or not name.endswith(_COUNTER)]
    _refuse("have no place in the model", (f"{name!r}" for name in renamed if name not in own), source)
    _refuse("are missing", (f"{name!r}" for name in expected if name not in renamed), source)
    fitted = {name: _fitted(renamed[name], own[name]) for name in expected}
    wrong = (
        f"{name!r} of {tuple(tensor.shape)}, expected {tuple(own[name].shape)}"
        for name, tensor in fitted.items()
        if tensor.shape != own[name].shape
    )
    _refuse("have another shape", wrong, source)
    model.load_state_dict(fitted, strict=False)


def _renamed(state: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
    rules = _rules(state, source)
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    if len(renamed) != len(state):
        raise InputError(f"{source} weights: {len(state)} entries fall onto {len(renamed)} names; no residual network")
    return renamed


def _rules(names: Iterable[str], source: Source) -> Rules:
    """Choose the tables; timm's layouts differ in names that only one of them has."""
    listed = list(names)
    if source == "torchvision":
        return (*_PROJECTION, *_RESNET)
    if any(".blocks." in name for name in listed):
        return _PREACTIVATION
    pooled = any(".downsample.2." in name for name in listed)
    return (*_DEEP_STEM, *(_POOLED_PROJECTION if pooled else _PROJECTION), *_RESNET)


def _fitted(theirs: Tensor, ours: Tensor) -> Tensor:
    """Take a classifier that is written as a 1x1 convolution, `(classes, C, 1, 1)`, as the linear layer that it is."""
    return theirs.flatten(1) if theirs.ndim == 4 and ours.ndim == 2 and theirs.shape[2:] == (1, 1) else theirs


def _refuse(what: str, entries: Iterable[str], source: Source) -> None:
    listed = list(entries)
    if listed:
        more = f" and {len(listed) - 6} more" if len(listed) > 6 else ""
        raise InputError(f"{source} weights: {len(listed)} entries {what}: {', '.join(listed[:6])}{more}")
