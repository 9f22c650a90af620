"""The classes of operators and the rules that count them, on shapes alone. Knows no network.

Every operator is in exactly one class: convolutions, linear layers and matrix products take MACs, by fvcore's own
rules; pooling takes its window for each output; elementwise operators (activations, additions, products, normalisation,
softmax, resizing) take one operation for each output, and a sum or a variance one for each input; free ones only move,
copy, pad or select. What is in none is unknown, and named to the user.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch

Kind = Literal["conv", "linear", "matmul", "max_pool", "avg_pool", "norm", "elementwise", "free", "unknown"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One operator as a network ran it, without its in-place mark: tensors are replaced by their `torch.Size`.

    `dynamic` says of each tensor argument whether it depends on the image.
    """

    name: str
    arguments: dict[str, Any]
    output: Shape
    pointwise: bool
    dynamic: dict[str, bool]

    @property
    def input(self) -> Shape:
        """Shape of the first tensor that the operator takes."""
        return next(shape for shape in self.tensors.values())

    @property
    def tensors(self) -> dict[str, Shape]:
        """Shapes of the tensors among the arguments."""
        return {name: tuple(value) for name, value in self.arguments.items() if isinstance(value, torch.Size)}

    @property
    def factors(self) -> tuple[Shape, Shape]:
        """Shapes of the two factors of a matrix product."""
        first, second = _PRODUCTS[self.name]
        return self.tensors[first], self.tensors[second]

    @property
    def keeps_last(self) -> bool:
        """Whether a reduction leaves the last dimension, where tokens and `(N, H, W, C)` have their channels."""
        return self.name in REDUCING and len(self.input) - 1 not in _reduced(self)


_PRODUCTS = {
    "addmm": ("mat1", "mat2"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "baddbmm": ("batch1", "batch2"),
}
"""Matrix products and their two factors."""

_KINDS: dict[Kind, str] = {
    "conv": "convolution _convolution",
    "max_pool": "max_pool2d_with_indices adaptive_max_pool2d",
    "avg_pool": "avg_pool2d _adaptive_avg_pool2d",
    "norm": "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_with_update "
    "_batch_norm_no_update cudnn_batch_norm miopen_batch_norm batch_norm native_layer_norm native_group_norm "
    "_fused_rms_norm local_response_norm",
    "elementwise": "_softmax _safe_softmax _log_softmax hardswish hardtanh hardsigmoid glu _prelu_kernel sum var "
    "var_mean std std_mean linalg_vector_norm cumsum argmax argmin prod upsample_nearest2d upsample_bilinear2d "
    "_upsample_bilinear2d_aa upsample_bicubic2d _upsample_bicubic2d_aa grid_sampler_2d col2im",
    "free": "clone copy _to_copy cat stack constant_pad_nd reflection_pad2d replication_pad2d index index_select "
    "gather roll flip repeat repeat_interleave pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
    "im2col split_with_sizes_copy unsafe_split _unsafe_view alias lift_fresh detach as_strided arange fill zero "
    "scalar_tensor tril triu",
}
_KIND_OF: dict[str, Kind] = {name: kind for kind, names in _KINDS.items() for name in names.split()}

FACTORIES = frozenset(f"{kind}_like" for kind in ("empty", "zeros", "ones", "full")) | frozenset(
    f"new_{kind}" for kind in ("empty", "zeros", "ones", "full", "empty_strided")
)
"""Operators that take a tensor for its shape, type and device only."""

REDUCING = ("mean", "amax", "max")
"""Reductions that are a global pooling where they leave images and channels."""

_REDUCTIONS = frozenset(
    (
        *REDUCING,
        "sum",
        "prod",
        "var",
        "var_mean",
        "std",
        "std_mean",
        "linalg_vector_norm",
        "argmax",
        "argmin",
        "cumsum",
        "col2im",
    )
)


def kind_of(call: Call, view: bool) -> Kind:
    """Return the class of an operator; `view`: it only looks at its input in another way."""
    if call.name in _PRODUCTS:
        return "matmul" if all(call.dynamic[factor] for factor in _PRODUCTS[call.name]) else "linear"
    if call.name in REDUCING:
        if not _over_places(call):
            return "elementwise"
        return "avg_pool" if call.name == "mean" else "max_pool"
    if view or _is_identity(call):
        return "free"
    return _KIND_OF.get(call.name) or ("elementwise" if call.pointwise else "unknown")


def _is_identity(call: Call) -> bool:
    """Whether it is an adaptive pooling onto as many places as there are."""
    return "adaptive" in call.name and call.input == call.output


def _over_places(call: Call) -> bool:
    """Whether a reduction leaves images and channels: `(N, C, H, W)`, `(N, H, W, C)` or tokens `(N, L, C)`."""
    rank = len(call.input)
    return (rank, _reduced(call)) in {(4, frozenset({2, 3})), (4, frozenset({1, 2})), (3, frozenset({1}))}


def _reduced(call: Call) -> frozenset[int]:
    dim, rank = call.arguments.get("dim"), len(call.input)
    return frozenset(axis % rank for axis in ([dim] if isinstance(dim, int) else dim or range(rank)))


def macs_of(kind: Kind, call: Call) -> int:
    """Count multiply-accumulates by fvcore's rules; biases are free."""
    if kind == "conv":
        values = list(call.arguments.values())[:12]
        values += [None] * (12 - len(values))  # the traced operator, which the rule was written for, has more arguments
        return int(sum(_rules()["conv"](_wrapped(values), _wrapped([torch.Size(call.output)])).values()))
    if kind in ("linear", "matmul"):
        factors = [torch.Size(factor) for factor in call.factors]
        return int(_rules()["bmm" if len(factors[0]) == 3 else "mm"](_wrapped(factors), []))
    return 0


def pooling_of(kind: Kind, call: Call) -> int:
    """Count comparisons or additions of a pooling: the window for each output, padding included."""
    if kind not in ("max_pool", "avg_pool"):
        return 0
    if call.name in REDUCING:
        return prod(call.input)
    if "adaptive" in call.name:
        places = [_adaptive(size, out) for size, out in zip(call.input[-2:], call.output[-2:], strict=True)]
        return prod(call.output[:-2]) * prod(places)
    return prod(call.output) * prod(pair(call.arguments["kernel_size"]))


def _adaptive(size: int, out: int) -> int:
    """Sum the windows of adaptive pooling along one side: from floor(i size / out) to ceil((i + 1) size / out)."""
    return sum(-(-(index + 1) * size // out) - index * size // out for index in range(out))


def elementwise_of(kind: Kind, call: Call) -> int:
    """Count one operation for each output, or for each input of a reduction."""
    if kind not in ("norm", "elementwise"):
        return 0
    return prod(call.input if call.name in _REDUCTIONS else call.output)


def pair(value: int | Sequence[int], beyond: int = 1) -> tuple[int, int]:
    """Return height and width; what has one side only gets `beyond` for the other."""
    sides = [value, value] if isinstance(value, int) else [*value, beyond]
    return int(sides[0]), int(sides[1])


class _Value:
    """What fvcore's rules, made for values of a traced graph, read of them."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def isCompleteTensor(self) -> bool:  # noqa: N802
        return isinstance(self.value, torch.Size)

    def type(self) -> _Value:
        return self

    def sizes(self) -> list[int]:
        return list(self.value)

    def toIValue(self) -> Any:  # noqa: N802
        return self.value


def _wrapped(values: Sequence[Any]) -> list[_Value]:
    return [_Value(value) for value in values]


Rule = Callable[[list[_Value], list[_Value]], Any]
_loaded: dict[str, Rule] = {}


def _rules() -> dict[str, Rule]:
    """fvcore's rules, imported when something is counted."""
    if not _loaded:
        with warnings.catch_warnings():  # of torch.jit's deprecation, at import
            warnings.simplefilter("ignore")
            from fvcore.nn.jit_handles import bmm_flop_jit, conv_flop_jit, matmul_flop_jit
        _loaded.update(conv=conv_flop_jit, bmm=bmm_flop_jit, mm=matmul_flop_jit)
    return _loaded


def names(counted: Counter[str]) -> tuple[str, ...]:
    """Write what could not be counted: each operator and how often it ran."""
    return tuple(f"{name} × {times}" for name, times in sorted(counted.items()))
