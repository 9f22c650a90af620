"""The published networks as typed configurations, read from `conf/model/`. Needs neither Hydra nor torch."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import ValidationError

from repro.config import ResidualConfig
from repro.errors import InputError, unknown
from repro.mistakes import first_mistake
from repro.paths import conf_dir, options


def load_preset(name: str, /, **axes: Any) -> ResidualConfig:
    """Return the preset `conf/model/NAME.yaml`, changed in the given axes: `load_preset("resnet50", shortcut="D")`.

    Raises InputError for an unknown preset or axis, with the nearest name, and for an impossible value.
    """
    if name not in options("model"):
        raise unknown("model", name, options("model"))
    try:
        return ResidualConfig.model_validate(_merged(_read(name), axes))
    except ValidationError as error:
        raise InputError(f"model {name}: {first_mistake(error, ResidualConfig)[1]}") from None


def _read(name: str) -> dict[str, Any]:
    """Read one file on top of the files that its defaults list names, in the list's order as Hydra does."""
    own = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
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
