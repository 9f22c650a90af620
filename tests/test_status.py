"""`repro status`: a study's runs in words, and as JSON; what it reads is on disk alone."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro import ablation, attempts, folder
from repro.attempts import Attempt
from repro.folder import Progress, Standing
from repro.launch.presence import announced
from repro.record import failed, now
from repro.results import Failure, FailureKind, write_result
from repro.study import Study, plan
from repro.verbs.status import describe
from tests.conftest import Outcome
from tests.trainers import finished

Command = Callable[..., Outcome]


def attempt(**fields: Any) -> Attempt:
    return Attempt("2026-01-01T00:00:00+00:00", "here", 1, **fields)


SAVED = attempt(end="interrupted", end_step=120)
AT_120 = Progress(3, 15, step=120, steps=450)


def failure(kind: FailureKind) -> Failure:
    return Failure(kind=kind, message="x")


@pytest.mark.parametrize(
    ("standing", "queued", "words"),
    [
        (Standing("planned"), None, "planned"),
        (Standing("planned", None, AT_120, (SAVED,)), None, "planned · saved at step 120 of 450"),
        (Standing("planned", None, None, (SAVED, SAVED)), None, "planned · saved at step 120 · 2 attempts"),
        (Standing("planned", None, None, (attempt(end="interrupted"),)), None, "planned"),
        (Standing("planned"), "pending in job 12_3 (Resources)", "pending in job 12_3 (Resources)"),
        (Standing("running"), None, "running"),
        (Standing("running", None, AT_120, (attempt(),)), None, "running · 3/15 · step 120/450"),
        (Standing("running", None, Progress(3, 15)), "running in job 12_3", "running · 3/15"),
        (
            Standing("running", None, Progress(3, 15, host="node7", job="12_3", stalled=720.0)), None,
            "running · 3/15 · on node7 · job 12_3 · no step for 12 min",
        ),
        (Standing("failed", failure("out_of_memory"), None, (attempt(end="failed"),)), None, "failed: out of memory"),
        (
            Standing("failed", failure("killed"), None, (attempt(), attempt(), attempt())), None,
            "failed: killed · 3 attempts",
        ),
        (Standing("failed", failure("node_lost")), "pending in job 12_3", "pending in job 12_3"),
        (Standing("finished", None, AT_120, (attempt(end="finished"),)), "completed in job 12_3", "finished"),
        (Standing("diverged", failure("nan")), None, "diverged"),
        (Standing("unreadable", failure("crash")), None, "unreadable"),
    ],
)  # fmt: skip
def test_how_a_run_stands_in_words(standing: Standing, queued: str | None, words: str) -> None:
    assert describe(standing, queued) == words


@pytest.fixture
def study(mine: Path) -> Study:
    """Four runs: one finished, one failed, one interrupted, one that was never begun."""
    planned = plan(ablation.load(str(mine)), "smoke", range(2))
    for run, end in zip(planned.runs, ("finished", "failed", "interrupted"), strict=False):
        folder.write_config(run.directory, run.config)
        attempts.begin(run.directory)
        attempts.end(run.directory, end, 120)  # type: ignore[arg-type]
    write_result(planned.runs[0].directory, finished(planned.runs[0].config))
    broken = Failure(kind="out_of_memory", message="CUDA out of memory", log=("line one", "[red] line two"))
    write_result(planned.runs[1].directory, failed(planned.runs[1].config, now(), broken))
    return planned


def test_the_table_names_causes_launchers_and_counts(study: Study, mine: Path, repro: Command) -> None:
    with announced(study.directory, "local"):
        status, output, errors = repro("status", str(mine), "scale=smoke", "seeds=2")
    assert (status, errors) == (0, "")
    assert "failed: out of memory" in output
    assert "planned · saved at step 120" in output
    assert "FAILED wide seed 0 (out of memory): CUDA out of memory" in output
    assert "    [red] line two\n" in output, "a log is no markup"
    assert "launcher=local works at it: process " in output
    assert "4 runs: 1 finished, 1 failed, 2 planned" in output


def test_json_has_all_of_it(study: Study, mine: Path, repro: Command) -> None:
    folder.write_progress(study.runs[2].directory, AT_120)
    tree = json.loads(repro("status", str(mine), "scale=smoke", "seeds=2", "--json")[1])
    rows = tree["runs"]
    assert [row["status"] for row in rows] == ["finished", "failed", "planned", "planned"]
    assert [row["attempts"] for row in rows] == [1, 1, 1, 0]
    assert rows[1]["failure"] == {
        "kind": "out_of_memory", "message": "CUDA out of memory", "log": ["line one", "[red] line two"],
    }  # fmt: skip
    assert (rows[2]["saved_step"], rows[2]["progress"]["steps"]) == (120, 450)
    assert tree["launchers"] == []


def test_a_cluster_is_asked_about_a_study_that_was_submitted_to_one(
    study: Study, mine: Path, repro: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {study.runs[3].directory: "pending in job 12_3 (Resources)"}
    module = types.ModuleType("queue")
    module.known = lambda directory: words if directory == study.directory else {}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "repro.launch.slurm.queue", module)
    (study.directory / ".slurm").mkdir()
    assert "pending in job 12_3 (Resources)" in repro("status", str(mine), "scale=smoke", "seeds=2")[1]
