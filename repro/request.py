"""Read what follows an ablation's name on the command line: scale, seeds, variants, launcher, and Hydra overrides."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from repro.ablation import Ablation
from repro.defaults import read_option
from repro.errors import InputError, unknown
from repro.launch.config import LauncherConfig, LocalConfig
from repro.mistakes import first_mistake
from repro.paths import options
from repro.study import DEFAULT_SCALE, DEFAULT_SEEDS, Study, plan

_LAUNCHER: TypeAdapter[LauncherConfig] = TypeAdapter(LauncherConfig)

_WORDS = "scale=laptop, seeds=3 or seeds=[0,7], variants=[a,b], launcher.parallel=2, and any Hydra override of a run"


@dataclass(frozen=True)
class Request:
    """A study as it was asked for."""

    scale: str = DEFAULT_SCALE
    seeds: tuple[int, ...] = tuple(range(DEFAULT_SEEDS))
    seeds_given: bool = False
    only: tuple[str, ...] = ()
    launcher: LauncherConfig = field(default_factory=LocalConfig)
    overrides: tuple[str, ...] = ()

    def study(self, ablation: Ablation) -> Study:
        """Plan the study. Without seeds on the command line: the default ones and those that were run before."""
        study = plan(ablation, self.scale, self.seeds, self.overrides, self.only)
        return study if self.seeds_given else study.with_seeds({*self.seeds, *study.seeds_on_disk()})

    def study_on_disk(self, ablation: Ablation) -> Study:
        """Plan the study to be read. Without seeds on the command line: those that are there, if any."""
        study = self.study(ablation)
        found = study.seeds_on_disk()
        return study if self.seeds_given or not found else study.with_seeds(found)


def study_arguments(parser: ArgumentParser) -> None:
    """Declare an ablation's name and what may follow it."""
    parser.add_argument("name", metavar="ABLATION", help="a name from `repro list`, or a file of your own")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help=_WORDS)


def parse_request(words: Sequence[str]) -> Request:
    """Parse `scale=laptop seeds=[0,7] variants=[a,b] launcher.parallel=2 recipe.lr=0.05`.

    Raises:
        InputError: a word that is not of the form key=value, bad seeds, an unknown launcher or launcher option.
    """
    taken: dict[str, str] = {}
    launcher: dict[str, str] = {}
    overrides = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InputError(f"{word!r} is not of the form key=value, for example scale=smoke or seeds=5")
        if key in ("scale", "seeds", "variants"):
            if key in taken:
                raise InputError(f"{key} is given twice: {taken[key]!r} and {value!r}")
            taken[key] = value
        elif key in ("launcher", "detach") or key.startswith("launcher."):
            launcher["launcher.detach" if key == "detach" else key] = value
        else:
            overrides.append(word)
    return Request(
        scale=taken.get("scale", DEFAULT_SCALE),
        seeds=parse_seeds(taken["seeds"]) if "seeds" in taken else tuple(range(DEFAULT_SEEDS)),
        seeds_given="seeds" in taken,
        only=_names(taken.get("variants", "")),
        launcher=_launcher(launcher),
        overrides=tuple(overrides),
    )


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read `5` (the seeds 0 to 4) or `[0,7]`. Raises InputError for anything else."""
    count = re.fullmatch(r"\s*(\d+)\s*", text)
    if count and int(count.group(1)) > 0:
        return tuple(range(int(count.group(1))))
    listed = re.fullmatch(r"\s*\[\s*(\d+(?:\s*,\s*\d+)*)\s*\]\s*", text)
    if not listed:
        raise InputError(f"seeds={text!r}: expected how many (seeds=5) or a list of numbers from 0 on (seeds=[0,7])")
    seeds = [int(part) for part in listed.group(1).split(",")]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds={text!r} names a seed twice")
    return tuple(seeds)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.strip("[] ").split(",") if part.strip())


def _launcher(words: dict[str, str]) -> LauncherConfig:
    """Read `launcher=slurm launcher.time=60`, where `detach=true` is short for `launcher.detach=true`."""
    name = words.pop("launcher", "local")
    if name not in options("launcher"):
        raise unknown("launcher", name, options("launcher"))
    settings = read_option("launcher", name)
    for key, value in words.items():
        option = key.removeprefix("launcher.")
        if option not in settings:
            raise unknown(f"option of launcher={name}", key, [f"launcher.{known}" for known in settings])
        settings[option] = _value(key, value)
    try:
        return _LAUNCHER.validate_python(settings)
    except ValidationError as error:
        sentence = first_mistake(error, type(_LAUNCHER.validate_python({"name": name})))[1]
        raise InputError(f"launcher.{sentence}") from None


def _value(key: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"{key}={value}: expected a value as in YAML, such as 2, null or [0,1]") from None
