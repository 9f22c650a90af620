"""`repro budget`: the widths per group that keep a network's cost while its number of groups changes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, Literal

from repro.console import console
from repro.cost.budget import (
    TOLERANCE,
    EqualCost,
    Quantity,
    checked,
    equal_cost_widths,
    named,
    own_width,
    spread,
    width_step,
)
from repro.cost.count import own_price
from repro.errors import InputError
from repro.models.presets import load_preset
from repro.models.residual_config import ResidualConfig
from repro.report.format import number, three_digits, unit_of
from repro.report.sheet import Sheet, to_csv, to_latex, to_markdown, to_terminal
from repro.report.table import MAC_UNITS, PARAM_UNITS
from repro.results import Cost
from repro.verbs.inputs import axes_of, pixels

Form = Literal["md", "csv", "latex", "yaml", "json"]

_EXAMPLE = "groups=[1,2,4,8,16,32]"
_WHAT = {"macs": "MACs", "params": "parameters"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words and flags."""
    parser.add_argument("name", metavar="MODEL", help="the reference, a residual network of bottleneck blocks")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help=f"{_EXAMPLE}, and axes of the reference")
    parser.add_argument("--of", choices=tuple(_WHAT), default="macs", help="what is kept (default: macs)")
    parser.add_argument("--input", metavar="N", help="height and width of the input, in pixels")
    parser.add_argument(
        "--format", choices=("md", "csv", "latex", "yaml", "json"), help="yaml: the variants of an ablation file"
    )


def main(options: argparse.Namespace) -> int:
    """Print the widths; warn of those that miss the reference's cost."""
    form: Form | None = "json" if options.json else options.format
    return budget(options.name, options.words, options.of, pixels(options.input), form)


def budget(name: str, words: Sequence[str], of: Quantity, size: int | None, form: Form | None) -> int:
    """Print, for each number of groups, the width per group at which the network costs what `name` costs."""
    axes, groups = _parse(words)
    config = checked(load_preset(name, **axes))
    rows = equal_cost_widths(config, groups, of, size)
    total = own_price(config, size)
    if form == "json":
        print(json.dumps(_tree(config, rows, total, of), indent=2))
    elif form == "yaml":
        given = [word for word in words if _key(word) != "groups"]
        print(fragment(config, rows, of, [f"model.{word.removeprefix('model.')}" for word in given]), end="")
    elif form == "csv":
        print(to_csv([_record(row) for row in rows]), end="")
    else:
        _print_table(_sheet(config, rows, total, of), form)
    _warn(config, rows, of)
    return 0


def _parse(words: Sequence[str]) -> tuple[dict[str, Any], list[Any]]:
    """Part the axes of the reference from the list of groups."""
    axes = axes_of(words, _EXAMPLE)
    if "groups" not in axes:
        raise InputError(f"budget needs the numbers of groups, for example {_EXAMPLE}")
    groups = axes.pop("groups")
    if isinstance(groups, (str, dict)) or groups is None:
        raise InputError(f"groups is {groups!r}; expected a list of whole numbers, for example {_EXAMPLE}")
    return axes, groups if isinstance(groups, list) else [groups]


def _key(word: str) -> str:
    return word.removeprefix("model.").partition("=")[0]


def _sheet(config: ResidualConfig, rows: Sequence[EqualCost], total: Cost, of: Quantity) -> Sheet:
    mac_unit, mac_size = unit_of([row.cost.macs for row in rows], MAC_UNITS)
    param_unit, param_size = unit_of([row.cost.params for row in rows], PARAM_UNITS)
    cells = tuple(
        (
            row.name, str(row.groups), number(row.exact, 3), named(row.groups, row.block),
            number(row.cost.macs / mac_size, 3), _percent(row.macs),
            number(row.cost.params / param_size, 2), _percent(row.params),
        )
        for row in rows
    )  # fmt: skip
    header = (
        *("variant", "groups", "exact width", "one block"),
        *(mac_unit, "to ref. %", f"params ({param_unit})", "to ref. %"),
    )
    shape = " × ".join(map(str, total.input))
    spreads = (f"{_WHAT[what]} {number(100 * spread(rows, what), 1)} %" for what in ("macs", "params"))
    notes = (
        f"Reference: {config.name} at {named(*own_width(config))}, {three_digits(total.macs / mac_size)} {mac_unit} on "
        f"{shape}, {three_digits(total.params / param_size)} {param_unit} parameters. Each variant has the whole width "
        f"per group at which the network is nearest to it in {_WHAT[of]}; the exact width keeps the cost of one block "
        "(Xie et al. 2017, §5.1), and beside it is the whole width nearest in that.",
        f"Spread over the rows: {', '.join(spreads)} of the reference.",
    )
    return Sheet(header, cells, notes=notes)


def _percent(ratio: float) -> str:
    return number(100 * ratio, 2, signed=True)


def _print_table(sheet: Sheet, form: Form | None) -> None:
    if form is not None:
        print(to_latex(sheet) if form == "latex" else to_markdown(sheet), end="")
        return
    console().print(to_terminal(sheet))
    print("", *sheet.notes, sep="\n")


def _warn(config: ResidualConfig, rows: Sequence[EqualCost], of: Quantity) -> None:
    far = [f"{row.name} {_percent(getattr(row, of))} %" for row in rows if abs(getattr(row, of)) > TOLERANCE]
    if far:
        step = width_step(config)
        grain = "whole numbers" if step == 1 else f"multiples of {step} with these stages"
        print(
            f"repro: not of equal cost (more than {TOLERANCE:.0%} of the reference's {_WHAT[of]}): {', '.join(far)}; "
            f"widths per group are {grain}",
            file=sys.stderr,
        )


def _tree(config: ResidualConfig, rows: Sequence[EqualCost], total: Cost, of: Quantity) -> dict[str, Any]:
    reference = {"model": config.name, "name": named(*own_width(config)), **total.model_dump(mode="json")}
    spreads = {what: spread(rows, what) for what in ("macs", "params")}
    return {"reference": reference, "of": of, "spread": spreads, "rows": [_record(row) for row in rows]}


def _record(row: EqualCost) -> dict[str, Any]:
    return {
        "name": row.name,
        "groups": row.groups,
        "width_per_group": row.width,
        "exact_width": row.exact,
        "block_width": row.block,
        "macs": row.cost.macs,
        "params": row.cost.params,
        "macs_difference": row.macs,
        "params_difference": row.params,
    }


def fragment(config: ResidualConfig, rows: Sequence[EqualCost], of: Quantity, base: Sequence[str]) -> str:
    """Write the rows as a part of an ablation file, with the reference, which is added where it is not one of them.

    `base`: the overrides of the reference, in Hydra's grammar, besides its preset.
    """
    reference = named(*own_width(config))
    pairs = {row.name: (row.groups, row.width) for row in rows}
    pairs = pairs if reference in pairs else {reference: own_width(config), **pairs}
    lines = [
        f"# {config.name}, widths per group at equal {_WHAT[of]} ({number(100 * spread(rows, of), 1)} % apart)",
        f"base: [{', '.join(_quoted(text) for text in (f'model={config.name}', *base))}]",
        f"reference: {reference}",
        f"equal_cost: {{{of}: {TOLERANCE}}}",
        "variants:",
        *(
            f"  {name}: {{set: [model.groups={count}, model.width_per_group={wide}], published: null}}"
            for name, (count, wide) in pairs.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text) if any(sign in text for sign in "[]{},:#'\"") else text
