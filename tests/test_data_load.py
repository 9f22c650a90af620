"""The door of the data room: every shipped configuration is valid, and importing it is light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import TypeAdapter

from repro.data import load, prepare
from repro.data.config import AugmentConfig, CifarConfig, DataConfig, DigitsConfig, EvaluationConfig, ShapesConfig
from repro.errors import InputError
from repro.paths import conf_dir, options

ADAPTER: TypeAdapter[DataConfig] = TypeAdapter(DataConfig)
CPU = torch.device("cpu")
PLAIN, WHOLE = AugmentConfig(), EvaluationConfig()


def shipped(name: str) -> DataConfig:
    return ADAPTER.validate_python(yaml.safe_load((conf_dir() / "data" / f"{name}.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", options("data"))
def test_the_shipped_configurations_are_valid_and_named_after_their_file(name: str) -> None:
    assert shipped(name).name == name


@pytest.mark.parametrize(
    ("name", "sizes", "shape"),
    [
        ("digits", {"train": 1200, "val": 97, "test": 500}, (1, 8, 8)),
        ("shapes", {"train": 4000, "val": 500, "test": 2000}, (3, 16, 16)),
    ],
)
def test_the_embedded_sets_load_as_shipped(name: str, sizes: dict[str, int], shape: tuple[int, int, int]) -> None:
    prepare(shipped(name))
    splits = load(shipped(name), PLAIN, WHOLE, batch_size=128, seed=0, device=CPU, channels_last=True)
    assert splits.sizes == sizes
    assert (splits.channels, splits.size, splits.size) == shape
    assert splits.classes == 10
    assert len(splits.train) == sizes["train"] // 128
    images = torch.cat([images for images, _ in splits.train])
    assert images.shape[1:] == shape
    assert torch.isfinite(images).all()


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet"])
def test_what_is_not_there_is_one_clear_message(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = shipped(name)
    if isinstance(config, CifarConfig):
        config = config.model_copy(update={"download": False})
    with pytest.raises(InputError, match=r"no such folder; data=.* under data.root, .*; set data.root=/path"):
        prepare(config)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_loading_fetches_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("repro.data.fetch.fetch", None)  # calling it would fail
    with pytest.raises(InputError, match="no such folder; data=cifar"):
        load(shipped(name), PLAIN, WHOLE, batch_size=128, seed=0, device=CPU, channels_last=True)


def test_no_recipe_mirrors_digits() -> None:
    config = DigitsConfig(size=8, val=97, test=500)
    settings = {"batch_size": 128, "seed": 0, "device": CPU, "channels_last": True}
    plain, asked = (load(config, AugmentConfig(flip=flip), WHOLE, **settings).train for flip in (False, True))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(plain, asked, strict=True))


def test_parts_of_a_batch_follow_each_other() -> None:
    config = DigitsConfig(size=8, val=97, test=500)
    splits = load(config, PLAIN, WHOLE, batch_size=128, seed=0, device=CPU, channels_last=True, accumulate=4)
    assert len(splits.train) == 1200 // 128 * 4
    assert {len(labels) for _, labels in splits.train} == {32}


def test_a_set_smaller_than_one_batch_is_refused() -> None:
    config = ShapesConfig(size=12, train=20, val=10, test=10)
    with pytest.raises(InputError, match=r"recipe.batch_size=32 is more than the 20 training images"):
        load(config, PLAIN, WHOLE, batch_size=32, seed=0, device=CPU, channels_last=True)


def test_preparing_the_embedded_sets_needs_no_torch() -> None:
    script = """
import sys
from repro.data import prepare
from repro.data.config import DigitsConfig, ShapesConfig
prepare(DigitsConfig(size=8, val=97, test=500))
prepare(ShapesConfig(size=12, train=20, val=10, test=10))
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
