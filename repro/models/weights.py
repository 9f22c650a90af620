"""The names of torchvision's and timm's released weights as ours. Downloads nothing and knows no network's layout.

The rules are tables of (pattern, replacement), applied to each of their names from the first to the last. Only weights
without batch norm also change in value: `_refolded`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from torch import Tensor, nn

from repro.errors import InputError
from repro.models.layers import ScaledActivation, ScaledStdConv2d

Source = Literal["torchvision", "timm"]
Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


def _from_zero(match: re.Match[str]) -> str:
    """A stage, and a unit where it is numbered as well, counted from zero instead of one."""
    return "stages." + "".join(f"{int(number) - 1}." for number in match.groups())


_UNIT = r"^(stages\.\d+\.\d+)\."

_SQUEEZE: Rules = (
    (r"\.(?:se|attn_last)\.fc1\.", ".branch.se.reduce."),
    (r"\.(?:se|attn_last)\.fc2\.", ".branch.se.expand."),
)
_HEAD: Rules = ((r"^head\.fc\.", "fc."),)
_PROJECTION: Rules = ((r"\.downsample\.0\.", ".shortcut.conv."), (r"\.downsample\.1\.", ".shortcut.bn."))
_NAMED_PROJECTION: Rules = ((r"\.downsample\.(conv|bn)\.", r".shortcut.\1."),)
_POOLED_PROJECTION: Rules = ((r"\.downsample\.1\.", ".shortcut.conv."), (r"\.downsample\.2\.", ".shortcut.bn."))

_RESNET: Rules = (
    *_PROJECTION,
    (r"^(conv|bn)1\.", r"stem.\1."),
    (r"^layer(\d+)\.", _from_zero),
    (_UNIT + r"(conv|bn)(\d)", r"\1.branch.\2\3"),
    *_SQUEEZE,
)
"""torchvision's and timm's `resnet`: units whose branch starts with a convolution."""

_DEEP_STEM: Rules = (
    (r"^conv1\.0\.", "stem.conv1."),
    (r"^conv1\.1\.", "stem.bn1."),
    (r"^conv1\.3\.", "stem.conv2."),
    (r"^conv1\.4\.", "stem.bn2."),
    (r"^conv1\.6\.", "stem.conv."),
)

_STRIDED_STEM: Rules = (
    (r"^conv1\.6\.", "stem.conv3."),
    (r"^bn1\.", "stem.bn3."),
    (r"^maxpool\.0\.", "stem.conv."),
    (r"^maxpool\.1\.", "stem.bn."),
)
"""ResNet-RS: a fourth convolution instead of the max-pool."""

_PREACTIVATION: Rules = (
    (r"^stem\.conv3\.", "stem.conv."),
    (r"^stem\.norm(\d)\.", r"stem.bn\1."),
    (r"^stages\.(\d+)\.blocks\.(\d+)\.", r"stages.\1.\2."),
    (_UNIT + r"norm1\.", r"\1.before.bn1."),
    (_UNIT + r"norm(\d)\.", r"\1.branch.bn\2."),
    (_UNIT + r"conv(\d)\.", r"\1.branch.conv\2."),
    *_NAMED_PROJECTION,
    (r"^norm\.", "final.bn."),
    *_HEAD,
)
"""timm's `resnetv2`, in its pre-activation form."""

_TIMM_REGNET: Rules = (
    (r"^s(\d)\.b(\d+)\.", _from_zero),
    (_UNIT + r"conv(\d)\.(conv|bn)\.", r"\1.branch.\3\2."),
    *_SQUEEZE,
    *_NAMED_PROJECTION,
    *_HEAD,
)

_TORCHVISION_REGNET: Rules = (
    (r"^stem\.0\.", "stem.conv."),
    (r"^stem\.1\.", "stem.bn."),
    (r"^trunk_output\.block(\d)\.block\d-", _from_zero),
    (r"\.proj\.0\.", ".shortcut.conv."),
    (r"\.proj\.1\.", ".shortcut.bn."),
    *((rf"\.f\.{letter}\.0\.", f".branch.conv{number}.") for number, letter in enumerate("abc", start=1)),
    *((rf"\.f\.{letter}\.1\.", f".branch.bn{number}.") for number, letter in enumerate("abc", start=1)),
    (r"\.f\.se\.", ".se."),
    *_SQUEEZE,
)

_SECOND_3X3: Rules = ((_UNIT + r"conv3\.", r"\1.conv4."), (_UNIT + r"conv2b\.", r"\1.conv3."))

_NORM_FREE: Rules = (
    (r"^stem\.conv4\.", "stem.conv."),
    (_UNIT + r"conv(\d)\.", r"\1.branch.conv\2."),
    (r"\.skipinit_gain$", ".branch.scale.gain"),
    *_SQUEEZE,
    *_NAMED_PROJECTION,
    (r"^final_conv\.", "final.conv."),
    *_HEAD,
)
"""timm's `nfnet`: NF-ResNets and NFNets."""

_LAYOUTS: dict[Source, tuple[tuple[str, Rules], ...]] = {
    "torchvision": ((r"^trunk_output\.", _TORCHVISION_REGNET), (r"^layer1\.", _RESNET)),
    "timm": (
        (r"\.blocks\.", _PREACTIVATION),
        (r"^s1\.", _TIMM_REGNET),
        (r"\.conv2b\.", _SECOND_3X3),
        (r"\.gain$", _NORM_FREE),
        (r"^maxpool\.", _STRIDED_STEM),
        (r"\.downsample\.2\.", _POOLED_PROJECTION),
        (r"^layer1\.", (*_DEEP_STEM, *_RESNET)),
    ),
}
"""A table applies, in this order, where one of their names matches its pattern."""

_COUNTER = "num_batches_tracked"  # does not change what a network computes; weights of before 2018 lack it

_EPSILON = 1e-5
"""Added to a filter's variance by timm's networks without batch norm (`std_conv_eps`)."""


def load_foreign(
    model: nn.Module, state: Mapping[str, Tensor], source: Source, architecture: str | None = None
) -> None:
    """Fill `model` with the state dict of the same network in torchvision (`resnet`, `regnet`) or timm (also
    `resnetv2`, `nfnet`).

    Strict both ways: raises InputError, and changes nothing, where one of their entries has no place in the model, one
    of the model's is left empty, or a shape differs. What has no weights (order of addition and activation, place of
    the stride, padding) cannot be checked here: take the preset of the same name.

    `architecture` is their name of the network. Those without batch norm need it, because their weights do not tell
    where gamma is applied: `dm_nfnet_f0` (the authors' own weights) is the preset `nfnet_f0`; timm's `nfnet_f0` is
    `load_preset("nfnet_f0", skip_init=False, padding="zeros")` and its `nf_resnet50`
    `load_preset("nf_resnet50", skip_init=False, shortcut="D")`.
    """
    theirs = renamed(state, source)
    own = model.state_dict()
    expected = [name for name in own if name in theirs or not name.endswith(_COUNTER)]
    _refuse("have no place in the model", (f"{name!r}" for name in theirs if name not in own), source)
    _refuse("are missing", (f"{name!r}" for name in expected if name not in theirs), source)
    fitted = {name: _fitted(theirs[name], own[name]) for name in expected}
    wrong = (
        f"{name!r} of {tuple(tensor.shape)}, expected {tuple(own[name].shape)}"
        for name, tensor in fitted.items()
        if tensor.shape != own[name].shape
    )
    _refuse("have another shape", wrong, source)
    model.load_state_dict({**fitted, **_refolded(model, fitted, source, architecture)}, strict=False)


def renamed(state: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
    """Return their state dict, or anything else under its names, under ours.

    Raises InputError where two names become one.
    """
    rules = [rule for marker, rules in _LAYOUTS[source] if _any_matches(marker, state) for rule in rules]
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        ours[name] = tensor
    if len(ours) != len(state):
        raise InputError(f"{source} weights: {len(state)} entries fall onto {len(ours)} names; no residual network")
    return ours


def _any_matches(pattern: str, names: Iterable[str]) -> bool:
    return any(re.search(pattern, name) for name in names)


def _fitted(theirs: Tensor, ours: Tensor) -> Tensor:
    """Take a classifier that is written as a 1x1 convolution, `(classes, C, 1, 1)`, as the linear layer that it is."""
    return theirs.flatten(1) if theirs.ndim == 4 and ours.ndim == 2 and theirs.shape[2:] == (1, 1) else theirs


def _refolded(
    model: nn.Module, state: Mapping[str, Tensor], source: Source, architecture: str | None
) -> dict[str, Tensor]:
    """Return the gains and the classifier with which scaled weight standardisation as ours computes what theirs does.

    Theirs adds another constant to a filter's variance. Theirs multiplies by gamma in each convolution (in `dm_*` in
    each activation), ours in each activation: a convolution of what no activation has touched keeps its gamma, and the
    classifier, which follows an activation, gives it back.
    """
    convolutions = {n: module for n, module in model.named_modules() if isinstance(module, ScaledStdConv2d)}
    if not convolutions:
        return {}
    gamma = _gamma(model)
    if _gamma_in_activations(source, architecture):
        gamma = 1.0  # in the same place as ours
    folded = {"fc.weight": state["fc.weight"] / gamma}
    for number, (name, convolution) in enumerate(convolutions.items()):
        untouched = number == 0 or name == "final.conv"
        variance = state[f"{name}.weight"].double().var(dim=(1, 2, 3), correction=0, keepdim=True)
        ratio = ((variance + convolution.epsilon) / (variance + _EPSILON)).sqrt()
        gain = state[f"{name}.gain"]
        folded[f"{name}.gain"] = (gain * ratio * (gamma if untouched else 1.0)).to(gain.dtype)
    return folded


def _gamma_in_activations(source: Source, architecture: str | None) -> bool:
    if architecture is None or not re.match(r"(dm_)?nf(net)?_", architecture):
        found = "none was given" if architecture is None else f"found {architecture!r}"
        raise InputError(
            f"{source} weights without batch norm need their architecture's name, such as nf_resnet50, nfnet_f0 or "
            f"dm_nfnet_f0 ({found}): they do not tell where gamma is applied"
        )
    return architecture.startswith("dm_")


def _gamma(model: nn.Module) -> float:
    """The factor of the model's last activation, which no beta divides."""
    last = dict(model.named_modules()).get("final.relu")
    if not isinstance(last, ScaledActivation):
        raise InputError("timm weights without batch norm apply gamma; the model needs gamma=true (found gamma=false)")
    return last.factor


def _refuse(what: str, entries: Iterable[str], source: Source) -> None:
    listed = list(entries)
    if listed:
        more = f" and {len(listed) - 6} more" if len(listed) > 6 else ""
        raise InputError(f"{source} weights: {len(listed)} entries {what}: {', '.join(listed[:6])}{more}")
