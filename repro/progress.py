"""The progress display of a study: run k of n, ETA, current metric. Lines when it is not shown on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from repro import folder
from repro.errors import InputError
from repro.launch import Task
from repro.results import Result, read_result


def clock(seconds: float) -> str:
    """Write seconds as `1:05` or `2:01:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Estimate:
    """How long the rest takes: from runs of the same row where one has finished, else in proportion to the price."""

    def __init__(self, prices: dict[Path, tuple[str, float]], width: int) -> None:
        self._prices = prices
        self._width = width
        self._took: dict[str, list[float]] = {}
        self._rates: list[float] = []

    def add(self, directory: Path, seconds: float) -> None:
        """Learn from a run that has ended."""
        row, price = self._prices[directory]
        self._took.setdefault(row, []).append(seconds)
        self._rates.append(seconds / price)

    def of(self, directory: Path) -> float | None:
        """Seconds that a run is expected to take; None before anything is known."""
        row, price = self._prices[directory]
        if row in self._took:
            return sum(self._took[row]) / len(self._took[row])
        return price * sum(self._rates) / len(self._rates) if self._rates else None

    def remaining(self, waiting: Sequence[Path], running: dict[Path, float]) -> float | None:
        """Seconds until the study is done, given the waiting runs and the seconds that each running one has had."""
        expected = {path: self.of(path) for path in (*waiting, *running)}
        if any(value is None for value in expected.values()):
            return None
        left = sum(max(0.0, (expected[path] or 0) - running.get(path, 0.0)) for path in expected)
        return left / min(self._width, max(1, len(expected)))


class Display:
    """Shows a study while it runs; told by the launcher what happens."""

    def __init__(self, tasks: Sequence[Task], estimate: Estimate, console: Console) -> None:
        self.console = console
        self.estimate = estimate
        self.waiting = [task.directory for task in tasks]
        self.total = len(tasks)
        self.done = 0
        self.begins: dict[Path, float] = {}
        self.live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self.live:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def started(self, task: Task) -> None:
        """A run has begun."""
        if task.directory in self.waiting:
            self.waiting.remove(task.directory)
        self.begins[task.directory] = time.monotonic()

    def tick(self, running: Sequence[Task]) -> None:
        """Draw the running runs."""
        if self.live:
            self.live.update(self._picture(running))

    def ended(self, task: Task) -> None:
        """A run is over: learn from it and say how it ended."""
        seconds = time.monotonic() - self.begins.pop(task.directory)
        self.done += 1
        self.estimate.add(task.directory, seconds)
        line = f"[{self.done}/{self.total}] {_outcome(task, seconds)} {self._eta()}".rstrip()
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)  # one line each, also in a log

    def told(self, text: str) -> None:
        """Pass a line on to the user."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _eta(self) -> str:
        now = time.monotonic()
        left = self.estimate.remaining(self.waiting, {path: now - begin for path, begin in self.begins.items()})
        return "" if left is None or self.done == self.total else f"· ETA {clock(left)}"

    def _picture(self, running: Sequence[Task]) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for task in running:
            progress = folder.read_progress(task.directory)
            epoch, epochs = (progress.epoch, progress.epochs) if progress else (0, 1)
            bar = ProgressBar(total=epochs, completed=epoch, width=24)
            table.add_row(
                f"  {task.label}", bar, f"epoch {epoch}/{epochs}" if progress else "starting", _metrics(progress)
            )
        head = f"run {min(self.total, self.done + len(running))} of {self.total} {self._eta()}"
        return Group(Text(head, style="bold"), table)


def _metrics(progress: folder.Progress | None) -> str:
    if progress is None:
        return ""
    names = {"train_loss": "loss {:.2f}", "val_top1_error": "val {:.1f} %"}
    return ", ".join(names[name].format(value) for name, value in progress.metrics.items() if name in names)


def _outcome(task: Task, seconds: float) -> str:
    try:
        result = read_result(task.directory)
    except InputError as error:
        return f"{task.label}: {error}"
    return f"{task.label}: {_words(result)} · {seconds:.1f} s"


def _words(result: Result | None) -> str:
    if result is None:
        return "left to another process that is training it"
    if result.status == "finished":
        return f"test error {result.last['test_top1_error']:.1f} %"
    reason = result.failure.message if result.failure else ""
    return f"{result.status.upper()}: {reason}"
