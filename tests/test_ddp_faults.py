"""A rank that is lost ends the run with its reason and leaves no process behind; none waits longer than it was told.

Rank 0 of a run is a process of the warmed fork server here, and starts the others as a run does. A fault is put into
a rank by a `sitecustomize`, which Python imports when it starts.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist

from repro import attempts, folder
from repro.compose import compose
from repro.config import RunConfig
from repro.folder import write_config
from repro.results import Failure, read_result
from repro.training import distributed
from repro.training.distributed import RankError, environment_plugins, together
from repro.training.interrupt import Interrupted
from repro.training.ranks import Ranks

TIMEOUT = 5
PATIENCE = 120.0
"""Seconds that a test waits for what takes a few on a machine with nothing else to do."""


def until(condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
    deadline = time.monotonic() + patience
    while not (done := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return done


# --- whole runs -------------------------------------------------------------------------------------------------------

FAULT = """
import os
if os.environ.get("LOCAL_RANK", "0") == "{rank}":
    import signal
    from repro.classifier import Classifier
    step = Classifier.training_step
    def faulty(self, batch, batch_idx):
        if self.trainer.global_step == 3:
            {fault}
        return step(self, batch, batch_idx)
    Classifier.training_step = faulty
"""
FAULTS = {
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "raises": "raise ValueError('no such luck')",
    "is stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
}


def _be_rank_0(directory: str, variables: dict[str, str], fault: str) -> None:
    """Train as `python -m repro.train` does, and write into the run's log."""
    log = os.open(Path(directory) / folder.LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= variables
    from repro.train import main

    exec(fault, {})
    status = main([directory])
    sys.stderr.flush()
    os._exit(status)


Lose = Callable[[int, str], int]


@pytest.fixture
def lose(tmp_path: Path) -> Iterator[Lose]:
    """Train in `run` until a rank has a fault at its fourth step; return the exit status of rank 0."""
    directory = tmp_path / "run"

    def run(rank: int, fault: str) -> int:
        code = FAULT.format(rank=rank, fault=FAULTS[fault])
        (tmp_path / "sitecustomize.py").write_text(code)
        words = ["model=resnet20", "model.depths=[1,1,1]", "scale=laptop", f"trainer.timeout={TIMEOUT}"]
        write_config(directory, of_two_ranks(*words))
        paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
        variables = {"PYTHONPATH": paths, "REPRO_CACHE": os.environ["REPRO_CACHE"]}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["repro.launch.preload"])
        process = context.Process(target=_be_rank_0, args=(str(directory), variables, code))
        process.start()
        process.join(PATIENCE)
        assert process.exitcode is not None, log_of(directory)
        return process.exitcode

    yield run
    for process in of_run(directory):
        process.kill()


def of_two_ranks(*words: str) -> RunConfig:
    return compose([*words, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"])


def of_run(directory: Path) -> list[psutil.Process]:
    """Processes whose command names the run's folder."""
    return [p for p in psutil.process_iter(["cmdline"]) if str(directory) in (p.info["cmdline"] or [])]


def log_of(directory: Path) -> str:
    return (directory / folder.LOG).read_text()


@pytest.mark.training
@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("is killed", "killed", r"rank 1 \(process \d+\) was killed by SIGKILL"),
        ("raises", "crash", "rank 1: ValueError: no such luck"),
        ("is stopped", "timeout", rf"rank 1 \(process \d+\) was stopped; the others waited {TIMEOUT} s"),
    ],
)
def test_the_run_ends_with_the_reason_of_the_rank(
    lose: Lose, tmp_path: Path, fault: str, kind: str, message: str
) -> None:
    directory = tmp_path / "run"
    assert lose(1, fault) == 1
    assert until(lambda: not of_run(directory), 10)
    result = read_result(directory)
    assert result is not None, log_of(directory)
    assert result.status == "failed"
    assert result.failure is not None
    assert result.failure.kind == kind
    assert re.match(message, result.failure.message), result.failure
    (attempt,) = attempts.read(directory)
    assert (attempt.end, attempt.kind, attempt.message) == ("failed", kind, result.failure.message)
    if fault == "raises":
        assert "ValueError: no such luck" in "".join(result.failure.log)
        assert "ValueError: no such luck" in log_of(directory)


@pytest.mark.training
def test_the_others_die_with_rank_0(lose: Lose, tmp_path: Path) -> None:
    assert lose(0, "is killed") == -signal.SIGKILL
    assert until(lambda: not of_run(tmp_path / "run"), 10)
    standing = folder.standing(tmp_path / "run")
    assert (standing.state, standing.failure.kind if standing.failure else None) == ("failed", "killed")


# --- the processes of a machine, without any training -----------------------------------------------------------------


def command(*by_rank: str) -> list[str]:
    """A program for each rank from 1 on, in Python."""
    return [sys.executable, "-c", f"import os, signal, sys, time; exec({by_rank!r}[int(os.environ['LOCAL_RANK']) - 1])"]


SLEEP, WELL, SAVED, BAD = "time.sleep(600)", "sys.exit(0)", "sys.exit(76)", "sys.exit(3)"
KILLED, STOPPED = "os.kill(os.getpid(), signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGSTOP)"


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        ((BAD,), r"rank 1 \(process \d+\) ended with exit status 3; see the log"),
        ((BAD, KILLED), r"rank 2 \(process \d+\) was killed by SIGKILL"),
        ((SLEEP, BAD), r"rank 2 \(process \d+\) ended with exit status 3"),
        ((SLEEP, STOPPED), r"rank 2 \(process \d+\) was stopped; the others waited 600 s \(trainer.timeout\)"),
    ],
    ids=["ended", "killed, which ended the other", "the second", "stopped"],
)
def test_the_lost_rank_is_found(programs: tuple[str, ...], message: str) -> None:
    ranks = Ranks(command(*programs), len(programs) + 1, timeout=600)
    try:
        expected = re.compile(message)
        assert until(lambda: bool((lost := ranks.found(0)) and expected.match(lost.message)))
    finally:
        ranks.end(0)


@pytest.mark.parametrize("program", [WELL, SAVED, SLEEP], ids=["done", "saved", "at work"])
def test_no_rank_is_lost_that_does_its_part(program: str) -> None:
    ranks = Ranks(command(program), 2, timeout=600)
    ranks.end(0 if program == SLEEP else PATIENCE)
    assert (ranks.lost() is None) == (program != SLEEP)  # end() has killed the one that was at work


def test_a_stop_is_a_loss_when_it_lasts() -> None:
    ranks = Ranks(command(STOPPED), 2, timeout=0.3)
    try:
        assert until(lambda: (lost := ranks.lost()) is not None and lost.kind == "timeout")
    finally:
        ranks.end(0)


WATCHED = """
import os, signal, sys, time
from repro.training import ranks
ranks.GRACE = 1.0
own = ranks.Ranks({command!r}, {world}, 600)
own.watch(lambda lost: print(lost.message, flush=True))
{program}
"""


@pytest.mark.parametrize(
    ("program", "status", "said"),
    [("time.sleep(600)", 1, "rank 1"), ("own.found(600); own.settle(); time.sleep(1.5); own.end(0)", 0, "")],
    ids=["hangs", "notices"],
)
def test_rank_0_is_given_up_where_it_does_not_notice(program: str, status: int, said: str) -> None:
    """One that hangs ends, and with it the third rank; one that notices in time ends the run itself."""
    code = WATCHED.format(command=command(BAD, SLEEP), world=3, program=program)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == status
    assert done.stdout.startswith(said)
    assert bool(done.stdout) == bool(said)


FAMILY = """
import os, signal, sys, time
from repro.training import ranks
if "LOCAL_RANK" in os.environ:
    ranks.die_with_rank_0()
    os.kill(os.getpid(), signal.SIGINT)
    print(os.getpid(), flush=True)
    {program}
ranks.Ranks([sys.executable, __file__], 2, 600)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that kills a child with its parent")
@pytest.mark.parametrize("program", [SLEEP, STOPPED], ids=["at work", "stopped"])
def test_a_rank_dies_with_rank_0_and_leaves_ctrl_c_to_it(tmp_path: Path, program: str) -> None:
    script = tmp_path / "family.py"
    script.write_text(FAMILY.format(program=program))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        rank = psutil.Process(int(process.stdout.readline()))
        assert until(lambda: program == SLEEP or rank.status() == psutil.STATUS_STOPPED)
        process.kill()
    try:
        assert until(lambda: not rank.is_running() or rank.status() == psutil.STATUS_ZOMBIE, 10)
    finally:
        with suppress(psutil.NoSuchProcess):
            rank.kill()


# --- what an error says -----------------------------------------------------------------------------------------------


def described(error: BaseException) -> Failure:
    return Failure(kind="crash", message=str(error))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dist.TCPStore:
    """Where the ranks of a run of three have met; this process is one of them."""
    store = dist.TCPStore("127.0.0.1", 0, 3, is_master=True, timeout=timedelta(seconds=5), wait_for_workers=False)
    monkeypatch.setattr(distributed, "_store", store)
    return store


def failing(monkeypatch: pytest.MonkeyPatch, rank: int, error: Exception) -> None:
    """Fail on a rank of three."""
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    config = compose(
        ["model=resnet20", "scale=laptop", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=3",
         "recipe.batch_size=6", "trainer.timeout=5"]
    )  # fmt: skip
    with together(config, Path("nowhere"), described):
        raise error


CLOSED = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.2]:19598.")
WAITED = RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 5000ms for recv operation")


def test_rank_0_says_what_another_rank_has_told(monkeypatch: pytest.MonkeyPatch, store: dist.TCPStore) -> None:
    """The first that fails by itself: what follows from it, and who comes later, are not the reason."""
    with pytest.raises(ValueError, match="no such luck"):
        failing(monkeypatch, 2, ValueError("no such luck"))
    with pytest.raises(RuntimeError, match="closed by peer"):
        failing(monkeypatch, 1, CLOSED)
    distributed._store = store  # each rank's own, in a run
    with pytest.raises(ValueError, match="later"):
        failing(monkeypatch, 1, ValueError("later"))
    distributed._store = store
    with pytest.raises(RankError, match=r"^rank 2: no such luck$") as caught:
        failing(monkeypatch, 0, CLOSED)
    assert caught.value.failure.kind == "crash"
    assert caught.value.__cause__ is CLOSED


@pytest.mark.parametrize(
    ("error", "waiting", "kind", "message"),
    [
        (WAITED, [1], "timeout", r"rank 2 did not answer within 5 s \(trainer.timeout\)"),
        (CLOSED, [2], "killed", r"rank 1 is gone without a word \(.*Connection closed by peer \[10.0.0.2\]:19598.\)"),
        (CLOSED, [], "killed", "ranks 1, 2 are gone without a word"),
    ],
)
def test_the_rank_that_is_silent_is_named(
    monkeypatch: pytest.MonkeyPatch, store: dist.TCPStore, error: Exception, waiting: list[int], kind: str, message: str
) -> None:
    """On another machine nothing is known of a process but that it does not say that it waits too."""
    for rank in waiting:
        with pytest.raises(RuntimeError):
            failing(monkeypatch, rank, error)
        distributed._store = store
    with pytest.raises(RankError, match=message) as caught:
        failing(monkeypatch, 0, error)
    assert caught.value.failure.kind == kind


@pytest.mark.parametrize(
    "error", [ValueError("Timed out waiting"), RuntimeError("shapes do not fit"), Interrupted("SIGTERM", 3)]
)
def test_an_error_of_rank_0_stays_its_own(
    monkeypatch: pytest.MonkeyPatch, store: dist.TCPStore, error: Exception
) -> None:
    with pytest.raises(type(error), match=re.escape(str(error))):
        failing(monkeypatch, 0, error)


def test_an_interruption_is_no_reason(monkeypatch: pytest.MonkeyPatch, store: dist.TCPStore) -> None:
    with pytest.raises(Interrupted):
        failing(monkeypatch, 1, Interrupted("SIGTERM", 3))
    assert not store.check(["failure"])


# --- where ranks meet -------------------------------------------------------------------------------------------------


def test_runs_side_by_side_meet_at_ports_of_their_own() -> None:
    """A port that was found free and let go could be taken by another run before rank 0 opens it."""
    settings = of_two_ranks("model=resnet20", "scale=laptop").trainer
    first = distributed._addresses(settings)
    held = distributed._store
    second = distributed._addresses(settings)
    assert first["MASTER_PORT"] != second["MASTER_PORT"]
    assert held is not None
    dist.TCPStore("127.0.0.1", int(first["MASTER_PORT"]), 2, is_master=False).set("here", "")
    assert held.get("here") == b""
    distributed._store = None


@pytest.mark.parametrize(
    ("variables", "plugins"),
    [
        ({}, []),
        (
            {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "1", "SLURM_STEP_ID": "0"},
            ["SLURMEnvironment"],
        ),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, ["LightningEnvironment"]),
    ],
    ids=["no cluster", "a task of srun", "a batch script"],
)
def test_only_tasks_of_srun_are_its_ranks(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], plugins: list[str]
) -> None:
    """What a batch script starts without srun is alone in its job, and would wait for tasks that never come."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert [type(plugin).__name__ for plugin in environment_plugins()] == plugins
