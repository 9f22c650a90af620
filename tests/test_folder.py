"""A run's folder: its lock, its state, its files; and reads of what is broken."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from repro import folder
from repro.attempts import Attempt
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


ELSEWHERE = Attempt("2026-01-01T00:00:00+00:00", "another-machine", 7)


def on_disk(directory: Path, attempts: list[Attempt], progress: folder.Progress | None, age: float = 0.0) -> None:
    """Write what a process of some machine left behind, so many seconds ago."""
    directory.mkdir(exist_ok=True)
    lines = [
        json.dumps({key: value for key, value in asdict(entry).items() if value is not None}) for entry in attempts
    ]
    if lines:
        (directory / "attempts.jsonl").write_text("\n".join(lines))
    if progress is not None:
        folder.write_progress(directory, progress)
    for path in directory.iterdir():
        os.utime(path, (path.stat().st_mtime - age,) * 2)


@pytest.mark.parametrize(
    ("attempt", "age", "job", "alive"),
    [
        pytest.param(ELSEWHERE, 0, None, True, id="it beats"),
        pytest.param(ELSEWHERE, 2 * folder.SILENCE, None, False, id="silent for long"),
        pytest.param(ELSEWHERE, -3600, None, False, id="the clock was set back"),
        pytest.param(replace(ELSEWHERE, end="interrupted", end_step=9), 0, None, False, id="it said that it ended"),
        pytest.param(replace(ELSEWHERE, job="12_3"), 0, "12_3", False, id="this very job, moved here"),
        pytest.param(replace(ELSEWHERE, job="12_3"), 0, "12_4", True, id="another job"),
        pytest.param(replace(ELSEWHERE, host=socket.gethostname()), 0, None, False, id="here: its lock would be seen"),
    ],
)
@pytest.mark.parametrize("beaten", [True, False], ids=["with a heartbeat", "before its first beat"])
def test_a_run_on_another_machine_lives_while_it_beats(
    attempt: Attempt,
    age: float,
    job: str | None,
    alive: bool,
    beaten: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Locks may not be seen from there: nobody trains a run a second time that a heartbeat says is trained."""
    if job:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", job.split("_")[0])
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", job.split("_")[1])
    beat = folder.Progress(host=attempt.host, pid=7, job=attempt.job) if beaten else None
    on_disk(tmp_path / "run", [attempt], beat, age)
    assert folder.is_alive(tmp_path / "run") is alive
    if not alive:
        with folder.locked(tmp_path / "run"):
            return
    with pytest.raises(folder.AlreadyRunningError), folder.locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    ("attempts", "state", "kind"),
    [
        ([], "planned", None),
        ([replace(ELSEWHERE, end="interrupted", end_step=9)], "planned", None),
        ([ELSEWHERE], "failed", "killed"),
        ([replace(ELSEWHERE, end="failed", kind="timeout", message="too long")], "failed", "timeout"),
        ([replace(ELSEWHERE, end="finished")], "planned", None),
        ([ELSEWHERE, replace(ELSEWHERE, end="interrupted", end_step=9)], "planned", None),
    ],
    ids=["never begun", "saved", "killed", "ended for it", "its result was deleted", "killed, then saved"],
)
def test_a_run_without_a_result_stands_as_its_last_attempt_ended(
    attempts: list[Attempt], state: str, kind: str | None, tmp_path: Path
) -> None:
    on_disk(tmp_path / "run", attempts, None, 2 * folder.SILENCE)
    (tmp_path / "run" / folder.LOG).write_text("one\n\ntwo\n")
    standing = folder.standing(tmp_path / "run")
    assert (standing.state, standing.failure and standing.failure.kind) == (state, kind)
    assert len(standing.attempts) == len(attempts)
    if kind == "killed":
        assert standing.failure is not None
        assert standing.failure.message == "process 7 on another-machine is gone without a word"
        assert standing.failure.log == ("one", "two")


def test_an_outcome_is_the_last_word(tmp_path: Path) -> None:
    """Its process may still be busy with its tracker; the run is done all the same."""
    result = failed(CONFIG, now(), Failure(kind="nan", message="x")).model_copy(update={"status": "diverged"})
    with folder.locked(tmp_path):
        write_result(tmp_path, result)
        assert folder.state(tmp_path) == "diverged"


def test_the_end_of_a_long_log_is_found_at_its_end(tmp_path: Path) -> None:
    lines = [f"line {index}" for index in range(100_000)]
    (tmp_path / folder.LOG).write_text("\n".join(lines))
    assert folder.log_tail(tmp_path, 3) == tuple(lines[-3:])
    assert folder.log_tail(tmp_path / "none") == ()


def test_a_child_that_outlives_a_killed_run_does_not_hold_its_lock(tmp_path: Path) -> None:
    """A loader's worker is forked while the lock is held, and need not have noticed yet that its run is gone."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from repro import folder\n"
        "with folder.locked(Path(sys.argv[1])):\n"
        "    if os.fork() == 0:\n"
        "        print('here', flush=True)\n"
        "        sys.stdin.read()\n"
        "        os._exit(0)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command, pipe = [sys.executable, "-c", code, str(tmp_path)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        assert process.wait() == -signal.SIGKILL
        assert not folder.is_alive(tmp_path)
        with folder.locked(tmp_path):
            assert folder.is_alive(tmp_path)


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("repro.folder.fcntl.flock", flock)
    with (
        pytest.raises(InputError, match=r"has no locks \(No locks available\); set REPRO_RUNS"),
        folder.locked(tmp_path),
    ):
        pass
    assert not folder.is_alive(tmp_path)
