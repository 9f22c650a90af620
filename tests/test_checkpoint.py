"""What a run goes on from, on disk: complete or not there, never another run's, kept and taken away as conf says."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import attempts, folder
from repro.compose import compose
from repro.config import RunConfig
from repro.train import train
from repro.training import checkpoint
from repro.training.interrupt import Interrupted
from tests.test_resume import DIGITS, assert_same, at_step

State = dict[str, Any]
NEW = f"{folder.RESUME}.new"


def state(step: int, run: str = "run") -> State:
    return {"id": run, "step": step, "net": {"weight": torch.arange(6.0).view(2, 3) + step}, "ranks": [{"seen": 3}]}


def steps(directory: Path, run: str = "run") -> int | None:
    """The step of what would be gone on from."""
    found = checkpoint.load_state(directory, run)
    if found is not None:
        assert torch.equal(found["net"]["weight"], state(found["step"])["net"]["weight"])
    return found["step"] if found else None


def test_the_newest_is_read_and_the_one_before_it_is_kept(tmp_path: Path) -> None:
    assert steps(tmp_path) is None
    for step in (1, 2, 3):
        checkpoint.save_state(tmp_path, state(step))
        assert steps(tmp_path) == step
    (tmp_path / folder.RESUME).unlink()
    assert steps(tmp_path) == 2
    checkpoint.remove_state(tmp_path)
    assert list(tmp_path.iterdir()) == []


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off in the header": lambda content: content[:20],
    "cut off": lambda content: content[: len(content) // 2],
    "a byte short": lambda content: content[:-1],
    "a byte long": lambda content: content + b"0",
    "zeros": lambda content: bytes(len(content)),
    "something else": lambda content: b"seed: 0\n",
    "a plain torch file": lambda content: content[checkpoint.BODY :],
    "sealed, and no state": lambda content: checkpoint._sealed({"step": 3})[:-9],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]
) -> None:
    for step in (1, 2):
        checkpoint.save_state(tmp_path, state(step))
    newest, old = tmp_path / folder.RESUME, tmp_path / checkpoint.OLD
    newest.write_bytes(damage(newest.read_bytes()))
    assert steps(tmp_path) == 1
    assert "resume.ckpt: cannot be used (" in capsys.readouterr().out
    old.write_bytes(damage(old.read_bytes()))
    assert steps(tmp_path) is None
    assert "resume.ckpt.old: cannot be used (" in capsys.readouterr().out


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_no_flipped_bit_goes_unnoticed(place: int, flip: int) -> None:
    content = bytearray(checkpoint._sealed(state(1)))
    content[place % len(content)] ^= flip
    with pytest.raises(ValueError):
        checkpoint._opened(bytes(content))


def test_another_runs_state_is_never_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save_state(tmp_path, state(1, "mine"))
    checkpoint.save_state(tmp_path, state(2, "theirs"))
    assert steps(tmp_path, "mine") == 1
    assert "resume.ckpt: of another run (theirs, this one is mine); not used" in capsys.readouterr().out
    assert steps(tmp_path, "nobody") is None


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_save_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Whichever of its renames fails: what was read before is read after, and nothing half-written is left."""
    for step in (1, 2):
        checkpoint.save_state(tmp_path, state(step))
    original, calls = os.replace, []

    def replace(source: Any, target: Any) -> None:
        calls.append(source)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save_state(tmp_path, state(3))
    monkeypatch.undo()
    assert steps(tmp_path) == 2
    assert {path.name for path in tmp_path.iterdir()} <= {folder.RESUME, checkpoint.OLD}
    checkpoint.save_state(tmp_path, state(4))
    assert steps(tmp_path) == 4


def test_what_a_killed_process_had_begun_to_write_is_taken_away(tmp_path: Path) -> None:
    names = [f".{folder.WEIGHTS}.abc", f".{folder.RESUME}.new.x1", NEW, f".{folder.CURVE}.q", f".{folder.PROGRESS}.q"]
    for name in [*names, folder.RESUME, "result.json", ".hidden"]:
        (tmp_path / name).write_text("half")
    checkpoint.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {folder.RESUME, "result.json", ".hidden"}


# --- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps at which checkpoints are written."""
    found: list[int] = []
    original = checkpoint.save_state

    def noted(directory: Path, state: State) -> None:
        original(directory, state)
        found.append(state["step"])

    monkeypatch.setattr("repro.training.saving.save_state", noted)
    return found


@pytest.mark.training
@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ([], []),
        (["checkpoint.every=1e-9"], [1, 2, 3, 3, 4, 5, 6, 6, 6, 6]),
        (["checkpoint.epoch_ends=true"], [3, 6]),
        (["checkpoint.keep=true"], [6]),
    ],
    ids=["ten minutes", "always", "epochs", "kept"],
)
def test_when_a_checkpoint_is_written(tmp_path: Path, saves: list[int], overrides: list[str], steps: list[int]) -> None:
    """Always: after each step, after the validation of each epoch, at the end of the training, before the test."""
    train(compose([*DIGITS, *overrides]), tmp_path)
    assert saves == steps
    assert (tmp_path / folder.RESUME).exists() == ("checkpoint.keep=true" in overrides)


@pytest.mark.training
def test_weights_are_left_out_where_conf_says_so(tmp_path: Path) -> None:
    train(compose([*DIGITS, "checkpoint.weights=false"]), tmp_path)
    assert not (tmp_path / folder.WEIGHTS).exists()


@pytest.mark.training
def test_a_failed_run_keeps_its_checkpoint_and_goes_on_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose([*DIGITS, "checkpoint.epoch_ends=true"])
    with monkeypatch.context() as patch:
        patch.setattr("repro.classifier.HeldOut.compute", fail_at_second_call())
        with pytest.raises(MemoryError):
            train(config, tmp_path / "run")
    failure = folder.standing(tmp_path / "run").failure
    assert failure is not None
    assert (failure.kind, failure.message) == ("out_of_memory", "MemoryError: enough")
    train(config, tmp_path / "run")
    train(config, tmp_path / "whole")
    assert_same(tmp_path / "whole", tmp_path / "run")
    assert [(attempt.step, attempt.end) for attempt in attempts.read(tmp_path / "run")] == [
        (0, "failed"), (3, "finished"),
    ]  # fmt: skip


def fail_at_second_call() -> Any:
    from repro.training.held_out import HeldOut

    original, calls = HeldOut.compute, []

    def compute(self: HeldOut) -> dict[str, float]:
        calls.append(self)
        if len(calls) == 2:
            raise MemoryError("enough")
        return original(self)

    return compute


@pytest.mark.training
@pytest.mark.parametrize("damage", ["newest", "both", "other"])
def test_a_run_goes_on_from_what_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    """The newest of steps 2 and 1 is damaged, or both are, or they are of another seed: the run ends the same."""
    config, run = compose([*DIGITS, "checkpoint.every=1e-9"]), tmp_path / "run"
    other = compose([*DIGITS, "checkpoint.every=1e-9", "seed=1"])
    first: RunConfig = other if damage == "other" else config
    with at_step(2), pytest.raises(Interrupted):
        train(first, run)
    for name in {"newest": [folder.RESUME], "both": [folder.RESUME, checkpoint.OLD], "other": []}[damage]:
        (run / name).write_bytes((run / name).read_bytes()[:-100])
    train(config, run)
    train(config, tmp_path / "whole")
    assert_same(tmp_path / "whole", run)
    assert attempts.read(run)[-1].step == {"newest": 1, "both": 0, "other": 0}[damage]
    said = {
        "newest": "resume.ckpt: cannot be used (",
        "both": "resume.ckpt.old: cannot be used (",
        "other": "another run",
    }
    assert said[damage] in capsys.readouterr().out


@pytest.mark.training
def test_a_finished_run_is_not_trained_again_and_its_checkpoints_are_pruned(tmp_path: Path) -> None:
    config = compose([*DIGITS, "checkpoint.keep=true"])
    result = train(config, tmp_path)
    assert (tmp_path / folder.RESUME).exists()
    assert train(compose(DIGITS), tmp_path) == result
    assert not (tmp_path / folder.RESUME).exists()


@pytest.mark.training
def test_a_diverged_run_leaves_no_checkpoint(tmp_path: Path) -> None:
    result = train(compose([*DIGITS, "recipe.lr=1e20", "checkpoint.every=1e-9"]), tmp_path)
    assert result.status == "diverged"
    assert not (tmp_path / folder.RESUME).exists()
    assert [attempt.end for attempt in attempts.read(tmp_path)] == ["diverged"]
