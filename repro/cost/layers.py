"""The per-layer table of a network, as lectures print it: shapes, memory, parameters, MACs and pooling operations of
every layer in the order in which an image passes them. MACs are a closed form here, apart from the counter's rules.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, cast

from repro.cost.capture import Capture, Operation, observe
from repro.cost.operators import REDUCING, Call, Shape, pair
from repro.models.config import ModelConfig

Kind = Literal["conv", "linear", "matmul", "max_pool", "avg_pool", "norm", "other", "unused"]
Size = tuple[int, int, int]
Pair = tuple[int, int]

BYTES = 4  # of a float32

MAIN: tuple[Kind, ...] = ("conv", "linear", "matmul", "max_pool", "avg_pool")
"""What a lecture's table lists; the other kinds hold the rest of the parameters."""


@dataclass(frozen=True)
class Layer:
    """One row, for one image. Shapes are `(C, H, W)`: those of tokens `(features, tokens, 1)`, of a linear layer
    `(features, 1, 1)`, of a matrix product without weights `(heads, rows, columns)`.

    `filters`, `kernel`, `stride`, `padding` and `groups` are None where a kind has none; padding is `same` where the
    network pads one side more than the other, as TensorFlow does. `memory_kib` is the output in float32. `params` are
    the layer's own; a row of kind `other` is a parameter outside any layer (class token, gain), `unused` one that
    evaluation does not reach (auxiliary classifiers). `pooling` counts a pooling's comparisons or additions.
    """

    name: str
    kind: Kind
    input: Size
    output: Size
    filters: int | None
    kernel: Pair | None
    stride: Pair | None
    padding: Pair | Literal["same"] | None
    groups: int | None
    memory_kib: float
    params: int
    macs: int
    pooling: int
    activations: int


def layer_table(config: ModelConfig, size: int, channels: int, classes: int) -> list[Layer]:
    """List the layers in the order in which one image `(channels, size, size)` passes them.

    The rows' parameters, MACs, pooling operations and activations add up to `repro.cost.count.price`. Raises InputError
    for a network that cannot be built, or that cannot take such an image.
    """
    return layer_rows(observe(config, size, channels, classes))


def layer_rows(capture: Capture) -> list[Layer]:
    """Turn captured operators into rows; every parameter of the network is in exactly one of them."""
    owned = _owned(capture)
    rows: list[Layer] = []
    for index, operation in enumerate(capture.operations):
        mine = owned.pop(index, [])
        if operation.kind in (*MAIN, "norm"):
            rows.append(_row(operation, sum(capture.parameters[name] for name in mine)))
        else:
            rows += [_parameter(name, "other", capture.parameters[name]) for name in mine]
    rows += [_parameter(name, "unused", capture.parameters[name]) for name in owned.pop(None, [])]
    return _distinct(rows)


def _owned(capture: Capture) -> dict[int | None, list[str]]:
    """Give each parameter to an operator, by index: the first layer that uses it, else the layer of the same module
    (a bias that is added apart), else the first operator that uses it, else None.
    """
    layer_of: dict[str, int] = {}
    module_of: dict[str, int] = {}
    first: dict[str, int] = {}
    for index, operation in enumerate(capture.operations):
        for name in operation.parameters:
            first.setdefault(name, index)
            if operation.kind in (*MAIN, "norm"):
                layer_of.setdefault(name, index)
                module_of.setdefault(_module(name), index)
    owned: dict[int | None, list[str]] = {}
    for name in capture.parameters:
        module = _module(name)
        beside = module_of.get(module) if module and name in first else None
        owner = next((index for index in (layer_of.get(name), beside, first.get(name)) if index is not None), None)
        owned.setdefault(owner, []).append(name)
    return owned


def _module(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _row(operation: Operation, params: int) -> Layer:
    call, kind = operation.call, cast(Kind, operation.kind)
    entry, out = _sizes(operation)
    kernel, stride, padding = _window(operation, entry, out)
    weighted = kind in ("conv", "linear")
    return Layer(
        name=_row_name(operation),
        kind=kind,
        input=entry,
        output=out,
        filters=out[0] if weighted else None,
        kernel=kernel,
        stride=stride,
        padding=padding,
        groups=int(call.arguments["groups"]) if kind == "conv" else None,
        memory_kib=prod(out) * BYTES / 1024,
        params=params,
        macs=_macs(kind, call),
        pooling=operation.pooling,
        activations=prod(out) if weighted else 0,
    )


def _row_name(operation: Operation) -> str:
    """Name the module whose weights it uses; else the module that runs it, and what it does there."""
    modules = {_module(name) for name in operation.parameters}
    if len(modules) == 1 and modules != {""}:
        return modules.pop()
    if operation.leaf and operation.path:
        return operation.path
    return f"{operation.path}.{operation.kind}".removeprefix(".")


def _parameter(name: str, kind: Kind, count: int) -> Layer:
    return Layer(
        name=name,
        kind=kind,
        input=(0, 0, 0),
        output=(0, 0, 0),
        filters=None,
        kernel=None,
        stride=None,
        padding=None,
        groups=None,
        memory_kib=0.0,
        params=count,
        macs=0,
        pooling=0,
        activations=0,
    )


def _distinct(rows: list[Layer]) -> list[Layer]:
    """Number the later rows of one name: a layer that is passed several times."""
    seen: Counter[str] = Counter()
    named = []
    for row in rows:
        seen[row.name] += 1
        again = seen[row.name]
        named.append(row if again == 1 else replace(row, name=f"{row.name} ({again})"))
    return named


def _macs(kind: Kind, call: Call) -> int:
    """Weights times the places at which they are applied; of a matrix product, outputs times the length of a row."""
    if kind == "conv":
        places = call.tensors["input"] if call.arguments["transposed"] else call.output
        return prod(call.tensors["weight"]) * prod(places[2:])
    if kind in ("linear", "matmul"):
        return prod(call.output) * call.factors[0][-1]
    return 0


def _sizes(operation: Operation) -> tuple[Size, Size]:
    """Return input and output of a row; a convolution's input is what its module was given, before any padding."""
    call = operation.call
    if operation.kind == "conv":
        return _size(_unpadded(operation)), _size(call.output)
    if operation.kind in ("linear", "matmul"):
        entry = call.factors[0]
        return (
            (_size(entry, True), _size(call.output, True)) if len(entry) == 2 else (_three(entry), _three(call.output))
        )
    last = call.name == "native_layer_norm" or call.keeps_last
    out = (1, _size(call.input, last)[0]) if call.name in REDUCING else call.output
    return _size(call.input, last), _size(out, last and out is call.output)


def _unpadded(operation: Operation) -> Shape:
    entry, given = operation.entry, operation.call.input
    same = operation.leaf and entry is not None and len(entry) == len(given) and entry[:2] == given[:2]
    return entry if same and entry is not None else given


def _size(shape: Shape, channels_last: bool = False) -> Size:
    """Return `(C, H, W)` of one image; what is missing of height and width is 1."""
    if channels_last:
        *places, channels = shape if len(shape) == 2 else shape[1:]
        return _three((channels, *places))
    return _three(shape[1:])


def _three(shape: Shape) -> Size:
    first, second, third = (*shape, 1, 1)[:3]
    return first, second, third


def _window(operation: Operation, entry: Size, out: Size) -> tuple[Pair | None, Pair | None, Any]:
    """Return kernel, stride and padding; a global pooling is a window as large as its input."""
    call = operation.call
    if operation.kind == "conv":
        return pair(call.tensors["weight"][2:]), pair(call.arguments["stride"]), _padding(operation)
    if "kernel_size" in call.arguments:
        kernel = pair(call.arguments["kernel_size"])
        return kernel, pair(call.arguments["stride"] or kernel), pair(call.arguments["padding"])
    divides = entry[1] % out[1] == entry[2] % out[2] == 0
    if operation.kind in ("max_pool", "avg_pool") and divides:
        window = entry[1] // out[1], entry[2] // out[2]
        return window, window, (0, 0)
    return None, None, None


def _padding(operation: Operation) -> Pair | Literal["same"]:
    """Return a convolution's padding, and what its module laid around the image before."""
    own = pair(operation.call.arguments["padding"], 0)
    around = zip(operation.call.input[2:], _unpadded(operation)[2:], strict=True)
    extra = [padded - size for padded, size in around] + [0]
    if any(total % 2 for total in extra):
        return "same"
    return own[0] + extra[0] // 2, own[1] + extra[1] // 2
