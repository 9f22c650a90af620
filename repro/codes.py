"""Which code trained a run, and which runs of a study were trained by other code than this. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from repro import environment, folder
from repro.results import Environment

if TYPE_CHECKING:
    from repro.study import Study

SHORT = 12  # digits of a commit


@dataclass(frozen=True)
class Code:
    """The code of a run. Two are the same when their `source` is; where there is none, when their commits are."""

    source: str | None
    """Hash of the package's source files; none in results of releases that did not write it."""
    commit: str | None
    dirty: bool | None

    @property
    def known(self) -> bool:
        """Whether anything is known of it."""
        return self.source is not None or self.commit is not None

    @property
    def place(self) -> str:
        """Write the commit: `0123456789ab (dirty)`, where dirty says that the files had changes."""
        if self.commit is None:
            return "unknown (not a git checkout)"
        return self.commit[:SHORT] + (" (dirty)" if self.dirty else "")


def code_of(found: Environment) -> Code:
    """Return the code that a result tells of; a run that went on under other code was trained by a code of its own."""
    if found.code is None or not found.earlier_code:
        return Code(found.code, found.commit, found.dirty)
    return Code(", then ".join((*found.earlier_code, found.code)), found.commit, found.dirty)


def current() -> Code:
    """Return the code that runs now."""
    return Code(environment.code(), *environment.commit())


def named(codes: Iterable[Code]) -> dict[Code, str]:
    """Give each code a name, in order of first appearance; those that are the same code share it.

    A clean commit without a hash is the code of a clean one with it.
    """
    distinct = list(dict.fromkeys(codes))
    clean: dict[str | None, str] = {
        code.commit: code.source for code in distinct if code.source and code.commit and not code.dirty
    }
    keys = {code: code.source or (None if code.dirty else clean.get(code.commit)) or code.place for code in distinct}
    members: dict[str, list[Code]] = {}
    for code, key in keys.items():
        members.setdefault(key, []).append(code)
    return {code: _name(members[key]) for code, key in keys.items()}


def _name(same: list[Code]) -> str:
    source = next((code.source for code in same if code.source), None)
    commits = list(dict.fromkeys(code.place for code in same if code.commit))
    if source is None:
        return f"commit {commits[0]}" if commits else same[0].place
    if len(commits) > 1:
        return f"{source}, the same at commits {' and '.join(commits)}"
    return f"{source}, commit {commits[0]}" if commits else source


@dataclass(frozen=True)
class OtherCode:
    """How many of the runs with an outcome were trained by other code than this, and by which."""

    runs: int
    done: int
    codes: tuple[str, ...]
    now: str

    def __str__(self) -> str:
        """Say it in one sentence."""
        which = f"{self.runs} of {self.done} finished runs {'was' if self.runs == 1 else 'were'} trained by other code"
        return f"{which}: {'; '.join(self.codes)}. This is {self.now}; they are not trained again"


def other_code(study: Study) -> OtherCode | None:
    """Return which runs of the study with an outcome other code trained; None when this one trained all of them.

    A run that does not tell its code is not counted among them.
    """
    results = [result for run in study.runs if (result := run.result()) and result.status in folder.DONE]
    codes = [code_of(result.environment) for result in results if result.environment]
    own = current()
    names = named([own, *codes])
    others = [names[code] for code in codes if code.known and names[code] != names[own]]
    return OtherCode(len(others), len(results), tuple(dict.fromkeys(others)), names[own]) if others else None
