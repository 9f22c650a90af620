"""Runs as tasks of Ray: really trained on a Ray of two cores, killed and begun again, stopped; and what Ray loses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repro import ablation, attempts, environment, folder
from repro.errors import InputError
from repro.launch import Task, ray_session
from repro.launch import ray as launcher
from repro.launch.config import RayConfig
from repro.launch.ray import RayLauncher
from repro.launch.stop import Stop
from repro.record import identity
from repro.results import Environment, Result, write_result
from repro.study import Run, plan
from tests.conftest import MINE, Outcome
from tests.test_study_run import heed_ctrl_c

Command = Callable[..., Outcome]
installed = find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not installed, reason="Ray is not installed (pip install 'repro[ray]')")


def task(run: Run, **changes: Any) -> Task:
    folder.write_config(run.directory, run.config)
    fields = {"nodes": 1, "devices": 1, "threads": 1, "workers": 0, "accelerator": "cpu", **changes}
    return Task(directory=run.directory, label=f"{run.variant} seed {run.seed}", row=run.variant, **fields)


class Watch:
    """Notes what a launcher tells; `act` is called at each tick with what runs."""

    def __init__(self, act: Callable[[Sequence[Task]], None] = lambda running: None) -> None:
        self.begun: list[str] = []
        self.over: list[str] = []
        self.lines: list[str] = []
        self.act = act

    def started(self, task: Task) -> None:
        self.begun.append(task.label)

    def tick(self, running: Sequence[Task]) -> None:
        self.act(running)

    def ended(self, task: Task) -> None:
        self.over.append(task.label)

    def told(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def pair(mine: Path) -> list[Run]:
    """A run of a few seconds, and one whose batch is larger than its data, which is found when it is trained."""
    text = MINE.replace("recipe.duration=1ep", "recipe.duration=40ep").replace(
        'set: ["model.widths=[4,8,8]"]', 'set: ["model.widths=[4,8,8]", recipe.batch_size=1201]'
    )
    mine.write_text(text)
    return list(plan(ablation.load(str(mine)), "smoke", [0]).runs)


@needs_ray
@pytest.mark.ray
@pytest.mark.training
def test_a_study_on_ray(pair: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """One run is killed and begun again, the other fails for good; Ray is gone afterwards, with what it wrote."""
    monkeypatch.setattr(environment, "cores", lambda: 2)
    narrow, wide = pair
    killed: list[int] = []

    def kill(running: Sequence[Task]) -> None:
        tried = attempts.read(narrow.directory)
        if tried and not killed:
            killed.append(tried[-1].pid)
            os.kill(tried[-1].pid, signal.SIGKILL)

    watch = Watch(kill)
    ray = RayLauncher(RayConfig(retries=1))
    tasks = [task(narrow), task(wide)]
    assert ray.width(tasks) == 2
    ray.launch(tasks, watch)

    result = narrow.result()
    assert result is not None
    assert result.status == "finished"
    first, second = attempts.read(narrow.directory)
    assert (first.end, first.kind, first.message) == ("failed", "killed", "killed by signal 9")
    assert (second.end, second.failed) == ("finished", False)
    assert "narrow seed 0: killed by signal 9; begun again (1 of 1)" in watch.lines

    failed = wide.result()
    assert failed is not None
    assert failed.failure is not None
    assert (failed.status, failed.failure.kind) == ("failed", "crash")
    assert "1201" in failed.failure.message
    assert len(attempts.read(wide.directory)) == 2
    assert sorted(watch.begun) == ["narrow seed 0"] * 2 + ["wide seed 0"] * 2
    assert sorted(watch.over) == ["narrow seed 0", "wide seed 0"]

    import ray as library

    assert not library.is_initialized()
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for temporary files whose path is short enough for a socket's."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as path:
        yield Path(path)


@needs_ray
@pytest.mark.ray
@pytest.mark.training
def test_ctrl_c_saves_the_runs_of_a_ray_that_only_this_machine_reaches(mine: Path, scratch: Path) -> None:
    mine.write_text(MINE.replace("recipe.duration=1ep", "recipe.duration=4000ep"))
    (run, _) = plan(ablation.load(str(mine)), "smoke", [0]).runs
    command = [sys.executable, "-m", "repro", "run", str(mine), "scale=smoke", "seeds=1", "launcher=ray"]
    command += ["variants=[narrow]"]
    surroundings = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
        preexec_fn=heed_ctrl_c, env=surroundings,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        until(lambda: (folder.read_progress(run.directory) or folder.Progress()).step > 0, process)
        assert not open_to_others(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        rest = process.stderr.read()
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert "Token" not in rest
    assert "stopping: 1 run being saved" in rest
    assert folder.state(run.directory) == "planned"
    (attempt,) = attempts.read(run.directory)
    assert (attempt.end, attempt.failed) == ("interrupted", False)
    assert (run.directory / folder.RESUME).exists()
    assert list(scratch.glob("repro-ray-*")) == []


def until(holds: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)


def open_to_others(parent: int) -> list[str]:
    """Addresses other than loopback at which a process, or one that it has started, listens."""
    import psutil

    found = []
    for process in [psutil.Process(parent), *psutil.Process(parent).children(recursive=True)]:
        try:
            sockets = process.net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        found += [item.laddr.ip for item in sockets if item.status == psutil.CONN_LISTEN]
    assert found, "Ray listens somewhere"
    return [address for address in found if address not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")]


def test_without_ray_there_is_one_line(mine: Path, repro: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"launcher=ray needs Ray, which is not installed: pip install 'repro\[ray\]'"):
        RayLauncher(RayConfig())


@needs_ray
@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"nodes": 2}, RayConfig(), "trainer.nodes=2: a task of Ray is of one node; use launcher=slurm, or"),
        ({"accelerator": "gpu"}, RayConfig(gpus_per_run=2), "launcher.gpus_per_run=2, but a run trains on"),
        ({"accelerator": "gpu"}, RayConfig(gpus_per_run=1.5), "launcher.gpus_per_run=1.5: expected a whole number"),
    ],
)
def test_what_ray_cannot_do_is_refused(
    changes: dict[str, Any], settings: RayConfig, message: str, pair: list[Run]
) -> None:
    tasks = [task(pair[0], **changes)]
    for refuse in (lambda: RayLauncher(settings).width(tasks), lambda: RayLauncher(settings).launch(tasks, Watch())):
        with pytest.raises(InputError, match=message):
            refuse()


@needs_ray
@pytest.mark.parametrize(
    ("changes", "settings", "cores", "gpus"),
    [
        ({}, RayConfig(), 1, 0),
        ({"threads": 2, "devices": 2, "workers": 3}, RayConfig(), 7, 0),
        ({"accelerator": "gpu", "devices": 2}, RayConfig(), 2, 2),
        ({"accelerator": "gpu", "workers": 4}, RayConfig(gpus_per_run=0.25), 5, 0.25),
    ],
)
def test_what_a_run_asks_ray_for(
    changes: dict[str, Any], settings: RayConfig, cores: int, gpus: float, pair: list[Run]
) -> None:
    claim = RayLauncher(settings).claim(task(pair[0], **changes))
    assert (claim.cores, claim.gpus * claim.share) == (cores, gpus)


@needs_ray
def test_a_cluster_that_does_not_answer_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        taken.close()
    for given in (address, f"ray://{address}"):
        expected = f"launcher.address={given}: no Ray cluster answers there \\(Connection refused\\)"
        with pytest.raises(InputError, match=expected), ray_session.connected(given, 0):
            pass


def test_a_long_path_of_temporary_files_is_not_used_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 60)))
    with ray_session._scratch() as path:
        assert Path(path).parent == Path("/tmp")
    assert not Path(path).exists()


class RayError(Exception):
    pass


class NodeDiedError(RayError):
    pass


class WorkerCrashedError(RayError):
    pass


class OutOfMemoryError(RayError):
    pass


class TaskFailedError(RayError):
    cause = FileNotFoundError("no such folder")


class FakeRay:
    """Ray as far as a launch needs it: `ends` gives, task by task, an exit status, or what Ray raises for it."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, ends: list[int | Exception], act: Callable[[str], None] = lambda directory: None) -> None:
        self.ends = ends
        self.act = act
        self.asked: list[dict[str, Any]] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": False, "Resources": {"CPU": 64.0}}]

    def remote(self, function: Any) -> FakeRay:
        return self

    def options(self, **wanted: Any) -> Any:
        self.asked.append(wanted)
        return SimpleNamespace(remote=lambda directory, shared, variables: (len(self.asked), directory))

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: tuple[int, str]) -> int:
        end = self.ends.pop(0)
        self.act(reference[1])
        if isinstance(end, Exception):
            raise end
        return end


def finish(directory: str) -> None:
    config = folder.read_config(Path(directory) / folder.CONFIG)
    place = Environment(python="3", packages={}, platform="", cpu="", cores=1, gpu=None, commit=None, dirty=None)
    result = Result(**identity(config, "s"), status="finished", epochs=1, environment=place)
    write_result(Path(directory), result)


def work(ray: FakeRay, run: Run, watch: Watch, settings: RayConfig | None = None, **changes: Any) -> None:
    tasks = [task(run, **changes)]
    settings = settings or RayConfig(retries=1)
    claims = {run.directory: RayLauncher(settings).claim(tasks[0])}
    launcher._Shift(ray, settings, tasks, claims).work(Stop(), watch)


@needs_ray
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (NodeDiedError("x"), "node_lost", "its node is gone"),
        (WorkerCrashedError("x"), "killed", "the worker of Ray that it belonged to died"),
        (OutOfMemoryError("x"), "out_of_memory", "Ray ended it, as its node ran out of memory"),
        (TaskFailedError("a page of text"), "crash", "its task of Ray failed: FileNotFoundError: no such folder"),
        (9, "crash", "exit status 9 without a result"),
        (-11, "killed", "killed by signal 11"),
    ],
    ids=str,
)
def test_what_ray_loses_is_written_down_and_begun_again(
    error: int | Exception, kind: str, message: str, pair: list[Run]
) -> None:
    """The first and the second end that way: the run has failed for good, and says why."""
    run, watch = pair[0], Watch()
    ray = FakeRay([error, error], lambda directory: attempts.begin(Path(directory)))
    work(ray, run, watch)
    result = run.result()
    assert result is not None
    assert result.failure is not None
    assert (result.failure.kind, result.failure.message) == (kind, message)
    assert (watch.begun, watch.over) == (["narrow seed 0"] * 2, ["narrow seed 0"])
    assert folder.state(run.directory) == "failed"


@needs_ray
def test_a_run_that_saves_itself_and_does_not_advance_fails_for_good(pair: list[Run]) -> None:
    run, watch = pair[0], Watch()

    def act(directory: str) -> None:
        attempts.begin(Path(directory), 7)
        attempts.end(Path(directory), "interrupted", 7)

    work(FakeRay([folder.INTERRUPTED] * 2, act), run, watch)
    assert (len(watch.begun), watch.over) == (2, ["narrow seed 0"])
    assert folder.state(run.directory) == "failed"


@needs_ray
def test_a_run_that_saved_itself_and_advanced_goes_on_as_often_as_it_likes(pair: list[Run]) -> None:
    run, watch = pair[0], Watch()
    steps = iter(range(0, 50, 10))

    def act(directory: str) -> None:
        step = next(steps)
        attempts.begin(Path(directory), step)
        if step == 40:
            finish(directory)
        else:
            attempts.end(Path(directory), "interrupted", step + 10)

    work(FakeRay([folder.INTERRUPTED] * 4 + [0], act), run, watch, RayConfig(retries=0))
    assert folder.state(run.directory) == "finished"
    assert (len(watch.begun), watch.over, watch.lines) == (5, ["narrow seed 0"], [])


@needs_ray
def test_a_run_that_another_process_trains_is_followed(pair: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is busy at first; when it is let go without an outcome it is begun here, and ends."""
    run, watch = pair[0], Watch()
    alive = iter([False, False, True, True])
    monkeypatch.setattr(folder, "is_alive", lambda directory: next(alive, False))
    calls = iter([lambda directory: None, finish])
    work(FakeRay([folder.BUSY, 0], lambda directory: next(calls)(directory)), run, watch)
    assert folder.outcome(run.directory) is not None
    assert watch.over == ["narrow seed 0"]


@needs_ray
def test_a_run_with_an_outcome_is_not_given_to_ray(pair: list[Run]) -> None:
    run, watch, ray = pair[0], Watch(), FakeRay([])
    folder.write_config(run.directory, run.config)
    finish(str(run.directory))
    work(ray, run, watch)
    assert (ray.asked, watch.begun, watch.over) == ([], [], ["narrow seed 0"])


@needs_ray
def test_no_more_cores_are_asked_for_than_a_node_has(pair: list[Run]) -> None:
    """Ray would wait for such a node for ever."""
    ray = FakeRay([0], finish)
    work(ray, pair[0], Watch(), threads=16)
    assert ray.asked == [{"name": "narrow seed 0", "num_cpus": 4, "num_gpus": 0.0, "max_retries": 0}]
