"""The local launcher, with runs that play a script instead of training: what it does at each kind of end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from repro import attempts, environment, folder
from repro.compose import compose
from repro.errors import InputError
from repro.launch import Task, ending, gpus, local, server
from repro.launch.config import LocalConfig
from repro.launch.gpus import Gpu
from repro.launch.presence import Presence, announced, present
from repro.launch.stop import Stopped
from repro.launch.worker import Order, settle_environment
from repro.results import read_result, write_result
from tests.test_study_run import heed_ctrl_c
from tests.trainers import Told, finished, planned, play, played, task_in, wait_until

CONFIG = compose(["scale=smoke", "model=resnet20"])


def launch(tasks: Sequence[Task], watch: Told | None = None, **settings: Any) -> Told:
    watch = watch or Told()
    local.LocalLauncher(LocalConfig(**settings), play).launch(tasks, watch)
    return watch


def ends(directory: Path) -> list[str | None]:
    return [attempt.end for attempt in attempts.read(directory)]


def test_every_run_is_trained_once_in_a_group_of_its_own(tmp_path: Path) -> None:
    tasks = [planned(tmp_path / str(index), CONFIG) for index in range(5)]
    watch = launch(tasks, parallel=2)
    assert watch.starts == [task.label for task in tasks]
    assert sorted(watch.ends) == sorted(watch.starts)
    for task in tasks:
        assert ends(task.directory) == ["finished"]
        (told,) = played(task.directory)
        assert told["group"] == told["pid"]
    assert watch.lines == []


@pytest.mark.parametrize(
    ("script", "retries", "state", "tries", "lines"),
    [
        ("crash finish", 2, "finished", ["failed", "finished"], ["crashed: it broke; begun again (1 of 2)"]),
        ("crash", 0, "failed", ["failed"], []),
        (
            "crash", 2, "failed", ["failed"] * 3,
            ["crashed: it broke; begun again (1 of 2)", "crashed: it broke; begun again (2 of 2)"],
        ),
        ("oom finish", 1, "finished", ["failed", "finished"], ["ran out of memory: it broke; begun again (1 of 1)"]),
        ("kill finish", 1, "finished", ["failed", "finished"], ["killed by signal 9; begun again (1 of 1)"]),
        ("exit=3 finish", 1, "finished", ["failed", "finished"], ["the last line of its log; begun again (1 of 1)"]),
        ("exit=0", 0, "failed", ["failed"], []),
        ("early", 1, "failed", [], ["crashed: RuntimeError: before it was begun; begun again (1 of 1)"]),
        ("save save save finish", 0, "finished", ["interrupted"] * 3 + ["finished"], []),
        ("save stuck finish", 1, "finished", ["interrupted"] * 2 + ["finished"], []),
        ("stuck", 1, "failed", ["interrupted", "failed"], []),
    ],
    ids=[
        "crash, then well", "no retries", "crash every time", "out of memory", "killed", "a status without a word",
        "no result", "before it was begun", "saved", "saved without a step once", "saved without a step for ever",
    ],
)  # fmt: skip
def test_a_run_that_ends_badly(
    script: str, retries: int, state: str, tries: list[str], lines: list[str], tmp_path: Path
) -> None:
    task = planned(tmp_path / "run", CONFIG, script)
    watch = launch([task], retries=retries)
    assert folder.state(task.directory) == state
    if script != "early":  # its attempts were begun by nobody
        assert ends(task.directory) == tries
    assert watch.ends == ["run"]
    assert len(watch.lines) == len(lines)
    assert all(line in said for said, line in zip(watch.lines, lines, strict=True))


def test_a_run_that_is_killed_leaves_a_result_that_says_so(tmp_path: Path) -> None:
    task = planned(tmp_path / "run", CONFIG, "kill")
    launch([task], retries=0)
    result = read_result(task.directory)
    assert result is not None
    assert result.failure is not None
    assert (result.id, result.failure.kind) == (CONFIG.id, "killed")
    assert attempts.read(task.directory)[-1].kind == "killed"


@pytest.mark.parametrize(
    ("kills", "status", "hint"),
    [((3, 4), -9, True), ((3, 3), -9, False), ((3, 4), -15, False), ((None, None), -9, False)],
)
def test_the_killer_of_the_system_is_suspected(
    kills: tuple[int | None, int | None], status: int, hint: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "memory_kills", lambda: kills[1])
    message = ending.explain(tmp_path, status, None, kills[0]).message
    assert message.startswith(f"killed by signal {-status}")
    assert ("ran out of memory" in message) is hint


def test_the_others_go_on_beside_one_that_fails(tmp_path: Path) -> None:
    scripts = ("crash", "finish", "kill", "finish")
    tasks = [planned(tmp_path / str(index), CONFIG, script) for index, script in enumerate(scripts)]
    watch = launch(tasks, retries=1)
    assert [folder.state(task.directory) for task in tasks] == ["failed", "finished", "failed", "finished"]
    assert sorted(watch.ends) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("script", ["wait", "deaf"], ids=["saves itself when asked", "is killed after a while"])
def test_a_run_that_takes_too_long(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE", 0.2)
    task = planned(tmp_path / "run", CONFIG, f"{script} finish")
    watch = launch([task], timeout=0.005, retries=1)
    first, second = attempts.read(task.directory)
    assert (first.end, first.kind) == ("failed", "timeout")
    assert second.end == "finished"
    assert watch.lines == ["run was ended: not done after 0.005 minutes (launcher.timeout); begun again (1 of 1)"]


def held(directory: Path, then: Callable[[], None]) -> threading.Event:
    """Hold a run's lock, as another launcher's process does, until the event is set; then do what it would."""
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with folder.locked(directory):
            taken.set()
            over.wait(30)
            then()

    threading.Thread(target=hold, daemon=True).start()
    assert taken.wait(30)
    return over


@pytest.mark.parametrize("finishes", [True, False], ids=["finishes it", "dies"])
def test_a_run_that_another_launcher_trains_is_followed_and_taken_over(finishes: bool, tmp_path: Path) -> None:
    task, own = planned(tmp_path / "theirs", CONFIG), planned(tmp_path / "own", CONFIG)
    over = held(task.directory, lambda: write_result(task.directory, finished(CONFIG)) if finishes else None)

    class Releasing(Told):
        def ended(self, task: Task) -> None:
            super().ended(task)
            over.set()

    watch = launch([task, own], Releasing(), parallel=1)
    assert watch.ends == ["own", "theirs"]
    assert watch.starts == (["own"] if finishes else ["own", "theirs"])
    assert folder.state(task.directory) == "finished"


def test_a_process_that_finds_its_run_taken_leaves_it_and_it_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two launchers saw at once that nobody trained it; one was faster."""
    task = planned(tmp_path / "run", CONFIG)
    over = held(task.directory, lambda: write_result(task.directory, finished(CONFIG)))
    looks = iter([False])
    monkeypatch.setattr(folder, "is_alive", lambda path, look=folder.is_alive: next(looks, None) is None and look(path))

    class Releasing(Told):
        def tick(self, running: Sequence[Task]) -> None:
            if self.starts and not running:
                over.set()

    watch = launch([task], Releasing())
    assert (watch.starts, watch.ends) == (["run"], ["run"])
    assert ends(task.directory) == []


def test_a_run_that_another_launcher_gives_up_is_given_up(tmp_path: Path) -> None:
    """The failures that it counted on disk count here too: two launchers do not try twice as often."""
    task = planned(tmp_path / "run", CONFIG, "crash")

    def fail_twice() -> None:
        for _ in range(2):
            attempts.begin(task.directory)
            attempts.end(task.directory, "failed")

    over = held(task.directory, fail_twice)
    threading.Timer(0.5, over.set).start()
    watch = launch([task], retries=1)
    assert (watch.starts, watch.ends) == ([], ["run"])


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else str(value),
)
def test_a_launcher_that_is_stopped_lets_its_runs_save_themselves(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    before = signal.getsignal(number)
    tasks = [planned(tmp_path / str(index), CONFIG, "wait") for index in range(3)]
    watch = Told(once=lambda: os.kill(os.getpid(), number))
    with pytest.raises(Stopped) as stopped:
        launch(tasks, watch, parallel=2)
    assert stopped.value.exit_status == status
    assert [ends(task.directory) for task in tasks] == [["interrupted"], ["interrupted"], []]
    assert [folder.state(task.directory) for task in tasks] == ["planned"] * 3
    assert "2 runs being saved" in watch.lines[0]
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    """What was saved before stays; the run is planned, not failed: it was the user's wish."""

    class Impatient(Told):
        def told(self, text: str) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    task = planned(tmp_path / "run", CONFIG, "deaf")
    begin = time.monotonic()
    with pytest.raises(Stopped):
        launch([task], Impatient(once=lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert time.monotonic() - begin < local.GRACE
    assert folder.state(task.directory) == "planned"
    assert not folder.is_alive(task.directory)


def test_a_signal_to_the_whole_group_does_not_end_the_server(tmp_path: Path) -> None:
    """A cluster signals every process of a job: the launcher must still learn how its runs ended."""
    task = planned(tmp_path / "run", CONFIG, "wait")
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # another test may have started one of its own
    server.call(os.path.exists, "/")  # the server runs
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]

    def signal_all() -> None:
        for number in server.BLOCKED:
            os.kill(pid, number)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        launch([task], Told(once=signal_all))
    assert ends(task.directory) == ["interrupted"]
    assert forkserver._forkserver._forkserver_pid == pid  # type: ignore[attr-defined]
    assert server.call(os.path.exists, "/")


LAUNCH = """
import sys
from pathlib import Path
from repro.launch import server
from repro.launch.config import LocalConfig
from repro.launch.local import LocalLauncher
from tests.trainers import Told, play, task_in
server.PRELOAD[:] = ["repro.launch.worker", "tests.trainers"]
LocalLauncher(LocalConfig(), play).launch([task_in(Path(sys.argv[1]))], Told())
"""


def test_a_run_saves_itself_when_its_launcher_is_killed(tmp_path: Path) -> None:
    directory = planned(tmp_path / "run", CONFIG, "wait finish").directory
    with subprocess.Popen([sys.executable, "-c", LAUNCH, str(directory)], preexec_fn=heed_ctrl_c) as process:
        wait_until(lambda: played(directory))
        process.kill()
    wait_until(lambda: not folder.is_alive(directory))
    assert ends(directory) == ["interrupted"]
    assert "the launcher's death" in (directory / folder.LOG).read_text()
    launch([task_in(directory)])
    assert ends(directory) == ["interrupted", "finished"]


def test_a_full_disk_costs_the_launcher_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a killed run cannot be written down: it is said, the tries stay limited, the others go on."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ending, "write_result", full)
    tasks = [planned(tmp_path / "a", CONFIG, "kill"), planned(tmp_path / "b", CONFIG)]
    watch = launch(tasks, retries=1, parallel=1)
    assert sum("cannot be written down ([Errno 28] No space left on device)" in line for line in watch.lines) == 2
    assert [folder.state(task.directory) for task in tasks] == ["failed", "finished"]


def test_a_process_that_cannot_be_started_is_a_failed_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(local, "start", refuse)
    watch = launch([planned(tmp_path / "run", CONFIG)], retries=1)
    assert watch.ends == ["run"]
    assert watch.lines == [
        "run crashed: its process cannot be started (Resource temporarily unavailable); begun again (1 of 1)"
    ]


# GPUs


def task(accelerator: str = "gpu", **needs: int) -> Task:
    return replace(task_in(Path("run"), accelerator=accelerator), **needs)


@pytest.mark.parametrize(
    ("variable", "count", "names"),
    [
        (None, 2, ("0", "1")), ("2,3", 2, ("2", "3")), ("GPU-1a, GPU-2b", 2, ("GPU-1a", "GPU-2b")), ("", 0, ()),
        ("1,-1,0", 1, ("1",)), ("MIG-0f", 1, ("MIG-0f",)),
    ],
    ids=["not set", "numbers", "UUIDs", "none", "up to the first that is none", "a part of one"],
)  # fmt: skip
def test_names_of_visible_gpus(variable: str | None, count: int, names: tuple[str, ...]) -> None:
    assert gpus.visible(variable, count) == names


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four GPUs of 10 GB and many cores, as the process that is asked would say."""
    monkeypatch.setattr(gpus.server, "call", lambda *_: [10 * 10**9] * 4)
    monkeypatch.setattr(environment, "cores", lambda: 64)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,GPU-7")


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("settings", "tasks", "message"),
    [
        ({"gpus": (0, 4)}, [task()], "launcher.gpus=[0,4]: there is no GPU 4; visible here: 0 to 3"),
        ({"gpus": (1, 1)}, [task()], "launcher.gpus=[1,1] names a GPU twice"),
        ({"gpus_per_run": 1.5}, [task()], "expected a whole number, or a fraction below 1"),
        ({"gpus_per_run": 2}, [task()], "trains on trainer.devices=1; set trainer=ddp trainer.devices=2"),
        ({"gpus_per_run": 0.5}, [task(devices=2)], "trains on trainer.devices=2; set trainer=ddp trainer.devices=1"),
        ({"gpus": (0,)}, [task(), task(devices=2)], "a run claims 2 GPUs, and launcher=local may use 1"),
        ({"pack": True, "gpus_per_run": 0.5}, [task()], "leave launcher.gpus_per_run out"),
        ({"pack": True}, [task(accelerator="cpu")], "launcher.pack=true is of runs on GPUs; add trainer=gpu"),
        ({}, [task(nodes=2)], "trainer.nodes=2: launcher=local is one machine; use launcher=slurm"),
    ],
    ids=[
        "no such GPU", "twice", "no whole number", "more than devices", "a share of two", "too few", "share and pack",
        "for CPUs", "nodes",
    ],
)  # fmt: skip
def test_what_cannot_be_launched_is_refused_before_anything_starts(
    settings: dict[str, Any], tasks: list[Task], message: str
) -> None:
    launcher = local.LocalLauncher(LocalConfig(**settings), play)
    with pytest.raises(InputError) as caught:
        launcher.width(tasks)
    assert message in str(caught.value)
    with pytest.raises(InputError):
        launcher.launch(tasks, Told())


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("settings", "devices", "width", "visible", "shared"),
    [
        ({}, 1, 4, {"4", "5", "6", "GPU-7"}, False),
        ({"gpus": (1, 3)}, 1, 2, {"5", "GPU-7"}, False),
        ({"gpus_per_run": 0.25, "gpus": (2,)}, 1, 4, {"6"}, True),
        ({"parallel": 1}, 1, 1, {"4"}, False),
        ({"parallel": 3, "gpus_per_run": 0.5}, 1, 3, {"4", "5", "6"}, True),
    ],
    ids=["one each", "two of them", "four on one", "one at a time", "three at a time"],
)
def test_every_run_sees_its_own_gpus(
    settings: dict[str, Any], devices: int, width: int, visible: set[str], shared: bool, tmp_path: Path
) -> None:
    tasks = [planned(tmp_path / str(index), CONFIG, accelerator="gpu") for index in range(6)]
    launcher = local.LocalLauncher(LocalConfig(**settings), play)
    assert launcher.width(tasks) == width
    launcher.launch(tasks, Told())
    told = [entry for task in tasks for entry in played(task.directory)]
    assert {entry["gpus"] for entry in told} <= visible
    assert all((entry["shared"] is not None) is shared for entry in told)
    results = [read_result(task.directory) for task in tasks]
    assert [result.timing.shared for result in results if result and result.timing] == [shared] * 6


class Crowd(Told):
    """Notes which runs were running at each look."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.beside: dict[str, set[str]] = {}

    def started(self, task: Task) -> None:
        super().started(task)
        self.running.append(task.label)
        for label in self.running:
            self.beside.setdefault(label, set()).update(self.running)

    def ended(self, task: Task) -> None:
        super().ended(task)
        self.running.remove(task.label)

    def told(self, text: str) -> None:
        super().told(text)
        self.running.remove(text.split()[0])


@pytest.mark.usefixtures("four_gpus")
def test_runs_are_packed_by_what_the_first_of_their_row_needed(tmp_path: Path) -> None:
    """Of 9 GB that may be used, three runs of 2 GB and CUDA's own need fit side by side, and one of 6 GB alone."""
    small, large = f"finish={2 * 10**9}", f"finish={6 * 10**9}"
    tasks = [
        planned(tmp_path / f"{row}{index}", CONFIG, script, row, "gpu")
        for index in range(4)
        for row, script in (("s", small), ("l", large))
    ]
    watch = Crowd()
    local.LocalLauncher(LocalConfig(pack=True, gpus=(0,)), play).launch(tasks, watch)
    shared = {task.label: played(task.directory)[0]["shared"] is not None for task in tasks}
    assert not shared["s0"]
    assert not shared["l0"]
    assert watch.beside["s0"] == {"s0"}
    assert watch.beside["l0"] == {"l0"}
    assert all(shared[f"s{index}"] for index in (1, 2, 3))
    assert all(len([label for label in beside if label[0] == "l"]) <= 1 for beside in watch.beside.values())
    assert watch.starts == [task.label for task in tasks], "in the order in which they were planned"


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(("peak", "beside"), [(9 * 10**8, 5), (2 * 10**9, 3), (8 * 10**9, 1), (20 * 10**9, 1)])
def test_how_many_a_gpu_holds(peak: int, beside: int) -> None:
    found = [Gpu("0", 10 * 10**9)]
    share = gpus.packed(peak, 1, found).share
    assert int(1 / share + 1e-9) == beside


@pytest.mark.usefixtures("four_gpus")
def test_a_packed_run_that_ran_out_of_memory_is_begun_again_alone(tmp_path: Path) -> None:
    """It is the launcher's doing, so it costs none of the retries."""
    scripts = [f"finish={10**9}", f"oom finish={10**9}", f"finish={10**9}", f"finish={10**9}"]
    tasks = [planned(tmp_path / str(index), CONFIG, script, "a", "gpu") for index, script in enumerate(scripts)]
    watch = Crowd()
    local.LocalLauncher(LocalConfig(pack=True, gpus=(0,), retries=0), play).launch(tasks, watch)
    assert [folder.state(task.directory) for task in tasks] == ["finished"] * 4
    packed, alone = played(tasks[1].directory)
    assert packed["shared"] is not None
    assert alone["shared"] is None
    assert watch.lines == ["1 ran out of memory: it broke; begun again alone"]


def test_the_environment_of_a_run_is_its_own() -> None:
    """What the launcher inherited of a cluster's job would make Lightning take the run for a part of that job."""
    variables = {
        "SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "12",
        "SLURM_ARRAY_TASK_ID": "3", "MASTER_ADDR": "node1", "MASTER_PORT": "29500", "LOCAL_RANK": "1",
        "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x", "CUDA_VISIBLE_DEVICES": "0,1", "HOME": "/home/me",
    }  # fmt: skip
    settle_environment(variables, Order(Path("run"), gpus=("1",), shared=True))
    assert variables == {
        "SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "HOME": "/home/me",
        "CUDA_VISIBLE_DEVICES": "1", "REPRO_SHARED_DEVICE": "1",
    }  # fmt: skip


def test_launchers_are_seen_while_they_work_and_forgotten_when_they_die(tmp_path: Path) -> None:
    own = Presence("local", os.uname().nodename, os.getpid())
    with announced(tmp_path, "local"):
        assert present(tmp_path) == [own]
        gone = tmp_path / ".launchers" / f"{own.host}-1.json"
        gone.write_text(f'{{"launcher": "local", "host": "{own.host}", "pid": 1}}')
        broken = tmp_path / ".launchers" / "x.json"
        broken.write_text("{")
        assert present(tmp_path) == [own]
        assert not gone.exists()
    assert present(tmp_path) == []


def test_a_launcher_that_cannot_announce_itself_says_so(tmp_path: Path) -> None:
    (tmp_path / ".launchers").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="cannot be written"), announced(tmp_path, "local"):
        pass
