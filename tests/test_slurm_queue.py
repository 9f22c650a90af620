"""What SLURM's commands print, as recorded, and what is read from it; what is asked of sbatch."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.errors import InputError
from repro.launch import Task
from repro.launch.config import SlurmConfig
from repro.launch.slurm import commands, ending, job, queue, record, submit
from repro.launch.slurm.queue import Element

SQUEUE = """\
12_2|PENDING|JobArrayTaskLimit|
12_3|PENDING|JobHeldUser|
12_1|COMPLETING|None|n1
12_0|RUNNING|None|n[1-2]
15|CANCELLED|None|n1
16_[3-5%2]|PENDING|Resources|
17|REQUEUE_HOLD|launch failed requeued held|
"""

SACCT = """\
12_0|CANCELLED by 0|0:0|n1|None
12_0.batch|CANCELLED|0:15|n1|
12_1|OUT_OF_MEMORY|0:125|n2|None
12_1.0|OUT_OF_MEMORY|0:125|n2|
12_2|NODE_FAIL|1:0|n2|None
12_2|COMPLETED|0:0|n1|None
12_[5-6%2]|PENDING|0:0|None assigned|Resources
13|TIMEOUT|0:0|n1|TimeLimit
14|BOOT_FAIL|0:0|n1|None
15|DEADLINE|0:0|None assigned|DeadLine
16|PREEMPTED|0:0|n[1-2]|None
17|REQUEUED|0:0|n1|None
18|FAILED|76:0|n1|NonZeroExitCode
"""

RUNNING = (
    "JobId=3 ArrayJobId=2 ArrayTaskId=0 ArrayTaskThrottle=2 JobName=a b UserId=root(0) QOS=(null) JobState=RUNNING "
    "Reason=None Dependency=(null) Requeue=1 Restarts=0 ExitCode=0:0 RunTime=00:00:01 EndTime=2026-11-21T20:16:53 "
    "{preempted}NodeList=n1 BatchHost=n1 CPUs/Task=1 ReqB:S:C:T=0:0:*:* Power= "
)
PREEMPTED = RUNNING.format(preempted="PreemptEligibleTime=2026-11-21T20:16:52 PreemptTime=2026-11-21T20:16:59 ")
UNTOUCHED = RUNNING.format(preempted="PreemptEligibleTime=2026-11-21T20:16:52 PreemptTime=None ")
CANCELLED = PREEMPTED.replace("JobState=RUNNING", "JobState=CANCELLED")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("10", ("10",)),
        ("10_0", ("10_0",)),
        ("10_[3-5%2]", ("10_3", "10_4", "10_5")),
        ("10_[3,5-6]", ("10_3", "10_5", "10_6")),
        ("10_[0-8:4]", ("10_0", "10_4", "10_8")),
        ("10_[7]", ("10_7",)),
        ("10_[0-3,...]", ("10_[0-3,...]",)),
    ],
)
def test_array_notation(name: str, expected: tuple[str, ...]) -> None:
    assert queue.expand(name) == expected


@given(st.dictionaries(st.integers(1, 99).map(str), st.sets(st.integers(0, 50), min_size=1), min_size=1))
def test_compressed_names_expand_to_the_same_elements(arrays: dict[str, set[int]]) -> None:
    names = {f"{number}_{index}" for number, indices in arrays.items() for index in indices}
    short = queue.compress(sorted(names))
    assert len(short) == len(arrays)
    assert {element for text in short for element in queue.expand(text)} == names


def test_a_job_alone_stays_alone() -> None:
    assert queue.compress(["7", "8_1"]) == ["7", "8_[1]"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CANCELLED by 0", "CANCELLED"),
        ("CANCELLED+", "CANCELLED"),
        ("OUT_OF_ME+", "OUT_OF_ME"),
        ("RUNNING", "RUNNING"),
        ("", "UNKNOWN"),
    ],
)
def test_base_state(text: str, expected: str) -> None:
    assert queue.base_state(text) == expected


def test_the_queue_is_read() -> None:
    found = queue.parse_squeue(SQUEUE)
    assert found["12_0"] == Element("12_0", "RUNNING", "", "n[1-2]")
    assert {name for name, element in found.items() if element.live} == set(found) - {"15"}
    waiting = {name for name, element in found.items() if element.waiting}
    assert waiting == {"12_2", "12_3", "16_3", "16_4", "16_5", "17"}
    assert found["12_2"].words == "pending in job 12_2 (JobArrayTaskLimit)"
    assert found["12_0"].words == "running in job 12_0 on n[1-2]"
    assert found["12_1"].words == "completing in job 12_1 on n1"
    assert queue.parse_squeue("") == {}


def test_the_accounts_are_read() -> None:
    found = queue.parse_sacct(SACCT)
    states = {name: element.state for name, element in found.items()}
    assert states == {
        "12_0": "CANCELLED", "12_1": "OUT_OF_MEMORY", "12_2": "COMPLETED", "12_5": "PENDING", "12_6": "PENDING",
        "13": "TIMEOUT", "14": "BOOT_FAIL", "15": "DEADLINE", "16": "PREEMPTED", "17": "REQUEUED", "18": "FAILED",
    }  # fmt: skip
    assert found["18"].exit == "76:0"
    assert found["12_5"] == Element("12_5", "PENDING", "Resources", "", "0:0")
    assert [name for name, element in found.items() if element.live] == ["12_5", "12_6", "17"]


def test_the_controller_is_read() -> None:
    line = UNTOUCHED.replace("RUNNING", "CANCELLED").replace("ExitCode=0:0", "ExitCode=0:15")
    assert queue.parse_scontrol(line) == {"2_0": Element("2_0", "CANCELLED", "", "n1", "0:15")}
    pending = UNTOUCHED.replace("ArrayTaskId=0 ", "ArrayTaskId=2-3%2 ").replace("RUNNING", "PENDING")
    assert set(queue.parse_scontrol(pending)) == {"2_2", "2_3"}
    alone = UNTOUCHED.replace("ArrayJobId=2 ArrayTaskId=0 ArrayTaskThrottle=2 ", "")
    assert set(queue.parse_scontrol(alone)) == {"3"}
    assert queue.parse_scontrol("slurm_load_jobs error: Invalid job id specified") == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [(PREEMPTED, True), (UNTOUCHED, False), (CANCELLED, False), (RUNNING.format(preempted=""), False), ("", False)],
    ids=["preempted", "a signal alone", "cancelled meanwhile", "a SLURM that does not say", "nothing"],
)
def test_a_signal_to_end_is_told_from_a_preemption(text: str, expected: bool) -> None:
    assert job.is_preempted(text) is expected


@pytest.mark.parametrize(
    ("element", "kind", "words"),
    [
        (Element("1_0", "CANCELLED", "", "n1", "0:15"), "cancelled", "job 1_0 was cancelled on n1 (SLURM: CANCELLED)"),
        (
            Element("1_0", "OUT_OF_MEMORY", "", "n2", "0:125"),
            "out_of_memory",
            "job 1_0 ran out of memory on n2 (SLURM: OUT_OF_MEMORY)",
        ),
        (
            Element("1_0", "NODE_FAIL", "NodeDown", "n2", "1:0"),
            "node_lost",
            "job 1_0 was lost with its node on n2 (SLURM: NODE_FAIL, exit status 1, NodeDown)",
        ),
        (Element("7", "BOOT_FAIL"), "node_lost", "job 7 was lost: its node did not start (SLURM: BOOT_FAIL)"),
        (
            Element("7", "TIMEOUT", "TimeLimit", "n1", "0:0"),
            "timeout",
            "job 7 reached its time limit on n1 (SLURM: TIMEOUT, TimeLimit)",
        ),
        (Element("7", "DEADLINE"), "timeout", "job 7 reached its deadline (SLURM: DEADLINE)"),
        (Element("7", "PREEMPTED"), "killed", "job 7 had to make room for another job (SLURM: PREEMPTED)"),
        (
            Element("7", "FAILED", "NonZeroExitCode", "n1", "127:0"),
            "crash",
            "job 7 failed on n1 (SLURM: FAILED, exit status 127, NonZeroExitCode)",
        ),
        (Element("7", "FAILED", "", "n1", "0:9"), "killed", "job 7 was killed by signal 9 on n1 (SLURM: FAILED)"),
        (Element("7", "COMPLETED", "", "n1", "0:0"), "crash", "job 7 ended without a result on n1 (SLURM: COMPLETED)"),
        (Element("7", "LAUNCH_FAILED"), "killed", "job 7 is over (SLURM: LAUNCH_FAILED)"),
        (None, "killed", "job 7 has left the queue and SLURM knows nothing of it any more"),
    ],
    ids=lambda value: value.state if isinstance(value, Element) else None,
)
def test_an_end_is_named_in_slurms_words(element: Element | None, kind: str, words: str) -> None:
    found = ending.cause(element.name if element else "7", element, waited=False)
    assert (found.kind, found.message) == (kind, words)


def test_an_element_that_vanished_before_its_turn_was_cancelled() -> None:
    """Without accounting SLURM forgets at once what is cancelled while it waits."""
    found = ending.cause("7_3", None, waited=True)
    assert (found.kind, found.message) == ("cancelled", "job 7_3 was taken out of the queue before it began")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("60", 60),
        ("0:40", 1),
        ("5:00", 5),
        ("24:00:00", 1440),
        ("1:30:30", 91),
        ("2-12", 3600),
        ("1-12:30", 2190),
        ("1-00:00:01", 1441),
    ],
)
def test_durations_are_slurms(text: str, expected: int) -> None:
    assert submit.minutes(text) == expected


def task(**changes: Any) -> Task:
    settings: dict[str, Any] = {"nodes": 1, "devices": 1, "threads": 1, "workers": 0, "accelerator": "cpu"} | changes
    return Task(directory=Path("runs/t/smoke/a/seed0-1"), label="a seed 0", row="a", **settings)


def sbatch_text(size: submit.Size, settings: SlurmConfig) -> list[str]:
    """The file that submitit gives to sbatch."""
    from submitit.slurm.slurm import _make_sbatch_string

    chosen = submit.parameters(size, settings, "repro-t")
    return _make_sbatch_string(command="python", folder="/jobs", map_count=4, **chosen).splitlines()


@pytest.mark.parametrize(
    ("changes", "settings", "lines", "absent"),
    [
        (
            {},
            {},
            ["#SBATCH --time=1440", "#SBATCH --nodes=1", "#SBATCH --ntasks-per-node=1", "#SBATCH --cpus-per-task=1",
             "#SBATCH --requeue", "#SBATCH --open-mode=append", "#SBATCH --signal=USR2@120", "#SBATCH --array=0-3%4"],
            ["partition", "gpus", "mem", "wckey", "qos", "account", "constraint"],
        ),
        (
            {"nodes": 2, "devices": 8, "threads": 4, "workers": 6, "accelerator": "gpu"},
            {"partition": "gpu", "qos": "long", "account": "me", "constraint": "a100|h100", "memory": "32G",
             "array_parallelism": 2, "signal_delay": 30, "time": "1-12:00"},
            ["#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=8", "#SBATCH --cpus-per-task=10", "#SBATCH --array=0-3%2",
             "#SBATCH --gpus-per-node=8", "#SBATCH --partition=gpu", "#SBATCH --qos=long", "#SBATCH --account=me",
             "#SBATCH --constraint='a100|h100'", "#SBATCH --mem=32G", "#SBATCH --signal=USR2@30",
             "#SBATCH --time=2160"],
            [],
        ),
        (
            {"workers": 3},
            {"cpus_per_task": 2, "setup": ("module load cuda",),
             "sbatch": {"reservation": "spring", "mail_user": "me@here", "exclusive": True, "comment": None}},
            ["#SBATCH --cpus-per-task=2", "module load cuda", "#SBATCH --reservation=spring",
             "#SBATCH --mail-user=me@here", "#SBATCH --exclusive", "#SBATCH --requeue"],
            ["comment"],
        ),
    ],
    ids=["as it is", "two nodes of eight GPUs", "one's own options"],
)  # fmt: skip
def test_what_sbatch_is_asked_for(
    changes: dict[str, Any], settings: dict[str, Any], lines: list[str], absent: list[str]
) -> None:
    text = sbatch_text(submit.Size.of(task(**changes)), SlurmConfig(**settings))
    assert [line for line in lines if line not in text] == []
    assert [word for word in absent if any(line.startswith(f"#SBATCH --{word}") for line in text)] == []
    cpus = next(line.split("=")[1] for line in text if line.startswith("#SBATCH --cpus-per-task"))
    srun = next(line for line in text if line.startswith("srun"))
    assert "--kill-on-bad-exit=1" in srun
    assert f"--cpus-per-task={cpus}" in srun


def test_a_job_finds_the_folders_of_its_submission(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also relative ones, and one with a blank; the user's own lines come after and win."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_RUNS", "my runs")
    monkeypatch.setenv("PYTHONPATH", "here:/there")
    text = sbatch_text(submit.Size.of(task(threads=3)), SlurmConfig(setup=("export OMP_NUM_THREADS=7",)))
    assert f"export REPRO_RUNS='{tmp_path}/my runs'" in text
    assert f"export PYTHONPATH={tmp_path}/here:/there" in text
    assert text.index("export OMP_NUM_THREADS=3") < text.index("export OMP_NUM_THREADS=7")


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("array", "launcher.sbatch: array follows from the study and cannot be set"),
        ("ntasks_per_node", "launcher.sbatch: ntasks_per_node follows from the study and cannot be set"),
        ("--time", "launcher.sbatch: --time has a setting of its own; use launcher.time"),
        ("mem", "launcher.sbatch: mem has a setting of its own; use launcher.memory"),
    ],
)
def test_options_that_are_not_ones_own(option: str, sentence: str, tools: Path) -> None:
    tool(tools, *submit.NEEDED)
    with pytest.raises(InputError) as caught:
        submit.check(SlurmConfig(sbatch={option: 1}))
    assert str(caught.value) == sentence


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, besides the shell's own."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/nowhere")
    queue.accounting.cache_clear()
    return folder


def tool(folder: Path, *names: str, says: str = "", error: str = "", status: int = 0) -> None:
    """Put commands there that print that and end so."""
    for name in names:
        path = folder / name
        path.write_text(f"#!/bin/sh\nprintf '%s' '{says}'\nprintf '%s' '{error}' >&2\nexit {status}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_no_sbatch_is_one_line(tools: Path) -> None:
    with pytest.raises(InputError, match=r"^launcher=slurm needs sbatch on PATH; run on a login node"):
        submit.check(SlurmConfig())


@pytest.mark.parametrize(
    ("partition", "sentence"),
    [
        ("gup", "launcher.partition: unknown partition 'gup'; did you mean 'gpu'?"),
        ("cpu,gup", "launcher.partition: unknown partition 'gup'; did you mean 'gpu'?"),
        ("long", "launcher.partition: unknown partition 'long'; valid: cpu, gpu"),
    ],
)
def test_an_unknown_partition_is_one_line(partition: str, sentence: str, tools: Path) -> None:
    tool(tools, *submit.NEEDED, says="cpu\ngpu\ngpu\n")
    submit.check(SlurmConfig(partition="gpu,cpu"))
    with pytest.raises(InputError) as caught:
        submit.check(SlurmConfig(partition=partition))
    assert str(caught.value) == sentence


SILENCE = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"says": SQUEUE}, {"12_0": "RUNNING", "15": "CANCELLED"}),
        ({"error": "slurm_load_jobs error: Invalid job id specified", "status": 1}, {}),
        ({"error": SILENCE, "status": 1}, None),
        ({"error": "slurm_load_jobs error: Something new", "status": 1}, None),
    ],
    ids=["an answer", "forgotten", "no controller", "an error that is not known"],
)
def test_a_silent_controller_says_nothing_of_the_jobs(
    answer: dict[str, Any], expected: dict[str, str] | None, tools: Path
) -> None:
    tool(tools, "squeue", **answer)
    if expected is None:
        with pytest.raises(commands.SilentError):
            queue.look(["12_0", "15"])
    else:
        assert {name: element.state for name, element in queue.look(["12_0", "15"]).items()} == expected


def test_a_command_that_hangs_is_not_waited_for(tools: Path) -> None:
    path = tools / "squeue"
    path.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    path.chmod(0o755)
    with pytest.raises(commands.SilentError, match=r"squeue has not answered for 0\.2 s"):
        commands.ask("squeue", timeout=0.2)


@pytest.mark.parametrize(
    ("accounts", "expected"),
    [
        ({"says": SACCT}, Element("12_1", "OUT_OF_MEMORY", "", "n2", "0:125")),
        ({"error": "Slurm accounting storage is disabled", "status": 1}, Element("12_1", "FAILED", "", "n1", "1:0")),
    ],
    ids=["from the accounts", "from the controller where there are none"],
)
def test_how_an_element_ended(accounts: dict[str, Any], expected: Element, tools: Path) -> None:
    tool(tools, "sacct", **accounts)
    line = UNTOUCHED.replace("ArrayJobId=2 ArrayTaskId=0", "ArrayJobId=12 ArrayTaskId=1")
    tool(tools, "scontrol", says=line.replace("RUNNING", "FAILED").replace("ExitCode=0:0", "ExitCode=1:0"))
    assert queue.ended("12_1") == expected


def test_what_nobody_knows_of_has_no_words(tools: Path, tmp_path: Path) -> None:
    tool(tools, "sacct", error="Slurm accounting storage is disabled", status=1)
    tool(tools, "scontrol", error="slurm_load_jobs error: Invalid job id specified", status=1)
    assert queue.ended("12_1") is None
    assert queue.known(tmp_path) == {}


def test_words_for_status_need_no_queue_and_no_torch(tmp_path: Path) -> None:
    record.write(tmp_path, record.Submission("n", ("a/seed0-1", "a/seed1-1"), "12"))
    script = (
        "import sys; from pathlib import Path; from repro.launch.slurm import queue;"
        f"print(queue.known(Path({str(tmp_path)!r})), 'torch' in sys.modules, 'submitit' in sys.modules)"
    )
    environment = {**os.environ, "PATH": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["{}", "False", "False"]


def test_words_for_status(tools: Path, tmp_path: Path) -> None:
    record.write(tmp_path, record.Submission("n", ("a/seed0-1", "a/seed1-1", "b/seed0-2"), "12"))
    record.write(tmp_path, record.Submission("n2", ("c/seed0-3",), "15"))
    tool(tools, "squeue", says=SQUEUE)
    assert queue.known(tmp_path) == {
        tmp_path / "a/seed0-1": "running in job 12_0 on n[1-2]",
        tmp_path / "a/seed1-1": "completing in job 12_1 on n1",
        tmp_path / "b/seed0-2": "pending in job 12_2 (JobArrayTaskLimit)",
    }
    tool(tools, "squeue", error=SILENCE, status=1)
    assert queue.known(tmp_path) == {}


def test_the_newest_submission_of_a_run_counts(tmp_path: Path) -> None:
    record.write(tmp_path, record.Submission("n", ("a", "b"), "9", "2026-01-01T00:00:00+00:00"))
    record.write(tmp_path, record.Submission("m", ("b",), "10", "2026-01-01T00:00:00+00:00"))
    (record.folder_of(tmp_path) / "11.json").write_text('{"job": "11", "ru')
    assert record.newest(tmp_path) == {tmp_path / "a": "9_0", tmp_path / "b": "10"}


@pytest.mark.parametrize(("answer", "expected"), [("77\n77\n", {"a": "77_0", "b": "77_1"}), ("", {})], ids=str)
def test_a_job_whose_launcher_died_before_it_was_recorded_is_found(
    answer: str, expected: dict[str, str], tools: Path, tmp_path: Path
) -> None:
    record.intend(tmp_path, record.Submission("repro-t-smoke-1234", ("a", "b")))
    tool(tools, "squeue", says=answer)
    record.recover(tmp_path)
    assert record.newest(tmp_path) == {tmp_path / run: element for run, element in expected.items()}
    assert list(record.folder_of(tmp_path).glob("*.intent")) == []


def test_one_launcher_submits_at_a_time(tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with record.submitting(tmp_path):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(10)
    with (
        pytest.raises(InputError, match=r"another launcher has been submitting for 0\.2 s"),
        record.submitting(tmp_path, patience=0.2),
    ):
        pass
    leave.set()
    thread.join()
    with record.submitting(tmp_path):
        assert (record.folder_of(tmp_path) / record.LOCK).exists()
