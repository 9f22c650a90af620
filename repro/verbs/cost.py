"""`repro cost`: what a model costs, as a whole or by layer."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.console import console
from repro.errors import InputError, unknown
from repro.models.config import ModelConfig
from repro.models.presets import load_preset
from repro.report.cost_table import (
    layer_record,
    layer_table,
    memory_table,
    memory_tree,
    price_tree,
    total_record,
    total_table,
)
from repro.report.index import write_index
from repro.report.sheet import Sheet, to_csv, to_latex, to_markdown, to_terminal
from repro.results import Cost, write_atomic
from repro.verbs.inputs import axes_of, pixels, whole

if TYPE_CHECKING:
    from repro.cost.layers import Layer
    from repro.cost.memory import TrainingMemory

PAGE = "lecture_costs.md"
FORMATS = ("md", "csv", "latex", "json")
FLOAT = 4  # bytes
OPTIMIZERS = ("sgd", "adamw", "lamb", "rmsprop")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words and flags."""
    parser.add_argument(
        "name", nargs="?", metavar="MODEL", help="a name of `repro list models`, timm/NAME or torchvision/NAME"
    )
    parser.add_argument(
        "words", nargs="*", metavar="KEY=VALUE", help="axes of the model, for example groups=32 or se.reduction=8"
    )
    parser.add_argument("--input", metavar="N", help="height and width of the input, in pixels")
    parser.add_argument("--layers", action="store_true", help="the layers too: shapes, memory, parameters, MACs")
    parser.add_argument("--all", action="store_true", help="the layers, with a row for each normalisation and gain")
    parser.add_argument("--format", metavar="FORMAT", help="md, csv, latex or json; csv --layers lists layers alone")
    parser.add_argument("--batch", metavar="N", default="32", help="images of a training step on one device (32)")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="no model: what lectures and papers print about cost, and what is counted",
    )
    parser.add_argument("--out", metavar="FOLDER", help=f"of --compare: write {PAGE} and renew the index there")
    parser.add_argument("--optimizer", metavar="NAME", default="sgd", help="of its memory: " + ", ".join(OPTIMIZERS))


def main(options: argparse.Namespace) -> int:
    """Print a model's price: parameters, MACs and memory, as a whole or by layer."""
    kind = "json" if options.json else options.format
    if kind is not None and kind not in FORMATS:
        raise unknown("format", kind, FORMATS, where="repro cost")
    size, batch = pixels(options.input), whole("--batch", options.batch, "images")
    if options.optimizer not in OPTIMIZERS:
        raise unknown("optimizer", options.optimizer, OPTIMIZERS, where="repro cost")
    if options.compare:
        return _compare(options.name, kind, options.out)
    if options.name is None or options.out is not None:
        missing = options.name is None
        raise InputError("cost needs a MODEL (see repro cost --help)" if missing else "--out goes with --compare only")
    config = load_preset(options.name, **axes_of(options.words))
    by_layer = options.layers or options.all or kind == "json"
    cost, memory, rows = _counted(config, size or _own_size(config), batch, options.optimizer, by_layer)
    if kind == "json":
        print(json.dumps(_tree(options.name, cost, memory, rows), indent=2))
    elif kind == "csv":
        records = [layer_record(row) for row in rows] if by_layer else [total_record(options.name, cost, memory)]
        print(to_csv(records), end="")
    else:
        tables = [
            *([layer_table(rows, options.all)] if by_layer else []),
            total_table(cost, memory.parameters // FLOAT - cost.params),
            memory_table(memory),
        ]
        _print(kind, options.name, cost, tables)
    return 0


def _compare(name: str | None, kind: str | None, out: str | None) -> int:
    """Print, or write into a folder, the printed costs beside the counted ones."""
    if name is not None:
        raise InputError(f"--compare takes no model (found {name}): it goes through all printed figures")
    if kind not in (None, "md", "json"):
        raise InputError(f"--compare has no form {kind}; expected md or json")
    from repro.cost.lectures import claims, tables
    from repro.report.lecture_page import lecture_page

    found = tables(), claims()
    if kind == "json":
        print(
            json.dumps(
                {"tables": [asdict(table) for table in found[0]], "claims": [asdict(claim) for claim in found[1]]},
                indent=2,
            )
        )
        return 0
    page = lecture_page(*found)
    if out is None:
        print(page, end="")
        return 0
    try:
        write_atomic(Path(out) / PAGE, page)
        write_index(Path(out))
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror})") from None
    print(Path(out) / PAGE)
    return 0


def _counted(
    config: ModelConfig, size: int, batch: int, optimizer: str, by_layer: bool
) -> tuple[Cost, TrainingMemory, list[Layer]]:
    from repro.cost import layers
    from repro.cost.count import cached_price
    from repro.cost.memory import training_memory

    shape = (size, config.native.channels, config.native.classes)
    cost = cached_price(config, *shape)
    memory = training_memory(config, *shape, batch=batch, optimizer=optimizer)
    return cost, memory, layers.layer_table(config, *shape) if by_layer else []


def _own_size(config: ModelConfig) -> int:
    """The size that a model was published with; of a library's by the library's own records."""
    if config.family != "library" or "/" not in config.name:
        return config.native.size
    from repro.models.library import input_size

    return input_size(config.source, config.architecture) or config.native.size


def _tree(name: str, cost: Cost, memory: TrainingMemory, rows: Sequence[Layer]) -> dict[str, Any]:
    return {
        "model": name,
        "input": list(cost.input),
        **price_tree(cost),
        "uncounted": list(cost.uncounted),
        "memory": memory_tree(memory),
        "layers": [asdict(row) for row in rows],
    }


def _print(kind: str | None, name: str, cost: Cost, sheets: Sequence[Sheet]) -> None:
    shape = " × ".join(map(str, cost.input))
    if kind is not None:
        write = to_latex if kind == "latex" else to_markdown
        print("\n".join(write(sheet) for sheet in sheets), end="")
        return
    for sheet in sheets:
        console().print(to_terminal(sheet), "")
    print(
        f"{name} on {shape}: {cost.params:,} parameters, {cost.macs:,} MACs (convolutions, linear layers, attention), "
        f"{cost.flops:,} FLOPs"
    )
