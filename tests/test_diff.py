"""`repro diff`: two runs side by side, how a run is named, and what stands where one is missing or broken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro import ablation, attempts, environment, folder
from repro.comparison import flat, is_neutral
from repro.config import NEUTRAL
from repro.record import identity
from repro.results import Cost, Data, Failure, Result, Timing, write_result
from repro.study import Run, Study, plan
from tests.conftest import Outcome

Command = Callable[..., Outcome]


@pytest.fixture
def study(mine: Path) -> Study:
    return plan(ablation.load(str(mine)), "smoke", [0, 1])


def write(run: Run, error: float = 9.0, directory: Path | None = None, **changes: Any) -> Path:
    """Write a run's folder as a finished training leaves it."""
    target = directory or run.directory
    folder.write_config(target, run.config)
    attempts.begin(target)
    attempts.end(target, "finished", 9)
    fields: dict[str, Any] = {
        **identity(run.config, "s"), "status": "finished", "epochs": 2, "last": {"test_top1_error": error},
        "cost": Cost(input=(1, 8, 8), params=1000 if run.variant == "narrow" else 2500, macs=26_000, activations=9),
        "timing": Timing(setup=1, train=2.0, evaluate=1, total=4.0, images_per_second=800.0, steps=9),
        "data": Data(name="digits", fingerprint="feed", train=9, val=1, test=1),
        "environment": environment.describe(), **changes,
    }  # fmt: skip
    write_result(target, Result(**fields))
    return target


@pytest.fixture
def pair(study: Study) -> tuple[str, str]:
    return str(write(study.run("narrow", 0))), str(write(study.run("wide", 1), 8.0))


def differing(tree: dict[str, Any], section: str) -> dict[str, tuple[Any, Any]]:
    return {item["key"]: (item["left"], item["right"]) for item in tree[section]}


def test_what_differs_is_shown_by_kind(pair: tuple[str, str], repro: Command) -> None:
    status, output, error = repro("diff", *pair, "--json")
    assert (status, error) == (0, "")
    tree = json.loads(output)
    assert differing(tree, "config") == {
        "seed": (0, 1), "model.widths": ([4, 4, 4], [4, 8, 8]), "labels.variant": ("narrow", "wide"),
    }  # fmt: skip
    assert {item["key"]: item["neutral"] for item in tree["config"]} == {
        "seed": False, "model.widths": False, "labels.variant": True,
    }  # fmt: skip
    assert (tree["same_id"], tree["same_code"], tree["reasons"]) == (False, True, ["seed", "model.widths"])
    assert (tree["code"], tree["hardware"], tree["data"]) == ([], [], [])
    assert differing(tree, "result") == {"last.test_top1_error": (9.0, 8.0), "cost.params": (1000, 2500)}
    assert [item["difference"] for item in tree["result"]] == [-1.0, 1500]


def test_the_text_says_the_same(pair: tuple[str, str], study: Study, repro: Command) -> None:
    status, output, _ = repro("diff", *pair)
    ids = study.run("narrow", 0).id, study.run("wide", 1).id
    assert status == 0
    assert f"left:  mine/smoke/narrow/seed0-{ids[0]} (finished)" in output
    assert f"Run ids differ ({ids[0]}, {ids[1]}): other seed, model.widths" in output
    lines = {line.split("┃")[0].split("│")[0].strip(): line for line in output.splitlines()}
    assert "−1.00 (−11.1 %)" in lines["last.test_top1_error"]
    assert "+1,500 (+150.0 %)" in lines["cost.params"]
    before, _, after = output.partition("Config that does not change the run")
    assert "model.widths" in before
    assert "labels.variant" in after
    assert "No difference in: code, hardware, data" in output


def test_a_run_and_itself(pair: tuple[str, str], repro: Command) -> None:
    output = repro("diff", pair[0], pair[0])[1]
    assert "Same run id" in output
    assert output.endswith("both configs ask for the same training\n\nNo difference in: config, code, hardware, data, "
                           "result\n")  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence", "section"),
    [
        pytest.param({}, "their results differ, by the same code\n", "result", id="nothing else"),
        pytest.param(
            {"code": "0" * 12, "commit": "b" * 40}, "their results differ, by other code\n", "code", id="code"
        ),
        pytest.param({"code": None, "commit": None}, "by code that is not known\n", "code", id="unknown code"),
        pytest.param({"gpu": "H200"}, "by the same code, other hardware\n", "hardware", id="hardware"),
        pytest.param({"packages": {"torch": "2.0"}}, "their results differ, by the same code\n", "code", id="packages"),
    ],
)
def test_one_run_trained_twice(
    changes: dict[str, Any], sentence: str, section: str, study: Study, tmp_path: Path, repro: Command
) -> None:
    run = study.run("narrow", 0)
    there = write(run, 8.5, tmp_path / "there", environment=environment.describe().model_copy(update=changes))
    output = repro("diff", str(write(run)), str(there))[1]
    assert f"Same run id ({run.id}): both configs ask for the same training; " in output
    assert sentence in output
    tree = json.loads(repro("diff", str(run.directory), str(there), "--json")[1])
    assert tree["same_id"]
    assert tree[section]


def test_times_alone_are_no_other_result(study: Study, tmp_path: Path, repro: Command) -> None:
    run = study.run("narrow", 0)
    slower = Timing(setup=1, train=3.0, evaluate=1, total=5.0, images_per_second=500.0, steps=9)
    output = repro("diff", str(write(run)), str(write(run, 9.0, tmp_path / "there", timing=slower)))[1]
    assert "their results differ" not in output
    assert "timing.train" in output
    assert "+1.00 (+50.0 %)" in output


def test_a_run_without_a_result_is_compared_by_its_config(study: Study, repro: Command) -> None:
    first, second = study.run("narrow", 0), study.run("narrow", 1)
    write(first)
    folder.write_config(second.directory, second.config)
    status, output, _ = repro("diff", str(first.directory), str(second.directory))
    assert status == 0
    assert f"No result yet, so that only configs are compared: mine/smoke/narrow/seed1-{second.id}" in output
    assert "torch" not in output
    tree = json.loads(repro("diff", str(first.directory), str(second.directory), "--json")[1])
    assert differing(tree, "result") == {"status": ("finished", "planned")}


def test_a_failed_run_tells_why(study: Study, repro: Command) -> None:
    run = study.run("narrow", 0)
    lost = write(
        study.run("narrow", 1), status="failed", failure=Failure(kind="out_of_memory", message="2 GiB"), last={}
    )
    tree = json.loads(repro("diff", str(write(run)), str(lost), "--json")[1])
    found = differing(tree, "result")
    assert found["status"] == ("finished", "failed")
    assert found["failure.kind"] == ("(absent)", "out_of_memory")


def test_numbers_that_json_does_not_know(study: Study, repro: Command) -> None:
    runs = [study.run("narrow", seed) for seed in (0, 1)]
    bad = write(runs[1], last={"test_top1_error": 9.0, "train_loss": float("nan"), "val_loss": float("nan")})
    good = write(runs[0], last={"test_top1_error": 9.0, "train_loss": 1.0, "val_loss": float("nan")})
    found = differing(json.loads(repro("diff", str(good), str(bad), "--json")[1]), "result")
    assert found == {"last.train_loss": (1.0, None)}
    assert "nan" in repro("diff", str(good), str(bad))[1]


def test_how_a_run_is_named(study: Study, pair: tuple[str, str], repro: Command) -> None:
    run = study.run("narrow", 0)
    names = [
        str(run.directory), f"mine/smoke/narrow/seed0-{run.id}", "mine/smoke/narrow/seed0", run.id, run.id[:6],
    ]  # fmt: skip
    for name in names:
        assert json.loads(repro("diff", name, pair[1], "--json")[1])["left"]["id"] == run.id


WRONG = {
    "no such table": ("mien/smoke/narrow/seed0", "unknown run 'mien'; did you mean 'mine'?"),
    "no such row": ("mine/smoke/narow/seed0", "mine/smoke: unknown run 'narow'; did you mean 'narrow'?"),
    "no such seed": ("mine/smoke/narrow/seed7", "mine/smoke/narrow: unknown run 'seed7'; valid: seed0-"),
    "no such id": ("abcdef", "no run whose id begins with abcdef in "),
    "too few digits": ("abc", "abc: expected 6 digits or more of a run's id"),
    "a row": ("mine/smoke/narrow", "mine/smoke/narrow: no run; expected a run's folder, ABLATION/SCALE/VARIANT/seedK"),
    "nothing": ("", "no run's folder; it has no config.yaml"),
}


@pytest.mark.parametrize(("name", "message"), WRONG.values(), ids=WRONG)
def test_wrong_names_are_one_line_and_exit_status_2(
    name: str, message: str, pair: tuple[str, str], repro: Command
) -> None:
    for words in ((name, pair[0]), (pair[0], name)):
        status, output, error = repro("diff", *words)
        assert (status, output, error.count("\n")) == (2, "", 1)
        assert message in error


def test_a_name_of_several_runs_is_refused(study: Study, pair: tuple[str, str], mine: Path, repro: Command) -> None:
    other = plan(study.ablation, "smoke", [0], ["recipe.lr=0.3"]).run("narrow", 0)
    write(other)
    status, _, error = repro("diff", "mine/smoke/narrow/seed0", pair[1])
    assert status == 2
    assert error.count("\n") == 1
    assert "mine/smoke/narrow/seed0 names 2 runs: mine/smoke/narrow/seed0-" in error
    assert other.id in error


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.yaml", "seed: [", "config.yaml: no resolved config of a run"),
        ("result.json", "{", "result.json: not a result file"),
    ],
)
def test_broken_files_are_one_line(file: str, text: str, message: str, pair: tuple[str, str], repro: Command) -> None:
    (Path(pair[0]) / file).write_text(text)
    status, _, error = repro("diff", *pair)
    assert (status, error.count("\n")) == (2, 1)
    assert message in error


def test_a_config_of_another_release_is_compared_as_it_stands(pair: tuple[str, str], repro: Command) -> None:
    path = Path(pair[0]) / "config.yaml"
    path.write_text(path.read_text() + "colour: blue\n")
    tree = json.loads(repro("diff", *pair, "--json")[1])
    assert differing(tree, "config")["colour"] == ("blue", "(absent)")


def test_every_field_is_neutral_or_not_as_the_id_has_it(study: Study) -> None:
    config = study.run("narrow", 0).config
    kept = flat(config.model_dump(mode="json", exclude=NEUTRAL))
    every = flat(config.model_dump(mode="json"))
    assert {key for key in every if not is_neutral(key)} == set(kept)


def test_no_torch(pair: tuple[str, str]) -> None:
    code = "import sys; from repro.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "diff", *pair], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
