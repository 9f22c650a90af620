"""`repro report --from wandb:ENTITY/PROJECT`: the page as from disk, made of what a server has."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from repro.results import Failure
from repro.tracking.wandb_runs import summary
from tests.conftest import Outcome
from tests.tracked_study import finished, write_run, write_study
from tests.wandb_stub import ENTITY, KEY, StubRun, WandbStub

Command = Callable[..., Outcome]
FROM = ("--from", f"wandb:{ENTITY}/repro")

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
"""W&B's own threads complain when a run that they watch could not be ended."""


@pytest.fixture
def uploaded(stub: WandbStub, mine: Path, repro: Command) -> WandbStub:
    """A server that has the four finished runs of the study."""
    write_study(mine)
    assert repro("sync")[0] == 0
    return stub


@pytest.fixture
def filled(stub: WandbStub, mine: Path) -> WandbStub:
    """A server that has the results of the study, as it has them after an upload."""
    for run in write_study(mine).runs:
        there = StubRun(ENTITY, "repro", run.id, f"{run.variant}/seed{run.seed}", "mine/smoke", run.variant)
        there.summary = json.loads(json.dumps(summary(finished(run))))
        stub.runs[run.id] = there
    return stub


def words(mine: Path) -> tuple[str, ...]:
    return ("report", str(mine), "scale=smoke")


@pytest.mark.parametrize("form", [(), ("--json",), ("--format", "json"), ("seeds=1",)], ids=str)
def test_the_page_is_the_one_from_disk(
    filled: WandbStub, mine: Path, repro: Command, runs: Path, form: tuple[str, ...]
) -> None:
    from_disk = repro(*words(mine), *form)
    assert from_disk[0] == 0
    shutil.rmtree(runs)
    assert repro(*words(mine), *form, *FROM) == from_disk
    assert filled.asked.count("Runs") == 2
    assert not runs.exists()


def test_page_and_figure_are_those_from_disk(
    uploaded: WandbStub, mine: Path, repro: Command, tmp_path: Path, runs: Path
) -> None:
    assert repro(*words(mine), "--out", str(tmp_path / "disk"))[0] == 0
    shutil.rmtree(runs)
    assert repro(*words(mine), "--out", str(tmp_path / "server"), *FROM)[0] == 0
    for name in ("mine-smoke.md", "mine-smoke.png"):
        assert (tmp_path / "server" / name).read_bytes() == (tmp_path / "disk" / name).read_bytes()


def test_a_seed_of_another_config_is_not_taken(uploaded: WandbStub, mine: Path, repro: Command, runs: Path) -> None:
    """The project also holds the rows with another learning rate, under the same group, variants and seeds."""
    page = repro(*words(mine))
    shutil.rmtree(runs)
    other = write_study(mine, "recipe.lr=0.7")
    for run in other.runs:
        write_run(run, finished(run).model_copy(update={"last": {"test_top1_error": 99.0}}))
    assert repro("sync")[0] == 0
    assert len(uploaded.runs) == 8
    assert repro(*words(mine), *FROM) == page
    assert "99.0" in repro(*words(mine), "recipe.lr=0.7", *FROM)[1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "no result: "),
        ("[]", "no result: "),
        ('{"schema_version": 99}', "schema_version is 99, expected 1"),
        ('{"schema_version": 1, "status": "finished"}', "no result: "),
    ],
    ids=["cut off", "a list", "another release", "incomplete"],
)
def test_an_unusable_run_is_named_and_left_out(
    filled: WandbStub, mine: Path, repro: Command, text: str, reason: str
) -> None:
    broken = next(run for run in filled.runs.values() if run.display_name == "wide/seed1")
    broken.summary["repro/result"] = text
    status, page, err = repro(*words(mine), *FROM)
    assert (status, err.count("\n")) == (0, 1)
    assert f"left out: W&B run {broken.name} (wide/seed1): {reason}" in err
    assert "no result yet" in page


def test_diverged_and_failed_runs_are_rows_too(stub: WandbStub, mine: Path, repro: Command, runs: Path) -> None:
    study = write_study(mine)
    nan = Failure(kind="nan", message="training loss is nan in epoch 2")
    diverged = study.run("wide", 0)
    write_run(diverged, finished(diverged).model_copy(update={"status": "diverged", "failure": nan, "last": {}}))
    assert repro("sync")[0] == 0
    page = repro(*words(mine))
    assert "diverged" in page[1]
    shutil.rmtree(runs)
    assert repro(*words(mine), *FROM) == page


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("wandb:me", "--from wandb:me: expected wandb:ENTITY/PROJECT"),
        ("me/repro", "--from me/repro: expected wandb:ENTITY/PROJECT"),
        ("wandb:me/repro/x", "expected wandb:ENTITY/PROJECT"),
        ("wandb:/repro", "expected wandb:ENTITY/PROJECT"),
        ("wandb:me/nowhere", "--from wandb:me/nowhere: there is no such project on http://127.0.0.1:"),
        ("wandb:me/empty", "me/empty on http://127.0.0.1:"),
    ],
    ids=["no project", "no wandb:", "too long", "no entity", "unknown project", "no runs"],
)
def test_a_place_that_has_nothing(filled: WandbStub, mine: Path, repro: Command, place: str, message: str) -> None:
    filled.runs["x"] = StubRun(ENTITY, "empty", "x")
    status, out, err = repro(*words(mine), "--from", place)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_runs_without_a_result_are_said(stub: WandbStub, mine: Path, repro: Command) -> None:
    stub.runs["x"] = StubRun(ENTITY, "repro", "x", group="mine/smoke")
    status, _, err = repro(*words(mine), *FROM)
    assert status == 2
    assert "has no run of mine at scale smoke with this config; the 1 of this group are of other configs" in err


@pytest.mark.parametrize(
    ("key", "message"),
    [(None, "no W&B key; set WANDB_API_KEY or run `wandb login`"), (KEY, "cannot be reached (Connection refused)")],
    ids=["no key", "no server"],
)
def test_no_server(
    key: str | None, message: str, mine: Path, repro: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    status, out, err = repro(*words(mine), *FROM)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_without_from_no_tracker_and_no_torch_is_imported(mine: Path) -> None:
    write_study(mine)
    code = (
        "import sys; from repro.cli import main; main(['report', sys.argv[1], 'scale=smoke', '--json']);"
        "print(sorted({'wandb', 'torch', 'lightning', 'tensorboard'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(mine)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["rows"][0]["n"] == 2
    assert done.stderr == "[]\n"
