"""Trackers beside the CSV file: what W&B and TensorBoard get of a run, and trackers that are down, slow or dead."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from repro import folder
from repro.compose import compose
from repro.config import Labels, LoggerConfig, RunConfig
from repro.results import Failure, Result, Status, read_result
from repro.tracking import build_loggers, finish_loggers, wandb_mode
from repro.tracking.server import unreachable
from repro.tracking.uploads import is_uploaded
from tests.dead_servers import black_hole, refused, silent
from tests.report_study import result as made_up
from tests.wandb_stub import ENTITY, WandbStub

TINY = ["model=resnet20", "model.depths=[1,1,1]", "model.stem_width=4", "model.widths=[4,4,4]", "scale=smoke"]

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
"""W&B's own threads complain when a run that they watch could not be ended."""


def run_config(*words: str) -> RunConfig:
    config = compose([*TINY, "seed=3", "logger=wandb", "logger.timeout=5", *words])
    return config.model_copy(update={"labels": Labels(ablation="mine", scale="smoke", variant="narrow")})


def ended(config: RunConfig, status: Status = "finished") -> Result:
    failure = Failure(kind="crash", message="RuntimeError: no") if status == "failed" else None
    return made_up("narrow", 3, 12.5, status=status, id=config.id, scale="smoke", failure=failure)


def epoch(directory: Path, step: int) -> dict[str, Any]:
    """Write an epoch of ten steps into metrics.csv, as a run does before it tells its loggers; returns its row."""
    path = directory / folder.CURVE
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text("epoch,step,train_loss,val_loss\n", encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{step // 10},{step},{1 / step},\n")
    return {"epoch": step // 10, "step": step, "train_loss": 1 / step}


def track(config: RunConfig, directory: Path, steps: list[int]) -> list[Any]:
    """Train as far as a tracker can tell."""
    loggers = build_loggers(config, directory)
    for step in steps:
        row = epoch(directory, step)
        for logger in loggers:
            logger.log_metrics(row, step=step)
    return loggers


# -- W&B online


def test_a_run_arrives_with_its_place_in_the_study(stub: WandbStub, tmp_path: Path) -> None:
    config = run_config("logger.tags=[spring,mine]", "logger.project=tables")
    done = ended(config)
    loggers = track(config, tmp_path, [10, 20])
    loggers[0].log_metrics({"test_loss": 0.5}, step=20)
    finish_loggers(loggers, done)
    (run,) = stub.runs.values()
    assert (run.name, run.entity, run.project) == (config.id, ENTITY, "tables")
    assert (run.group, run.job_type, run.display_name) == ("mine/smoke", "narrow", "narrow/seed3")
    assert run.tags == ["mine", "smoke", "resnet20", "laptop", "spring"]
    assert run.values == config.model_dump(mode="json", exclude={"dir"})
    assert run.steps == [10, 20]
    assert [(row["epoch"], row["train_loss"]) for row in run.history] == [(1, 0.1), (2, 0.05)]
    assert run.summary["test_loss"] == 0.5
    assert (run.summary["test_top1_error"], run.summary["cost/macs"], run.summary["status"]) == (
        12.5,
        15_800_000,
        "finished",
    )
    assert Result.model_validate_json(run.summary["repro/result"]) == done
    assert is_uploaded(tmp_path, stub.url, done)


def test_nothing_of_the_environment_is_told(
    stub: WandbStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_PASSWORD", "opensesame")
    config = run_config()
    loggers = track(config, tmp_path, [10])
    print("a line of the log")
    finish_loggers(loggers, ended(config))
    (run,) = stub.runs.values()
    told = json.dumps([run.config, run.summary, run.history]) + repr(run.files)
    assert set(run.files) <= {"config.yaml", "wandb-summary.json"}
    for secret in ("opensesame", "a line of the log", stub.environment["WANDB_API_KEY"], socket.gethostname()):
        assert secret not in told
    assert stub.environment["WANDB_API_KEY"] not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("status", "state", "code"),
    [("finished", "finished", 0), ("diverged", "finished", 0), ("failed", "failed", 1), (None, "preempted", 1)],
)
def test_how_a_run_ends(stub: WandbStub, tmp_path: Path, status: Status | None, state: str, code: int) -> None:
    config = run_config()
    finish_loggers(track(config, tmp_path, [10]), None if status is None else ended(config, status))
    (run,) = stub.runs.values()
    assert (run.state, run.exit_code) == (state, code)
    assert run.summary.get("status") == status


def test_an_interrupted_run_goes_on_in_the_same_wandb_run(stub: WandbStub, tmp_path: Path) -> None:
    config = run_config()
    finish_loggers(track(config, tmp_path, [10, 20]), None)
    finish_loggers(track(config, tmp_path, [20, 30]), ended(config))
    (run,) = stub.runs.values()
    assert (run.sessions, run.steps, run.state) == (2, [10, 20, 30], "finished")


def test_what_a_killed_run_did_not_deliver_is_told_when_it_goes_on(stub: WandbStub, tmp_path: Path) -> None:
    for step in (10, 20):
        epoch(tmp_path, step)
    config = run_config()
    finish_loggers(track(config, tmp_path, [30]), ended(config))
    (run,) = stub.runs.values()
    assert run.steps == [10, 20, 30]


# -- W&B offline, and servers that are not there


def offline_records(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((directory / "wandb").glob("offline-run-*/*.wandb"))]


def test_without_a_key_each_offline_part_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = run_config()
    directory = tmp_path / "run"
    finish_loggers(track(config, directory, [10]), None)
    finish_loggers(track(config, directory, [20]), ended(config))
    newest = offline_records(directory)[-1]
    assert newest.count(b"train_loss") >= 2
    assert b"repro/result" in newest
    assert not is_uploaded(directory, "", ended(config))


class _Mute(BaseHTTPRequestHandler):
    """Answers whether it is there, and nothing else."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()

    def do_POST(self) -> None:
        time.sleep(60)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def mute() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Mute)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("place", "reason"),
    [(refused, "Connection refused"), (silent, "timed out|no answer"), (black_hole, "timed out|no answer")],
    ids=["refused", "silent", "black hole"],
)
def test_a_server_that_does_not_answer_is_unreachable(place: Callable[[], Any], reason: str) -> None:
    with place() as url:
        found = unreachable(url, patience=0.3)
    assert found is not None
    assert any(part in found for part in reason.split("|"))


def test_any_answer_counts() -> None:
    with mute() as url:
        assert unreachable(url) is None


def test_a_name_that_is_looked_up_for_ever_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: never.wait())
    assert unreachable("http://somewhere.invalid", patience=0.2) == "no answer in 0.2 s"
    never.set()


def test_an_unreachable_server_means_offline_and_says_how_to_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config()
    with refused() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        with pytest.warns(
            UserWarning, match=r"cannot be reached \(Connection refused\); tracked offline, `repro sync`"
        ):
            finish_loggers(track(config, tmp_path, [10]), ended(config))
    (record,) = offline_records(tmp_path)
    assert b"train_loss" in record


def test_a_server_that_answers_but_does_not_begin_a_run_is_left_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config("logger.timeout=1")
    with mute() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        with pytest.warns(UserWarning, match="going on without; `repro sync` uploads it later"):
            assert track(config, tmp_path, [10]) == []


def test_a_server_that_dies_delays_no_step_and_bounds_the_end(stub: WandbStub, tmp_path: Path) -> None:
    config = run_config("logger.timeout=1")
    loggers = track(config, tmp_path, [10])
    stub.die()
    begin = time.monotonic()
    for step in range(20, 220, 10):
        loggers[0].log_metrics(epoch(tmp_path, step), step=step)
    logged = time.monotonic() - begin
    with pytest.warns(UserWarning, match="did not take everything .*; the run is whole, `repro sync` uploads it later"):
        finish_loggers(loggers, ended(config))
    assert logged < 1.0  # twenty steps: a single wait for the server would take longer
    assert not is_uploaded(tmp_path, stub.url, ended(config))


def test_wandb_killed_under_a_run_does_not_fail_it(stub: WandbStub, tmp_path: Path) -> None:
    config = run_config("logger.timeout=1")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    loggers = track(config, tmp_path, [10])
    cores = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert cores
    for core in cores:
        core.kill()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in (20, 30, 40):
            loggers[0].log_metrics(epoch(tmp_path, step), step=step)
        finish_loggers(loggers, ended(config))
    assert any("`repro sync` uploads it later" in str(one.message) for one in said)
    assert not is_uploaded(tmp_path, stub.url, ended(config))


# -- TensorBoard


def test_tensorboard_has_the_epochs_once_and_the_result_to_compare_runs(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = run_config("logger=tensorboard")
    finish_loggers(track(config, tmp_path, [10, 20, 30]), None)
    (tmp_path / folder.CURVE).write_text("epoch,step,train_loss,val_loss\n1,10,0.1,\n", encoding="utf-8")
    finish_loggers(track(config, tmp_path, [20, 30, 40]), ended(config))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [point.step for point in events.Scalars("train_loss")] == [10, 20, 30, 40]
    assert events.Scalars("final/test_top1_error")[-1].value == 12.5
    assert "_hparams_/session_start_info" in events.summary_metadata


# -- through real training


def train(directory: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "repro", "train", *TINY, f"dir={directory}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.mark.training
def test_a_trained_run_tells_its_epochs_and_its_result_offline(tmp_path: Path) -> None:
    done = train(tmp_path / "run", "logger=wandb", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = read_result(tmp_path / "run")
    assert result is not None
    (record,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    content = record.read_bytes()
    assert record.name == f"run-{result.id}.wandb"
    assert all(word in content for word in (b"val_top1_error", b"train_loss", b"test_top1_error", b"repro/result"))


@pytest.mark.training
def test_two_processes_are_one_wandb_run(stub: WandbStub, tmp_path: Path) -> None:
    done = train(tmp_path / "run", "logger=wandb", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    assert done.returncode == 0, done.stderr
    result = read_result(tmp_path / "run")
    assert result is not None
    (run,) = stub.runs.values()
    assert (run.name, run.sessions, run.state, len(run.history)) == (result.id, 1, "finished", result.epochs)
    assert json.loads(run.summary["repro/result"]) == json.loads(result.model_dump_json())


@pytest.mark.training
def test_runs_of_the_warmed_server_leave_no_process_behind(stub: WandbStub, mine: Path) -> None:
    command = [sys.executable, "-m", "repro", "run", str(mine), "scale=smoke", "seeds=1", "logger=wandb"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    runs = [run for run in stub.runs.values() if run.job_type != "summary"]
    assert sorted(run.display_name for run in runs) == ["narrow/seed0", "wide/seed0"]
    assert all(run.state == "finished" for run in runs)
    deadline = time.monotonic() + 10
    while (left := _left_of(stub)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def _left_of(stub: WandbStub) -> list[str]:
    """W&B's own processes that talk to this server and are not this test's."""
    found = []
    for process in psutil.process_iter(["name", "pid"]):
        try:
            if "wandb" in process.info["name"] and process.environ().get("WANDB_BASE_URL") == stub.url:
                found.append(process.info["name"])
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(
    ("mode", "key", "expected"),
    [
        ("auto", None, "offline"),
        ("auto", "a" * 40, "online"),
        ("offline", "a" * 40, "offline"),
        ("online", None, "online"),
    ],
)
def test_wandb_mode(mode: str, key: str | None, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    assert wandb_mode(LoggerConfig(name="wandb", mode=mode)) == expected  # type: ignore[arg-type]
