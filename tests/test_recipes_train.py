"""Every recipe of conf/recipe trains two epochs of a small twin of its model, on small files in its format."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from repro import folder
from repro.compose import compose
from repro.config import RunConfig
from repro.paths import options
from repro.recipes import load_recipe
from repro.train import train
from tests.writers import write_cifar, write_tree

pytestmark = pytest.mark.training

BATCH = 12  # divides by 3 and 4, the repeats that recipes have
CIFAR = ["model.depths=[1,1,1]", "model.stem_width=8", "model.widths=[8,16,16]"]
IMAGENET = ["model.depths=[1,1,1,1]", "model.stem_width=8", "model.widths=[8,16,16,32]"]
MULTIPLIED = ["+model.arguments.width_mult=0.25"]


@dataclass(frozen=True)
class Twin:
    """The data that a recipe is for, and what makes its model small."""

    data: str
    overrides: list[str]


TWINS = {
    "bello2021": Twin("imagenet", IMAGENET),
    "bello2021_rs": Twin("imagenet", IMAGENET),
    "brock2021_nfresnet": Twin("imagenet", IMAGENET),
    "cutmix_imagenet": Twin("imagenet", IMAGENET),
    "densenet_cifar": Twin("cifar10", []),
    "efficientnet": Twin("imagenet", ["model.width=0.25", "model.depth=0.3"]),
    "fb_resnet_torch": Twin("imagenet", IMAGENET),
    "he2015_cifar": Twin("cifar10", CIFAR),
    "he2015_cifar_110": Twin("cifar10", CIFAR),
    "he2015_imagenet": Twin("imagenet", IMAGENET),
    "he2019_bag_of_tricks": Twin("imagenet", IMAGENET),
    "hu2018": Twin("imagenet", IMAGENET),
    "hu2018_ablation": Twin("imagenet", IMAGENET),
    "hu2018_mobile": Twin("imagenet", ["model.width=0.25"]),
    "laptop": Twin("digits", CIFAR),
    "mixup_cifar": Twin("cifar10", IMAGENET),
    "mobilenet": Twin("imagenet", ["model.width=0.25"]),
    "mobilenet_v2": Twin("imagenet", MULTIPLIED),
    "mobilenet_v3": Twin("imagenet", MULTIPLIED),
    "nfnet": Twin("imagenet", [*IMAGENET, "model.stem_width=16", "model.group_width=8", "model.final_width=32"]),
    "regnet_100ep": Twin("imagenet", ["model.regnet={depth: 5, w0: 8, wa: 8, wm: 2}", "model.group_width=8"]),
    "rsb_a1": Twin("imagenet", IMAGENET),
    "rsb_a2": Twin("imagenet", IMAGENET),
    "rsb_a3": Twin("imagenet", IMAGENET),
    "shufflenet": Twin("imagenet", ["model.width=0.25"]),
    "stochastic_depth_cifar": Twin("cifar10", CIFAR),
    "torchvision_v1": Twin("imagenet", IMAGENET),
    "torchvision_v2": Twin("imagenet", IMAGENET),
    "wrn_cifar": Twin("cifar100", CIFAR),
    "xie2017_cifar": Twin("cifar100", [*CIFAR, "model.groups=2", "model.width_per_group=4"]),
    "xie2017_imagenet": Twin("imagenet", [*IMAGENET, "model.groups=2", "model.width_per_group=4"]),
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Overrides that choose each kind of data."""
    root = tmp_path_factory.mktemp("data")
    for name in ("cifar10", "cifar100"):
        write_cifar(root, name, train_rows=BATCH * 2 + 8, test_rows=10)
    write_tree(root / "imagenet", classes=10, train=4, val=1)
    tree = [f"data.root={root}/imagenet", "data.size=32", "data.classes=10", "data.val=8", "data.workers=0"]
    return {
        "imagenet": ["data=imagenet", *tree],
        "cifar10": ["data=cifar10", f"data.root={root}", "data.val=8"],
        "cifar100": ["data=cifar100", f"data.root={root}", "data.val=8"],
        "digits": ["data=digits", "data.test=1600", "data.val=20"],
    }


def small(recipe: str, roots: dict[str, list[str]]) -> RunConfig:
    """The recipe on the small twin of the model that it is best known for."""
    about = load_recipe(recipe).about
    assert about is not None, f"recipe {recipe} does not say where it comes from (about)"
    twin = TWINS.get(recipe)
    assert twin is not None, f"recipe {recipe} has no twin of {about.model} in TWINS: say on which data, and how small"
    settings = ["recipe.duration=2ep", f"recipe.batch_size={BATCH}", f"recipe={recipe}", f"model={about.model}"]
    return compose([*settings, *roots[twin.data], *twin.overrides])


@pytest.mark.parametrize("recipe", options("recipe"))
def test_a_recipe_trains(tmp_path: Path, roots: dict[str, list[str]], recipe: str) -> None:
    config = small(recipe, roots)
    result = train(config, tmp_path)

    assert (result.status, result.epochs) == ("finished", 2)
    assert result.data is not None
    assert result.timing is not None
    assert result.timing.steps == 2 * (result.data.train // BATCH) > 0
    assert all(math.isfinite(value) for value in result.last.values())
    assert result.data.train_transform
    assert result.data.test_transform
    columns, rows = curve(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(math.isfinite(float(value)) for row in rows for value in row.values() if value)
    averaged = config.recipe.ema.decay is not None
    assert ("val_raw_top1_error" in columns) == averaged
    assert ("test_raw_top1_error" in result.last) == averaged
    assert {"val_top1_error", "test_top1_error", "train_top1_error"} <= result.last.keys()


def curve(directory: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and rows of a run's metrics.csv."""
    with (directory / folder.CURVE).open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    return list(reader.fieldnames or []), rows


def test_no_twin_is_of_a_recipe_that_is_gone() -> None:
    assert TWINS.keys() <= set(options("recipe"))
