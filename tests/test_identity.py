"""A run's id, a study's order, and what the command line takes as seeds, launcher and overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro import ablation
from repro.compose import compose
from repro.errors import InputError
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
    ("word", "message"),
    [
        ("laptop", "not of the form key=value"),
        ("launcher=slrum", "unknown launcher 'slrum'"),
        ("launcher.paralel=2", "did you mean 'launcher.parallel'"),
        ("launcher.parallel=-1", "expected a whole number"),
    ],
)
def test_bad_words_are_refused(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_request([word])


def test_a_scale_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="given twice"):
        parse_request(["scale=smoke", "scale=laptop"])


def test_the_dearest_row_of_a_seed_is_started_first(mine: Path) -> None:
    study = plan(ablation.load(str(mine)), "smoke", [7, 0])
    ordered = longest_first(study.runs, count_prices(study.configs))
    assert [(run.variant, run.seed) for run in ordered] == [("wide", 7), ("narrow", 7), ("wide", 0), ("narrow", 0)]
