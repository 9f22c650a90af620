"""Many launchers at one study: each run is trained once, and all of them see it end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from repro import ablation, attempts
from repro.compose import compose
from repro.study import plan
from tests.test_study_run import REPRO, weights
from tests.trainers import planned

LAUNCH = """
import sys
from pathlib import Path
from repro.launch import server
from repro.launch.config import LocalConfig
from repro.launch.local import LocalLauncher
from tests.trainers import Told, play, task_in
server.PRELOAD[:] = ["repro.launch.worker", "tests.trainers"]
tasks = [task_in(Path(sys.argv[1]) / str(index)) for index in range(6)]
print("ready", flush=True)
sys.stdin.readline()
watch = Told()
LocalLauncher(LocalConfig(), play).launch(tasks, watch)
print(sorted(watch.ends), flush=True)
"""


def test_sixteen_launchers_at_once_train_each_run_once(tmp_path: Path) -> None:
    """They wait for each other before they begin; each is told of every run's end."""
    tasks = [planned(tmp_path / str(index), compose(["scale=smoke", "model=resnet20"])) for index in range(6)]
    command, pipe = [sys.executable, "-c", LAUNCH, str(tmp_path)], subprocess.PIPE
    launchers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(16)]
    for one in launchers:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    said = [one.communicate("go\n")[0] for one in launchers]
    assert said == [f"{[task.label for task in tasks]}\n"] * 16
    assert [one.returncode for one in launchers] == [0] * 16
    for task in tasks:
        assert [attempt.end for attempt in attempts.read(task.directory)] == ["finished"]


@pytest.mark.training
def test_two_commands_at_once_train_each_run_once_and_print_the_same_table(mine: Path, runs: Path) -> None:
    command, pipe = [*REPRO, "run", str(mine), "scale=smoke", "seeds=2"], subprocess.PIPE
    both = [subprocess.Popen(command, stderr=pipe, stdout=pipe, text=True) for _ in range(2)]
    pages, progress = zip(*(process.communicate() for process in both), strict=True)
    assert [process.returncode for process in both] == [0, 0], progress
    assert pages[0] == pages[1]
    for run in plan(ablation.load(str(mine)), "smoke", range(2)).runs:
        assert [attempt.end for attempt in attempts.read(run.directory)] == ["finished"]
        assert json.loads((run.directory / "result.json").read_text())["status"] == "finished"
        assert weights(run.directory)
