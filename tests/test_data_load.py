"""The door of the data room: every shipped configuration is valid, and importing it is light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import TypeAdapter

from repro.config import DataConfig, DigitsConfig, ShapesConfig
from repro.data import load, prepare
from repro.errors import InputError
from repro.paths import conf_dir, options

ADAPTER: TypeAdapter[DataConfig] = TypeAdapter(DataConfig)


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
    splits = load(shipped(name), batch_size=128, seed=0, device=torch.device("cpu"), channels_last=True)
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
    with pytest.raises(InputError, match=r"no such folder; data=.* under data.root, .*; set data.root=/path"):
        prepare(shipped(name))


def test_a_flip_of_digits_is_refused_before_any_run() -> None:
    config = DigitsConfig.model_validate({"size": 8, "val": 97, "test": 500, "augment": {"flip": True}})
    with pytest.raises(InputError, match="a mirrored digit is another character"):
        prepare(config)


def test_a_set_smaller_than_one_batch_is_refused() -> None:
    config = ShapesConfig(size=12, train=20, val=10, test=10)
    with pytest.raises(InputError, match=r"recipe.batch_size=32 is more than the 20 training images"):
        load(config, batch_size=32, seed=0, device=torch.device("cpu"), channels_last=True)


def test_preparing_the_embedded_sets_needs_no_torch() -> None:
    script = """
import sys
from repro.config import DigitsConfig, ShapesConfig
from repro.data import prepare
prepare(DigitsConfig(size=8, val=97, test=500))
prepare(ShapesConfig(size=12, train=20, val=10, test=10))
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
