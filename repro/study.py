"""An ablation at a scale with seeds: the runs it consists of, their state on disk, their price.

Plans and reads only; training is the launcher's. Imports no torch: a price that is not in the cache is counted by
`price`, which does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from shlex import quote

from repro import folder
from repro.ablation import Ablation
from repro.compose import OverrideError, compose, key_of, scale_overrides
from repro.config import Labels, RunConfig
from repro.errors import InputError, unknown
from repro.paths import runs_dir
from repro.results import Cost, Result, read_result
from repro.sweep import AS_PUBLISHED, Sweep, nearest_counts, network_of

DEFAULT_SCALE, DEFAULT_SEEDS = "laptop", 3


@dataclass(frozen=True)
class Run:
    """One variant with one seed at one scale."""

    variant: str
    config: RunConfig
    directory: Path

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    @cached_property
    def id(self) -> str:
        """The run's content id."""
        return self.config.id

    def state(self) -> folder.State:
        """The run's state on disk."""
        return folder.state(self.directory)

    def result(self) -> Result | None:
        """The run's result; None while there is none, or none that can be read."""
        try:
            return read_result(self.directory)
        except InputError:
            return None


@dataclass(frozen=True)
class Study:
    """The runs of an ablation at a scale, breadth first by seed."""

    ablation: Ablation
    scale: str
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    configs: Mapping[str, RunConfig]
    """The first seed's config of each variant."""
    only: tuple[str, ...] = ()
    """The variants that were asked for; empty for all that the scale has."""
    sweep: Sweep = AS_PUBLISHED
    """Rows that the published table does not have, and a rule of equal cost other than its own."""

    @property
    def directory(self) -> Path:
        """Folder of the study: `RUNS/ABLATION/SCALE`."""
        return runs_dir() / self.ablation.name / self.scale

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every run: after k seeds of everything there is a valid table."""
        return tuple(self.run(variant, seed) for seed in self.seeds for variant in self.configs)

    def run(self, variant: str, seed: int) -> Run:
        """Return the run of one variant and seed."""
        config = self.configs[variant].model_copy(update={"seed": seed})
        name = re.sub(r"[^\w.+-]", "_", variant)
        return Run(variant, config, self.directory / name / f"seed{seed}-{config.id}")

    def with_seeds(self, seeds: Collection[int]) -> Study:
        """Return the same study with other seeds."""
        return replace(self, seeds=tuple(sorted(seeds)))

    def seeds_on_disk(self) -> set[int]:
        """Seeds for which a folder of this very config is there."""
        found = set()
        for variant in self.configs:
            parent = self.run(variant, 0).directory.parent
            names = [path.name for path in parent.iterdir()] if parent.is_dir() else []
            seeds = {int(match.group(1)) for name in names if (match := re.fullmatch(r"seed(\d+)-[0-9a-f]+", name))}
            found |= {seed for seed in seeds if self.run(variant, seed).directory.name in names}
        return found

    @property
    def rerun(self) -> str:
        """The command that makes this study again."""
        count = len(self.seeds)
        seeds = str(count) if self.seeds == tuple(range(count)) else f"'[{','.join(map(str, self.seeds))}]'"
        source = self.ablation.name if self.ablation.shipped else quote(str(self.ablation.path))
        chosen = [f"'variants=[{','.join(self.only)}]'"] if self.only else []
        words = [f"scale={self.scale}", f"seeds={seeds}", *self.sweep.words, *chosen, *map(quote, self.overrides)]
        return " ".join(["repro run", source, *words])


def plan(
    ablation: Ablation,
    scale: str,
    seeds: Sequence[int],
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    sweep: Sweep = AS_PUBLISHED,
) -> Study:
    """Expand an ablation into resolved configs, one per variant; nothing is written and nothing trained.

    Args:
        ablation: the published table.
        scale: name of one of its scales.
        seeds: the seeds, each a different non-negative number.
        overrides: Hydra overrides of the user, for every run.
        only: the variants to run; all that the scale has when empty.
        sweep: which rows of the table were solved, and by which rule.

    Raises:
        InputError: an unknown scale or variant, or an override that does not compose, with file and line.
    """
    rows = ablation.at(scale).variants
    for name in only:
        if name not in rows:
            where = " ".join([f"{ablation.name} at scale {scale}", *(f"with {word}" for word in sweep.words[:1])])
            raise unknown("variant", name, rows, where=where)
    chosen = [name for name in rows if not only or name in only or name in _references(ablation, only)]
    _refuse_collisions(ablation, scale, overrides)
    configs = {name: _compose_variant(ablation, scale, name, overrides) for name in chosen}
    return Study(ablation, scale, tuple(seeds), tuple(overrides), configs, tuple(only), sweep)


def _references(ablation: Ablation, names: Sequence[str]) -> set[str]:
    """References that the named variants are compared with, and theirs."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        target = ablation.variants[waiting.pop()].reference
        if target not in found:
            found.add(target)
            waiting.append(target)
    return found


def _refuse_collisions(ablation: Ablation, scale: str, overrides: Sequence[str]) -> None:
    """Refuse an override of what the rows differ in: it would make them equal."""
    rows = ablation.at(scale).variants
    varied = {key_of(text): name for name in rows for text in ablation.overrides(name, scale)}
    for text in overrides:
        key = key_of(text)
        if key in varied:
            raise InputError(
                f"override {text!r}: {key} is what the rows of {ablation.name} differ in (see {varied[key]}); "
                f"write a table of your own to change it: copy {ablation.path}"
            )


def _compose_variant(ablation: Ablation, scale: str, name: str, overrides: Sequence[str]) -> RunConfig:
    spec = ablation.at(scale)
    listed = [*ablation.base, *scale_overrides(scale), *spec.set, *ablation.overrides(name, scale), *overrides]
    try:
        config = compose([*listed, "seed=0"])
    except OverrideError as error:
        culprit = error.culprit(listed)
        if culprit in overrides or (overrides and _composes(listed[: -len(overrides)])):
            raise
        raise InputError(f"{_place(ablation, scale, name, culprit)}: variant {name!r}: {error}") from None
    labels = Labels(ablation=ablation.name, scale=scale, variant=name)
    return config.model_copy(update={"labels": labels})


def _place(ablation: Ablation, scale: str, name: str, culprit: str | None) -> str:
    """Return `file:line` of an override of a row; it may be one of a row that it extends."""
    rows = (row for row in reversed(ablation.chain(name)) if culprit in ablation.own_overrides(row, scale))
    return ablation.where(culprit, next(rows, name))


def _composes(overrides: Sequence[str]) -> bool:
    """Whether a row is right without what the user added, who then made the mistake."""
    try:
        compose(overrides)
    except OverrideError:
        return False
    return True


def known_prices(study: Study) -> dict[str, Cost]:
    """Prices of the variants that were priced before; imports no torch."""
    from repro.cost.count import known_price

    found = {
        name: known_price(config.model, config.data.size, config.data.channels, config.data.classes)
        for name, config in study.configs.items()
    }
    return {name: cost for name, cost in found.items() if cost is not None}


def count_prices(configs: Mapping[str, RunConfig]) -> dict[str, Cost]:
    """Price every variant at its own input size; counts, which imports torch, what is not in the cache."""
    from repro.cost.count import cached_price

    return {
        name: cached_price(config.model, config.data.size, config.data.channels, config.data.classes)
        for name, config in configs.items()
    }


def spread(study: Study, costs: Mapping[str, Cost]) -> dict[str, dict[str, float]]:
    """Relative difference of each variant's MACs and parameters from its reference's."""
    variants = study.ablation.variants
    return {
        name: {
            "macs": cost.macs / costs[variants[name].reference].macs - 1,
            "params": cost.params / costs[variants[name].reference].params - 1,
        }
        for name, cost in costs.items()
    }


def check_equal_cost(study: Study, costs: Mapping[str, Cost]) -> None:
    """Raise InputError, with the figures, when rows that must cost the same do not.

    A row that was solved is held to its MACs alone: a whole width can keep one quantity, and parameters follow.
    """
    rule = study.ablation.equal_cost
    if rule is None:
        return
    differences = spread(study, costs)
    broken = [
        (name, what, allowed)
        for name in costs
        for what, allowed in (("macs", rule.macs), ("params", rule.params if name not in study.sweep.solved else None))
        if allowed is not None and abs(differences[name][what]) > allowed
    ]
    if broken:
        figures = "; ".join(_figures(study, costs, *case) for case in broken)
        where = study.ablation.where("equal_cost")
        raise InputError(
            f"{where}: at scale {study.scale} the rows are not of equal cost: {figures}{_way_out(study, costs, broken)}"
        )


def _figures(study: Study, costs: Mapping[str, Cost], name: str, what: str, allowed: float) -> str:
    target = study.ablation.variants[name].reference
    own, other = getattr(costs[name], what), getattr(costs[target], what)
    return f"{name} has {own:,} {what}, {own / other - 1:+.1%} of {target}'s {other:,} (allowed ±{allowed:.1%})"


def _way_out(study: Study, costs: Mapping[str, Cost], broken: Sequence[tuple[str, str, float]]) -> str:
    """Name, for rows that were solved, the nearest numbers of groups that work, and the rule that would allow all."""
    solved = study.sweep.solved
    parts = []
    for name, _, allowed in (case for case in broken if case[0] in solved):
        network = network_of(study.configs[study.ablation.variants[name].reference])
        count = solved[name].groups
        near = nearest_counts(network, count, allowed)
        parts.append(f"instead of {count} groups: {' or '.join(map(str, near)) or 'none near it'}")
    if not parts:
        return ""
    differences = spread(study, costs)
    needed = ceil(100 * max(abs(differences[name][what]) for name, what, _ in broken)) / 100
    return f"; {', '.join(parts)}; or allow it with equal_cost={needed:g}"
