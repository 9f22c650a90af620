"""The command line: what it lists and shows, what it never imports, and one line for every wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from repro import ablation
from repro.cli import VERBS, main
from repro.results import Cost
from repro.study import Study
from tests.conftest import Outcome

Command = Callable[..., Outcome]


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["list", "recipes"], ["show", "preactivation"], ["show", "resnet50"], ["status", "resnext_groups"],
     ["report", "resnext_groups", "--format", "json"]],
    ids=" ".join,
)  # fmt: skip
def test_reading_verbs_do_not_import_torch(arguments: list[str], runs: Path) -> None:
    code = (
        "import sys; from repro.cli import main; status = main(sys.argv[1:]);"
        "heavy = {'torch', 'lightning', 'timm', 'wandb'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_list(repro: Command) -> None:
    status, output, _ = repro("list", "--json")
    assert status == 0
    listed = {row["name"]: row for row in json.loads(output)}
    assert {"plain_vs_residual", "preactivation", "preactivation_imagenet", "resnext_groups"} <= set(listed)
    assert all({"name", "title", "claim", "rows", "scales"} <= set(row) for row in listed.values())
    assert listed["resnext_groups"]["rows"] == 10
    assert {"smoke", "laptop", "imagenet"} <= set(listed["resnext_groups"]["scales"])


def test_show_gives_published_values_and_overrides(repro: Command) -> None:
    tree = json.loads(repro("show", "resnext_groups", "--json")[1])
    assert (tree["name"], tree["reference"], tree["metric"]["name"]) == ("resnext_groups", "1x64d", "top1_error")
    rows = {row["name"]: row for row in tree["variants"]}
    assert rows["32x4d"]["published"] == {"top1_error": 22.2}
    assert rows["32x4d"]["overrides"] == ["model=resnet50", "model.groups=32", "model.width_per_group=4"]
    assert "22.2" in repro("show", "resnext_groups")[1]


def test_show_a_model_prints_its_axes(repro: Command) -> None:
    axes = json.loads(repro("show", "resnext50_32x4d", "--json")[1])
    assert (axes["groups"], axes["width_per_group"], axes["depths"]) == (32, 4, [3, 4, 6, 3])


def test_cost(repro: Command) -> None:
    tree = json.loads(repro("cost", "resnet50", "--json")[1])
    assert (tree["input"], tree["params"], tree["macs"]) == ([3, 224, 224], 25_557_032, 4_089_184_256)
    assert sum(layer["macs"] for layer in tree["layers"]) == tree["macs"]
    assert sum(layer["params"] for layer in tree["layers"]) == tree["params"]
    grouped = json.loads(repro("cost", "resnet50", "groups=32", "model.width_per_group=4", "--json")[1])
    assert grouped["macs"] == 4_230_479_872
    small = json.loads(repro("cost", "resnet50", "--input", "64", "--json")[1])
    assert small["input"] == [3, 64, 64]
    assert "4,089,184,256 MACs" in repro("cost", "resnet50")[1]


def test_plan(repro: Command, mine: Path, runs: Path) -> None:
    status, output, _ = repro("plan", str(mine), "scale=smoke", "seeds=[0,7]", "--json")
    assert status == 0
    tree = json.loads(output)
    assert [row["name"] for row in tree["variants"]] == ["narrow", "wide"]
    assert all(row["params"] > 0 and row["macs"] > 0 for row in tree["variants"])
    assert [(row["variant"], row["seed"], row["status"]) for row in tree["runs"]] == [
        ("narrow", 0, "planned"), ("wide", 0, "planned"), ("narrow", 7, "planned"), ("wide", 7, "planned"),
    ]  # fmt: skip
    assert all(Path(row["dir"]).name.endswith(row["id"]) for row in tree["runs"])
    assert "would train 4 of 4 runs" in repro("plan", str(mine), "scale=smoke", "seeds=[0,7]")[1]
    assert not runs.exists(), "a plan writes nothing"


def test_doctor(repro: Command) -> None:
    status, output, _ = repro("doctor", "--json")
    tree = json.loads(output)
    assert status == 0
    assert tree["packages"]["torch"]
    assert tree["missing"] == []


WRONG = {
    "unknown verb": (["rnu", "preactivation"], "unknown verb 'rnu'; did you mean 'run'?"),
    "unknown ablation": (["run", "preactivaton"], "unknown ablation 'preactivaton'; did you mean 'preactivation'?"),
    "no such file": (["run", "./nowhere.yaml"], "nowhere.yaml: no such file"),
    "unknown scale": (["run", "preactivation", "scale=latpop"], "unknown scale 'latpop'; did you mean 'laptop'?"),
    "scale the table lacks": (["run", "preactivation", "scale=imagenet"], "unknown scale 'imagenet'"),
    "negative seeds": (["run", "preactivation", "seeds=-1"], "seeds='-1': expected how many"),
    "no seeds": (["run", "preactivation", "seeds=0"], "seeds='0': expected how many"),
    "unknown variant": (["run", "preactivation", "variants=[110-orignal]"], "did you mean '110-original'?"),
    "unknown key": (["run", "preactivation", "recipe.lrr=1"], "recipe has no 'lrr'; did you mean 'lr'?"),
    "unknown group": (["plan", "preactivation", "recipee=laptop"], "unknown key 'recipee'; did you mean 'recipe'?"),
    "value of the wrong type": (["run", "preactivation", "recipe.lr=fast"], "recipe.lr is 'fast'"),
    "no duration": (["run", "preactivation", "recipe.duration=3"], "is not a duration"),
    "word without a value": (["run", "preactivation", "laptop"], "'laptop' is not of the form key=value"),
    "what the rows differ in": (
        ["run", "preactivation", "model.order=pre"],
        "what the rows of preactivation differ in",
    ),
    "value that the data cannot have": (
        ["plan", "preactivation", "data.size=4"],
        "repro: data.size is 4: input should",
    ),
    "batch that does not divide": (
        ["plan", "resnext_groups", "scale=imagenet", "recipe.batch_size=3"],
        "repro: recipe.b",
    ),
    "nothing named": (["run"], "the following arguments are required: ABLATION (see"),
    "missing data folder": (["run", "preactivation", "scale=cifar", "data.root=/nowhere"], "/nowhere"),
    "unknown model": (["cost", "resnt50"], "unknown model 'resnt50'; did you mean 'resnet50'?"),
    "unknown axis": (["cost", "resnet50", "gruops=2"], "did you mean 'groups'?"),
    "groups that do not divide": (["cost", "resnet50", "groups=3"], "groups=3 does not divide the width 64"),
    "no size": (["cost", "resnet50", "--input", "big"], "--input big: expected a whole number"),
    "unknown option": (["plan", "preactivation", "--jsn"], "--jsn"),
    "unknown kind": (["list", "model"], "unknown kind 'model'; did you mean 'models'?"),
    "nothing to show": (["show", "resnet"], "unknown ablation, model or recipe 'resnet'"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_and_exit_status_2(arguments: list[str], message: str, repro: Command) -> None:
    status, output, error = repro(*arguments)
    assert (status, output) == (2, "")
    assert message in error
    assert error.startswith("repro: ")
    assert error.count("\n") == 1


def test_an_unwritable_run_folder_is_named(repro: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "file" / "runs"))
    status, _, error = repro("run", "preactivation", "scale=smoke")
    assert status == 2
    assert "cannot be written" in error
    assert "REPRO_RUNS" in error


def test_help(repro: Command) -> None:
    for arguments in ([], ["--help"]):
        status, output, _ = repro(*arguments)
        assert status == 0
        assert all(f"  {verb} " in output for verb in VERBS)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "train"])
def test_help_of_a_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    assert f"usage: repro {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["model: ", "recipe: ", "scale: laptop"]),
        (["--cfg", "job", "model=preresnet110", "scale=smoke"], ["name: preresnet110", "duration: 2ep"]),
    ],
    ids=["help with the groups", "resolved config"],
)
def test_repro_train_is_a_hydra_app(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "repro", "train", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in words), done.stdout
    assert list(tmp_path.iterdir()) == [], "nothing is written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=resnt20"], "unknown model 'resnt20'; did you mean 'resnet20'?"),
        (["recipe.lrr=1"], "recipe has no 'lrr'; did you mean 'lr'?"),
        (["trainer.devices=2"], "need trainer.strategy=ddp"),
        (["data=cifar10", "data.root=/nowhere"], "/nowhere"),
        (["data.mirror=true"], "mirror"),
        (["trainer=ddp", "trainer.devices=64"], "but PyTorch finds"),
        (["recipe.batch_size=100000"], "100000"),
        (["-m", "seed=-1,-2"], "seed is -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_repro_train_says_what_is_wrong_in_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "repro", "train", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_every_shipped_table_names_its_source() -> None:
    for name in ablation.names():
        spec = ablation.load(name)
        assert all(variant.published.source for variant in spec.variants.values())
        assert {"smoke", "laptop"} <= set(spec.scales)


def test_plan_names_what_could_not_be_counted(repro: Command, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from repro.verbs import plan

    def priced(study: Study) -> dict[str, Cost]:
        cost = Cost(input=(1, 8, 8), params=10, macs=20, activations=30, uncounted=("cumprod × 2",))
        return dict.fromkeys(study.configs, cost)

    monkeypatch.setattr(plan, "_prices", priced)
    status, output, _ = repro("plan", str(mine), "scale=smoke")
    assert status == 0
    assert "wide: MACs without cumprod × 2, which have no counting rule" in output
    tree = json.loads(repro("plan", str(mine), "scale=smoke", "--json")[1])
    assert [row["uncounted"] for row in tree["variants"]] == [["cumprod × 2"]] * 2
