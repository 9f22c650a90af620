"""Two runs side by side: what differs in config, code, hardware, data and result. Reads folders; imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from repro import folder
from repro.codes import code_of, named
from repro.config import NEUTRAL
from repro.errors import InputError, unknown
from repro.paths import runs_dir
from repro.results import FILE, Result, read_result

SHORTEST_ID = 6  # digits of an id that may stand for it

Section = Literal["config", "code", "hardware", "data", "result"]
ABSENT = "(absent)"


@dataclass(frozen=True)
class Side:
    """One of the two runs, as its folder tells it."""

    name: str
    directory: Path
    id: str | None
    state: folder.State
    host: str | None
    config: Mapping[str, Any]
    """By dotted key."""
    result: Result | None


@dataclass(frozen=True)
class Difference:
    """A value that is not the same in both runs; `neutral`: it does not change what is trained."""

    section: Section
    key: str
    left: Any
    right: Any
    neutral: bool = False

    @property
    def change(self) -> float | None:
        """Right minus left, of two finite numbers."""
        both = (self.left, self.right)
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in both):
            return None
        return self.right - self.left if all(map(math.isfinite, both)) else None


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs."""

    left: Side
    right: Side
    differences: tuple[Difference, ...]
    same_code: bool | None
    """None where a run does not say which code trained it."""

    @property
    def same_id(self) -> bool:
        """Whether both are the same run: the same training, whatever it was carried out by and where."""
        return self.left.id is not None and self.left.id == self.right.id

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return the keys of the config that make the ids differ."""
        return tuple(item.key for item in self.of("config") if not item.neutral)

    def of(self, section: Section) -> tuple[Difference, ...]:
        """Return the differences of one kind."""
        return tuple(item for item in self.differences if item.section == section)


def compare(left: Side, right: Side) -> Comparison:
    """Compare two runs."""
    found: list[Difference] = []
    for section, first, second in _sections(left, right):
        for key in dict.fromkeys([*first, *second]):
            one, other = first.get(key, ABSENT), second.get(key, ABSENT)
            if one != other and not (one != one and other != other):  # a metric may be NaN in both
                found.append(Difference(section, key, one, other, section == "config" and is_neutral(key)))
    return Comparison(left, right, tuple(found), _same_code(left, right))


def is_neutral(key: str) -> bool:
    """Whether a dotted key of the config does not change what is trained."""
    first, _, rest = key.partition(".")
    known = NEUTRAL.get(first)
    return known is True or (isinstance(known, set) and rest.partition(".")[0] in known)


def flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Write a tree by dotted keys; a list is one value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{above}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found


def _sections(left: Side, right: Side) -> Iterator[tuple[Section, Mapping[str, Any], Mapping[str, Any]]]:
    yield "config", left.config, right.config
    if left.result is None or right.result is None:  # all that the other one tells would be a difference
        yield "result", {"status": left.state}, {"status": right.state}
        return
    for section, part in (("code", _code), ("hardware", _hardware), ("data", _data), ("result", _result)):
        yield section, part(left), part(right)  # type: ignore[misc]


def _code(side: Side) -> dict[str, Any]:
    found = side.result.environment if side.result else None
    if found is None:
        return {}
    head = {"code": found.code, "commit": found.commit, "changes since the commit": found.dirty, "Python": found.python}
    return {**head, **found.packages}


def _hardware(side: Side) -> dict[str, Any]:
    found = side.result.environment if side.result else None
    own = {} if found is None else found.model_dump(include={"platform", "cpu", "cores", "gpu"})
    return {**own, "host": side.host}


def _data(side: Side) -> dict[str, Any]:
    return side.result.data.model_dump() if side.result and side.result.data else {}


def _result(side: Side) -> dict[str, Any]:
    assert side.result is not None
    tree = side.result.model_dump(include={"failure": {"kind", "message"}, "epochs": True, "last": True, "best": True})
    for part in ("cost", "timing"):
        found = getattr(side.result, part)
        tree[part] = {} if found is None else found.model_dump(mode="json")
    return {"status": side.state, **flat({key: value for key, value in tree.items() if value is not None})}


def _same_code(left: Side, right: Side) -> bool | None:
    codes = [code_of(side.result.environment) for side in (left, right) if side.result and side.result.environment]
    if len(codes) < 2 or not all(code.known for code in codes):
        return None
    return len(set(named(codes).values())) == 1


def read_side(name: str) -> Side:
    """Read the run that is named: its folder, `ABLATION/SCALE/VARIANT/seedK`, or six digits or more of its id.

    Raises:
        InputError: no run of that name, several, or one whose files cannot be read.
    """
    directory = find_run(name)
    config, own = _config(directory)
    result = read_result(directory)
    standing = folder.standing(directory)
    own = own or (result.id if result else None)
    host = standing.attempts[-1].host if standing.attempts else None
    return Side(_short(directory), directory, own, standing.state, host, config, result)


def _config(directory: Path) -> tuple[dict[str, Any], str | None]:
    """Read the config and the run's id; a config of another release is compared as it stands, and has no id here."""
    path = directory / folder.CONFIG
    try:
        config = folder.read_config(path)
    except InputError:
        tree = _plain_tree(path)
        if tree is None:
            raise
        return flat(tree), None
    return flat(config.model_dump(mode="json")), config.id


def _plain_tree(path: Path) -> dict[str, Any] | None:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None
    return tree if isinstance(tree, dict) else None


def find_run(name: str) -> Path:
    """Find the folder of the run that is named. Raises InputError as `read_side` does."""
    for path in (Path(name), runs_dir() / name):
        if _is_run(path):
            return path
    if re.fullmatch(rf"[0-9a-f]{{{SHORTEST_ID},}}", name):
        return _only(name, [path for path in sorted(runs_dir().glob("*/*/*/seed*-*")) if _id_starts(path, name)])
    if re.fullmatch(r"[0-9a-f]+", name):
        raise InputError(f"{name}: expected {SHORTEST_ID} digits or more of a run's id")
    if not name or Path(name).exists():
        raise InputError(f"{name or repr(name)}: no run's folder; it has no {folder.CONFIG}")
    above = runs_dir() / name
    seeds = sorted(path for path in above.parent.glob(f"{above.name}-*") if _is_run(path))
    if seeds and re.fullmatch(r"seed\d+", above.name):
        return _only(name, seeds)
    raise _nearest(name)


def _is_run(path: Path) -> bool:
    return (path / folder.CONFIG).is_file() or (path / FILE).is_file()


def _id_starts(path: Path, digits: str) -> bool:
    return path.name.rpartition("-")[2].startswith(digits) and _is_run(path)


def _only(name: str, found: list[Path]) -> Path:
    if not found:
        raise InputError(f"no run whose id begins with {name} in {runs_dir()}")
    if len(found) > 1:
        listed = ", ".join(_short(path) for path in found[:4]) + (", …" if len(found) > 4 else "")
        raise InputError(f"{name} names {len(found)} runs: {listed}; name one by its folder")
    return found[0]


def _nearest(name: str) -> InputError:
    """Say at which part of the name the folders of runs end, and what stands there."""
    place = runs_dir()
    for part in Path(name).parts:
        if not (place / part).is_dir():
            names = [path.name for path in place.iterdir() if path.is_dir()] if place.is_dir() else []
            shown = [each for each in names if not each.startswith(".")]
            if not shown:
                break
            return unknown("run", part, shown, where=str(place))
        place = place / part
    return InputError(
        f"{name}: no run; expected a run's folder, ABLATION/SCALE/VARIANT/seedK below {runs_dir()}, or the first "
        f"{SHORTEST_ID} digits or more of its id"
    )


def _short(directory: Path) -> str:
    """Name a folder from the folder of runs on, where it is below it."""
    path, runs = directory.resolve(), runs_dir().resolve()
    return str(path.relative_to(runs)) if path.is_relative_to(runs) else str(directory)
