"""What the processes of one run agree on: the step at which they save, and whether they end there.

A signal reaches each process at another step, or only one of them, and clocks differ; so they ask each other. Not at
every step: rank 0 says after how many steps they ask again, from the speed it sees, so that it is about once in
`PERIOD` seconds. They ask on the host, over gloo, also where gradients go over NCCL: no device waits for it.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

PERIOD = 1.0
MOST = 1000
"""Steps between two questions, however fast they are."""


class Agreement:
    """One for each process of a run; with a single process it asks nobody."""

    def __init__(self, rank: int, world: int, timeout: int) -> None:
        """Every process makes it at the same time. `timeout`: seconds that one waits for the others."""
        self.rank = rank
        self.world = world
        self._group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout)) if world > 1 else None
        self._asked = (0, time.monotonic())
        self._next = 0

    def at_step(self, step: int, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether all stop and whether all save after optimiser step `step`; mostly not asked, and then neither."""
        if self.world > 1 and step < self._next:
            return False, False
        return self.now(stop, save, step)

    def now(self, stop: bool, save: bool, step: int = 0) -> tuple[bool, bool]:
        """Ask at a point that all reach: stop where any process wants to, save where rank 0's clock says so."""
        if self.world == 1:
            return stop, save
        first = self.rank == 0
        votes = torch.tensor([stop, save and first, self._interval(step) if first else 0], dtype=torch.int64)
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self._group)
        stops, saves, interval = votes.tolist()
        self._next = step + interval
        return bool(stops), bool(saves)

    def gathered(self, own: Any) -> list[Any] | None:
        """Bring an object of each process to rank 0, in the order of the ranks; null elsewhere."""
        if self.world == 1:
            return [own]
        everyone: list[Any] | None = [None] * self.world if self.rank == 0 else None
        dist.gather_object(own, everyone, group=self._group)
        return everyone

    def wait(self) -> None:
        """Go on when all are here."""
        if self.world > 1:
            dist.barrier(group=self._group)

    def _interval(self, step: int) -> int:
        """Steps that take about `PERIOD` seconds, at the speed since the last question."""
        (before, then), now = self._asked, time.monotonic()
        self._asked = (step, now)
        taken = max(now - then, 1e-6)
        return max(1, min(MOST, round((step - before) * PERIOD / taken)))
