"""A disk that is full, may not be written or loses its data never ends a run that could go on, and loses no result."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from repro import attempts, folder
from repro.compose import compose
from repro.errors import InputError
from repro.results import read_result
from repro.train import main, train
from repro.training import checkpoint
from repro.training.failures import explain
from tests.test_resume import DIGITS, SMALL, asked, assert_same
from tests.writers import write_tree

pytestmark = pytest.mark.training

ALWAYS = [*DIGITS, "checkpoint.every=1e-9"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here ({mounted.stderr.strip()})")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> None:
    """Write until nothing more is taken."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    continue


def between(first: int, last: int | None, begin: Callable[[], object], end: Callable[[], object]) -> Any:
    """Have something begin at one optimiser step and end at another."""

    def at(trainer: Any) -> bool:
        if trainer.global_step == first:
            begin()
        if trainer.global_step == last:
            end()
        return False

    return asked("on_train_batch_end", at)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole")
    train(compose(ALWAYS), directory)
    return directory


def test_a_disk_that_is_full_for_a_while_is_of_no_consequence(
    disk: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = disk / "run"
    with between(2, 6, lambda: fill(disk), (disk / "filler").unlink):
        train(compose(ALWAYS), run)
    assert_same(whole, run)
    said = capsys.readouterr().out
    assert said.count("the checkpoint cannot be written (No space left on device); tried again later") == 1
    assert {path.name for path in run.iterdir()} <= {
        folder.CONFIG, folder.CURVE, folder.LOCK, folder.WEIGHTS, "result.json", attempts.FILE,
    }  # fmt: skip


def test_a_disk_that_stays_full_fails_the_run_and_keeps_its_checkpoint(
    disk: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = disk / "run"
    folder.write_config(run, compose(ALWAYS))
    with between(4, None, lambda: fill(disk), lambda: None):
        assert main([str(run)]) == 1
    assert "cannot be written or read (No space left on device); the next start goes on" in capsys.readouterr().out
    state = checkpoint.load_state(run, compose(ALWAYS).id)
    assert state is not None
    assert state["step"] == 3
    assert folder.state(run) == "failed"
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []
    (disk / "filler").unlink()
    assert main([str(run)]) == 0
    assert_same(whole, run)


def test_a_folder_that_is_full_from_the_start_is_one_clear_message(
    disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = disk / "run"
    folder.write_config(run, compose(ALWAYS))
    fill(disk)
    assert main([str(run)]) == 2
    error = capsys.readouterr().err
    assert error == f"repro: {run}: the run folder cannot be written (No space left on device); set REPRO_RUNS\n"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_no_write_of_a_running_run_ends_it(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    """Checkpoints, curve and heartbeat cannot be written from the second step to the last but one."""
    broken = False

    def switch(on: bool) -> Callable[[], None]:
        def turn() -> None:
            nonlocal broken
            broken = on

        return turn

    def faulty(module: str, name: str) -> None:
        original = attrgetter(name)(import_module(module))

        def write(*arguments: Any, **named: Any) -> Any:
            if broken:
                raise OSError(code, os.strerror(code))
            return original(*arguments, **named)

        monkeypatch.setattr(f"{module}.{name}", write)

    for name in ("repro.training.checkpoint", "repro.training.callbacks", "repro.folder"):
        faulty(name, "write_atomic")
    faulty("csv", "DictWriter.writerow")
    with between(2, 5, switch(True), switch(False)):
        train(compose(ALWAYS), tmp_path / "run")
    assert_same(whole, tmp_path / "run")
    said = capsys.readouterr().out
    assert said.count(f"the checkpoint cannot be written ({os.strerror(code)}); tried again later") == 1
    assert said.count(f"metrics.csv: cannot be written ({os.strerror(code)}); tried again after each epoch") == 1


def test_a_log_on_a_full_disk_changes_no_exit_status() -> None:
    script = "from repro.training.log import say, settle\nfor k in range(3000): say('a line of the log')\nsettle()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_data_folder_that_vanishes_fails_the_run_which_then_goes_on(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "images", classes=4, train=8, val=2)
    data = ["data=imagenet", f"data.root={root}", "data.size=16", "data.classes=4", "data.val=8", "data.workers=0"]
    words = [
        "recipe.augment.crop=random_resized",
        "recipe.batch_size=6",
        "recipe.duration=2ep",
        "checkpoint.every=1e-9",
    ]
    config = compose([*SMALL, *data, *words])
    train(config, tmp_path / "whole")
    away = tmp_path / "away"
    with between(2, None, lambda: shutil.move(root, away), lambda: None), pytest.raises(InputError, match="n0000"):
        train(config, tmp_path / "run")
    result = read_result(tmp_path / "run")
    assert result is not None
    assert result.failure is not None
    assert str(root) in result.failure.message
    assert "\n" not in result.failure.message
    shutil.move(away, root)
    train(config, tmp_path / "run")
    assert_same(tmp_path / "whole", tmp_path / "run")
    assert [attempt.step for attempt in attempts.read(tmp_path / "run")] == [0, 2]


ERRORS: dict[str, tuple[Exception, str, str]] = {
    "Python's memory": (MemoryError("out"), "out_of_memory", "MemoryError: out"),
    "the GPU's": (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory", "RuntimeError: CUDA"),
    "the CPU's": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        "out_of_memory", "RuntimeError: [enforce",
    ),
    "gloo": (
        RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1000ms"),
        "timeout", "RuntimeError: [/pytorch",
    ),
    "full": (OSError(errno.ENOSPC, "No space left on device", "final.ckpt"), "crash", "final.ckpt: cannot be written"),
    "two lines": (ValueError("one\ntwo"), "crash", "ValueError: one"),
    "nothing": (ValueError(), "crash", "ValueError: "),
}  # fmt: skip


@pytest.mark.parametrize(("error", "kind", "begin"), ERRORS.values(), ids=ERRORS.keys())
def test_what_was_raised_is_explained_in_one_line(error: Exception, kind: str, begin: str) -> None:
    failure = explain(error)
    assert failure.kind == kind
    assert failure.message.startswith(begin)
    assert "\n" not in failure.message


def test_a_real_lack_of_memory_is_known_as_one() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.float64)
    assert explain(caught.value).kind == "out_of_memory"
