"""`repro cost`: what is printed, in every format, and one line for every mistake."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from repro.cost.count import own_price
from repro.models.presets import load_preset
from repro.report import cost_table
from repro.report.sheet import Sheet, to_csv, to_latex, to_markdown
from repro.results import Cost, Result

torch.set_num_threads(1)

Command = Callable[..., tuple[int, str, str]]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_totals_name_their_conventions(repro: Command) -> None:
    status, output, _ = repro("cost", "lenet5", "--batch", "2", "--optimizer", "adamw")
    assert status == 0
    found = {name.strip(): value for name, value in re.findall(r"^(\S.*?) {2,}([\d,]+|none)", output, re.MULTILINE)}
    assert found["MACs"] == "416,520"
    assert found["FLOPs = 2 × MACs"] == "833,040"
    assert found["MACs of a training step = 3 × forward"] == "1,249,560"
    assert found["pooling operations"] == "6,304"
    assert found["elementwise operations"] == "6,508"
    assert found["operators not counted"] == "none"
    assert found["gradients"] == "246,824"
    assert found["state of the optimiser (adamw)"] == f"{2 * 246_824 + 40:,}"
    assert "layer" not in output.partition("\n")[0]


def test_layers_as_a_github_table(repro: Command) -> None:
    lines = repro("cost", "resnet20", "--layers", "--format", "md")[1].splitlines()
    head, rule, first = lines[:3]
    assert len(cells(head)) == len(cells(rule)) == len(cells(first)) == 15
    assert cells(first) == [
        *("stem.conv", "conv", "3", "32", "16", "3", "1", "1", "1", "16", "32"),
        *("64.00", "0.432", "0.442", ""),
    ]
    body = [cells(line) for line in lines[2 : lines.index("")]]
    total = body.pop()
    assert body[-1][:2] == ["normalisation (19)", "norm"]
    assert (total[0], total[12:]) == ("total", ["269.722", "40.551", "0.004"])
    for column in (12, 13):
        assert sum(float(row[column].replace(",", "") or 0) for row in body) == pytest.approx(
            float(total[column]), abs=0.02
        )


def test_every_normalisation_has_a_row_of_its_own_on_request(repro: Command) -> None:
    lines = repro("cost", "resnet20", "--all", "--format", "md")[1].splitlines()
    assert sum("| norm |" in line for line in lines) == 19
    assert not any("normalisation (" in line for line in lines)


def test_csv_is_plain_numbers(repro: Command) -> None:
    rows = list(
        csv.DictReader(io.StringIO(repro("cost", "nf_resnet50", "--input", "64", "--layers", "--format", "csv")[1]))
    )
    tree = json.loads(repro("cost", "nf_resnet50", "--input", "64", "--json")[1])
    for what in ("params", "macs", "pooling", "activations"):
        assert sum(int(row[what]) for row in rows) == tree[what]
    gain = next(row for row in rows if row["name"].endswith("scale.gain"))
    assert (gain["kind"], gain["params"], gain["input_c"], gain["kernel_h"]) == ("other", "1", "", "")
    (totals,) = csv.DictReader(io.StringIO(repro("cost", "nf_resnet50", "--input", "64", "--format", "csv")[1]))
    assert (totals["model"], int(totals["macs"]), int(totals["memory_total"])) == (
        "nf_resnet50",
        tree["macs"],
        tree["memory"]["total"],
    )


def test_json_has_everything(repro: Command) -> None:
    tree = json.loads(repro("cost", "seresnet50", "se.reduction=8", "--json")[1])
    assert tree == json.loads(repro("cost", "seresnet50", "model.se.reduction=8", "--format", "json")[1])
    assert f"{tree['params'] / 1e6:.2f} {tree['macs'] / 1e9:.4f}" == "30.60 4.0942"
    assert (tree["flops"], tree["training_macs"]) == (2 * tree["macs"], 3 * tree["macs"])
    assert (tree["uncounted"], tree["memory"]["batch"]) == ([], 32)
    assert tree["memory"]["parameters"] == 4 * tree["params"] == 4 * sum(row["params"] for row in tree["layers"])


@pytest.mark.parametrize("extra", [[], ["--layers"], ["--all"]], ids=["totals", "layers", "all"])
def test_latex_is_balanced_and_escaped(repro: Command, extra: list[str]) -> None:
    text = repro("cost", "shufflenet_v2_x0_5", "--format", "latex", *extra)[1]
    tabulars = re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tabulars) == (3 if extra else 2)
    for columns, body in tabulars:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {len(columns) - 1}
        assert not re.search(r"(?<!\\)[_%#]", body)
        assert body.isascii()
        rules = [line for line in body.splitlines() if re.fullmatch(r"\\\w+rule", line)]
        assert (rules[0], rules[1], rules[-1]) == (r"\toprule", r"\midrule", r"\bottomrule")


def test_special_characters() -> None:
    odd = Sheet(("a_b", "50 %"), (("x|y", "2 × 3"),), totals=("t", "~"), left=2)
    assert to_markdown(odd).splitlines()[2] == "| x\\|y | 2 × 3 |"
    assert to_latex(odd).splitlines()[3:6] == [r"a\_b & 50 \% \\", r"\midrule", r"x|y & 2 $\times$ 3 \\"]
    assert to_csv([{"a": 1234567, "b": None, "c": "x,y"}]) == 'a,b,c\n1234567,,"x,y"\n'


def test_operators_that_were_not_counted_are_shown() -> None:
    cost = Cost(input=(3, 8, 8), params=1, macs=2, activations=3, uncounted=("cumprod × 1", "sort × 2"))
    assert cost_table.total_table(cost).rows[-1] == ("operators not counted", "cumprod × 1, sort × 2", "")


def test_a_librarys_network_is_priced_at_its_own_size(repro: Command) -> None:
    assert json.loads(repro("cost", "timm/tf_efficientnet_b1", "--json")[1])["input"] == [3, 240, 240]
    assert json.loads(repro("cost", "torchvision/resnet18", "--input", "64", "--json")[1])["input"] == [3, 64, 64]


MISTAKES = {
    "format": (["lenet5", "--format", "pdf"], "unknown format 'pdf'"),
    "near format": (["lenet5", "--format", "latx"], "did you mean 'latex'?"),
    "no images": (["lenet5", "--batch", "0"], "--batch 0: expected a whole number of images"),
    "half a batch": (["lenet5", "--batch", "1.5"], "--batch 1.5: expected a whole number of images"),
    "no pixels": (["lenet5", "--input", "0"], "--input 0: expected a whole number of pixels"),
    "optimiser": (["lenet5", "--optimizer", "adam"], "did you mean 'adamw'?"),
    "word": (["resnet50", "groups"], "'groups' is not of the form KEY=VALUE"),
    "no key": (["resnet50", "=3"], "'=3' is not of the form KEY=VALUE"),
    "no part": (["resnet50", "se.=3"], "'se.=3' is not of the form KEY=VALUE"),
    "part of a number": (["resnet50", "se=3", "se.gate=relu"], "se was given a value before"),
    "unknown part": (["resnet50", "se.gatee=relu"], "did you mean 'gate'?"),
    "too small": (["torchvision/densenet121", "--input", "8"], "cannot take an image of 3 × 8 × 8"),
    "not a multiple": (["vit_ti_16", "--input", "100"], "cannot take an image of 3 × 100 × 100"),
    "unknown architecture": (["timm/resnet5o"], "unknown architecture of timm 'resnet5o'"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(repro: Command, words: list[str], message: str) -> None:
    status, output, error = repro("cost", *words)
    assert (status, output) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_prices_of_presets_come_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    presets = [load_preset(name) for name in ("lenet5", "resnet20")]
    first = [own_price(preset) for preset in presets]
    monkeypatch.setattr("repro.cost.count.price", lambda *_: pytest.fail("counted again"))
    assert [own_price(preset) for preset in presets] == first


def test_a_record_of_before_has_a_cost_without_the_new_counts() -> None:
    old = '{"input": [3, 8, 8], "params": 1, "macs": 2, "activations": 3}'
    assert Cost.model_validate_json(old) == Cost(input=(3, 8, 8), params=1, macs=2, activations=3)
    assert Result.model_fields["cost"].default is None


def test_a_chain_of_another_native_size_is_another_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is flattened, and so the first linear layer, follows from it."""
    from repro.cost.count import cached_price
    from repro.models.presets import load_preset

    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    small, large = (load_preset("lenet5", native={"size": size}) for size in (32, 40))
    assert cached_price(small, 40, 1, 10).params < cached_price(large, 40, 1, 10).params
