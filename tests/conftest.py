"""Every test has runs and a cache of its own, and one thread."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from repro.cli import main
from tests.wandb_stub import WandbStub

torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts so what it puts into the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prices and generated data are made once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_cache: Path) -> Path:
    """The folder of runs of this test."""
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("REPRO_CACHE", str(shared_cache))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    return tmp_path / "runs"


Outcome = tuple[int, str, str]


@pytest.fixture
def repro(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call the command line in this process; returns exit status, standard output, standard error."""

    def call(*arguments: str) -> Outcome:
        status = main(list(arguments))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


MINE = """\
title: Width
paper: {key: me2026, title: Width, authors: Me, venue: Nowhere, arxiv: "0000.00000", table: Table 1}
claim: Wider is better.
metric: {name: top1_error, unit: "%", better: lower, protocol: digits, decimals: 1}
base: [model=resnet20, model.stem_width=4]
reference: narrow
variants:
  narrow:
    set: ["model.widths=[4,4,4]"]
    published: 9.0
  wide:
    set: ["model.widths=[4,8,8]"]
    published: 8.0
scales:
  smoke: [recipe.duration=1ep, "model.depths=[1,1,1]"]
  laptop:
    set: ["model.depths=[1,1,1]"]
    note: digits
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A small ablation of the user's own, of two rows."""
    path = tmp_path / "mine.yaml"
    path.write_text(MINE, encoding="utf-8")
    return path


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbStub]:
    """A W&B server on this machine, which W&B takes for its own."""
    import wandb

    with WandbStub(page=3) as server:  # so that four runs are two pages
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
        assert server.refused == []
    wandb.teardown()
