"""The heart of a run: it tells a dead run from a slow one, and is no burden to either."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro import folder
from repro.compose import compose
from repro.train import train
from repro.training.heartbeat import Heart
from repro.training.interrupt import Interrupted
from tests.test_resume import DIGITS, asked, at_step


def until(condition: Callable[[], Any]) -> Any:
    """Wait for a condition, at most a minute."""
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


def read(directory: Path) -> folder.Progress:
    progress = folder.read_progress(directory)
    assert progress is not None
    return progress


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "BEAT", 0.01)


def test_it_says_who_trains_and_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    heart = Heart(tmp_path, step=40)
    heart.steps, heart.epoch, heart.epochs, heart.metrics = 100, 2, 5, {"train_loss": 0.5}
    heart.beat()
    found = read(tmp_path)
    assert (found.host, found.pid, found.job) == (socket.gethostname(), os.getpid(), "17")
    assert (found.step, found.steps, found.epoch, found.epochs) == (40, 100, 2, 5)
    assert found.metrics == {"train_loss": 0.5}


@pytest.mark.usefixtures("quick")
def test_it_beats_until_it_is_left(tmp_path: Path) -> None:
    with Heart(tmp_path) as heart:
        first = read(tmp_path)
        assert until(lambda: read(tmp_path).stalled > first.stalled)
        heart.moved(7)
        assert until(lambda: read(tmp_path).step == 7)
    assert not (tmp_path / folder.PROGRESS).exists()
    assert heart._thread.is_alive() is False


def test_stalled_counts_from_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that nobody sets back: the run's own."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    heart = Heart(tmp_path)
    stalls = []
    for seconds, step in [(3.0, None), (4.0, 1), (2.0, None)]:
        now[0] += seconds
        if step is not None:
            heart.moved(step)
        heart.beat()
        stalls.append(read(tmp_path).stalled)
    assert stalls == [3.0, 0.0, 2.0]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ESTALE])
def test_a_disk_that_takes_nothing_stops_no_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    tried: list[int] = []

    def full(*_: Any, **__: Any) -> None:
        tried.append(code)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr("repro.folder.write_atomic", full)
        with Heart(tmp_path):
            assert until(lambda: len(tried) > 3)
            patch.undo()
            patch.setattr(folder, "BEAT", 0.01)
            assert until(lambda: folder.read_progress(tmp_path))


def test_it_keeps_no_process_alive(tmp_path: Path) -> None:
    """A process that ends without leaving it ends at once; its file stays behind, as after a death."""
    script = "from pathlib import Path; from repro.training.heartbeat import Heart; Heart(Path.cwd()).__enter__()"
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60, cwd=tmp_path)
    assert done.returncode == 0
    assert read(tmp_path).host == socket.gethostname()


@pytest.mark.training
@pytest.mark.usefixtures("quick")
def test_a_run_is_seen_to_advance(tmp_path: Path) -> None:
    config = compose(DIGITS)
    seen: dict[int, folder.Progress] = {}

    def look(trainer: Any) -> bool:
        step = trainer.global_step
        seen[step] = until(lambda: (found := read(tmp_path)).step == step and found)
        return False

    with asked("validation_step", look):
        train(config, tmp_path)
    told = {step: (found.steps, found.epoch, found.epochs) for step, found in seen.items()}
    assert told == {3: (6, 0, 2), 6: (6, 1, 2)}
    assert seen[6].metrics.keys() == {"train_loss", "val_top1_error"}
    assert not (tmp_path / folder.PROGRESS).exists()


@pytest.mark.training
def test_an_interrupted_run_and_a_failed_one_leave_no_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_step(2), pytest.raises(Interrupted):
        train(compose(DIGITS), tmp_path)
    assert not (tmp_path / folder.PROGRESS).exists()
    monkeypatch.setattr("repro.training.pieces.build", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(compose(DIGITS), tmp_path)
    assert not (tmp_path / folder.PROGRESS).exists()
