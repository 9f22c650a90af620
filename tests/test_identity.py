"""A run's id, a study's order, and what the command line takes as seeds, launcher and overrides."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from repro import ablation
from repro.compose import compose
from repro.defaults import read_option
from repro.errors import InputError
from repro.launch.config import LauncherConfig, LocalConfig, RayConfig, SlurmConfig
from repro.request import parse_request, parse_seeds
from repro.study import count_prices, plan
from repro.verbs.run import longest_first

LAPTOP = ["scale=laptop", "model=resnet20"]


@pytest.mark.parametrize(
    "override",
    [
        "logger=wandb", "logger.project=other", "dir=elsewhere", "labels.variant=x",
        "trainer=ddp trainer.accelerator=cpu trainer.deterministic=true trainer.devices=4",
    ],
)  # fmt: skip
def test_neutral_fields_do_not_change_the_id(override: str) -> None:
    assert compose([*LAPTOP, *override.split()]).id == compose(LAPTOP).id


@pytest.mark.parametrize(
    "override",
    [
        "seed=1", "recipe.lr=0.2", "recipe.batch_size=64", "recipe.duration=14ep", "model.order=pre", "data.size=16",
        "trainer.precision=bf16-mixed", "model.zero_init=true", "recipe.augment.pad=0.25", "recipe.schedule.warmup=3ep",
        "trainer.threads=2",
    ],
)  # fmt: skip
def test_whatever_changes_the_training_changes_the_id(override: str) -> None:
    assert compose([*LAPTOP, override]).id != compose(LAPTOP).id


def test_an_id_has_48_bits_and_is_the_same_for_equal_durations() -> None:
    first = compose([*LAPTOP, "recipe.duration=15ep"])
    assert len(first.id) == 12
    assert compose([*LAPTOP, "recipe.duration='15 epochs'"]).id == first.id


def test_data_root_and_workers_are_neutral() -> None:
    cifar = ["scale=cifar", "model=resnet20"]
    assert compose([*cifar, "data.root=/elsewhere"]).id == compose(cifar).id
    imagenet = ["scale=imagenet", "model=resnet50"]
    assert compose([*imagenet, "data.workers=2"]).id == compose(imagenet).id


def test_runs_go_breadth_first_by_seed(mine: Path, runs: Path) -> None:
    study = plan(ablation.load(str(mine)), "smoke", [0, 7])
    assert [(run.variant, run.seed) for run in study.runs] == [("narrow", 0), ("wide", 0), ("narrow", 7), ("wide", 7)]
    assert study.runs[3].directory == runs / "mine" / "smoke" / "wide" / f"seed7-{study.runs[3].id}"


def test_choosing_a_variant_brings_its_reference(mine: Path) -> None:
    assert list(plan(ablation.load(str(mine)), "smoke", [0], only=["wide"]).configs) == ["narrow", "wide"]


def test_a_scales_recipe_wins_over_the_base_and_a_row_over_the_scale(mine: Path) -> None:
    text = mine.read_text().replace("base: [", "base: [recipe=he2015_cifar, ").replace(
        'set: ["model.widths=[4,8,8]"]', 'set: ["model.widths=[4,8,8]", recipe.lr=0.3]'
    )  # fmt: skip
    mine.write_text(text)
    study = plan(ablation.load(str(mine)), "laptop", [0], ["recipe.optimizer.momentum=0.8"])
    assert study.configs["narrow"].recipe.name == "laptop"
    assert (study.configs["narrow"].recipe.lr, study.configs["wide"].recipe.lr) == (0.1, 0.3)
    assert study.configs["wide"].recipe.optimizer.momentum == 0.8


def test_an_override_of_what_the_rows_differ_in_is_refused(mine: Path) -> None:
    with pytest.raises(InputError, match=r"model\.widths is what the rows of mine differ in"):
        plan(ablation.load(str(mine)), "smoke", [0], ["model.widths=[2,2,2]"])


@pytest.mark.parametrize(("text", "seeds"), [("3", (0, 1, 2)), ("[0,7]", (0, 7)), ("[5]", (5,)), (" [1, 2] ", (1, 2))])
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "-3", "[-1,2]", "[]", "three", "1.5", "[1,1]", "0,7", ""])
def test_bad_seeds_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="seed"):
        parse_seeds(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("laptop", "'laptop' is not of the form key=value, for example scale=smoke or seeds=5"),
        ("launcher=slrum", "unknown launcher 'slrum'; did you mean 'slurm'?"),
        (
            "launcher.paralel=2",
            "unknown option of launcher=local 'launcher.paralel'; did you mean 'launcher.parallel'?",
        ),
        ("launcher.parallel=-1", "launcher.parallel is -1: input should be greater than 0"),
        ("launcher.parallel=many", "launcher.parallel is 'many': input should be a valid integer, unable to parse"),
        ("launcher.parallel=1.5", "launcher.parallel is 1.5: input should be a valid integer, got a number with a"),
        ("launcher.retries=-1", "launcher.retries is -1: input should be greater than or equal to 0"),
        ("launcher.pack=perhaps", "launcher.pack is 'perhaps': input should be a valid boolean"),
        ("launcher.gpus=[0", "launcher.gpus=[0: expected a value as in YAML, such as 2, null or [0,1]"),
        ("launcher.partition=gpu", "launcher.partition is an option of launcher=slurm, and this is launcher=local"),
        (
            "launcher=ray launcher.gpus=[0]",
            "launcher.gpus is an option of launcher=local, and this is launcher=ray",
        ),
        (
            "launcher=slurm launcher.parallel=2",
            "launcher.parallel is an option of launcher=local and launcher=ray, and",
        ),
        ("launcher=slurm launcher.time=soon", "launcher.time is 'soon': string should match pattern"),
        ("launcher=slurm launcher.setup=module", "launcher.setup is 'module': input should be a valid tuple"),
        ("launcher=slurm launcher.sbatch=[a]", "launcher.sbatch is ['a']: input should be a valid dictionary"),
        ("launcher=slurm launcher.partion=gpu", "'launcher.partion'; did you mean 'launcher.partition'?"),
        ("launcher=slurm launcher.name=ray", "unknown option of launcher=slurm 'launcher.name'"),
        ("detach=true", "launcher.detach is an option of launcher=slurm, and this is launcher=local"),
        ("launcher=slurm detach=perhaps", "launcher.detach is 'perhaps': input should be a valid boolean"),
        ("detach=true launcher=slurm launcher.detach=false", "launcher.detach is given twice: 'true' and 'false'"),
        ("launcher=slurm launcher=local", "launcher is given twice: 'slurm' and 'local'"),
        ("launcher=slurm launcher.time=1 launcher.time=2", "launcher.time is given twice: '1' and '2'"),
        ("scale=smoke scale=laptop", "scale is given twice: 'smoke' and 'laptop'"),
    ],
)
def test_bad_words_are_refused(words: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_request(words.split())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "launcher"),
    [
        ([], LocalConfig()),
        (["launcher.parallel=2", "launcher.gpus=[0,1]"], LocalConfig(parallel=2, gpus=(0, 1))),
        (["launcher.gpus_per_run=0.25", "launcher.timeout=30"], LocalConfig(gpus_per_run=0.25, timeout=30)),
        (["launcher.timeout=null"], LocalConfig()),
        (["launcher=ray", "launcher.address=auto"], RayConfig(address="auto")),
        (["launcher=slurm", "detach=true", "launcher.partition=gpu"], SlurmConfig(detach=True, partition="gpu")),
        (["detach=false", "launcher=slurm"], SlurmConfig()),
        (
            ["launcher=slurm", "launcher.setup=['module load cuda','source env.sh']"],
            SlurmConfig(setup=("module load cuda", "source env.sh")),
        ),
        (["launcher=slurm", "launcher.setup=[module load cuda]"], SlurmConfig(setup=("module load cuda",))),
        (
            ["launcher=slurm", "launcher.sbatch={reservation: spring, nice: 10}"],
            SlurmConfig(sbatch={"reservation": "spring", "nice": 10}),
        ),
        (["launcher=slurm", "launcher.time=1-12:00", "launcher.memory=32G"], SlurmConfig(time="1-12:00", memory="32G")),
        (["launcher=slurm", "launcher.time=90"], SlurmConfig(time="90")),
        (["launcher=slurm", "launcher.time=02:30:00"], SlurmConfig(time="02:30:00")),
        (["launcher=slurm", "launcher.qos=0123", "launcher.account=7"], SlurmConfig(qos="0123", account="7")),
    ],
    ids=lambda value: " ".join(value) or "as conf says" if isinstance(value, list) else "",
)
def test_launchers(words: list[str], launcher: LauncherConfig) -> None:
    assert parse_request(words).launcher == launcher


@pytest.mark.parametrize(
    ("name", "settings"), [("local", LocalConfig()), ("slurm", SlurmConfig()), ("ray", RayConfig())]
)
def test_conf_has_every_option_of_a_launcher_at_its_default(name: str, settings: LauncherConfig) -> None:
    assert set(read_option("launcher", name)) == set(type(settings).model_fields)
    assert parse_request([f"launcher={name}"]).launcher == settings


@pytest.mark.parametrize(
    ("words", "rerun"),
    [
        ([], "scale=smoke seeds=3"),
        (["seeds=[0,7]"], "scale=smoke seeds='[0,7]'"),
        (["variants=[wide]", "recipe.lr=0.3"], "scale=smoke seeds=3 'variants=[wide]' recipe.lr=0.3"),
        (["launcher=slurm", "detach=true"], "scale=smoke seeds=3"),
        (["model.depths=[2,1,1]"], "scale=smoke seeds=3 'model.depths=[2,1,1]'"),
    ],
)
def test_the_command_that_makes_a_study_again(words: list[str], rerun: str, mine: Path) -> None:
    study = parse_request(["scale=smoke", *words]).study(ablation.load(str(mine)))
    assert study.rerun == f"repro run {mine} {rerun}"
    again = parse_request(shlex.split(study.rerun)[3:]).study(ablation.load(str(mine)))
    assert [run.id for run in again.runs] == [run.id for run in study.runs]


def test_the_dearest_row_of_a_seed_is_started_first(mine: Path) -> None:
    study = plan(ablation.load(str(mine)), "smoke", [7, 0])
    ordered = longest_first(study.runs, count_prices(study.configs))
    assert [(run.variant, run.seed) for run in ordered] == [("wide", 7), ("narrow", 7), ("wide", 0), ("narrow", 0)]
