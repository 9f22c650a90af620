"""`repro cost`: what a model costs, as a whole and by layer."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from repro.console import console
from repro.errors import InputError
from repro.models.presets import load_preset
from repro.results import Cost

if TYPE_CHECKING:
    from repro.cost.layers import Layer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words and flags."""
    parser.add_argument("name", metavar="MODEL")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="axes of the model, for example groups=32")
    parser.add_argument("--input", type=_size, metavar="N", help="height and width of the input, in pixels")


def main(options: argparse.Namespace) -> int:
    """Print a model's price: parameters, MACs and activations, as a whole and by layer."""
    return cost(options.name, options.words, options.input, options.json)


def _size(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise InputError(f"--input {text}: expected a whole number of pixels")
    return int(text)


def cost(name: str, words: list[str], size: int | None, as_json: bool) -> int:
    """Print a model's price: parameters, MACs and activations, as a whole and by layer."""
    axes: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"{word!r} is not of the form KEY=VALUE, for example groups=32")
        axes[key.removeprefix("model.")] = _plain(word, value)
    config = load_preset(name, **axes)
    size = size or config.native.size
    from repro.cost.count import cached_price
    from repro.cost.layers import layer_table

    price = cached_price(config, size, config.native.channels, config.native.classes)
    layers = layer_table(config, size, config.native.channels, config.native.classes)
    if as_json:
        totals = {"params": price.params, "macs": price.macs, "activations": price.activations}
        print(
            json.dumps({"model": name, "input": list(price.input), **totals, "layers": [asdict(row) for row in layers]})
        )
        return 0
    _print_cost(name, price, layers)
    return 0


def _plain(word: str, value: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"{word!r}: {value!r} is not a value") from None


def _print_cost(name: str, price: Cost, layers: Sequence[Layer]) -> None:
    table = Table("layer", "kind", "input", "output", box=None, pad_edge=False)
    for heading in ("filters", "kernel", "stride", "pad", "groups", "memory KiB", "params k", "MACs M"):
        table.add_column(heading, justify="right")
    for row in layers:
        numbers = [row.filters, row.kernel, row.stride, row.padding, row.groups]
        table.add_row(
            row.name, row.kind, "×".join(map(str, row.input)), "×".join(map(str, row.output)),
            *("" if value is None else str(value) for value in numbers),
            f"{row.memory_kib:,.1f}", f"{row.params / 1e3:,.1f}", f"{row.macs / 1e6:,.2f}",
        )  # fmt: skip
    console().print(table)
    shape = " × ".join(map(str, price.input))
    print(
        f"\n{name} on {shape}: {price.params:,} parameters, {price.macs:,} MACs ({price.macs / 1e9:.3f} GMACs; FLOPs = "
        f"2 × MACs = {2 * price.macs / 1e9:.3f} GFLOPs), {price.activations:,} activations"
    )
