"""Rows of other numbers of groups at equal cost, beside or instead of those that a table publishes: `groups=[1,2,16]`.

A number of groups that the table publishes keeps its row. Any other becomes a row of its own, without a published
value, at the whole width per group whose MACs are nearest to the reference's at that scale. It is named as Xie et al.
(arXiv:1611.05431, Table 3) name theirs, by the width that is solved for the network of full size: a row has one name
at every scale, as a published one has, whose overrides may be narrower there. Widths are kept in the cache beside the
prices, so that a sweep is planned again without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from repro.ablation import Ablation, EqualCost, Published, Scale, Variant
from repro.compose import compose, key_of
from repro.config import NEUTRAL, RunConfig
from repro.cost import budget
from repro.cost.count import COUNTER_VERSION
from repro.errors import InputError
from repro.models.residual_config import ResidualConfig
from repro.paths import cache_dir
from repro.results import write_atomic
from repro.typed import digest

SOLVER_VERSION = 1
"""Raised whenever the solver finds other widths, so that older ones in the cache are not read."""

TRIES = 24
"""How many numbers of groups on either side of one that is refused are looked at for one that works."""

_WIDTH = TypeAdapter(budget.EqualCost)
Problem = tuple[ResidualConfig, int]


@dataclass(frozen=True)
class Sweep:
    """What `groups=` and `equal_cost=` made of a table: nothing, where neither was given."""

    groups: tuple[int, ...] = ()
    allowed: float | None = None
    """Largest relative difference of cost that was asked for instead of the table's own."""
    solved: Mapping[str, budget.EqualCost] = field(default_factory=dict)
    """The rows that the table does not publish."""

    @property
    def words(self) -> tuple[str, ...]:
        """Return what was given, as it is written on a command line."""
        groups = (f"'groups=[{','.join(map(str, self.groups))}]'",) if self.groups else ()
        return groups if self.allowed is None else (*groups, f"equal_cost={self.allowed:g}")


AS_PUBLISHED = Sweep()


def widened(ablation: Ablation, allowed: float, swept: bool) -> Ablation:
    """Return the table with another rule of equal cost, of which a note tells.

    Raises:
        InputError: the table has no such rule, and no rows are solved that would need one.
    """
    rule = ablation.equal_cost
    if rule is None and not swept:
        raise InputError(
            f"equal_cost={allowed:g}: the rows of {ablation.name} need not cost the same (no equal_cost in "
            f"{ablation.path}); it goes with groups=[1,2,4]"
        )
    rule = rule or EqualCost(macs=budget.TOLERANCE)
    kept = {what for what in ("macs", "params") if getattr(rule, what) is not None}
    note = (
        f"Rows may differ from their reference by {_percents(allowed)} in {_quantities(kept)}: equal_cost={allowed:g}"
    )
    changed = EqualCost(**dict.fromkeys(kept, allowed))
    return ablation.model_copy(update={"equal_cost": changed, "notes": (*ablation.notes, note)})


def peers(ablation: Ablation, scale: str) -> list[str]:
    """Name the rows of a scale that are compared with the table's reference, and the reference.

    Raises:
        InputError: the reference is not run at that scale.
    """
    rows = ablation.at(scale).variants
    if ablation.reference not in rows:
        raise InputError(
            f"groups: {ablation.name} does not run its reference {ablation.reference} at scale {scale}, and rows are "
            "solved from it"
        )
    return [name for name in rows if ablation.variants[name].reference == ablation.reference]


def swept(
    ablation: Ablation, scale: str, groups: Sequence[int], configs: Mapping[str, RunConfig]
) -> tuple[Ablation, dict[str, budget.EqualCost]]:
    """Return the table with a row for each number of groups at that scale, and how those were solved that are new.

    Args:
        ablation: the published table.
        scale: name of one of its scales.
        groups: numbers of groups, each from 1 on and named once.
        configs: the resolved configs of `peers` at that scale.

    Raises:
        InputError: the reference is a network without groups to change, or a number of groups has no width.
    """
    reference = configs[ablation.reference]
    try:
        network, whole = network_of(reference), _whole_network(ablation)
        kept = _published(network, reference, configs)
        new = [count for count in groups if count not in kept]
        here, named = solve([(network, count) for count in new]), solve([(whole, count) for count in new])
    except InputError as error:
        listed = ",".join(map(str, groups))
        reason = str(error).removeprefix("budget: ")
        raise InputError(f"groups=[{listed}]: {ablation.name}, reference {ablation.reference}: {reason}") from None
    names = {count: _name(ablation, found) for count, found in zip(new, named, strict=True)}
    solved = {names[found.groups]: found for found in here}
    order = [kept.get(count) or names[count] for count in groups]
    rows = order if ablation.reference in order else [ablation.reference, *order]
    return _with_rows(ablation, scale, rows, solved, dict(zip(names.values(), named, strict=True))), solved


def network_of(config: RunConfig) -> ResidualConfig:
    """Return a run's network, to be priced at the run's own images. Raises InputError as `budget.checked` does."""
    network, data = budget.checked(config.model), config.data
    native = network.native.model_copy(update={"size": data.size, "channels": data.channels, "classes": data.classes})
    return network.model_copy(update={"native": native})


def nearest_counts(network: ResidualConfig, count: int, allowed: float) -> list[int]:
    """Return the nearest number of groups below `count`, and above it, at which MACs are within `allowed`."""
    question = network, count, allowed
    try:
        return _nearest(question, _looked_up)
    except LookupError:
        from repro.launch.server import call

        return call(_nearest_solved, question)


def solve(problems: Sequence[Problem]) -> list[budget.EqualCost]:
    """Solve for the width per group, from the cache where it can; else in the fork server, which has torch."""
    found = [_known(problem) for problem in problems]
    missing = [problem for problem, width in zip(problems, found, strict=True) if width is None]
    if missing:
        from repro.launch.server import call

        answers = iter(call(_solve, missing))
        found = [next(answers) if width is None else width for width in found]
    return [width for width in found if width is not None]


def _solve(problems: Sequence[Problem]) -> list[budget.EqualCost]:
    answers = []
    for problem in problems:
        (answer,) = budget.equal_cost_widths(problem[0], [problem[1]])
        with suppress(OSError):  # a cache that cannot be written costs time, not the result
            write_atomic(_file(problem), _WIDTH.dump_json(answer))
        answers.append(answer)
    return answers


def _known(problem: Problem) -> budget.EqualCost | None:
    try:
        return _WIDTH.validate_json(_file(problem).read_bytes())
    except (OSError, ValidationError):
        return None


def _file(problem: Problem) -> Path:
    network, count = problem
    axes = network.model_dump(mode="json", exclude={"name", "published"})
    return cache_dir() / "widths" / f"{digest([COUNTER_VERSION, SOLVER_VERSION, axes, count])}.json"


def _looked_up(problem: Problem) -> budget.EqualCost:
    found = _known(problem)
    if found is None:
        raise LookupError(problem)
    return found


def _nearest_solved(question: tuple[ResidualConfig, int, float]) -> list[int]:
    return _nearest(question, lambda problem: _known(problem) or _solve([problem])[0])


def _nearest(question: tuple[ResidualConfig, int, float], solved: Callable[[Problem], budget.EqualCost]) -> list[int]:
    network, count, allowed = question
    below, above = range(count - 1, max(0, count - 1 - TRIES), -1), range(count + 1, count + 1 + TRIES)
    found = []
    for side in (below, above):
        with suppress(InputError):  # so many groups have no width, and more have none either
            found += [next((n for n in side if abs(solved((network, n)).macs) <= allowed), None)]
    return [n for n in found if n is not None]


def _published(network: ResidualConfig, reference: RunConfig, configs: Mapping[str, RunConfig]) -> dict[int, str]:
    """Return the row of each number of groups that is published: it differs from the reference in nothing else.

    Of several rows with as many groups it is the one whose block costs nearest to the reference's.
    """
    target = budget.block_cost(network, *budget.own_width(network))
    found: dict[int, tuple[float, str]] = {}
    for name, config in configs.items():
        if not isinstance(config.model, ResidualConfig) or _but_groups(config) != _but_groups(reference):
            continue
        count, width = budget.own_width(config.model)
        away = abs(budget.block_cost(network, count, width) - target)
        found[count] = min(found.get(count, (away, name)), (away, name))
    return {count: name for count, (_, name) in found.items()}


def _but_groups(config: RunConfig) -> dict[str, object]:
    tree = config.model_dump(mode="json", exclude=NEUTRAL)
    for axis in ("name", "groups", "width_per_group"):
        tree["model"].pop(axis)
    return tree


def _whole_network(ablation: Ablation) -> ResidualConfig:
    """Return the reference's network as the table's base and row make it, without what a scale changes."""
    listed = (*ablation.base, *ablation.overrides(ablation.reference))
    return budget.checked(compose([text for text in listed if key_of(text).partition(".")[0] == "model"]).model)


def _name(ablation: Ablation, whole: budget.EqualCost) -> str:
    """Name a new row; one of that name which the table has for another network keeps it."""
    return f"{whole.name}-solved" if whole.name in ablation.variants else whole.name


def _with_rows(
    ablation: Ablation,
    scale: str,
    rows: Sequence[str],
    solved: Mapping[str, budget.EqualCost],
    whole: Mapping[str, budget.EqualCost],
) -> Ablation:
    """Put the rows first, in their order, and let the scale run them alone; the others stay in the table."""
    rule = ablation.equal_cost or EqualCost(macs=budget.TOLERANCE)
    new = {name: _variant(ablation, found, whole[name], rule) for name, found in solved.items()}
    variants = {name: new.get(name) or ablation.variants[name] for name in (*rows, *ablation.variants)}
    spec: Scale = ablation.at(scale)
    extra = {name: _here(solved[name], whole[name]) if name in solved else spec.variants[name] for name in rows}
    scales = {**ablation.scales, scale: spec.model_copy(update={"variants": extra})}
    return ablation.model_copy(update={"equal_cost": rule, "variants": variants, "scales": scales})


def _here(found: budget.EqualCost, whole: budget.EqualCost) -> tuple[str, ...]:
    return () if found.width == whole.width else (f"model.width_per_group={found.width}",)


def _variant(ablation: Ablation, found: budget.EqualCost, whole: budget.EqualCost, rule: EqualCost) -> Variant:
    reference = ablation.reference
    also = "" if rule.params is None else f", published ones also by {_percents(rule.params)} in parameters"
    allowed = f" Rows may differ from it by {_percents(rule.macs)} in MACs{also}." if rule.macs is not None else also
    return Variant(
        extends=reference,
        set=(f"model.groups={whole.groups}", f"model.width_per_group={whole.width}"),
        published=Published(value=None, source=""),
        reference=reference,
        note=f"Solved, not published: {found.groups} groups of {found.width} channels at this scale, the width whose "
        f"MACs are nearest to {reference}'s ({_signed(found.macs)}; parameters {_signed(found.params)}).{allowed}",
    )


def _signed(ratio: float) -> str:
    return f"{100 * ratio:+.1f} %".replace("-", "\u2212")


def _percents(ratio: float) -> str:
    return f"{100 * ratio:g} %"


def _quantities(kept: set[str]) -> str:
    return " and ".join(name for what, name in (("macs", "MACs"), ("params", "parameters")) if what in kept)
