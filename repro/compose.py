"""From Hydra overrides to one typed RunConfig. The only place, besides the `repro train` app, that knows Hydra.

Every mistake becomes one sentence; a training process never comes here (it reads its own resolved config).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from repro.config import RunConfig
from repro.errors import InputError, unknown
from repro.mistakes import first_mistake
from repro.paths import conf_dir, options

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


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
    parsed = [_parse(text) for text in overrides]
    return to_config(_compose_tree([item.input_line or "" for item in parsed]))


def to_config(tree: Any) -> RunConfig:
    """Validate a resolved Hydra tree (an OmegaConf node or plain data)."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(tree, resolve=True) if OmegaConf.is_config(tree) else tree
    except OmegaConfBaseException as error:
        raise OverrideError(str(error).splitlines()[0]) from None
    try:
        return RunConfig.model_validate(plain)
    except ValidationError as error:
        location, sentence = first_mistake(error, RunConfig)
        raise OverrideError(sentence, key=".".join(map(str, location))) from None


def key_of(override: str) -> str:
    """Return the key or group that an override sets: `model.groups` of `+model.groups=2`."""
    return override.partition("=")[0].strip().lstrip("+~").partition("@")[0]


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
    if key in groups() and isinstance(value, str) and value not in options(key):
        raise OverrideError(str(unknown(f"{key}", value, options(key))), text)
    if "." not in key and "=" in text and not override.is_add() and key not in (*groups(), *RunConfig.model_fields):
        raise OverrideError(str(unknown("key", key, [*groups(), *RunConfig.model_fields])), text)
    return override


def _compose_tree(overrides: list[str]) -> Any:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        try:
            return hydra_compose(config_name="train", overrides=overrides)
        except (HydraException, OmegaConfBaseException) as error:
            message = str(error)
            blamed = re.search(r"Could not (?:override|delete from config|append to config)\.? '([^']+)'", message)
            if blamed is None:
                raise OverrideError(f"the overrides do not compose: {message.splitlines()[0]}") from None
            text = next((item for item in overrides if key_of(item) == blamed.group(1)), None)
            others = [item for item in overrides if item != text]
            tree = hydra_compose(config_name="train", overrides=others)
            raise OverrideError(_blame(text or blamed.group(1), blamed.group(1), tree), text) from None


def _blame(text: str, key: str, tree: Any) -> str:
    """Say which part of a dotted key does not exist, and which name was meant."""
    from omegaconf import DictConfig

    node: Any = tree
    done: list[str] = []
    for part in key.split("."):
        if not isinstance(node, DictConfig):
            return f"override {text!r}: {'.'.join(done)} is a value and has no key {part!r}"
        if part not in node:
            place = ".".join(done) or "the config"
            return str(
                unknown(f"key {key!r}: {place} has no", part, [str(name) for name in node], f"override {text!r}")
            )
        node = node[part]
        done.append(part)
    return f"override {text!r} does not fit what stands there ({str(tree)[:60]}…)"
