"""The presets: one file each, the same to Hydra and to the library, and clear about mistakes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from repro.errors import InputError
from repro.models.config import config_class
from repro.models.presets import load_preset
from repro.paths import conf_dir, options


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """Every preset as Hydra composes it."""
    with initialize_config_dir(str(conf_dir()), version_base=None):
        return {name: OmegaConf.to_container(compose(f"model/{name}").model) for name in options("model")}


@pytest.mark.parametrize("name", options("model"))
def test_a_preset_is_the_same_to_hydra_and_to_the_library(name: str, composed: dict[str, Any]) -> None:
    config = load_preset(name)
    assert config_class(config.family).model_validate(composed[name]) == config
    assert config.name == name


@pytest.mark.parametrize("name", options("model"))
def test_a_preset_opens_with_its_source(name: str) -> None:
    first = (conf_dir() / "model" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert any(mark in first for mark in ("arXiv:", "doi:", "NeurIPS 2012"))  # before arXiv, a journal or conference


@pytest.mark.parametrize(
    ("name", "axes", "message"),
    [
        ("resnet_50d", {}, r"unknown model 'resnet_50d'; did you mean 'resnet50d'\?"),
        ("resnet50", {"shortcuts": "A"}, r"model resnet50: unknown key 'shortcuts'; did you mean 'shortcut'\?"),
        ("resnet50", {"order": "posst"}, r"model resnet50: order is 'posst', expected .*; did you mean 'post'\?"),
        ("resnet50", {"depths": (3, 4)}, "model resnet50: depths has 2 stages and widths has 4"),
        ("resnet18", {"groups": 2}, "model resnet18: groups=2 needs block=bottleneck"),
    ],
    ids=["preset", "axis", "value", "stages", "groups"],
)
def test_mistakes_in_a_preset_are_named(name: str, axes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_preset(name, **axes)


def test_axes_change_a_preset_and_nothing_else() -> None:
    changed = load_preset("resnet50", shortcut="D", native={"size": 320})
    assert (changed.shortcut, changed.native.size, changed.native.classes) == ("D", 320, 1000)
    assert changed.model_copy(update={"shortcut": "B", "native": load_preset("resnet50").native}) == load_preset(
        "resnet50"
    )


def test_presets_are_read_without_torch() -> None:
    code = "import sys, repro.models.presets as p; p.load_preset('resnet50'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
