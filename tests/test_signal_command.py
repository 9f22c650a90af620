"""`repro signal`: tables, figures, and what it says of wrong words."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Outcome

torch.set_num_threads(1)

Command = Callable[..., Outcome]
FEW = ("depths=[2,1]", "widths=[4,8]", "stem_width=4", "--seeds", "2", "--batch", "4", "--input", "16")


def test_command_prints_a_table(repro: Command) -> None:
    status, output, _ = repro("signal", "preresnet20", *FEW)
    assert status == 0
    lines = output.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert rows[0] == ["unit", "squared mean", "variance", "expected", "branch variance", "expected"]
    assert [row[0] for row in rows[2:]] == ["1.1", "1.2", "2.1"]
    assert all("±" in row[2] for row in rows[2:])
    assert len({len(line) for line in lines if line.startswith("|")}) == 1, "aligned"
    assert "measured on 4 images of N(0, 1) noise, 3 × 16 × 16, 2 seeds (native 32: --input 32)" in output
    assert "approximation here: padding=zeros loses variance at the borders" in output


def test_command_as_json_and_csv(repro: Command) -> None:
    tree = json.loads(repro("signal", "preresnet20", *FEW, "--json")[1])
    assert (tree["input"], tree["batch"], tree["seeds"]) == ([3, 16, 16], 4, [0, 1])
    assert tree == json.loads(repro("signal", "preresnet20", *FEW, "--format", "json")[1])
    _, output, notes = repro("signal", "preresnet20", *FEW, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(output)))
    assert [float(row["variance"]) for row in rows] == [unit["variance"] for unit in tree["units"]]
    assert list(rows[0]) == list(tree["units"][0])
    assert "measured on 4 images" in notes


def test_command_says_that_skip_init_is_set_aside(repro: Command) -> None:
    axes = ("norm=none", "weight_standardization=true", "gamma=true", "beta=true", "alpha=0.2", "skip_init=true")
    exact = ("shortcut=B", "padding=circular", "model.stem=cifar")
    _, output, _ = repro("signal", "preresnet20", *axes, *exact, *FEW)
    assert "SkipInit gains set to 1; at their initial 0 every branch is silent" in output
    assert "expected: the recursion of an infinitely wide network" in output
    assert [line.split("|")[4].strip() for line in output.splitlines() if line.startswith("| 1.")] == ["1.040", "1.080"]


def test_command_json_is_strict(repro: Command) -> None:
    status, output, _ = repro("signal", "resnet20", *FEW, "norm=none", "alpha=1e+20", "--json")
    assert status == 0

    def refuse(word: str) -> None:
        raise AssertionError(word)

    units = json.loads(output, parse_constant=refuse)["units"]
    assert units[-1]["variance"] is None
    assert units[0]["expected_variance"] is None


@pytest.mark.parametrize("suffix", [".png", ".svg", ".PDF"])
def test_command_writes_the_figure(repro: Command, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"figure{suffix}"
    status, output, _ = repro("signal", "resnet20", *FEW, "--out", str(path))
    assert status == 0
    assert output.splitlines()[-1] == str(path)
    assert path.stat().st_size > 5_000
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["preresnett50"], "unknown model 'preresnett50'; did you mean 'preresnet50'?"),
        (["resnet20", "alfa=1"], "model resnet20: unknown key 'alfa'; did you mean 'alpha'?"),
        (["resnet20", "alpha"], "'alpha' is not of the form KEY=VALUE"),
        (["resnet20", "alpha=[1"], "'alpha=[1': '[1' is not a value"),
        (["resnet20", "se=1", "se.gain=2"], "'se.gain=2': se was given a value before"),
        (["resnet20", "--seeds", "0"], "--seeds='0': expected how many"),
        (["resnet20", "--batch", "-1"], "--batch -1: expected a whole number of images from 1 on"),
        (["resnet20", "--input", "2.5"], "--input 2.5: expected a whole number of pixels from 1 on"),
        (["resnet20", "--out", "figure.jpg"], "--out figure.jpg: expected a file that ends in .png, .svg, .pdf"),
        (["resnet20", "--out", "."], "--out .: expected a file that ends in"),
        (["resnet20", "--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["resnet20", "--batch", "1", "--input", "1"], "1 images of 3 × 1 × 1 do not pass (Expected more than 1 value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line(repro: Command, arguments: list[str], message: str) -> None:
    status, output, error = repro("signal", *arguments)
    assert (status, output) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_unwritable_figures_are_refused(repro: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    status, output, error = repro("signal", "resnet20", *FEW, "--out", str(tmp_path / "file" / "figure.png"))
    assert (status, output) == (2, ""), "before anything is measured"
    assert "the folder cannot be made" in error
    (tmp_path / "folder.png").mkdir()
    status, _, error = repro("signal", "resnet20", *FEW, "--out", str(tmp_path / "folder.png"))
    assert status == 2
    assert "that is a folder" in error


def test_a_figure_that_fails_late_loses_neither_table_nor_older_figure(
    repro: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "figure.svg"
    path.write_text("older")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("repro.results.os.replace", full)
    status, output, error = repro("signal", "resnet20", *FEW, "--out", str(path))
    assert status == 2
    assert "| 2.1 " in output
    assert error == f"repro: --out {path}: the figure cannot be written (No space left on device)\n"
    assert path.read_text() == "older"
    assert [item.name for item in tmp_path.iterdir() if item.is_file()] == ["figure.svg"]
