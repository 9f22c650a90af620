"""`repro diff`: what differs between two runs: config, code, hardware, data, result. Imports no torch."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from repro.comparison import Comparison, Difference, Section, Side, compare, read_side
from repro.console import console
from repro.report.export import strict
from repro.report.format import MINUS, shorten, three_digits

_RUN = "a run's folder, ABLATION/SCALE/VARIANT/seedK below the folder of runs, or six digits or more of its id"
_LONGEST = 60
_NEUTRAL = "Config that does not change the run"
_TITLES: dict[Section, str] = {"code": "Code", "hardware": "Hardware", "data": "Data", "result": "Result"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words."""
    parser.add_argument("left", metavar="RUN", help=_RUN)
    parser.add_argument("right", metavar="RUN", help="the run that it is compared with")


def main(options: argparse.Namespace) -> int:
    """Compare the two runs that are named."""
    return diff(options.left, options.right, options.json)


def diff(left: str, right: str, as_json: bool) -> int:
    """Print what differs between two runs; the exit status is 0 also where they differ."""
    found = compare(read_side(left), read_side(right))
    if as_json:
        print(json.dumps(strict(_tree(found)), indent=2, allow_nan=False))
    else:
        _print(found, console())
    return 0


def _print(found: Comparison, out: Console) -> None:
    for title, side in (("left", found.left), ("right", found.right)):
        out.print(f"{title + ':':7}{side.name} ({side.state})", markup=False)
    out.print(identity(found), markup=False)
    config = found.of("config")
    tables = {"Config": [item for item in config if not item.neutral]}
    tables[_NEUTRAL] = [item for item in config if item.neutral]
    tables |= {title: list(found.of(section)) for section, title in _TITLES.items()}
    for title, items in tables.items():
        if items:
            out.print(f"\n{title}")
            out.print(_table(title, items))
    lacking = [side.name for side in (found.left, found.right) if side.result is None]
    if lacking:
        out.print(f"\nNo result yet, so that only configs are compared: {', '.join(lacking)}", markup=False)
        return
    same = [title for title, items in tables.items() if not items and title != _NEUTRAL]
    if same:
        out.print(f"\nNo difference in: {', '.join(same).lower()}")


def identity(found: Comparison) -> str:
    """Say whether both are the same run, and what the difference of their results may come from."""
    if found.left.id is None or found.right.id is None:
        return "No id to compare: a config is of another release"
    if not found.same_id:
        return f"Run ids differ ({found.left.id}, {found.right.id}): other {', '.join(found.reasons)}"
    sentence = f"Same run id ({found.left.id}): both configs ask for the same training"
    outcome = [item for item in found.of("result") if not item.key.startswith("timing.")]
    if not outcome or found.left.result is None or found.right.result is None:
        return sentence
    code = {True: "the same code", False: "other code", None: "code that is not known"}[found.same_code]
    places = "".join(f", other {section}" for section in ("hardware", "data") if found.of(section))
    return f"{sentence}; their results differ, by {code}{places}"


def _table(title: str, items: list[Difference]) -> Table:
    changes = any(item.change is not None for item in items) and title == "Result"
    table = Table("key", "left", "right", *(["difference"] if changes else []), show_edge=False)
    for item in items:
        cells = [item.key, _text(item.left), _text(item.right), *([_change(item)] if changes else [])]
        table.add_row(*map(escape, cells))
    return table


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
    if isinstance(value, list | tuple):
        return shorten("[" + ", ".join(_text(item) for item in value) + "]", _LONGEST)
    return "null" if value is None else shorten(str(value), _LONGEST)


def _change(item: Difference) -> str:
    """Write right minus left; of what is above zero on both sides, such as times, also as a part of the left."""
    if item.change is None:
        return ""
    size = abs(item.change)
    text = (MINUS if item.change < 0 else "+") + (f"{size:,}" if isinstance(size, int) else three_digits(size))
    part = f" ({100 * item.change / item.left:+.1f} %)".replace("-", MINUS) if item.left > 0 < item.right else ""
    return text + part


def _tree(found: Comparison) -> dict[str, Any]:
    return {
        "left": _side(found.left),
        "right": _side(found.right),
        "same_id": found.same_id,
        "same_code": found.same_code,
        "reasons": list(found.reasons),
        "config": [_item(item) for item in found.of("config")],
        **{section: [_item(item) for item in found.of(section)] for section in _TITLES},
    }


def _side(side: Side) -> dict[str, Any]:
    return {"run": side.name, "dir": str(side.directory), "id": side.id, "status": side.state}


def _item(item: Difference) -> dict[str, Any]:
    tree = {"key": item.key, "left": item.left, "right": item.right}
    if item.section == "config":
        return {**tree, "neutral": item.neutral}
    return {**tree, "difference": item.change} if item.section == "result" else tree
