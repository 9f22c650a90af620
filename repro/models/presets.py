"""The published networks as typed configurations, read from `conf/model/`. Needs neither Hydra nor torch."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml
from pydantic import ValidationError

from repro.errors import InputError, unknown
from repro.mistakes import first_mistake
from repro.models.config import Family, config_class
from repro.paths import conf_dir, options

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

LIBRARIES = ("timm", "torchvision")
"""`timm/NAME` and `torchvision/NAME` are presets too, for whatever name the library has."""


def load_preset(name: str, /, **axes: Any) -> Family:
    """Return the preset `conf/model/NAME.yaml`, changed in the given axes: `load_preset("resnet50", shortcut="D")`.

    Raises InputError for an unknown preset or axis, with the nearest name, and for an impossible value.
    """
    source, _, architecture = name.partition("/")
    if source in LIBRARIES and architecture:
        tree = {**_read(f"_{source}"), "name": name, "architecture": architecture}
    elif name in options("model"):
        tree = _read(name)
    else:
        raise unknown("model", name, options("model"))
    tree = _merged(tree, axes)
    kind = config_class(tree["family"])
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"model {name}: {first_mistake(error, kind)[1]}") from None


@cache
def _read(name: str) -> dict[str, Any]:
    """Read one file on top of the files that its defaults list names, in the list's order as Hydra does."""
    text = (conf_dir() / "model" / f"{name}.yaml").read_text(encoding="utf-8")
    own = yaml.load(text, Loader=_Loader)
    tree: dict[str, Any] = {}
    for part in own.pop("defaults", ["_self_"]):
        tree = _merged(tree, own if part == "_self_" else _read(part))
    return tree


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Lay `change` over `base`: mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
