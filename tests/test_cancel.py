"""`repro cancel`: jobs of a cluster and launchers of this host are stopped, and nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from repro import ablation, attempts, folder
from repro.launch.slurm import record
from repro.study import Run, plan
from tests.conftest import MINE, Outcome
from tests.slurm_lab import Lab, wait_for, why_not

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two nodes of one processor and one GPU, which is none."""
    if reason := why_not():
        pytest.skip(f"no SLURM cluster can be started: {reason}")
    with Lab(nodes=2, cpus=1, gpus=1) as running:
        yield running


def runs_of(path: Path, words: tuple[str, ...] = (), seeds: int = 1) -> list[Run]:
    return list(plan(ablation.load(str(path)), "smoke", range(seeds), words).runs)


def log_of(run: Run) -> str:
    path = run.directory / folder.LOG
    return path.read_text() if path.exists() else ""


@pytest.mark.slurm
@pytest.mark.training
@pytest.mark.xdist_group("slurm")
def test_a_running_run_is_saved_and_a_waiting_one_named(lab: Lab, mine: Path, repro: Command) -> None:
    """The next `repro run` goes on with both, with the first one where it was."""
    mine.write_text(MINE.replace("recipe.duration=1ep", "recipe.duration=100ep"))
    words = [str(mine), "scale=smoke", "variants=[narrow]"]
    job = ["launcher=slurm", "launcher.array_parallelism=1", "launcher.poll=0.5"]
    assert repro("run", *words, "seeds=2", *job, "detach=true")[0] == 0
    started, waiting = (run for run in runs_of(mine, seeds=2) if run.variant == "narrow")
    wait_for(lambda: "epoch 1/" in log_of(started), lambda: log_of(started), 120)
    status, output, errors = repro("cancel", *words)
    assert (status, errors) == (0, "")
    assert output.startswith("cancelled job 1_[0,1]: 1 running, 1 pending\n")
    assert lab.ask("squeue", "--noheader") == ""
    (first,) = attempts.read(started.directory)
    assert first.end == "interrupted"
    assert folder.state(started.directory) == "planned"
    result = waiting.result()
    assert result is not None
    assert result.failure is not None
    assert (result.status, result.failure.kind) == ("failed", "cancelled")
    status, output, _ = repro("status", *words)
    assert "saved at step" in output
    assert "failed: cancelled" in output
    assert repro("cancel", *words)[1].startswith("nothing to cancel")

    status, _, progress = repro("run", *words, "seeds=1", "launcher=slurm", "launcher.poll=0.5")
    assert status == 0, progress
    assert attempts.read(started.directory)[-1].step == first.end_step


@pytest.mark.slurm
@pytest.mark.training
@pytest.mark.xdist_group("slurm")
def test_only_the_runs_that_are_asked_for(lab: Lab, mine: Path, repro: Command) -> None:
    """A run that has not come to its training when it is cancelled is named too; its task had seen its GPU."""
    words = [str(mine), "scale=smoke", "trainer=gpu"]
    assert repro("run", *words, "seeds=2", "launcher=slurm", "launcher.cpus_per_task=1", "detach=true")[0] == 0
    runs = runs_of(mine, ("trainer=gpu",), seeds=2)
    job = record.newest(runs[0].directory.parents[1])[runs[0].directory].partition("_")[0]
    begun = [run for run in runs if record.newest(run.directory.parents[1])[run.directory] in (f"{job}_0", f"{job}_1")]
    wait_for(lambda: all("rank 0 of 1" in log_of(run) for run in begun), seconds=60)
    for run in begun:
        assert "CUDA_VISIBLE_DEVICES=0" in log_of(run)
    status, output, errors = repro("cancel", *words, "seeds=[1]")
    assert (status, errors) == (0, "")
    assert "0 running, 2 pending" in output
    kinds = {run.seed: run.result().failure.kind for run in runs if run.seed == 1}  # type: ignore[union-attr]
    assert kinds == {1: "cancelled"}
    status, output, errors = repro("cancel", *words)
    assert (status, errors) == (0, "")
    for run in begun:
        result = run.result()
        assert result is not None
        assert result.failure is not None
        assert result.failure.kind in ("cancelled", "crash"), result.failure  # without a GPU it may have failed first
    assert lab.ask("squeue", "--noheader") == ""


def test_nothing_to_cancel(mine: Path, repro: Command, runs: Path) -> None:
    status, output, errors = repro("cancel", str(mine), "scale=smoke")
    assert (status, errors) == (0, "")
    assert output == f"nothing to cancel: no job and no launcher works at {runs / 'mine' / 'smoke'}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "unknown ablation 'nothing'"),
        (["preactivation", "scale=smok"], "unknown scale 'smok'"),
        (["preactivation", "variants=[x]"], "unknown variant 'x'"),
    ],
)
def test_bad_words_are_one_line(words: list[str], sentence: str, repro: Command) -> None:
    status, output, errors = repro("cancel", *words)
    assert (status, output) == (2, "")
    assert sentence in errors
    assert errors.count("\n") == 1


def test_jobs_without_slurms_commands(mine: Path, repro: Command, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is seen from a machine outside of the cluster."""
    study = runs / "mine" / "smoke"
    record.write(study, record.Submission("n", record.runs_of(study, [run.directory for run in runs_of(mine)]), "12"))
    monkeypatch.setenv("PATH", "/nowhere")
    status, output, errors = repro("cancel", str(mine), "scale=smoke", "seeds=1")
    assert (status, output) == (2, "")
    assert errors == f"repro: {study / '.slurm'}: there are jobs of SLURM, and no scancel on PATH here\n"


WAITER = """\
import signal, sys, time
from pathlib import Path
from repro.launch.presence import announced
with announced(Path(sys.argv[1]), sys.argv[2]):
    print("here", flush=True)
    signal.pause()
"""


@contextmanager
def at_work(study: Path, launcher: str) -> Iterator[subprocess.Popen[str]]:
    """A process that says it is such a launcher at the study."""
    command = [sys.executable, "-c", WAITER, str(study), launcher]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        try:
            yield process
        finally:
            process.kill()


def test_launchers_of_this_host_are_asked_to_stop(mine: Path, repro: Command, runs: Path) -> None:
    """One that follows jobs is left to end with them."""
    study = runs / "mine" / "smoke"
    with at_work(study, "local") as local, at_work(study, "slurm") as follower:
        status, output, _ = repro("cancel", str(mine), "scale=smoke")
        assert status == 0
        assert local.wait(10) == -signal.SIGTERM
        assert follower.poll() is None
    assert f"asked launcher=local (process {local.pid} on {socket.gethostname()}) to stop" in output
    assert f"launcher=slurm (process {follower.pid} on {socket.gethostname()}) follows the jobs" in output
    assert "nothing to cancel" not in output


@pytest.mark.parametrize("word", ["seeds=[0]", "variants=[wide]"])
def test_a_launcher_is_stopped_as_a_whole_or_not_at_all(word: str, mine: Path, repro: Command, runs: Path) -> None:
    with at_work(runs / "mine" / "smoke", "local") as local:
        status, output, _ = repro("cancel", str(mine), "scale=smoke", word)
        assert local.poll() is None
    assert status == 1
    assert "trains more than these runs" in output


def test_a_run_that_was_not_meant_keeps_its_launcher(mine: Path, repro: Command, runs: Path) -> None:
    """The same table is trained with another recipe: the launcher may be that one's."""
    other = runs_of(mine, ("recipe.lr=0.3",))[0]
    with folder.locked(other.directory), at_work(runs / "mine" / "smoke", "local") as local:
        status, output, _ = repro("cancel", str(mine), "scale=smoke")
        assert local.poll() is None
    assert status == 1
    assert "trains more than these runs" in output


def test_a_launcher_elsewhere_is_named(mine: Path, repro: Command, runs: Path) -> None:
    path = runs / "mine" / "smoke" / ".launchers" / "node7-1.json"
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump({"launcher": "local", "host": "node7", "pid": os.getpid()}, file)
        file.flush()
        status, output, _ = repro("cancel", str(mine), "scale=smoke")
    assert status == 1
    assert f"launcher=local (process {os.getpid()} on node7) trains this study: run the same command on node7" in output
