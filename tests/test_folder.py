"""A run's folder: its lock, its state, its files; and reads of what is broken."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from repro import folder
from repro.compose import compose
from repro.errors import InputError
from repro.record import failed, now
from repro.results import Failure, read_result, write_atomic, write_result
from repro.train import main as train_entry

CONFIG = compose(["scale=smoke", "model=resnet20"])


def test_a_config_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder.write_config(tmp_path, CONFIG)
    assert folder.read_config(tmp_path / folder.CONFIG) == CONFIG
    assert folder.read_config(tmp_path / folder.CONFIG).id == CONFIG.id


@pytest.mark.parametrize(
    ("text", "message"),
    [("seed: [", "no resolved config"), ("seed: 1", "is missing"), ("", "valid dictionary")],
    ids=["no YAML", "incomplete", "empty"],
)
def test_a_broken_config_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / folder.CONFIG).write_text(text)
    with pytest.raises(InputError, match=message):
        folder.read_config(tmp_path / folder.CONFIG)


def test_a_result_with_numbers_that_are_none_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A loss can overflow in a run that finishes all the same."""
    result = failed(CONFIG, now(), Failure(kind="crash", message="x"))
    write_result(tmp_path, result.model_copy(update={"last": {"test_loss": math.inf, "val_loss": math.nan}}))
    found = read_result(tmp_path)
    assert found is not None
    assert found.last["test_loss"] == math.inf
    assert math.isnan(found.last["val_loss"])


def test_states(tmp_path: Path) -> None:
    assert folder.state(tmp_path) == "planned"
    with folder.locked(tmp_path):
        assert folder.state(tmp_path) == "running"
    write_result(tmp_path, failed(CONFIG, now(), Failure(kind="crash", message="x")))
    assert folder.state(tmp_path) == "failed"
    (tmp_path / "result.json").write_text("{")
    assert folder.state(tmp_path) == "unreadable"
    folder.set_aside(tmp_path)
    assert folder.state(tmp_path) == "planned"
    assert (tmp_path / "result.json.old").read_text() == "{"


def test_a_run_is_never_trained_by_two(tmp_path: Path) -> None:
    with folder.locked(tmp_path / "run"):
        with pytest.raises(folder.AlreadyRunningError), folder.locked(tmp_path / "run"):
            pass
        assert folder.is_alive(tmp_path / "run")
    assert not folder.is_alive(tmp_path / "run")


def test_the_entry_that_ddp_repeats_leaves_a_busy_run_alone(tmp_path: Path) -> None:
    """It ends with its own status and writes nothing: a failed result would be laid over a run in progress."""
    folder.write_config(tmp_path, CONFIG)
    with folder.locked(tmp_path):
        assert train_entry([str(tmp_path)]) == folder.BUSY
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a result file"), ("[1]", "not a result file"), ('{"schema_version": 99}', "schema_version is 99"),
        ('{"schema_version": 1}', "not a result file"),
    ],
)  # fmt: skip
def test_a_broken_result_is_named_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_result(tmp_path)
    assert str(tmp_path / "result.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "file", "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_environment_variables_are_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    write_result(tmp_path, failed(CONFIG, now(), Failure(kind="crash", message="x")))
    assert "hunter2" not in (tmp_path / "result.json").read_text()
