"""Why a collective of several ranks failed: which rank was lost, and what it had to say. Starts and ends no process."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from repro.config import TrainerConfig
from repro.results import Failure
from repro.training.ranks import LOOK, Ranks

FAILURE, WAITED = "failure", "waited"
"""Keys of the store that the ranks have met at: the first rank's own failure; with its number, that a rank waited."""

_COLLECTIVE = re.compile(r"gloo|NCCL|Connection (closed|reset)|Broken pipe|Timed out waiting")
"""How torch says that a collective failed, where it raises a plain RuntimeError."""


class RankError(Exception):
    """The run ends because of another rank; `failure` says which one and why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def is_of_another(error: Exception) -> bool:
    """Whether a collective failed, which is how the end of another rank shows."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and _COLLECTIVE.search(str(error)) is not None


def tell(store: TCPStore | None, rank: int, error: Exception, describe: Callable[[Exception], Failure]) -> None:
    """Leave word of why this rank ends: its own failure, if it is the first, or that it too waited for another one."""
    with suppress(RuntimeError):  # rank 0, where the store is, may be gone
        if store is not None and is_of_another(error):
            store.set(f"{WAITED}/{rank}", "")
        elif store is not None:
            own = describe(error)
            named = own.model_copy(update={"message": f"rank {rank}: {own.message}"})
            store.compare_set(FAILURE, "", named.model_dump_json())


def find_reason(store: TCPStore | None, error: Exception, ranks: Ranks, settings: TrainerConfig) -> Failure:
    """Find out which rank was lost and why: what it told, how its process ended, or that it alone is silent.

    `error` is that of rank 0's collective.
    """
    lost = _told(store) or ranks.found()
    if lost is not None:
        return lost
    silent = _silent(store, settings.devices * settings.nodes)
    first = (str(error).splitlines() or [""])[0].partition(". This is typically")[0]
    if "imed out" in first:
        message = f"{name_ranks(silent)} did not answer within {settings.timeout} s (trainer.timeout)"
        return Failure(kind="timeout", message=message)
    verb = "are" if len(silent) > 1 else "is"
    return Failure(kind="killed", message=f"{name_ranks(silent)} {verb} gone without a word ({first})")


def name_ranks(ranks: list[int]) -> str:
    """Write `rank 3`, `ranks 1, 3` or, where none is known, `a rank`."""
    if not ranks:
        return "a rank"
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _told(store: TCPStore | None) -> Failure | None:
    with suppress(RuntimeError):
        if store is not None and store.check([FAILURE]):
            return Failure.model_validate_json(store.get(FAILURE))
    return None


def _silent(store: TCPStore | None, world: int, patience: float = 2.0) -> list[int]:
    """Ranks other than 0 that have not told that they wait too; all but the lost ones do within a moment."""
    deadline = time.monotonic() + patience
    others = range(1, world)
    silent = list(others)
    with suppress(RuntimeError):
        while store is not None and len(silent) > 1 and time.monotonic() < deadline:
            time.sleep(LOOK / 4)
            silent = [rank for rank in others if not store.check([f"{WAITED}/{rank}"])]
    return silent
