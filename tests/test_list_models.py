"""`repro list models`: every preset with its family, price and published error, quickly, whatever one of them does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from repro.errors import InputError
from repro.paths import options
from repro.results import Cost
from repro.verbs import list as verb
from tests.conftest import Outcome

torch.set_num_threads(1)

Command = Callable[..., Outcome]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """An empty cache, and a counter that names what it is asked for: each of one more MAC."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    asked: list[str] = []

    def price(config: verb.Family, size: int, channels: int, classes: int) -> Cost:
        asked.append(config.name)
        return Cost(input=(channels, size, size), params=10**6, macs=10**9 + len(asked), activations=10**6)

    monkeypatch.setattr("repro.cost.count.price", price)
    return asked


def test_every_preset_is_listed_once(repro: Command, counted: list[str]) -> None:
    status, output, error = repro("list", "models")
    assert (status, error) == (0, "")
    listed = [line.split()[0] for line in output.splitlines() if line.startswith("  ")]
    assert sorted(listed) == options("model")
    assert len(counted) == len(set(counted)) > 100, "two names of one network are counted once"
    rows = json.loads(repro("list", "models", "--json")[1])
    assert [row["name"] for row in rows] == listed
    assert all(row["params"] == 10**6 and row["reason"] is None for row in rows)


def test_families_are_headings_and_names_count_on(repro: Command, counted: list[str]) -> None:
    lines = repro("list", "models", "resn*")[1].splitlines()
    headings = [line.strip() for line in lines[1:] if line and line[0].isalpha()][:-1]
    assert headings == sorted(headings, key=str.lower)
    assert {"ResNet", "ResNet-RS", "ResNeXt"} <= set(headings)
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    assert names.index("resnet50") < names.index("resnet101") < names.index("resnet1001")


def test_prices_and_published_errors(repro: Command) -> None:
    output = repro("list", "models", "resne?t50*")[1]
    rows = {line.split()[0]: line.split() for line in output.splitlines() if line.startswith("  ")}
    assert rows["resnext50_32x4d"] == ["resnext50_32x4d", "ours", "25.0", "4.23", "22.2", "ImageNet-1k", "¹"]
    assert "¹ ImageNet-1k val, 224 centre crop: Xie et al., CVPR 2017, Table 3.\n" in output
    (row,) = json.loads(repro("list", "models", "nf_resnet50", "--json")[1])
    assert (row["verified"], row["top1_error"], row["family"]) == (False, 24.2, "NF-ResNet")
    assert " 24.2  ImageNet-1k (unverified) ¹" in repro("list", "models", "nf_resnet50")[1]
    assert "—" in repro("list", "models", "plain20")[1]


def test_a_price_is_counted_once_and_kept(repro: Command, counted: list[str]) -> None:
    first = repro("list", "models", "resnet1*", "--json")[1]
    assert "resnet18" in counted
    assert repro("list", "models", "resnet1*", "--json")[1] == first
    assert len(counted) == len(set(counted)), "read from the cache the second time"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(InputError("no counting rule"), "no counting rule"), (RuntimeError("sizes\ndiffer"), "RuntimeError: sizes")],
    ids=["ours", "a library's"],
)
def test_a_model_without_a_price_says_why(
    error: Exception, reason: str, repro: Command, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def price(config: verb.Family, *_: int) -> Cost:
        if config.name == "resnet34":
            raise error
        return Cost(input=(3, 8, 8), params=10**6, macs=10**9, activations=10**6)

    monkeypatch.setattr("repro.cost.count.price", price)
    status, output, _ = repro("list", "models", "resnet[13][84]")
    assert status == 0
    rows = {line.split()[0]: line.split() for line in output.splitlines() if line.startswith("  ")}
    assert rows["resnet18"][2:4] == ["1.00", "1.00"]
    assert rows["resnet34"][2:4] == ["—", "—"]
    assert f"resnet34 cannot be priced: {reason}\n" in output
    (broken,) = json.loads(repro("list", "models", "resnet34", "--json")[1])
    assert (broken["macs"], broken["reason"]) == (None, reason)


def test_the_list_fits_100_columns(repro: Command, counted: list[str]) -> None:
    lines = repro("list", "models")[1].splitlines()
    table = lines[: lines.index("")]
    assert max(len(line.rstrip()) for line in table) <= 100


def test_with_known_prices_nothing_heavy_is_imported(repro: Command, counted: list[str]) -> None:
    repro("list", "models")
    before = len(counted)
    code = (
        "import sys; from repro.cli import main; status = main(['list', 'models', '--json']);"
        "heavy = {'torch', 'lightning', 'timm', 'hydra', 'omegaconf', 'matplotlib', 'scipy'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["name"]: row["params"] for row in rows} == dict.fromkeys(options("model"), 10**6)
    assert len(counted) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["models", "resnt50"], "unknown model 'resnt50'; did you mean 'resnet50'?"),
        (["models", "vgx*"], "unknown pattern of models 'vgx*'"),
        (["recipes", "he*"], "repro list recipes he*: only models take a pattern"),
        (["model"], "unknown kind 'model'; did you mean 'models'?"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_input_is_one_line_and_exit_status_2(words: list[str], message: str, repro: Command) -> None:
    status, output, error = repro("list", *words)
    assert (status, output, error.count("\n")) == (2, "", 1)
    assert message in error


@pytest.mark.parametrize(("kind", "group"), [("data", "data"), ("scales", "scale")])
def test_other_kinds_are_names(kind: str, group: str, repro: Command) -> None:
    assert repro("list", kind)[1].split() == options(group)
    assert json.loads(repro("list", kind, "--json")[1]) == options(group)
