"""A price as tables and as records: by layer, in total, and the memory of a training step. Pure; imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from repro.report.sheet import Sheet
from repro.results import Cost

if TYPE_CHECKING:
    from repro.cost.layers import Layer
    from repro.cost.memory import TrainingMemory

MIB = 2**20


_KINDS = {"norm": "normalisation", "other": "other parameters", "unused": "not run in evaluation"}
"""What the merged rows at the end of a table hold."""

_SHAPES = ("filters", "kernel", "stride", "pad", "groups")
_HEADINGS = ("layer", "kind", "input C", "input H × W", *_SHAPES, "output C", "output H × W")
_FIGURES = ("memory KiB", "params k", "MACs M", "pooling M")


def layer_table(rows: Sequence[Layer], every: bool = False) -> Sheet:
    """Lay out a network's layers as a lecture does, with one row for all normalisations; `every`: a row for each."""
    shown = [row for row in rows if every or row.kind not in _KINDS]
    merged = [] if every else list(_merged(rows))
    total = ["total", *[""] * (len(_HEADINGS) - 1), *_figures(shown, rows)]
    cells = [_layer_cells(row) for row in shown]
    return Sheet((*_HEADINGS, *_FIGURES), (*cells, *merged), left=2, totals=tuple(total))


def _figures(memory: Sequence[Layer], rows: Sequence[Layer]) -> tuple[str, ...]:
    """Sum memory over the rows that are shown, and the rest over all."""
    params, macs, pooling = (sum(getattr(row, what) for row in rows) for what in ("params", "macs", "pooling"))
    kib = sum(row.memory_kib for row in memory)
    return f"{kib:,.2f}" if kib else "", *(_scaled(n, unit) for n, unit in ((params, 1e3), (macs, 1e6), (pooling, 1e6)))


def _scaled(number: int, unit: float) -> str:
    """Write in thousands or millions, exact to the unit's last digit; nothing for nothing."""
    return f"{number / unit:,.3f}" if number else ""


def _layer_cells(row: Layer) -> tuple[str, ...]:
    placed = row.output[0] > 0
    window = [_side(value) for value in (row.kernel, row.stride, row.padding)]
    return (
        row.name,
        row.kind,
        str(row.input[0]) if placed else "",
        _side(row.input[1:]) if placed else "",
        _optional(row.filters),
        *window,
        _optional(row.groups),
        str(row.output[0]) if placed else "",
        _side(row.output[1:]) if placed else "",
        *_figures([row], [row]),
    )


def _side(value: tuple[int, ...] | str | None) -> str:
    """Write a height and width; one number where they are equal."""
    if value is None or isinstance(value, str):
        return value or ""
    return str(value[0]) if value[0] == value[1] else f"{value[0]}×{value[1]}"


def _optional(value: int | None) -> str:
    return "" if value is None else str(value)


def _merged(rows: Sequence[Layer]) -> Iterable[tuple[str, ...]]:
    """One row for each kind that is not shown and holds parameters, so that the column of parameters adds up."""
    for kind, title in _KINDS.items():
        group = [row for row in rows if row.kind == kind and row.params]
        if group:
            yield (f"{title} ({len(group)})", kind, *[""] * (len(_HEADINGS) - 2), *_figures([], group))


def total_table(cost: Cost, training_params: int = 0) -> Sheet:
    """Lay out what a network costs as a whole, for one image; `training_params`: of what only training runs besides."""
    heads = {"parameters of auxiliary classifiers, in training only": training_params} if training_params else {}
    counts = {
        "parameters": cost.params,
        **heads,
        "MACs": cost.macs,
        "FLOPs = 2 × MACs": cost.flops,
        "MACs of a training step = 3 × forward": cost.training_macs,
        "pooling operations": cost.pooling,
        "elementwise operations": cost.elementwise,
        "activations": cost.activations,
    }
    rows = [(name, f"{number:,}", _unit(number)) for name, number in counts.items()]
    missing = ("operators not counted", ", ".join(cost.uncounted) or "none", "")
    return Sheet(("one image", "exactly", "rounded"), (*rows, missing))


def memory_table(memory: TrainingMemory) -> Sheet:
    """Lay out the memory of a training step by part."""
    parts = {
        "parameters": memory.parameters,
        "running statistics": memory.buffers,
        "gradients": memory.gradients,
        f"state of the optimiser ({memory.optimizer})": memory.optimizer_state,
        "images": memory.images,
        "activations kept for the backward pass": memory.activations,
    }
    rows = tuple((name, *_size(number)) for name, number in parts.items())
    heading = f"memory of a training step, batch {memory.batch}, float32"
    return Sheet((heading, "bytes", "MiB"), rows, totals=("total", *_size(memory.total)))


def _size(number: int) -> tuple[str, str]:
    return f"{number:,}", f"{number / MIB:,.1f}"


def _unit(number: int) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:,.3f} {name}"
    return str(number)


def layer_record(row: Layer) -> dict[str, Any]:
    """One row with a number in each cell: shapes, kernel, stride and padding by side."""
    flat: dict[str, Any] = {}
    for key, value in asdict(row).items():
        sides = _SIDES.get(key)
        value = None if key in ("input", "output") and not value[0] else value
        if sides is None:
            flat[key] = value
        else:
            values = value if isinstance(value, tuple) else [value] * len(sides)
            flat.update({f"{key}_{side}": number for side, number in zip(sides, values, strict=True)})
    return flat


_SIDES = {"input": "chw", "output": "chw", "kernel": "hw", "stride": "hw", "padding": "hw"}


def total_record(model: str, cost: Cost, memory: TrainingMemory) -> dict[str, Any]:
    """All totals in one row; memory in bytes."""
    channels, height, width = cost.input
    head = {"model": model, "input_c": channels, "input_h": height, "input_w": width}
    kept = {
        key if key in ("batch", "optimizer") else f"memory_{key}": value for key, value in memory_tree(memory).items()
    }
    return {**head, **price_tree(cost), "uncounted": "; ".join(cost.uncounted), **kept}


def price_tree(cost: Cost) -> dict[str, Any]:
    """The counts of a price, with those that follow from them."""
    counts = cost.model_dump(mode="json", exclude={"input", "uncounted"})
    return {**counts, "flops": cost.flops, "training_macs": cost.training_macs}


def memory_tree(memory: TrainingMemory) -> dict[str, Any]:
    """The parts of a training step's memory (bytes) and their total."""
    return {**asdict(memory), "total": memory.total}
