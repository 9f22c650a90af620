"""Read what follows an ablation's name on the command line: scale, seeds, rows, launcher, and Hydra overrides."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from repro.ablation import Ablation
from repro.defaults import read_option
from repro.errors import InputError, unknown
from repro.launch.config import LauncherConfig, LocalConfig, RayConfig, SlurmConfig
from repro.mistakes import first_mistake
from repro.study import DEFAULT_SCALE, DEFAULT_SEEDS, Study, plan
from repro.sweep import Sweep, peers, swept, widened

_LAUNCHERS: dict[str, type[LocalConfig | SlurmConfig | RayConfig]] = {
    "local": LocalConfig,
    "slurm": SlurmConfig,
    "ray": RayConfig,
}

_WORDS = (
    "scale=laptop, seeds=3 or seeds=[0,7], variants=[a,b], groups=[1,2,16] (rows at equal cost), equal_cost=0.1, "
    "launcher=slurm, launcher.parallel=2, and any Hydra override of a run"
)
_OWN = ("scale", "seeds", "variants", "groups", "equal_cost")


@dataclass(frozen=True)
class Request:
    """A study as it was asked for."""

    scale: str = DEFAULT_SCALE
    seeds: tuple[int, ...] = tuple(range(DEFAULT_SEEDS))
    seeds_given: bool = False
    only: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    equal_cost: float | None = None
    launcher: LauncherConfig = field(default_factory=LocalConfig)
    overrides: tuple[str, ...] = ()

    def study(self, ablation: Ablation) -> Study:
        """Plan the study. Without seeds on the command line: the default ones and those that were run before."""
        table, sweep = self._rows(ablation)
        study = plan(table, self.scale, self.seeds, self.overrides, self.only, sweep)
        return study if self.seeds_given else study.with_seeds({*self.seeds, *study.seeds_on_disk()})

    def study_on_disk(self, ablation: Ablation) -> Study:
        """Plan the study to be read. Without seeds on the command line: those that are there, if any."""
        study = self.study(ablation)
        found = study.seeds_on_disk()
        return study if self.seeds_given or not found else study.with_seeds(found)

    def _rows(self, ablation: Ablation) -> tuple[Ablation, Sweep]:
        """Return the table with the rows and the rule of equal cost that were asked for, and what they are."""
        table = ablation
        if self.equal_cost is not None:
            table = widened(ablation, self.equal_cost, bool(self.groups))
        if not self.groups:
            return table, Sweep(allowed=self.equal_cost)
        configs = plan(table, self.scale, [0], self.overrides, peers(table, self.scale)).configs
        table, solved = swept(table, self.scale, self.groups, configs)
        return table, Sweep(self.groups, self.equal_cost, solved)


def study_arguments(parser: ArgumentParser) -> None:
    """Declare an ablation's name and what may follow it."""
    parser.add_argument("name", metavar="ABLATION", help="a name from `repro list`, or a file of your own")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help=_WORDS)


def parse_request(words: Sequence[str]) -> Request:
    """Parse `scale=laptop seeds=[0,7] variants=[a,b] groups=[1,2,16] launcher.parallel=2 recipe.lr=0.05`.

    Raises:
        InputError: a word that is not of the form key=value or is given twice, bad seeds or groups, an unknown
            launcher or launcher option.
    """
    taken: dict[str, str] = {}
    launcher: dict[str, str] = {}
    overrides = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InputError(f"{word!r} is not of the form key=value, for example scale=smoke or seeds=5")
        if key in _OWN:
            _take(taken, key, value)
        elif key in ("launcher", "detach") or key.startswith("launcher."):
            _take(launcher, "launcher.detach" if key == "detach" else key, value)
        else:
            overrides.append(word)
    return Request(
        scale=taken.get("scale", DEFAULT_SCALE),
        seeds=parse_seeds(taken["seeds"]) if "seeds" in taken else tuple(range(DEFAULT_SEEDS)),
        seeds_given="seeds" in taken,
        only=_names(taken.get("variants", "")),
        groups=parse_groups(taken["groups"]) if "groups" in taken else (),
        equal_cost=_ratio("equal_cost", taken["equal_cost"]) if "equal_cost" in taken else None,
        launcher=_launcher(launcher),
        overrides=tuple(overrides),
    )


def _take(words: dict[str, str], key: str, value: str) -> None:
    if key in words:
        raise InputError(f"{key} is given twice: {words[key]!r} and {value!r}")
    words[key] = value


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


def parse_groups(text: str) -> tuple[int, ...]:
    """Read `[1,2,16]`, numbers of groups. Raises InputError for anything else."""
    listed = re.fullmatch(r"\s*\[\s*(\d+(?:\s*,\s*\d+)*)\s*\]\s*", text, re.ASCII)
    groups = [int(part) for part in listed.group(1).split(",")] if listed else []
    if not groups or 0 in groups:
        raise InputError(
            f"groups={text!r}: expected a list of numbers of groups from 1 on, for example groups=[1,2,4,8,16,32]"
        )
    twice = next((count for count in groups if groups.count(count) > 1), None)
    if twice is not None:
        raise InputError(f"groups={text!r} names {twice} twice")
    return tuple(groups)


def _ratio(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise InputError(f"{key}={text!r}: expected a part of the reference's cost between 0 and 1, such as {key}=0.1")
    return value


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.strip("[] ").split(",") if part.strip())


def _launcher(words: dict[str, str]) -> LauncherConfig:
    """Read `launcher=slurm launcher.time=60`, where `detach=true` is short for `launcher.detach=true`."""
    name = words.pop("launcher", "local")
    if name not in _LAUNCHERS:
        raise unknown("launcher", name, _LAUNCHERS)
    model = _LAUNCHERS[name]
    settings = dict(read_option("launcher", name))
    for key, value in words.items():
        option = key.removeprefix("launcher.")
        if option == "name" or option not in model.model_fields:
            raise _no_option(key, option, name)
        settings[option] = _value(key, value, model.model_fields[option])
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise InputError(f"launcher.{first_mistake(error, model)[1]}") from None


def _no_option(key: str, option: str, name: str) -> InputError:
    owners = [f"launcher={other}" for other, model in _LAUNCHERS.items() if option in model.model_fields]
    if owners and option != "name":
        return InputError(f"{key} is an option of {' and '.join(owners)}, and this is launcher={name}")
    known = [f"launcher.{other}" for other in _LAUNCHERS[name].model_fields if other != "name"]
    return unknown(f"option of launcher={name}", key, known)


def _value(key: str, text: str, field: FieldInfo) -> Any:
    """Read a value as YAML; a number is text where text is expected: `02:30:00` is a time, and `0123` an account."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"{key}={text}: expected a value as in YAML, such as 2, null or [0,1]") from None
    expected = (field.annotation, *get_args(field.annotation))
    return value if value is None or isinstance(value, str | list | dict) or str not in expected else text
