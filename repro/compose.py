"""From Hydra overrides to one typed RunConfig. The only place, besides the `repro train` app, that knows Hydra.

Every mistake becomes one sentence; a training process never comes here (it reads its own resolved config).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from repro.config import RunConfig
from repro.errors import InputError, unknown
from repro.mistakes import first_mistake
from repro.models.presets import LIBRARIES
from repro.paths import conf_dir, options

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


_PARTS = tuple(f"_{source}" for source in LIBRARIES)


class OverrideError(InputError):
    """An override that does not compose; `override` is its text, or `key` what it sets, where one is to blame."""

    def __init__(self, message: str, override: str | None = None, key: str | None = None) -> None:
        super().__init__(message)
        self.override = override
        self.key = key

    def culprit(self, overrides: Sequence[str]) -> str | None:
        """Return the last of `overrides` that is to blame."""
        for text in reversed(overrides):
            key = key_of(text)
            if text == self.override or (self.key and f"{self.key}.".startswith(f"{key}.") and "." in key):
                return text
        return None


@cache
def groups() -> tuple[str, ...]:
    """Names of the configuration groups that describe a run."""
    return tuple(sorted(path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "launcher"))


def scale_overrides(scale: str) -> list[str]:
    """Group choices that a scale makes, written as overrides, so that they win over what an ablation's base says."""
    if scale not in options("scale"):
        raise unknown("scale", scale, options("scale"))
    tree = yaml.safe_load((conf_dir() / "scale" / f"{scale}.yaml").read_text(encoding="utf-8")) or {}
    chosen = [f"scale={scale}"]
    for entry in tree.get("defaults", []):
        for key, value in entry.items() if isinstance(entry, dict) else ():
            chosen.append(f"{key.removeprefix('override ').strip().lstrip('/')}={value}")
    return chosen


def compose(overrides: Sequence[str]) -> RunConfig:
    """Compose and validate one run. Raises OverrideError with one sentence for anything that does not fit."""
    overrides = [text for given in overrides for text in with_library(given)]
    parsed = [_parse(text) for text in overrides]
    tree = _quick_tree(parsed)
    return to_config(_compose_tree(list(overrides)) if tree is None else tree)


def to_config(tree: Any) -> RunConfig:
    """Validate a resolved Hydra tree (an OmegaConf node or plain data)."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(tree, resolve=True) if OmegaConf.is_config(tree) else tree
    except OmegaConfBaseException as error:
        raise OverrideError(_first_line(error)) from None
    try:
        return RunConfig.model_validate(plain)
    except ValidationError as error:
        location, sentence = first_mistake(error, RunConfig)
        raise OverrideError(sentence, key=".".join(map(str, location))) from None


def key_of(override: str) -> str:
    """Return the key or group that an override sets: `model.groups` of `+model.groups=2`."""
    return override.partition("=")[0].strip().lstrip("+~").partition("@")[0]


def with_library(override: str) -> list[str]:
    """Write `model=timm/NAME` as the choice and the values that it stands for; anything else as it is."""
    key, _, value = override.partition("=")
    source, _, architecture = value.partition("/")
    if key.strip() != "model" or source not in LIBRARIES or not architecture:
        return [override]
    return [f"model=_{source}", f"model.architecture={architecture}", f"model.name={value}"]


def _parse(text: str) -> Override:
    """Parse an override and check what can be checked before composing: its grammar, its group and its option."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise OverrideError(f"override {text!r} is not of the form key=value ({reason})", text) from None
    if override.is_sweep_override():
        raise OverrideError(f"override {text!r} gives several values; one run has one", text)
    key, value = override.key_or_group, override.value()
    if key in groups() and isinstance(value, str) and value not in (*options(key), *_PARTS):
        raise OverrideError(str(unknown(f"{key}", value, options(key))), text)
    if "." not in key and "=" in text and not override.is_add() and key not in (*groups(), *RunConfig.model_fields):
        raise OverrideError(str(unknown("key", key, [*groups(), *RunConfig.model_fields])), text)
    return override


def _quick_tree(overrides: Sequence[Override]) -> Any:
    """Compose as Hydra does, but each choice of groups only once: it parses a dozen YAML files every time.

    None for whatever is not a plain change of a value that is there; Hydra then composes it, or says what is wrong.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    chosen = tuple(item.input_line or "" for item in overrides if item.key_or_group in groups())
    values = [item for item in overrides if item.key_or_group not in groups()]
    if any(item.is_add() or item.is_delete() or item.package or "/" in item.key_or_group for item in overrides):
        return None
    tree = _chosen_tree(chosen).copy()
    try:
        for item in values:
            OmegaConf.update(tree, item.key_or_group, item.value(), merge=True)
    except (OmegaConfBaseException, ValueError):
        return None
    return tree


@cache
def _chosen_tree(chosen: tuple[str, ...]) -> Any:
    return _compose_tree(list(chosen))


def _compose_tree(overrides: list[str]) -> Any:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    expected = (HydraException, OmegaConfBaseException, ValueError)  # ValueError: a list's index that is no number
    try:
        return _hydra_tree(overrides)
    except expected as error:
        chosen = [text for text in overrides if key_of(text) in groups()]
        try:
            tree = _hydra_tree(chosen)
        except expected:
            raise OverrideError(f"the choices {' '.join(chosen)} do not compose: {_first_line(error)}") from None
        raise _explained(error, [text for text in overrides if text not in chosen], tree) from None


def _hydra_tree(overrides: list[str]) -> Any:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        return hydra_compose(config_name="train", overrides=overrides)


def _explained(error: Exception, values: list[str], tree: Any) -> OverrideError:
    """Find the override that sets what does not exist in `tree`, which is composed without any of them."""
    for text in values:
        sentence = None if text.startswith("+") else _missing(key_of(text), tree)
        if sentence is not None:
            return OverrideError(f"override {text!r}: {sentence}", text)
    return OverrideError(f"the overrides do not compose: {_first_line(error)}")


def _missing(key: str, tree: Any) -> str | None:
    """Say which part of a dotted key does not exist in `tree`, and which name was meant; None when all of it does."""
    from omegaconf import DictConfig

    node: Any = tree
    done: list[str] = []
    for part in key.split("."):
        place = ".".join(done) or "the config"
        if not isinstance(node, DictConfig):
            return f"{place} is a value and has no key {part!r}"
        if part not in node:
            return str(unknown(f"key {key!r}: {place} has no", part, [str(name) for name in node]))
        node = node[part]
        done.append(part)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
