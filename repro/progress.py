"""The progress display of a study: run k of n, ETA, current metric. Lines when it is not shown on a terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
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
from repro.results import read_result


def clock(seconds: float) -> str:
    """Write seconds as `1:05` or `2:01:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Estimate:
    """How long the rest takes: from runs of the same row where one has finished, else in proportion to the price.

    Kept as sums over the rows, so that a step of it costs the same in a study of any size.
    """

    def __init__(self, prices: Mapping[Path, tuple[str, float]], width: int) -> None:
        self._prices = prices
        self._width = width
        self._waiting = dict.fromkeys(prices)
        self._counts = Counter(row for row, _ in prices.values())
        self._row_prices = dict(prices.values())
        self._took: dict[str, tuple[int, float]] = {}
        self._rates: tuple[int, float] = (0, 0.0)
        self._seconds = 0.0
        """Of the waiting runs of rows of which one has finished."""
        self._price = sum(price for _, price in prices.values())
        """Of the waiting runs of all other rows."""

    def begin(self, directory: Path) -> None:
        """Count a run as waiting no longer, if it did."""
        if directory not in self._waiting:
            return
        del self._waiting[directory]
        row = self._prices[directory][0]
        self._weigh(row, -1)
        self._counts[row] -= 1
        self._weigh(row, 1)

    def add(self, directory: Path, seconds: float) -> None:
        """Learn from a run that has ended."""
        row, price = self._prices[directory]
        self._weigh(row, -1)
        self._took[row] = _plus(self._took.get(row, (0, 0.0)), seconds)
        self._weigh(row, 1)
        self._rates = _plus(self._rates, seconds / price)

    def of(self, directory: Path) -> float | None:
        """Seconds that a run is expected to take; None before anything is known."""
        row, price = self._prices[directory]
        if row in self._took:
            return _mean(self._took[row])
        return price * _mean(self._rates) if self._rates[0] else None

    def remaining(self, running: Mapping[Path, float]) -> float | None:
        """Seconds until the study is done, given the seconds that each running run has had; None if nothing is known.

        What is not running is waiting, until it begins.
        """
        if not self._rates[0]:
            return None
        left = self._seconds + self._price * _mean(self._rates)
        left += sum(max(0.0, (self.of(path) or 0.0) - had) for path, had in running.items())
        return left / min(self._width, max(1, len(self._waiting) + len(running)))

    def _weigh(self, row: str, sign: int) -> None:
        """Add or take away what the waiting runs of a row are expected to take."""
        if row in self._took:
            self._seconds += sign * self._counts[row] * _mean(self._took[row])
        else:
            self._price += sign * self._counts[row] * self._row_prices[row]


def _plus(total: tuple[int, float], value: float) -> tuple[int, float]:
    return total[0] + 1, total[1] + value


def _mean(total: tuple[int, float]) -> float:
    return total[1] / total[0]


class Display:
    """Shows a study while it runs; told by the launcher what happens."""

    def __init__(self, tasks: Sequence[Task], estimate: Estimate, console: Console) -> None:
        self.console = console
        self.estimate = estimate
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
        self.estimate.begin(task.directory)
        self.begins[task.directory] = time.monotonic()

    def tick(self, running: Sequence[Task]) -> None:
        """Draw the running runs."""
        if self.live:
            self.live.update(self._picture(running))

    def ended(self, task: Task) -> None:
        """A run is over: learn from it and say how it ended."""
        self.done += 1
        self.estimate.begin(task.directory)
        begin = self.begins.pop(task.directory, None)
        took = "trained by another process"
        if begin is not None:
            seconds = time.monotonic() - begin
            self.estimate.add(task.directory, seconds)
            took = f"{seconds:.1f} s"
        line = f"[{self.done}/{self.total}] {task.label}: {_outcome(task.directory)} · {took} {self._eta()}".rstrip()
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)  # one line each, also in a log

    def told(self, text: str) -> None:
        """Pass a line on to the user."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _eta(self) -> str:
        now = time.monotonic()
        left = self.estimate.remaining({path: now - begin for path, begin in self.begins.items()})
        return "" if left is None or self.done == self.total else f"· ETA {clock(left)}"

    def _picture(self, running: Sequence[Task]) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        shown = running[: max(1, self.console.height - 4)]
        for task in shown:
            progress = folder.read_progress(task.directory)
            done, total = _share(progress)
            bar = ProgressBar(total=total, completed=done, width=24)
            words = f"epoch {progress.epoch}/{progress.epochs}" if progress else "starting"
            table.add_row(f"  {task.label}", bar, words, _metrics(progress))
        if len(shown) < len(running):
            table.add_row(f"  and {len(running) - len(shown)} more")
        head = f"run {min(self.total, self.done + len(running))} of {self.total} {self._eta()}"
        return Group(Text(head, style="bold"), table)


def _share(progress: folder.Progress | None) -> tuple[int, int]:
    """How much of a run is done, in steps where it says so, else in epochs."""
    if progress is None:
        return 0, 1
    return (progress.step, progress.steps) if progress.steps else (progress.epoch, max(1, progress.epochs))


def _metrics(progress: folder.Progress | None) -> str:
    if progress is None:
        return ""
    names = {"train_loss": "loss {:.2f}", "val_top1_error": "val {:.1f} %"}
    return ", ".join(names[name].format(value) for name, value in progress.metrics.items() if name in names)


def _outcome(directory: Path) -> str:
    """Say how a run ended: its test error, or why it has none."""
    try:
        result = read_result(directory)
    except InputError as error:
        return str(error)
    if result is not None and result.status == "finished":
        error_rate = result.last.get("test_top1_error")
        return "finished" if error_rate is None else f"test error {error_rate:.1f} %"
    found = folder.standing(directory)
    return f"{found.state.upper()}: {found.failure.message}" if found.failure else found.state
