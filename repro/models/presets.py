"""The published networks as typed configurations, read from `conf/model/`. Needs neither Hydra nor torch."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from repro.defaults import merged, read_option
from repro.errors import InputError, unknown
from repro.mistakes import first_mistake
from repro.models.config import Family, config_class
from repro.paths import options

LIBRARIES = ("timm", "torchvision")
"""`timm/NAME` and `torchvision/NAME` are presets too, for whatever name the library has."""


def load_preset(name: str, /, **axes: Any) -> Family:
    """Return the preset `conf/model/NAME.yaml`, changed in the given axes: `load_preset("resnet50", shortcut="D")`.

    Raises InputError for an unknown preset or axis, with the nearest name, and for an impossible value.
    """
    source, _, architecture = name.partition("/")
    if source in LIBRARIES and architecture:
        tree = {**read_option("model", f"_{source}"), "name": name, "architecture": architecture}
    elif name in options("model"):
        tree = read_option("model", name)
    else:
        raise unknown("model", name, options("model"))
    tree = merged(tree, axes)
    kind = config_class(tree["family"])
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"model {name}: {first_mistake(error, kind)[1]}") from None
