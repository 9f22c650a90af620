"""Studies on a real SLURM cluster of two nodes, started on this machine: what is cancelled, stopped, lost or broken."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from repro import ablation, attempts, folder
from repro.launch.slurm import queue, record
from repro.request import parse_request
from repro.results import Result
from repro.study import Run, Study, plan
from repro.training.checkpoint import load_weights
from tests.conftest import MINE, Outcome
from tests.slurm_lab import Lab, wait_for, why_not

pytestmark = [pytest.mark.slurm, pytest.mark.training, pytest.mark.xdist_group("slurm")]
Command = Callable[..., Outcome]
LONG = 180.0  # seconds that a study of several starts may take on a machine that is busy


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two nodes of two processors."""
    if reason := why_not():
        pytest.skip(f"no SLURM cluster can be started: {reason}")
    with Lab(nodes=2, cpus=2) as running:
        yield running


HEAD = MINE.partition("variants:")[0].replace("reference: narrow", "reference: calm")
ROWS = """\
variants:
  stopped: {{set: ["model.widths=[4,4,4]", {long}, "checkpoint.every=11"], published: 9.0}}
  calm: {{set: ["model.widths=[4,4,4]", {long}], published: 9.0}}
  raising: {{set: ["model.widths=[4,4,8]", recipe.batch_size=1204], published: 8.0}}
  cancelled: {{set: ["model.widths=[4,8,8]"], published: 8.0}}
scales:
  smoke: [recipe.duration=1ep, "model.depths=[1,1,1]"]
"""


def table(path: Path, epochs: int) -> Path:
    """Four rows; `stopped` and `calm` are the same but for a neutral setting."""
    path.write_text(HEAD + ROWS.format(long=f"recipe.duration={epochs}ep"), encoding="utf-8")
    return path


@contextmanager
def launched(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Run `repro run` in a process of its own; killed when the test fails."""
    command = [sys.executable, "-m", "repro", "run", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def runs_of(path: Path, variants: list[str], words: list[str]) -> tuple[Study, dict[str, Run]]:
    planned = plan(ablation.load(str(path)), "smoke", [0], words, variants)
    return planned, {run.variant: run for run in planned.runs}


def elements(study: Study) -> dict[str, str]:
    """The newest element of each variant's run."""
    return {path.parent.name: element for path, element in record.newest(study.directory).items()}


def is_training(run: Run) -> bool:
    """Whether a first epoch is over."""
    log = run.directory / folder.LOG
    return log.exists() and "epoch 1/" in log.read_text()


def finished(run: Run) -> Result:
    result = run.result()
    assert result is not None
    assert result.status == "finished", result.failure
    return result


def same_weights(one: Run, other: Run) -> bool:
    first, second = load_weights(one.directory), load_weights(other.directory)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def curve(run: Run) -> list[tuple[int, float]]:
    """Step and training loss of each epoch."""
    with (run.directory / folder.CURVE).open(newline="") as file:
        return [(int(row["step"]), float(row["train_loss"])) for row in csv.DictReader(file)]


def words_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    return process.communicate(timeout=LONG)


def test_four_runs_on_two_nodes_each_ends_as_it_must(lab: Lab, tmp_path: Path, runs: Path) -> None:
    """Two nodes of two tasks for each run: one is stopped and queued again, one cancelled, one raises, one is calm."""
    path = table(tmp_path / "mine.yaml", epochs=15)
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.nodes=2"]
    planned, by_name = runs_of(path, [], words)
    options = ["scale=smoke", "seeds=1", "launcher=slurm", "launcher.poll=0.5", "launcher.retries=0"]
    with launched(str(path), *options, *words) as process:
        wait_for(lambda: len(elements(planned)) == 4, seconds=LONG)
        job = elements(planned)
        lab.ask("scancel", job["cancelled"])
        wait_for(lambda: is_training(by_name["stopped"]), seconds=LONG)
        lab.ask("scancel", "--signal=USR2", job["stopped"])  # to the steps, as the time limit's signal comes
        page, progress = words_of(process)
    assert process.returncode == 1, progress

    finished(by_name["calm"])
    finished(by_name["stopped"])
    stopped = attempts.read(by_name["stopped"].directory)
    assert [attempt.end for attempt in stopped] == ["interrupted", "finished"], progress
    assert 0 < (stopped[0].end_step or 0) == stopped[1].step, "it went on mid-training"
    assert "queued again" in (by_name["stopped"].directory / folder.LOG).read_text()
    assert [attempt.job for attempt in stopped] == [job["stopped"]] * 2
    losses = zip(curve(by_name["calm"]), curve(by_name["stopped"]), strict=True)
    early = [pair for pair in losses if pair[0][0] <= stopped[1].step + 9]
    assert len(early) > 1
    for undisturbed, again in early:  # later it has grown: among four, DDP's first step sums in another order
        assert again == pytest.approx(undisturbed, rel=1e-4)
    assert [attempt.end for attempt in attempts.read(by_name["calm"].directory)] == ["finished"]

    raising = by_name["raising"].result()
    assert raising is not None
    assert raising.failure is not None
    assert (raising.status, raising.failure.kind) == ("failed", "crash")
    assert "1204" in raising.failure.message
    cancelled = by_name["cancelled"].result()
    assert cancelled is not None
    assert cancelled.failure is not None
    assert (cancelled.status, cancelled.failure.kind) == ("failed", "cancelled")
    assert attempts.read(by_name["cancelled"].directory) == ()

    log = (by_name["calm"].directory / folder.LOG).read_text()
    for rank in range(4):
        assert f"node n{rank // 2 + 1} · rank {rank} of 4" in log
    assert page.count("failed: crash") == page.count("| raising ") + 1  # in the table and in the list below it
    assert "taken out of the queue before it began" in page
    for name in ("raising", "cancelled"):
        assert f"FAILED {name} seed 0" in progress
    assert "submitted job" in progress
    assert "4 runs of 2 nodes × 2 tasks" in progress
    wait_for(lambda: not lab.ask("squeue", "--noheader"))  # a run is over when its result is there, its job soon after


def test_group_counts_from_submission_to_table(lab: Lab, repro: Command, runs: Path) -> None:
    """Submitted and left alone; status finds the jobs, a second command follows them to the table."""
    words = ["resnext_groups", "scale=smoke", "groups=[1,16]", "equal_cost=0.1", "seeds=2"]
    status, page, progress = repro("run", *words, "launcher=slurm", "detach=true")
    assert status == 0, progress
    assert "submitted job" in progress
    assert "detached from job" in progress
    assert "follow it: repro status resnext_groups scale=smoke" in progress
    planned = parse_request(words[1:]).study(ablation.load("resnext_groups"))
    known = queue.known(planned.directory)
    assert set(known) <= {run.directory for run in planned.runs}
    assert all("in job" in words for words in known.values())
    before = record.newest(planned.directory)
    assert len(before) == 4

    status, page, progress = repro("run", *words, "launcher=slurm", "launcher.poll=0.5")
    assert status == 0, progress
    assert "already; followed" in progress
    assert record.newest(planned.directory) == before, "nothing was submitted twice"
    assert [len(attempts.read(run.directory)) for run in planned.runs] == [1] * 4
    assert "| 1x64d |" in page
    assert "| 16x7d" in page  # the table does not publish it
    for run in planned.runs:
        finished(run)
    status, output, _ = repro("report", *words, "--format", "json")
    assert [row["n"] for row in json.loads(output)["rows"]] == [2, 2]


def test_a_lost_node_costs_no_run(lab: Lab, tmp_path: Path, runs: Path) -> None:
    """A run whose node dies is queued again by SLURM and goes on, on the other node, from its last checkpoint."""
    path = table(tmp_path / "mine.yaml", epochs=60)
    words = ["checkpoint.epoch_ends=true"]
    planned, by_name = runs_of(path, ["stopped", "calm"], words)
    chosen = ["variants=[stopped,calm]", "scale=smoke", "seeds=1", "launcher=slurm", "launcher.poll=0.5"]
    chosen += ["launcher.cpus_per_task=2"]  # a node for each
    with launched(str(path), *chosen, *words) as process:
        wait_for(lambda: len(elements(planned)) == 2, seconds=LONG)
        job = elements(planned)
        wait_for(lambda: is_training(by_name["stopped"]), seconds=LONG)
        node = lab.ask("squeue", "--noheader", "--array", f"--jobs={job['stopped']}", "--format=%N")
        lab.lose(node)
        _, progress = words_of(process)
    lab.restore(node)
    assert process.returncode == 0, progress
    lost, last = attempts.read(by_name["stopped"].directory)
    assert (lost.end, last.end) == (None, "finished")
    assert last.step > 0, "it went on mid-training"
    assert finished(by_name["calm"]).last == finished(by_name["stopped"]).last
    assert same_weights(by_name["calm"], by_name["stopped"])


def test_a_job_that_never_comes_to_its_run_is_named(lab: Lab, mine: Path, repro: Command, runs: Path) -> None:
    """Lines of the user's before Python that fail: SLURM's words are the reason, and it is tried as often as said."""
    words = [str(mine), "scale=smoke", "seeds=1", "variants=[narrow]", "launcher=slurm", "launcher.poll=0.5"]
    status, _, progress = repro("run", *words, "launcher.retries=1", "launcher.setup=['echo no module; exit 3']")
    assert status == 1
    assert "submitted again (1 of 1)" in progress
    assert progress.count("submitted job") == 2
    run = plan(ablation.load(str(mine)), "smoke", [0], (), ["narrow"]).runs[0]
    result = run.result()
    assert result is not None
    assert result.failure is not None
    assert result.failure.kind == "crash"
    assert "(SLURM: FAILED, exit status 3, NonZeroExitCode)" in result.failure.message
    assert result.failure.log == ("no module",)
    assert [attempt.end for attempt in attempts.read(run.directory)] == ["failed", "failed"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["launcher.partition=mian"], "repro: launcher.partition: unknown partition 'mian'; did you mean 'main'?"),
        (["launcher.sbatch={nodelist: n77}"], "repro: sbatch refused the job: "),
        (["launcher.memory=900G"], "repro: sbatch refused the job: Batch job submission failed: "),
    ],
    ids=["partition", "a node that is not there", "more memory than there is"],
)
def test_what_slurm_refuses_is_one_line(
    words: list[str], sentence: str, lab: Lab, mine: Path, repro: Command, runs: Path
) -> None:
    status, page, errors = repro("run", str(mine), "scale=smoke", "seeds=1", "launcher=slurm", *words)
    assert status == 2
    assert page == ""
    assert errors.splitlines()[-1].startswith(sentence), errors
    assert "Traceback" not in errors
    assert record.newest(runs / "mine" / "smoke") == {}
    assert lab.ask("squeue", "--noheader") == ""


def test_two_labs_run_side_by_side(lab: Lab) -> None:
    with Lab(nodes=1, cpus=1) as other:
        assert other.ask("sinfo", "--noheader", "--format=%D") == "1"
        began = time.monotonic()
        assert other.ask("srun", "hostname")
        assert time.monotonic() - began < LONG
    assert not other.state.exists()
    assert lab.ask("sinfo", "--noheader", "--format=%D") == "2"
