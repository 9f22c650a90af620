"""Trackers beside the CSV file: W&B offline by our own choice, TensorBoard, and a tracker that is down."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro.config import LoggerConfig
from repro.loggers import wandb_mode
from repro.results import read_result

TINY = ["model=resnet20", "model.depths=[1,1,1]", "model.stem_width=4", "model.widths=[4,4,4]", "scale=smoke"]


def train(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "repro", "train", *TINY, f"dir={folder}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.mark.training
def test_wandb_without_a_key_goes_offline_and_holds_the_metrics(tmp_path: Path) -> None:
    done = train(tmp_path / "run", "logger=wandb", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = read_result(tmp_path / "run")
    assert result is not None
    (record,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    content = record.read_bytes()
    assert record.name == f"run-{result.id}.wandb"
    assert all(word in content for word in (b"val_top1_error", b"train_loss", b"test_top1_error"))


@pytest.mark.training
def test_a_dead_tracker_does_not_fail_the_run(tmp_path: Path) -> None:
    """Nothing listens on port 9 of this machine: the run says so once and is trained."""
    environment = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    done = train(tmp_path / "run", "logger=wandb", "logger.timeout=1", **environment)
    assert done.returncode == 0, done.stderr
    assert "going on without" in done.stderr
    result = read_result(tmp_path / "run")
    assert result is not None
    assert result.status == "finished"


@pytest.mark.training
def test_tensorboard_writes_events(tmp_path: Path) -> None:
    assert train(tmp_path / "run", "logger=tensorboard").returncode == 0
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


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
