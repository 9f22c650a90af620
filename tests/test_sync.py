"""`repro sync`: what trackers kept on disk arrives once, in order, whatever went wrong before; nothing is lost."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from repro.config import LoggerConfig
from repro.folder import locked
from repro.results import Result
from repro.tracking import build_loggers, finish_loggers, publish
from repro.verbs.report import read_results, write_report
from tests.conftest import Outcome
from tests.tracked_study import finished, planned, write_run, write_study
from tests.wandb_stub import KEY, WandbStub

Command = Callable[..., Outcome]

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
"""W&B's own threads complain when a run that they watch could not be ended."""


def test_everything_is_uploaded_once(stub: WandbStub, mine: Path, repro: Command) -> None:
    study = write_study(mine)
    status, out, err = repro("sync")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == f"4 of 4 uploaded to {stub.url}; 0 runs already there"
    assert {run.name for run in stub.runs.values()} == {run.id for run in study.runs}
    for run in study.runs:
        there = stub.runs[run.id]
        assert (there.group, there.job_type, there.state) == ("mine/smoke", run.variant, "finished")
        assert there.steps == [10, 20]
        assert Result.model_validate_json(there.summary["repro/result"]) == finished(run)
    asked = len(stub.asked)
    assert repro("sync") == (0, f"nothing to upload: {stub.url} has everything of 4 runs\n", "")
    assert len(stub.asked) == asked


def test_a_study_or_a_folder_is_uploaded_alone(stub: WandbStub, mine: Path, repro: Command) -> None:
    study = write_study(mine)
    status, out, _ = repro("sync", str(study.run("wide", 1).directory))
    assert (status, set(stub.runs)) == (0, {study.run("wide", 1).id})
    status, out, _ = repro("sync", str(mine), "scale=smoke", "seeds=1")
    assert out.splitlines()[-1].startswith("2 of 2 uploaded")
    assert set(stub.runs) == {
        study.run(variant, seed).id for variant, seed in [("wide", 1), ("narrow", 0), ("wide", 0)]
    }


def test_parts_that_were_tracked_offline_become_one_curve(
    stub: WandbStub, mine: Path, repro: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after two epochs, gone on from the first one's checkpoint, twice offline."""
    run = planned(mine).run("narrow", 0)
    monkeypatch.setenv("WANDB_MODE", "offline")
    write_run(run, None, epochs=2)
    finish_loggers(build_loggers(run.config, run.directory), None)
    write_run(run, finished(run), epochs=3)
    finish_loggers(build_loggers(run.config, run.directory), finished(run))
    assert len(list(run.directory.glob("wandb/offline-run-*/*.wandb"))) == 2
    monkeypatch.delenv("WANDB_MODE")
    assert repro("sync")[0] == 0
    (there,) = stub.runs.values()
    assert (there.steps, there.sessions, there.state) == ([10, 20, 30], 1, "finished")


def test_what_came_later_is_appended(stub: WandbStub, mine: Path, repro: Command) -> None:
    """Uploaded as interrupted, then ended: the same W&B run goes on and no epoch is there twice."""
    run = planned(mine).run("narrow", 0)
    write_run(run, None, epochs=2)
    assert repro("sync")[0] == 0
    assert (stub.runs[run.id].steps, stub.runs[run.id].state) == ([10, 20], "preempted")
    write_run(run, finished(run), epochs=3)
    assert repro("sync")[0] == 0
    assert (stub.runs[run.id].steps, stub.runs[run.id].state) == ([10, 20, 30], "finished")


def test_what_a_dying_server_did_not_take_is_uploaded_later(
    stub: WandbStub, mine: Path, repro: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(mine, "logger.timeout=1").run("narrow", 0)
    write_run(run, None, epochs=1)
    loggers = build_loggers(run.config, run.directory)
    stub.die()
    write_run(run, finished(run), epochs=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        finish_loggers(loggers, finished(run))
    with WandbStub() as second:
        second.runs = stub.runs
        monkeypatch.setenv("WANDB_BASE_URL", second.url)
        assert repro("sync")[0] == 0
        assert (second.runs[run.id].steps, second.runs[run.id].state) == ([10, 20, 30], "finished")


def test_a_running_run_is_left_alone_and_a_broken_one_is_named(stub: WandbStub, mine: Path, repro: Command) -> None:
    study = write_study(mine)
    (study.run("wide", 0).directory / "result.json").write_text("{", encoding="utf-8")
    with locked(study.run("narrow", 0).directory):
        status, out, err = repro("sync")
    assert status == 0
    assert out.splitlines()[-1].startswith("2 of 2 uploaded")
    assert "is being trained; sync again when it has ended" in err
    assert f"left alone: {study.run('wide', 0).directory / 'result.json'}: not a result file" in err


def test_a_study_without_the_tracker_has_nothing_to_upload(stub: WandbStub, mine: Path, repro: Command) -> None:
    write_study(mine, "logger=csv")
    assert repro("sync") == (0, "nothing to upload: no run here was tracked with logger=wandb\n", "")


def test_the_summary_of_a_study(stub: WandbStub, mine: Path, repro: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline it waits on disk; online it is one W&B run, however often the study is run again."""
    monkeypatch.setenv("REPRO_CACHE", str(mine.parent / "cache"))  # no prices but those of the results
    study = write_study(mine)
    page, _ = write_report(study, read_results(study))
    monkeypatch.setenv("WANDB_MODE", "offline")
    publish(study, page, LoggerConfig(name="wandb", tags=("spring",)))
    assert stub.runs == {}
    monkeypatch.delenv("WANDB_MODE")
    assert repro("sync")[1].splitlines()[-1].startswith("5 of 5 uploaded")
    publish(study, page, LoggerConfig(name="wandb", tags=("spring",)))
    (run,) = [run for run in stub.runs.values() if run.job_type == "summary"]
    assert (run.sessions, run.group, run.tags) == (2, "mine/smoke", ["mine", "smoke", "spring"])
    assert run.summary["verdict"] == page.summary
    assert (run.summary["table"]["nrows"], run.summary["figure"]["format"]) == (2, "png")
    assert run.files[run.summary["figure"]["path"]] == (study.directory / "report.png").read_bytes()
    table = run.files[run.summary["table"]["path"]].decode()
    assert all(cell in table for cell in ('"reproduced mean"', "10.875", '"wide"', "1730000"))
    assert repro("sync")[1] == f"nothing to upload: {stub.url} has everything of 4 runs\n"


def test_publishing_never_fails(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(mine)
    page, _ = write_report(study, read_results(study))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    publish(study, page, LoggerConfig(name="wandb"))
    assert capsys.readouterr().err == (
        "repro: the table was not published to wandb: http://127.0.0.1:9 cannot be reached (Connection refused); "
        "`repro sync` uploads it later\n"
    )
    (study.directory / "wandb" / "summary.json").unlink()
    (study.directory / "wandb").rmdir()
    (study.directory / "wandb").write_text("in the way", encoding="utf-8")
    publish(study, page, LoggerConfig(name="wandb"))
    said = capsys.readouterr().err
    assert said.startswith("repro: the table was not published to wandb: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere/at/all"], "nowhere/at/all"),
        (["scale=smoke"], "expected an ablation's name or a folder before KEY=VALUE"),
        (["preactivatoin"], "did you mean 'preactivation'?"),
        (["preactivation", "scale=smokey"], "did you mean 'smoke'?"),
    ],
    ids=["no folder", "no name", "misspelt", "bad scale"],
)
def test_words_that_mean_nothing(repro: Command, words: list[str], message: str) -> None:
    status, out, err = repro("sync", *words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("key", "message"),
    [(None, "no W&B key; set WANDB_API_KEY or run `wandb login`"), (KEY, "cannot be reached (Connection refused)")],
    ids=["no key", "no server"],
)
def test_without_a_server_nothing_is_lost(
    key: str | None, message: str, mine: Path, repro: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = write_study(mine)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    status, out, err = repro("sync")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert all(run.result() == finished(run) for run in study.runs)


def test_a_server_that_dies_meanwhile(
    stub: WandbStub, mine: Path, repro: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first upload fails, and the others are not waited for."""
    write_study(mine)
    monkeypatch.setattr("repro.verbs.sync.TIMEOUT", 1.0)

    def found_and_gone() -> str:
        stub.die()
        return stub.url

    monkeypatch.setattr("repro.verbs.sync.require_server", found_and_gone)
    status, out, err = repro("sync")
    assert status == 1
    assert out.splitlines()[-1].startswith("0 of 4 uploaded")
    assert err.count("not uploaded") == 1
    assert "cannot be reached" in err
