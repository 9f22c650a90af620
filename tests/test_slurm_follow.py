"""What the launcher does when jobs end in every way; SLURM's commands are scripts that say what a test wants."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from repro import attempts, folder
from repro.compose import compose
from repro.errors import InputError
from repro.launch import Task
from repro.launch.config import SlurmConfig
from repro.launch.slurm import SlurmLauncher, job, queue, record
from repro.record import failed, identity
from repro.results import Failure, Result, read_result, write_result

SILENCE = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
SCRIPTS = {
    "sbatch": """\
n=$(($(cat {0}/last)+1)); echo $n > {0}/last; cp "$1" {0}/submitted-$n
most=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
for index in $(test -n "$most" && seq -f _%g 0 $most || echo ""); do echo "$n$index|PENDING|None|"; done >> {0}/queue
test -n "$most" || echo "$n|PENDING|None|" >> {0}/queue
echo Submitted batch job $n""",
    "squeue": "cat {0}/queue",
    "scontrol": 'echo "$@" >> {0}/asked; cat {0}/ended-$4 2> /dev/null || exit 1',
    "sacct": "exit 1",
    "sinfo": "echo main",
    "srun": "exit 1",
    "scancel": "exit 1",
}


class Cluster:
    """SLURM's commands, and what the jobs do to the folders of their runs."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.monkeypatch = home, monkeypatch
        (home / "bin").mkdir(parents=True)
        for name, script in SCRIPTS.items():
            self.script(name, script.format(home))
        monkeypatch.setenv("PATH", f"{home}/bin:/usr/bin:/bin")
        (home / "last").write_text("0")
        (home / "queue").write_text("")
        queue.accounting.cache_clear()

    def script(self, name: str, text: str) -> None:
        path = self.home / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def silent(self, silent: bool) -> None:
        self.script("squeue", SILENCE if silent else SCRIPTS["squeue"].format(self.home))

    def put(self, elements: Mapping[str, str]) -> None:
        """Change elements of the queue: name to `STATE|REASON|NODES`; an empty text takes one out."""
        known = dict(line.split("|", 1) for line in (self.home / "queue").read_text().splitlines())
        lines = [f"{name}|{text}\n" for name, text in (known | dict(elements)).items() if text]
        (self.home / "queue").write_text("".join(lines))

    def end(self, element: str, state: str, code: str = "0:0") -> None:
        """Take an element out of the queue; the controller remembers how it ended."""
        self.put({element: ""})
        number, _, index = element.partition("_")
        array = f"ArrayJobId={number} ArrayTaskId={index} " if index else ""
        line = f"JobId={number} {array}JobState={state} Reason=None ExitCode={code} NodeList=n1\n"
        (self.home / f"ended-{element}").write_text(line)

    def begin(self, directory: Path, element: str, step: int = 0) -> None:
        """A job begins its run."""
        number, _, index = element.partition("_")
        with self.monkeypatch.context() as patch:
            patch.setenv("SLURM_JOB_ID", number)
            if index:
                patch.setenv("SLURM_ARRAY_JOB_ID", number)
                patch.setenv("SLURM_ARRAY_TASK_ID", index)
            attempts.begin(directory, step)

    @property
    def submitted(self) -> int:
        return int((self.home / "last").read_text())


class Story:
    """Is told what the launcher sees; at each picture of the progress the next thing happens."""

    def __init__(self, steps: Iterable[None] = ()) -> None:
        self.steps = iter(steps)
        self.lines: list[str] = []
        self.begun: list[str] = []
        self.over: list[str] = []

    def started(self, task: Task) -> None:
        self.begun.append(task.row)

    def tick(self, running: Sequence[Task]) -> None:
        next(self.steps, None)

    def ended(self, task: Task) -> None:
        self.over.append(task.row)

    def told(self, text: str) -> None:
        self.lines.append(text)

    def heard(self, text: str) -> bool:
        return any(text in line for line in self.lines)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(tmp_path / "cluster", monkeypatch)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "t" / "smoke"


def task(study: Path, row: str = "a", **changes: Any) -> Task:
    settings: dict[str, Any] = {"nodes": 1, "devices": 1, "threads": 1, "workers": 0, "accelerator": "cpu"} | changes
    config = compose(["scale=smoke", "seed=0"])
    directory = study / row / f"seed0-{config.id}"
    folder.write_config(directory, config)
    return Task(directory=directory, label=f"{row} seed 0", row=row, **settings)


def launcher(**settings: Any) -> SlurmLauncher:
    return SlurmLauncher(SlurmConfig(**{"poll": 0.01, "retries": 1, **settings}))


def finish(directory: Path) -> None:
    config = folder.read_config(directory / folder.CONFIG)
    write_result(directory, Result(**identity(config, "then"), status="finished", epochs=1))
    attempts.end(directory, "finished", 9)


def fail(directory: Path, kind: str = "crash", message: str = "ValueError: no") -> None:
    config = folder.read_config(directory / folder.CONFIG)
    failure = Failure.model_validate({"kind": kind, "message": message})
    write_result(directory, failed(config, "then", failure))
    attempts.end(directory, "failed", kind=failure.kind, message=failure.message)


def failure_of(task: Task) -> Failure:
    result = read_result(task.directory)
    assert result is not None
    assert result.failure is not None
    return result.failure


def ends(task: Task) -> list[str | None]:
    return [attempt.end for attempt in attempts.read(task.directory)]


@pytest.mark.parametrize(
    ("state", "code", "kind"),
    [
        ("OUT_OF_MEMORY", "0:125", "out_of_memory"),
        ("NODE_FAIL", "1:0", "node_lost"),
        ("TIMEOUT", "0:0", "timeout"),
        ("FAILED", "0:9", "killed"),
        ("FAILED", "1:0", "crash"),
    ],
)
def test_a_run_that_died_without_a_word_is_named_and_submitted_again(
    state: str, code: str, kind: str, cluster: Cluster, study: Path
) -> None:
    one, seen = task(study), []

    def steps() -> Iterator[None]:
        cluster.put({"1": "RUNNING|None|n1"})
        cluster.begin(one.directory, "1")
        yield
        cluster.end("1", state, code)
        while cluster.submitted < 2:
            yield
        seen.append(failure_of(one))
        cluster.put({"2": "RUNNING|None|n1"})
        cluster.begin(one.directory, "2")
        finish(one.directory)
        yield

    story = Story(steps())
    launcher().launch([one], story)
    assert seen[0].kind == kind
    assert f"(SLURM: {state}" in seen[0].message
    assert story.heard(f"{seen[0].message}; submitted again (1 of 1)")
    assert (story.begun, story.over) == (["a"], ["a"])
    assert ends(one) == ["failed", "finished"]
    assert folder.state(one.directory) == "finished"


def test_a_run_that_fails_by_itself_keeps_its_own_words_and_the_others_go_on(cluster: Cluster, study: Path) -> None:
    bad, good = task(study, "bad"), task(study, "good")

    def steps() -> Iterator[None]:
        cluster.put({"1_0": "RUNNING|None|n1", "1_1": "RUNNING|None|n1"})
        cluster.begin(good.directory, "1_1")
        finish(good.directory)
        for element in ("1_0", "2"):
            cluster.put({element: "RUNNING|None|n1"})
            cluster.begin(bad.directory, element)
            fail(bad.directory)
            yield
            cluster.end(element, "FAILED", "1:0")
            while cluster.submitted < 2:
                yield

    story = Story(steps())
    launcher().launch([bad, good], story)
    assert cluster.submitted == 2
    assert failure_of(bad).message == "ValueError: no"
    assert sorted(story.over) == ["bad", "good"]
    assert story.over[0] == "good"
    assert ends(bad) == ["failed", "failed"]


def test_what_is_cancelled_is_never_submitted_again(cluster: Cluster, study: Path) -> None:
    """One that was running, one that waited for its turn, and one that saved itself and can go on later."""
    killed, waiting, saved = (task(study, row) for row in ("killed", "waiting", "saved"))

    def steps() -> Iterator[None]:
        cluster.put({"1_0": "RUNNING|None|n1", "1_1": "PENDING|Resources|", "1_2": "RUNNING|None|n1"})
        cluster.begin(killed.directory, "1_0")
        cluster.begin(saved.directory, "1_2")
        yield
        attempts.end(saved.directory, "interrupted", 7)
        cluster.end("1_0", "CANCELLED", "0:15")
        cluster.end("1_2", "CANCELLED", "0:15")
        cluster.put({"1_1": ""})  # without accounting nobody remembers it
        yield

    story = Story(steps())
    launcher(retries=5).launch([killed, waiting, saved], story)
    assert cluster.submitted == 1
    assert (failure_of(killed).kind, failure_of(killed).message) == (
        "cancelled", "job 1_0 was cancelled on n1 (SLURM: CANCELLED)",
    )  # fmt: skip
    assert failure_of(waiting).message == "job 1_1 was taken out of the queue before it began"
    assert ends(waiting) == []
    assert folder.state(saved.directory) == "planned"
    assert story.heard("saved seed 0: job 1_2 was cancelled on n1 (SLURM: CANCELLED); it saved itself")
    assert len(story.over) == 3


def test_what_is_cancelled_before_the_first_look_is_not_submitted_again(cluster: Cluster, study: Path) -> None:
    one = task(study)
    cluster.script("sbatch", f"echo 1 > {cluster.home}/last; echo Submitted batch job 1")
    launcher(retries=5).launch([one], Story())
    assert cluster.submitted == 1
    assert failure_of(one).kind == "cancelled"


def test_a_run_that_saved_itself_goes_on_without_counting(cluster: Cluster, study: Path) -> None:
    """Also where no failure is allowed; one that is stopped before it has advanced counts, and is given up."""
    one = task(study)

    def steps() -> Iterator[None]:
        for number, (begin, end) in enumerate([(0, 5), (5, 9), (9, 9)], start=1):
            while cluster.submitted < number:
                yield
            cluster.put({str(number): "RUNNING|None|n1"})
            cluster.begin(one.directory, str(number), begin)
            yield
            attempts.end(one.directory, "interrupted", end)
            cluster.end(str(number), "FAILED", "76:0")
            yield

    story = Story(steps())
    launcher(retries=0).launch([one], story)
    assert cluster.submitted == 3
    assert story.lines.count("a seed 0: saved itself and ended; submitted again") == 2
    assert folder.state(one.directory) == "failed"
    assert story.over == ["a"]


def test_a_run_that_was_left_to_another_process_is_taken_over_when_that_one_dies(cluster: Cluster, study: Path) -> None:
    one = task(study)

    def steps() -> Iterator[None]:
        cluster.put({"1": "RUNNING|None|n1"})
        with folder.locked(one.directory):
            attempts.begin(one.directory)
            yield
            cluster.end("1", "FAILED", "75:0")
            for _ in range(3):
                yield
            assert cluster.submitted == 1
        while cluster.submitted < 2:
            yield
        cluster.put({"2": "RUNNING|None|n1"})
        cluster.begin(one.directory, "2")
        finish(one.directory)
        yield

    launcher(retries=1).launch([one], Story(steps()))
    assert folder.state(one.directory) == "finished"


def test_a_controller_that_is_silent_is_no_failure(cluster: Cluster, study: Path) -> None:
    """Said once; a run that has finished meanwhile is over, and the other is asked for when somebody answers."""
    one, two = task(study, "one"), task(study, "two")

    def steps() -> Iterator[None]:
        cluster.put({"1_0": "RUNNING|None|n1", "1_1": "RUNNING|None|n1"})
        cluster.begin(one.directory, "1_0")
        cluster.begin(two.directory, "1_1")
        yield
        cluster.silent(True)
        finish(one.directory)
        for _ in range(3):
            yield
        assert story.over == ["one"]
        finish(two.directory)
        cluster.end("1_1", "COMPLETED")
        cluster.silent(False)
        yield

    story = Story(steps())
    launcher().launch([one, two], story)
    assert sum("does not answer" in line for line in story.lines) == 1
    assert cluster.submitted == 1
    assert story.over == ["one", "two"]


def test_accounts_that_are_behind_are_waited_for(cluster: Cluster, study: Path) -> None:
    """A job that has left the queue is running in the books for a while; its end is what they say in the end."""
    one = task(study)
    cluster.script("sacct", f'case "$*" in *jobs=*) cat {cluster.home}/books;; esac')

    def steps() -> Iterator[None]:
        (cluster.home / "books").write_text("1|RUNNING|0:0|n1|None\n")
        cluster.put({"1": "RUNNING|None|n1"})
        cluster.begin(one.directory, "1")
        yield
        cluster.put({"1": ""})
        yield
        yield
        assert folder.standing(one.directory).attempts[-1].end is None
        (cluster.home / "books").write_text("1|OUT_OF_MEMORY|0:125|n1|None\n1.0|OUT_OF_MEMORY|0:125|n1|\n")
        yield

    launcher(retries=0).launch([one], Story(steps()))
    assert failure_of(one).message == "job 1 ran out of memory on n1 (SLURM: OUT_OF_MEMORY)"


def test_a_job_that_will_not_start_by_itself_is_told_once(cluster: Cluster, study: Path) -> None:
    one, two = task(study, "one"), task(study, "two")

    def steps() -> Iterator[None]:
        cluster.put({"1_0": "PENDING|PartitionTimeLimit|", "1_1": "PENDING|PartitionTimeLimit|"})
        for _ in range(3):
            yield
        for directory in (one.directory, two.directory):
            cluster.begin(directory, "1_0")
            finish(directory)
        yield

    story = Story(steps())
    launcher().launch([one, two], story)
    assert sum("will not start by itself (PartitionTimeLimit)" in line for line in story.lines) == 1


def test_a_second_launcher_follows_what_is_in_the_queue(cluster: Cluster, study: Path) -> None:
    """It submits only the run that is in no job; a run that was lost since is named first."""
    queued, lost, fresh = (task(study, row) for row in ("queued", "lost", "fresh"))
    story = Story()
    launcher(detach=True).launch([queued, lost], story)
    assert story.heard("submitted job 1: 2 runs")
    assert story.heard("detached from job 1")
    assert story.over == []
    cluster.put({"1_0": "PENDING|Priority|"})
    cluster.begin(lost.directory, "1_1")
    cluster.end("1_1", "OUT_OF_MEMORY", "0:125")

    def steps() -> Iterator[None]:
        assert record.newest(study)[lost.directory] == "2_0"
        assert failure_of(lost).kind == "out_of_memory"
        for directory, element in ((queued.directory, "1_0"), (lost.directory, "2_0"), (fresh.directory, "2_1")):
            cluster.begin(directory, element)
            finish(directory)
        yield

    second = Story(steps())
    launcher().launch([queued, lost, fresh], second)
    assert second.heard("1 run in job 1 already; followed")
    assert second.heard("lost seed 0: job 1_1 ran out of memory on n1 (SLURM: OUT_OF_MEMORY)")
    assert second.heard("submitted job 2: 2 runs")
    assert sorted(second.over) == ["fresh", "lost", "queued"]


def test_ctrl_c_leaves_the_jobs_in_the_queue(cluster: Cluster, study: Path) -> None:
    one = task(study)

    def steps() -> Iterator[None]:
        cluster.put({"1": "RUNNING|None|n1"})
        yield
        signal.raise_signal(signal.SIGINT)
        yield

    story = Story(steps())
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            launcher().launch([one], story)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert story.lines[-1] == "job 1 goes on: the same command follows it again, `repro cancel` takes it out"
    assert folder.state(one.directory) == "planned"


def test_an_array_for_each_size_and_none_larger_than_the_cluster_takes(cluster: Cluster, study: Path) -> None:
    cluster.script("scontrol", "echo 'MaxArraySize            = 2'")
    small = [task(study, f"small{index}") for index in range(3)]
    large = task(study, "large", nodes=2, devices=4, threads=3)
    story = Story()
    launcher(detach=True, array_parallelism=9).launch([*small, large], story)
    assert [line for line in story.lines if line.startswith("submitted")] == [
        "submitted job 1: 2 runs",
        "submitted job 2: 1 run",
        "submitted job 3: 1 run of 2 nodes × 4 tasks",
    ]
    assert sorted(record.newest(study).values()) == ["1_0", "1_1", "2", "3"]
    text = (cluster.home / "submitted-3").read_text()
    assert "#SBATCH --nodes=2\n" in text
    assert "#SBATCH --ntasks-per-node=4\n" in text
    assert "#SBATCH --cpus-per-task=3\n" in text


@pytest.mark.parametrize(
    ("name", "script", "sentence"),
    [
        ("sbatch", "echo 'sbatch: error: Batch job submission failed: Invalid qos' >&2; exit 1",
         "sbatch refused the job: Batch job submission failed: Invalid qos"),
        ("sbatch", "echo fine", "sbatch refused the job: "),
        ("squeue", SILENCE, "SLURM's controller does not answer (Unable to contact slurm controller (connect "
         "failure)); nothing was submitted"),
    ],
    ids=["sbatch's own words", "no job number", "nobody answers"],
)  # fmt: skip
def test_what_cannot_be_submitted_is_one_line(
    name: str, script: str, sentence: str, cluster: Cluster, study: Path
) -> None:
    one = task(study)
    launcher(detach=True).launch([task(study, "before")], Story())
    cluster.script(name, script)
    with pytest.raises(InputError) as caught:
        launcher().launch([one, task(study, "before")], Story())
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
    assert set(record.newest(study).values()) == {"1"}
    assert list(record.folder_of(study).glob("*.intent")) == []


def test_an_own_job_does_not_shape_the_new_one(cluster: Cluster, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command may be given inside of an allocation, whose variables are sbatch's defaults."""
    cluster.script("sbatch", f"env > {cluster.home}/seen; echo Submitted batch job 1")
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "7")
    monkeypatch.setenv("SLURM_CONF", "/etc/there")
    launcher(detach=True).launch([task(study)], Story())
    seen = (cluster.home / "seen").read_text()
    assert "SLURM_CONF=/etc/there" in seen
    assert "SLURM_NTASKS_PER_NODE" not in seen


@pytest.mark.parametrize(
    ("reason", "before", "failures", "status", "requeued"),
    [
        ("SIGUSR2", (0, 5), 0, folder.INTERRUPTED, True),
        ("SIGUSR1", (0, 5), 0, folder.INTERRUPTED, True),
        ("SIGTERM", (0, 5), 0, folder.INTERRUPTED, False),
        ("SIGUSR2", (5, 5), 0, 1, False),
        ("SIGUSR2", (5, 5), 1, folder.INTERRUPTED, True),
    ],
    ids=["time limit", "another signal", "scancel", "stopped before it had advanced", "once is allowed"],
)
def test_a_job_is_queued_again_when_it_has_to_stop(
    reason: str,
    before: tuple[int, int],
    failures: int,
    status: int,
    requeued: bool,
    cluster: Cluster,
    study: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = task(study)
    attempts.begin(one.directory, before[0])
    attempts.end(one.directory, "interrupted", before[1])
    monkeypatch.setenv("SLURM_JOB_ID", "44")
    cluster.script("scontrol", f'echo "$@" >> {cluster.home}/asked; echo JobId=44 JobState=RUNNING PreemptTime=None')
    assert job._after(one.directory, reason, failures) == status
    asked = cluster.home / "asked"
    assert ("requeue 44" in (asked.read_text() if asked.exists() else "")) is requeued
    assert folder.state(one.directory) == ("failed" if status == 1 else "planned")
    if status == 1:
        assert "launcher.time" in failure_of(one).message
