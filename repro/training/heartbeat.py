"""The heart of a run: a thread that rewrites progress.json, so that a dead run is told from a slow one. No torch.

It reads numbers that the training loop leaves here and touches nothing of the training. What it cannot write it leaves.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from repro import folder
from repro.attempts import job_id
from repro.folder import BEAT, PROGRESS, Progress, write_progress


class Heart:
    """Beats while it is entered, every `BEAT` seconds; leaving it takes the file away, which a death does not."""

    def __init__(self, directory: Path, step: int = 0) -> None:
        self.directory = directory
        self.epoch = self.epochs = self.steps = 0
        self.metrics: dict[str, float] = {}
        self.step = step
        self._moved = time.monotonic()
        self._over = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(BEAT)  # no longer: a write to a file system that hangs may never return
        try:
            (self.directory / PROGRESS).unlink(missing_ok=True)
        except OSError:
            return

    def moved(self, step: int | None = None) -> None:
        """Note that the run has advanced: to an optimiser step or, without one, within an evaluation."""
        self.step = self.step if step is None else step
        self._moved = time.monotonic()

    def beat(self) -> None:
        """Write how far the run is, now; a full or read-only disk is no matter."""
        with self._writing:
            try:
                write_progress(self.directory, self._progress())
            except OSError:
                return

    def _progress(self) -> Progress:
        return Progress(
            epoch=self.epoch,
            epochs=self.epochs,
            metrics=self.metrics,
            step=self.step,
            steps=self.steps,
            host=socket.gethostname(),
            pid=os.getpid(),
            job=job_id(),
            stalled=time.monotonic() - self._moved,
        )

    def _run(self) -> None:
        while not self._over.wait(folder.BEAT):
            self.beat()
