"""A file of `conf/` on top of those that its defaults list names, as Hydra composes it. Needs no Hydra and no torch."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

from repro.paths import conf_dir

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def read_option(group: str, name: str) -> dict[str, Any]:
    """Read `conf/GROUP/NAME.yaml`, in the order of its defaults list, whose entries are files of the same group."""
    text = (conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8")
    own = yaml.load(text, Loader=_Loader)
    tree: dict[str, Any] = {}
    for part in own.pop("defaults", ["_self_"]):
        tree = merged(tree, own if part == "_self_" else read_option(group, part))
    return tree


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Lay `change` over `base`: mappings are merged, everything else is replaced."""
    result = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result
