"""What lectures and papers print about cost, against what is counted: the data of `repro cost --compare`.

`lectures.yaml` holds the printed figures; every computed one comes from a network of ours through `layer_table`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, PositiveInt

from repro.cost.layers import Layer, layer_table
from repro.models.chain_config import ChainConfig
from repro.models.config import ModelConfig
from repro.models.presets import load_preset
from repro.typed import Positive, Typed

_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "KiB": 1024.0, "MiB": 1024.0**2}
_FIGURE = re.compile(r"^(?P<number>[\d,]+(?:\.\d+)?)(?: (?P<unit>\w+))?$")

Text = Annotated[str, BeforeValidator(str)]


@dataclass(frozen=True)
class Figure:
    """A printed number: its value, the unit it is printed in and its decimals."""

    text: str
    unit: str
    value: float
    decimals: int

    @classmethod
    def parse(cls, text: str, unit: str = "") -> Figure:
        """Read `37,749` or `13.6 G`; `unit` is the column's."""
        match = _FIGURE.match(text)
        if match is None or (match["unit"] or unit) not in _UNITS:
            raise ValueError(f"{text!r} is not a figure such as 37,749 or 13.6 G")
        number = match["number"].replace(",", "")
        unit = match["unit"] or unit
        return cls(text, unit, float(number) * _UNITS[unit], len(number.partition(".")[2]))

    def agrees(self, computed: float) -> bool:
        """Whether the figure is `computed`, rounded or truncated to the printed digits."""
        return abs(computed - self.value) < 10**-self.decimals * _UNITS[self.unit]

    def write(self, computed: float) -> str:
        """Write a computed number in the figure's unit, with one decimal more, or exactly where it is a whole one."""
        scaled = computed / _UNITS[self.unit]
        return f"{scaled:,.0f}" if scaled == int(scaled) else f"{scaled:,.{self.decimals + 1}f}"


@dataclass(frozen=True)
class Cell:
    """One printed figure beside the counted one; `reason`: why they differ, where they do."""

    figure: Figure
    computed: float
    reason: str | None

    @property
    def agrees(self) -> bool:
        """Whether the printed figure is right."""
        return self.figure.agrees(self.computed)


@dataclass(frozen=True)
class Table:
    """A printed table beside the counted one: rows of cells, one for each column; None where nothing is printed."""

    title: str
    source: str
    model: str
    size: int
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    totals: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True)
class Claim:
    """A printed figure of a whole network; `explained`: what gives the printed figure, in words and counted."""

    what: str
    source: str
    quantity: str
    cell: Cell
    explained: tuple[str, float] | None


class _Net(Typed):
    """A network, or a part of it: the first `stop` rows; `times`: operations that are counted for a multiply-add.

    `layers`: some layers alone, on images of `shape` (channels, side).
    """

    model: str | None = None
    layers: tuple[dict[str, Any], ...] | None = None
    shape: tuple[PositiveInt, PositiveInt] | None = None
    axes: dict[str, Any] = {}  # noqa: RUF012, pydantic copies it
    input: PositiveInt | None = None
    stop: PositiveInt | None = None
    times: Positive = 1.0


class _Claim(_Net):
    what: str
    source: tuple[str, ...]
    printed: Text
    quantity: str
    over: _Net | None = None
    also: _Net | None = None
    reason: str | None = None


class _Table(_Net):
    title: str
    source: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    totals: dict[str, Text]
    reasons: dict[str, str]


class _File(Typed):
    sources: dict[str, str]
    tables: tuple[_Table, ...]
    claims: tuple[_Claim, ...]


def tables() -> list[Table]:
    """Count every printed table."""
    return [_table(entry, _file().sources) for entry in _file().tables]


def claims() -> list[Claim]:
    """Count every printed figure of a whole network."""
    return [_claim(entry, _file().sources) for entry in _file().claims]


def mistakes(found_tables: Iterable[Table], found_claims: Iterable[Claim]) -> list[str]:
    """Name each difference that has no reason, and each reason that has no difference; none should be left."""
    cells = [
        (f"{table.title}: {label} {column}", cell)
        for table in found_tables
        for label, row in (*table.rows, *((f"total {name}", (cell,)) for name, cell in table.totals))
        for column, cell in zip(table.columns if len(row) > 1 else ("",), row, strict=False)
    ]
    cells += [(f"{claim.what}: {claim.quantity}", claim.cell) for claim in found_claims]
    return [
        f"{place.strip()}: printed {cell.figure.text}, counted {cell.computed:,.0f}, reason {cell.reason!r}"
        for place, cell in cells
        if cell is not None and cell.agrees != (cell.reason is None)
    ]


@cache
def _file() -> _File:
    text = (Path(__file__).parent / "lectures.yaml").read_text(encoding="utf-8")
    return _File.model_validate(yaml.safe_load(text))


def _table(entry: _Table, sources: Mapping[str, str]) -> Table:
    layers = _tabulated(_layers(entry))
    assert entry.model is not None
    reasons = dict(entry.reasons)
    rows = []
    for layer, (label, *printed) in zip(layers, entry.rows, strict=True):
        cells = tuple(
            _cell(None if text is None else str(text), column, [layer], reasons.get(f"{label} {column.split()[0]}"))
            for column, text in zip(entry.columns, printed, strict=True)
        )
        rows.append((str(label), cells))
    totals = [(name, _cell(text, name, layers, reasons.get(f"total {name}"))) for name, text in entry.totals.items()]
    kept = tuple((name, cell) for name, cell in totals if cell is not None)
    size = entry.input or _config(entry).native.size
    return Table(entry.title, _cited(entry.source, sources), entry.model, size, entry.columns, tuple(rows), kept)


def _cell(text: str | None, column: str, layers: Sequence[Layer], reason: str | None) -> Cell | None:
    """Compare a printed figure of a column such as `memory KiB` or `memory of convolutions`."""
    if text is None:
        return None
    quantity, _, unit = column.partition(" ")
    if unit.startswith("of"):
        return Cell(Figure.parse(text), _sum(column, layers), reason)
    return Cell(Figure.parse(text, unit), _sum(quantity, layers), reason)


def _sum(quantity: str, layers: Iterable[Layer]) -> float:
    """Add a quantity up; `... of convolutions` leaves poolings and linear layers out."""
    name, _, only = quantity.partition(" of ")
    chosen = [layer for layer in layers if not only or layer.kind == "conv"]
    return sum(_QUANTITIES[name](layer) for layer in chosen)


_QUANTITIES: dict[str, Callable[[Layer], float]] = {
    "memory": lambda layer: layer.memory_kib * 1024,
    "params": lambda layer: float(layer.params),
    "macs": lambda layer: float(layer.macs),
    "flops": lambda layer: float(layer.macs + layer.pooling),
}


def _claim(entry: _Claim, sources: Mapping[str, str]) -> Claim:
    figure = Figure.parse(entry.printed)
    computed = _value(entry, entry, entry.quantity)
    explained = None
    if entry.also is not None:
        explained = _described(entry.also, entry), _value(entry.also, entry, entry.quantity)
    cell = Cell(figure, computed, entry.reason)
    return Claim(entry.what, _cited(entry.source, sources), entry.quantity, cell, explained)


def _value(net: _Net, entry: _Claim, quantity: str) -> float:
    """Count a claim's network, or its `also`, which takes what it does not say from the claim."""
    same = {"model": net.model or entry.model, "layers": net.layers or entry.layers, "shape": net.shape or entry.shape}
    filled = net.model_copy(update={**same, "input": net.input or entry.input})
    value = net.times * _sum(quantity, _layers(filled))
    return value / _sum(quantity, _layers(entry.over)) if entry.over else value


def _described(net: _Net, entry: _Claim) -> str:
    """Name what gives the printed figure: another network, its axes, another input, or another convention."""
    parts = [net.model] if net.model and net.model != entry.model else []
    parts += [f"{axis}={value}" for axis, value in net.axes.items()]
    parts += [f"input {net.input}"] if net.input and net.input != entry.input else []
    parts += [f"× {net.times:g}"] if net.times != 1 else []
    return " ".join(parts)


_HEAD = ({"kind": "global_avg_pool"}, {"kind": "flatten"}, {"kind": "linear"})
"""What makes a network of a few layers; it is not counted with them."""


def _config(net: _Net) -> ModelConfig:
    if net.layers and net.shape:
        channels, size = net.shape
        native = {"size": size, "channels": channels, "classes": 1}
        chain = {"name": "layers", "native": native, "layers": (*net.layers, *_HEAD)}
        return ChainConfig.model_validate(chain)
    assert net.model is not None
    return load_preset(net.model, **net.axes)


def _layers(net: _Net) -> list[Layer]:
    """List a network's rows without the parts that evaluation does not reach, or the first `stop` ones of a table."""
    rows = _counted(net.model_dump_json(include={"model", "layers", "shape", "axes", "input"}))
    used = [row for row in rows[: len(net.layers or rows)] if row.kind != "unused"]
    return used if net.stop is None else _tabulated(used)[: net.stop]


@cache
def _counted(described: str) -> list[Layer]:
    """Count a network once: several figures are printed of most of them."""
    net = _Net.model_validate_json(described)
    config = _config(net)
    return layer_table(config, net.input or config.native.size, config.native.channels, config.native.classes)


def _tabulated(rows: Iterable[Layer]) -> list[Layer]:
    """Keep convolutions, linear layers and poolings; one that leaves its input as it is, is none."""
    return [row for row in rows if row.macs or (row.kind in ("max_pool", "avg_pool") and row.kernel != (1, 1))]


def _cited(keys: Iterable[str], sources: Mapping[str, str]) -> str:
    return "; ".join(sources.get(key, key) for key in keys)
