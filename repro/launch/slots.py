"""Places on one machine: which run goes where, and how many go side by side. Pure.

Runs take their places in the order in which they wait, and none overtakes another, so that each gets its turn. Nothing
is ever given back by hand: what is taken is what the running runs hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

ROUNDING = 1e-9  # ten tenths of a GPU are one GPU


@dataclass(frozen=True)
class Claim:
    """What a run needs while it is trained."""

    cores: int
    gpus: int = 0
    """How many it spans; 0 for a run on CPUs."""
    share: float = 1.0
    """Of each of these GPUs; below 1 others may use it too."""


@dataclass(frozen=True)
class Place:
    """A claim and the GPUs that it was given, as positions among the machine's."""

    claim: Claim
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class Machine:
    """What there is to share out."""

    cores: int
    gpus: int = 0
    most: int | None = None
    """Most runs at once; where it is given, cores are not counted: the user knows better."""


def place(claim: Claim, machine: Machine, taken: Collection[Place]) -> Place | None:
    """Return where a run goes beside those that run; None while there is no room for it.

    A run that needs more cores than there are goes alone. GPUs that nobody uses come before shared ones, and a GPU that
    nobody uses is never kept idle for want of cores.
    """
    if machine.most is not None and len(taken) >= machine.most:
        return None
    enough = not taken or machine.most is not None or _cores(taken) + claim.cores <= machine.cores
    if not claim.gpus:
        return Place(claim) if enough else None
    loads = {gpu: load(gpu, taken) for gpu in range(machine.gpus)}
    fitting = [gpu for gpu in loads if loads[gpu] + claim.share <= 1 + ROUNDING]
    chosen = sorted(fitting, key=lambda gpu: loads[gpu])[: claim.gpus]
    joins = any(loads[gpu] > 0 for gpu in chosen)
    if len(chosen) < claim.gpus or (joins and not enough):
        return None
    return Place(claim, tuple(sorted(chosen)))


def load(gpu: int, taken: Iterable[Place]) -> float:
    """Sum up the shares of a GPU that are taken."""
    return sum(held.claim.share for held in taken if gpu in held.gpus)


def width(claims: Iterable[Claim], machine: Machine) -> int:
    """Count how many of these, from the first, go side by side; at least one."""
    taken: list[Place] = []
    for claim in claims:
        found = place(claim, machine, taken)
        if found is None:
            break
        taken.append(found)
    return max(1, len(taken))


def is_shared(claim: Claim, machine: Machine, runs: int) -> bool:
    """Tell whether a run's speed is no measurement: others may use its GPU, or the runs have more threads than cores.

    `runs`: how many there are in all.
    """
    if claim.gpus:
        return claim.share < 1
    beside = min(machine.most or 1, runs)
    return beside > 1 and beside * claim.cores > machine.cores


def _cores(taken: Iterable[Place]) -> int:
    return sum(held.claim.cores for held in taken)
