"""What the launchers' tests let a run's process do instead of training: play a script, a word for each attempt."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from repro import attempts, folder
from repro.config import RunConfig
from repro.launch import Task
from repro.record import SHARED, failed, identity, now
from repro.results import Failure, Result, Timing, write_result
from repro.training import interrupt

SCRIPT, PLAYED = "script.txt", "played.jsonl"
DEADLINE = 30.0  # seconds after which a process that waits for a signal gives up


class Told:
    """A watch that notes what it is told, and does what it is asked to when a run has told of itself."""

    def __init__(self, once: Callable[[], None] | None = None) -> None:
        self.starts: list[str] = []
        self.ends: list[str] = []
        self.lines: list[str] = []
        self._once = once

    def started(self, task: Task) -> None:
        self.starts.append(task.label)

    def tick(self, running: Sequence[Task]) -> None:
        if self._once and running and all(played(task.directory) for task in running):
            once, self._once = self._once, None
            once()

    def ended(self, task: Task) -> None:
        self.ends.append(task.label)

    def told(self, text: str) -> None:
        self.lines.append(text)


def task_in(directory: Path, row: str = "a", accelerator: str = "cpu") -> Task:
    """Return the task of a run on one device."""
    return Task(directory, directory.name, row, nodes=1, devices=1, threads=1, workers=0, accelerator=accelerator)


def planned(
    directory: Path, config: RunConfig, script: str = "finish", row: str = "a", accelerator: str = "cpu"
) -> Task:
    """Write a run's folder with the script of its attempts; the last word is repeated."""
    folder.write_config(directory, config)
    (directory / SCRIPT).write_text(script)
    return task_in(directory, row, accelerator)


def finished(config: RunConfig, peak: int | None = None) -> Result:
    """Return the smallest result of a run that has finished, with the bytes of memory that it needed."""
    shared = bool(os.environ.get(SHARED))
    timing = Timing(
        setup=0, train=1, evaluate=0, total=1, images_per_second=1, steps=1, peak_memory=peak, shared=shared
    )
    return Result(**identity(config, now()), status="finished", epochs=1, timing=timing)


def play(directory: Path) -> None:
    """Take the run's lock, begin it, and do what the word of this attempt says."""
    words = (directory / SCRIPT).read_text().split()
    config = folder.read_config(directory / folder.CONFIG)
    with folder.locked(directory):
        if folder.outcome(directory):
            return
        folder.set_aside(directory)
        tried = len(attempts.read(directory))
        word = words[min(tried, len(words) - 1)]
        if word == "early":
            raise RuntimeError("before it was begun")
        attempts.begin(directory, tried)
        _tell(directory)
        _do(word, directory, config, tried)


def _do(word: str, directory: Path, config: RunConfig, step: int) -> None:
    name, _, value = word.partition("=")
    match name:
        case "finish":
            write_result(directory, finished(config, int(value) if value else None))
            attempts.end(directory, "finished")
        case "crash" | "oom":
            kind = "crash" if name == "crash" else "out_of_memory"
            write_result(directory, failed(config, now(), Failure(kind=kind, message="it broke")))
            attempts.end(directory, "failed", kind=kind)
            raise RuntimeError("it broke")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            print("the last line of its log", flush=True)
            os._exit(int(value))
        case "save":
            attempts.end(directory, "interrupted", step + 1)
            raise interrupt.Interrupted("a test", step + 1)
        case "stuck":
            attempts.end(directory, "interrupted", step)
            raise interrupt.Interrupted("a test", step)
        case "wait" | "deaf":
            _wait(heed=name == "wait")
            attempts.end(directory, "interrupted", step + 1)
            raise interrupt.Interrupted(interrupt.requested() or "nothing", step + 1)
        case _:
            raise ValueError(word)


def _wait(heed: bool) -> None:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and not (heed and interrupt.requested()):
        time.sleep(0.01)


def _tell(directory: Path) -> None:
    told = {
        "pid": os.getpid(),
        "group": os.getpgid(0),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "shared": os.environ.get(SHARED),
        "time": time.monotonic(),
    }
    with (directory / PLAYED).open("a") as file:
        file.write(json.dumps(told) + "\n")


def played(directory: Path) -> list[dict[str, object]]:
    """Read what each attempt told of its process."""
    try:
        return [json.loads(line) for line in (directory / PLAYED).read_text().splitlines()]
    except OSError:
        return []


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
