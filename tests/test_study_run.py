"""A study from file to table: really trained, in small, through the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from repro import ablation, folder
from repro.results import read_result
from repro.study import Study, plan
from repro.training.checkpoint import load_weights
from repro.verbs.status import saved_step
from tests.conftest import MINE, Outcome
from tests.trainers import wait_until

pytestmark = pytest.mark.training
Command = Callable[..., Outcome]
REPRO = [sys.executable, "-m", "repro"]


def study(path: Path, seeds: int = 2) -> Study:
    return plan(ablation.load(str(path)), "smoke", range(seeds))


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_weights(directory)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_study_trains_each_run_once_and_reports(mine: Path, repro: Command) -> None:
    status, page, progress = repro("run", str(mine), "scale=smoke", "seeds=2")
    assert status == 0, progress
    assert "[4/4]" in progress
    assert "# Width" in page
    planned = study(mine)
    for run in planned.runs:
        result = run.result()
        assert result is not None
        assert (result.status, result.seed, result.variant) == ("finished", run.seed, run.variant)
        assert 0 <= result.last["test_top1_error"] <= 100
        assert result.timing is not None
        assert result.timing.train > 0
        assert result.data is not None
        assert (result.data.train, result.data.val, result.data.test) == (1200, 97, 500)
        rows = (run.directory / "metrics.csv").read_text().splitlines()
        assert len(rows) == 2
    assert (planned.directory / "report.md").exists()
    assert (planned.directory / "report.png").read_bytes().startswith(b"\x89PNG")

    before = {run.id: (run.directory / "result.json").stat().st_mtime_ns for run in planned.runs}
    status, again, progress = repro("run", str(mine), "scale=smoke", "seeds=2")
    assert (status, again) == (0, page)
    assert "nothing is trained again" in progress
    assert before == {run.id: (run.directory / "result.json").stat().st_mtime_ns for run in planned.runs}

    status, output, _ = repro("report", str(mine), "scale=smoke", "--format", "json")
    rows = json.loads(output)["rows"]
    assert [(row["variant"], row["published"], row["n"]) for row in rows] == [("narrow", 9.0, 2), ("wide", 8.0, 2)]
    errors = [run.result().last["test_top1_error"] for run in planned.runs]  # type: ignore[union-attr]
    assert rows[0]["mean"] == pytest.approx((errors[0] + errors[2]) / 2)
    assert rows[1]["contrast"] == pytest.approx((errors[1] + errors[3] - errors[0] - errors[2]) / 2)

    status, output, _ = repro("status", str(mine), "scale=smoke", "--json")
    assert [row["status"] for row in json.loads(output)["runs"]] == ["finished"] * 4


def test_the_launcher_and_repro_train_give_the_same_weights(mine: Path, repro: Command, tmp_path: Path) -> None:
    """The same config in the study's forked process and as a run of its own, in a process that was started anew."""
    assert repro("run", str(mine), "scale=smoke", "seeds=1")[0] == 0
    run = study(mine, 1).runs[1]
    overrides = [
        "model=resnet20", "model.stem_width=4", "scale=smoke", "recipe.duration=1ep", "model.depths=[1,1,1]",
        "model.widths=[4,8,8]",
    ]  # fmt: skip
    target = tmp_path / "alone"
    command = [*REPRO, "train", *overrides, f"dir={target}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = read_result(target)
    assert result is not None
    assert result.id == run.id
    assert same(weights(run.directory), weights(target))
    assert result.last == run.result().last  # type: ignore[union-attr]


def test_a_study_of_some_variants_reports_them_alone(mine: Path, repro: Command) -> None:
    status, page, _ = repro("run", str(mine), "scale=smoke", "seeds=1", "variants=[narrow]")
    assert status == 0
    assert "| narrow |" in page
    assert "| wide |" not in page
    assert "Not run at this scale: wide." in page
    assert "'variants=[narrow]'" in page


def test_a_failing_run_is_named_and_the_others_go_on(mine: Path, repro: Command) -> None:
    """A batch larger than the training set is found only when the data are there: that run fails, the others train."""
    text = MINE.replace('set: ["model.widths=[4,8,8]"]', 'set: ["model.widths=[4,8,8]", recipe.batch_size=1201]')
    mine.write_text(text)
    status, page, errors = repro("run", str(mine), "scale=smoke", "seeds=1")
    assert status == 1
    assert "begun again (1 of 2)" in errors
    assert "FAILED wide seed 0 (crash, 3 attempts): " in errors
    assert "1201" in errors
    assert errors.count("Traceback") == 0, "the log's last lines, not all of it"
    assert "failed" in page
    narrow, wide = study(mine, 1).runs
    assert (narrow.state(), wide.state()) == ("finished", "failed")
    assert wide.result().failure.log  # type: ignore[union-attr]
    mine.write_text(MINE)
    status, _, progress = repro("run", str(mine), "scale=smoke", "seeds=1")
    assert status == 0
    assert "1 runs to train, 1 finished before" in progress


def test_a_failed_or_unreadable_run_is_trained_again(mine: Path, repro: Command) -> None:
    assert repro("run", str(mine), "scale=smoke", "seeds=1")[0] == 0
    first = study(mine, 1).runs[0].directory / "result.json"
    good = first.read_text()
    first.write_text(good[: len(good) // 2])
    status, _, error = repro("report", str(mine), "scale=smoke")
    assert status == 2
    assert f"{first}: not a result file" in error
    assert error.count("\n") == 1
    status, _, progress = repro("run", str(mine), "scale=smoke", "seeds=1")
    assert status == 0
    assert "set aside" in progress
    assert json.loads(first.read_text())["last"] == json.loads(good)["last"]
    assert (first.parent / "result.json.old").exists()


def test_a_diverged_run_is_an_outcome(mine: Path, repro: Command) -> None:
    mine.write_text(MINE.replace('set: ["model.widths=[4,8,8]"]', 'set: ["model.widths=[4,8,8]", recipe.lr=1e20]'))
    status, page, _ = repro("run", str(mine), "scale=smoke", "seeds=1")
    assert status == 0
    assert "diverged" in page
    result = study(mine, 1).runs[1].result()
    assert result is not None
    assert result.status == "diverged"
    assert "nan" in result.failure.message  # type: ignore[union-attr]


def test_kill_9_loses_nothing_and_trains_nothing_twice(mine: Path, repro: Command, runs: Path, tmp_path: Path) -> None:
    """The launcher and its server are killed after the first run has ended; the same command then goes on."""
    mine.write_text(MINE.replace("recipe.duration=1ep", "recipe.duration=4ep"))
    command = [*REPRO, "run", str(mine), "scale=smoke", "seeds=2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[1/4]"):
                break
        os.killpg(process.pid, signal.SIGKILL)
    planned = study(mine)
    wait_until(lambda: not any(folder.is_alive(run.directory) for run in planned.runs))  # they save what they have
    done = {run.id for run in planned.runs if (run.directory / "result.json").exists()}
    assert 1 <= len(done) < 4
    before = {run.id: (run.directory / "result.json").read_bytes() for run in planned.runs if run.id in done}
    status, _, progress = repro("run", str(mine), "scale=smoke", "seeds=2")
    assert status == 0
    assert f"{len(done)} finished before" in progress
    assert all((run.directory / "result.json").read_bytes() == before[run.id] for run in planned.runs if run.id in done)
    disturbed = {run.id: (run.result().last, weights(run.directory)) for run in planned.runs}  # type: ignore[union-attr]

    os.environ["REPRO_RUNS"] = str(tmp_path / "undisturbed")
    assert repro("run", str(mine), "scale=smoke", "seeds=2")[0] == 0
    for run in study(mine).runs:
        last, state = disturbed[run.id]
        assert run.result().last == last  # type: ignore[union-attr]
        assert same(weights(run.directory), state)


def test_a_run_on_two_processes_inside_a_study(mine: Path, repro: Command) -> None:
    """Two runs on two gloo processes each: every run trained once, one result each, every sample counted once."""
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    status, _, progress = repro("run", str(mine), "scale=smoke", "seeds=1", *words)
    assert status == 0, progress
    planned = plan(ablation.load(str(mine)), "smoke", [0], words)
    for run in planned.runs:
        result = run.result()
        assert result is not None
        assert result.status == "finished"
        assert result.timing is not None
        assert result.timing.steps == 1200 // 128
        assert len((run.directory / "metrics.csv").read_text().splitlines()) == 2
        log = (run.directory / folder.LOG).read_text()
        assert "GLOBAL_RANK: 1" in log
        assert (500 * result.last["test_top1_error"] / 100) % 1 == pytest.approx(0, abs=1e-3)
    results = list(planned.directory.rglob("result.json"))
    assert len(results) == 2


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def heed_ctrl_c() -> None:
    """What a shell starts in the background ignores it, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "to_all", "status"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)],
    ids=["Ctrl-C of a terminal", "SIGTERM of a cluster"],
)
def test_a_study_that_is_stopped_can_go_on(
    number: signal.Signals, to_all: bool, status: int, mine: Path, runs: Path, repro: Command
) -> None:
    mine.write_text(MINE.replace("recipe.duration=1ep", "recipe.duration=400ep"))
    command = [*REPRO, "run", str(mine), "scale=smoke", "seeds=1"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=quiet, text=True, start_new_session=True, preexec_fn=heed_ctrl_c
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the study's headline: its runs begin
        directories = [run.directory for run in study(mine, 1).runs]
        wait_until(lambda: all(len(lines(directory / folder.CURVE)) > 1 for directory in directories))
        (os.killpg if to_all else os.kill)(process.pid, number)  # a terminal tells every process of the study
        rest = process.stderr.read()
    assert process.returncode == status, rest
    assert "stopping: 2 runs being saved" in rest
    assert "the same command goes on from here" in rest
    assert "Traceback" not in rest
    stands = [folder.standing(directory) for directory in directories]
    assert [standing.state for standing in stands] == ["planned", "planned"]
    assert all((saved_step(standing) or 0) > 0 for standing in stands)
    output = repro("status", str(mine), "scale=smoke")[1]
    assert "saved at step" in output
    assert "2 runs: 2 planned" in output


def test_ctrl_c_ends_repro_train_with_one_line(tmp_path: Path) -> None:
    command = [*REPRO, "train", "model=resnet20", "scale=smoke", "recipe.duration=900ep", f"dir={tmp_path / 'run'}"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()  # the first epoch is over
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        errors = process.stderr.read()
    assert process.returncode == 130, errors
    last = errors.splitlines()[-1]
    assert re.fullmatch(r"repro: stopped, saved at step \d+; the same command goes on from there", last), errors
    assert "Traceback" not in errors
    assert folder.state(tmp_path / "run") == "planned"
    assert (tmp_path / "run" / folder.RESUME).exists()
