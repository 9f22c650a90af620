"""Equal cost: the closed form of a block against published integers, the search over real prices, `repro budget`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import ablation
from repro.cost import budget
from repro.cost.budget import (
    block_cost,
    checked,
    equal_cost_widths,
    exact_width,
    own_width,
    spread,
    width_step,
    with_groups,
)
from repro.cost.count import own_price
from repro.errors import InputError
from repro.models.presets import load_preset
from repro.models.residual_config import ResidualConfig
from repro.study import check_equal_cost, count_prices, plan
from tests.conftest import Outcome

torch.set_num_threads(1)

Command = Callable[..., Outcome]


def resnet(name: str = "resnet50", **axes: Any) -> ResidualConfig:
    return checked(load_preset(name, **axes))


WIDE = resnet(widths=(128, 256, 512, 1024))

# Xie et al. 2017: c of 9 G c^2 + 8 G C c = 17 C^2, for C = 64 and 128
EXACT = {
    1: ("64.000", "128.000"),
    2: ("39.948", "79.896"),
    4: ("23.932", "47.864"),
    8: ("13.701", "27.401"),
    16: ("7.509", "15.018"),
    32: ("3.973", "7.945"),
    64: ("2.051", "4.102"),
    128: ("1.043", "2.087"),
}


@pytest.mark.parametrize("groups", EXACT)
def test_exact_width(groups: int) -> None:
    assert tuple(f"{exact_width(config, groups):.3f}" for config in (resnet(), WIDE)) == EXACT[groups]


# groups: whole width per group, its block against 17 C^2 (%), weights of the block of 256 channels
BLOCKS = {
    1: (64, "+0.00", 69_632),
    2: (40, "+0.18", 69_760),
    4: (24, "+0.37", 69_888),
    8: (14, "+2.62", 71_456),
    16: (8, "+7.35", 74_752),
    32: (4, "+0.74", 70_144),
    64: (2, "-2.57", 67_840),
}


@pytest.mark.parametrize("groups", BLOCKS)
def test_one_block(groups: int) -> None:
    width, difference, weights = BLOCKS[groups]
    cost = block_cost(resnet(), groups, width)
    assert cost == weights
    assert f"{100 * (cost / (17 * 64**2) - 1):+.2f}" == difference
    assert all(abs(block_cost(resnet(), groups, near) - 69_632) > abs(cost - 69_632) for near in (width - 1, width + 1))


# Xie et al. 2017, Table 3: what the rows cost, counted. 16x8d and 64x2d are not in the paper
NETWORKS = {
    "1x64d": ("4.089", "25.56", "7.801", "44.55"),
    "2x40d": ("4.125", "25.43", "7.844", "44.46"),
    "4x24d": ("4.160", "25.29", "7.886", "44.36"),
    "8x14d": ("4.267", "25.60", "8.077", "45.10"),
    "32x4d": ("4.230", "25.03", "7.970", "44.18"),
    "16x8d": ("4.462", "26.44", "8.447", "46.85"),
    "64x2d": ("4.115", "24.32", "7.732", "42.84"),
}
PAPERS = ("1x64d", "2x40d", "4x24d", "8x14d", "32x4d")


def pair(name: str) -> tuple[int, int]:
    groups, width = name.removesuffix("d").split("x")
    return int(groups), int(width)


@pytest.mark.parametrize("row", NETWORKS)
def test_whole_networks(row: str) -> None:
    costs = [own_price(with_groups(resnet(name), *pair(row))) for name in ("resnet50", "resnet101")]
    assert (
        tuple(text for cost in costs for text in (f"{cost.macs / 1e9:.3f}", f"{cost.params / 1e6:.2f}"))
        == (NETWORKS[row])
    )


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
@pytest.mark.parametrize("of", ["macs", "params"])
def test_the_papers_widths_are_found_or_bettered(name: str, of: budget.Quantity) -> None:
    config = resnet(name)
    total = getattr(own_price(config), of)
    rows = equal_cost_widths(config, [pair(row)[0] for row in PAPERS], of)
    assert [f"{row.groups}x{row.block}d" for row in rows] == list(PAPERS)
    for row, printed in zip(rows, PAPERS, strict=True):
        published = getattr(own_price(with_groups(config, *pair(printed))), of) / total - 1
        assert abs(getattr(row, of)) <= abs(published)
    assert abs(rows[0].macs) == abs(rows[0].params) == 0


def test_a_narrower_eighth_row_is_nearer_than_the_papers() -> None:
    (row,) = equal_cost_widths(resnet(), [8])
    assert (row.name, f"{row.macs:+.2%}", f"{row.params:+.2%}") == ("8x13d", "-3.41%", "-6.74%")
    assert equal_cost_widths(resnet(), [8], "params")[0].name == "8x14d"


@settings(deadline=None)
@given(
    groups=st.integers(1, 200),
    own=st.sampled_from([1, 2, 4]),
    width=st.integers(1, 64),
    expansion=st.integers(1, 8),
    middle=st.integers(1, 3),
)
def test_the_exact_width_keeps_the_cost_of_a_block(
    groups: int, own: int, width: int, expansion: int, middle: int
) -> None:
    config = resnet(groups=own, width_per_group=width, expansion=expansion, middle=middle)
    kept = block_cost(config, groups, exact_width(config, groups))
    assert kept == pytest.approx(block_cost(config, *own_width(config)), rel=1e-9)
    assert exact_width(config, own) == pytest.approx(width)


TINY = {"stem": "cifar", "stem_width": 8, "depths": (1, 1), "native": {"size": 8, "classes": 10}}


@settings(deadline=None, max_examples=25)
@given(
    widths=st.sampled_from([(16, 32), (12, 18), (32, 64), (24, 56)]),
    groups=st.integers(1, 24),
    of=st.sampled_from(["macs", "params"]),
    squeezed=st.booleans(),
    order=st.sampled_from(["post", "pre"]),
)
def test_no_neighbour_is_nearer_and_cost_grows_with_width(
    widths: tuple[int, int], groups: int, of: budget.Quantity, squeezed: bool, order: str
) -> None:
    se = {"reduction": 4, "position": "3x3"} if squeezed else {}
    config = resnet(widths=widths, order=order, se=se, **TINY)
    total, step = getattr(own_price(config), of), width_step(config)
    (row,) = equal_cost_widths(config, [groups], of)
    tried = [width for width in (row.width - step, row.width, row.width + step) if width > 0]
    costs = [getattr(own_price(with_groups(config, groups, width)), of) for width in tried]
    assert costs == sorted(set(costs))
    assert abs(getattr(row.cost, of) - total) == min(abs(cost - total) for cost in costs)
    assert getattr(row, of) == pytest.approx(getattr(row.cost, of) / total - 1)


@pytest.mark.parametrize(
    ("widths", "step"), [((64, 128, 256, 512), 1), ((24, 56, 152, 368), 3), ((24, 36), 2), ((16, 24, 20), 4)], ids=str
)
def test_widths_are_whole_numbers_in_every_stage(widths: tuple[int, ...], step: int) -> None:
    axes = {"widths": widths, "depths": (1,) * len(widths)}
    config = resnet(**axes)
    assert width_step(config) == step
    for width in range(1, 2 * step + 1):
        if width % step:
            with pytest.raises(InputError, match="which is no multiple of the groups"):
                resnet(**axes, groups=4, width_per_group=width)
        else:
            assert resnet(**axes, groups=4, width_per_group=width) == with_groups(config, 4, width)
    assert all(row.width % step == 0 for row in equal_cost_widths(config, [1, 3, 8], size=64))


def test_few_networks_are_priced(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = budget.own_price
    monkeypatch.setattr(budget, "own_price", lambda *args: asked.append(args) or real(*args))
    equal_cost_widths(resnet(), [1, 2, 4, 8, 16, 32])
    assert len(asked) <= 1 + 6 * 3


def test_the_reference_may_be_grouped() -> None:
    rows = equal_cost_widths(resnet("resnext50_32x4d"), [1, 32])
    assert [row.name for row in rows] == ["1x66d", "32x4d"]
    assert rows[1].macs == rows[1].params == 0
    assert spread(rows, "macs") == pytest.approx(abs(rows[0].macs))


LAPTOP = ["widths=[16,32,64]", "depths=[1,1,1]", "stem=cifar", "stem_width=16", "--input", "16"]


def test_a_coarse_granularity_is_warned_of(repro: Command) -> None:
    status, output, error = repro("budget", "resnet50", "groups=[1,2,4,64]", *LAPTOP)
    assert status == 0
    rows = {line.split()[0]: line.split() for line in output.splitlines()[1:5]}
    assert list(rows) == ["1x16d", "2x10d", "4x6d", "64x1d"]
    assert error.startswith("repro: not of equal cost (more than 5% of the reference's MACs): 64x1d +")
    assert rows["64x1d"][5] in error
    assert "1x16d" not in error
    assert "whole numbers" in error


def test_the_table(repro: Command) -> None:
    status, output, error = repro("budget", "resnet50", "groups=[1,2,32]")
    assert (status, error) == (0, "")
    assert output.splitlines()[3].split() == ["32x4d", "32", "3.973", "32x4d", "4.230", "+3.46", "25.03", "−2.07"]
    assert "Reference: resnet50 at 1x64d, 4.09 GMACs on 3 × 224 × 224, 25.6 M parameters" in output
    assert "Spread over the rows: MACs 3.5 %, parameters 2.1 % of the reference." in output


def test_formats(repro: Command) -> None:
    words = ("budget", "resnet50", "groups=[2,4]")
    tree = json.loads(repro(*words, "--json")[1])
    assert json.loads(repro(*words, "--format", "json")[1]) == tree
    assert (tree["reference"]["name"], tree["reference"]["macs"], tree["of"]) == ("1x64d", 4_089_184_256, "macs")
    assert [(row["name"], row["groups"], row["width_per_group"]) for row in tree["rows"]] == [
        ("2x40d", 2, 40), ("4x24d", 4, 24),
    ]  # fmt: skip
    lines = list(csv.DictReader(io.StringIO(repro(*words, "--format", "csv")[1])))
    assert [{key: str(value) for key, value in row.items()} for row in tree["rows"]] == lines
    latex = repro(*words, "--format", "latex")[1]
    assert latex.partition("\n")[2].startswith("\\begin{tabular}{lrrrrrrr}\n\\toprule\nvariant & groups & ")
    assert "2x40d & 2 & 39.948 & 2x40d & 4.125 & +0.86 & 25.43 & $-$0.52 \\\\" in latex
    markdown = repro(*words, "--format", "md")[1].splitlines()
    assert markdown[1] == "| :-- | " + " | ".join(["--:"] * 7) + " |"
    assert markdown[2].startswith("| 2x40d | 2 | 39.948 | 2x40d | 4.125 |")


HEAD = """\
title: Mine
paper: {key: me, title: Mine, authors: Me, venue: Draft, arxiv: "0000.00000", table: Table 1}
claim: More groups are better.
metric: {name: top1_error, unit: "%", better: lower, protocol: shapes, decimals: 1}
"""
SCALES = "scales:\n  laptop: {set: [data=shapes, data.size=32], note: shapes}\n"


@pytest.mark.parametrize("of", ["macs", "params"])
@pytest.mark.parametrize("groups", ["[1,2,4,8]", "[2,4]"], ids=["reference listed", "reference added"])
def test_the_fragment_is_a_table_of_equal_cost(groups: str, of: str, repro: Command, tmp_path: Path) -> None:
    axes = ["widths=[32,64]", "depths=[2,2]", "model.stem_width=32"]
    status, text, _ = repro(
        "budget", "resnet50", f"groups={groups}", *axes, "--of", of, "--input", "32", "--format", "yaml"
    )
    assert status == 0
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + text + SCALES, encoding="utf-8")
    spec = ablation.load(str(path))
    assert spec.reference == "1x32d"
    assert next(iter(spec.variants)) == "1x32d"
    assert yaml.safe_load(text)["equal_cost"] == {of: 0.05}
    study = plan(spec, "laptop", [0])
    check_equal_cost(study, count_prices(study.configs))
    assert study.configs["4x12d"].model == resnet(
        widths=(32, 64), depths=(2, 2), stem_width=32, groups=4, width_per_group=12
    )


WRONG = {
    "no groups": (["resnet50"], "budget needs the numbers of groups, for example groups=[1,2,4,8,16,32]"),
    "no list": (["resnet50", "groups=1,2"], "groups is '1,2'; expected a list of whole numbers"),
    "no value": (["resnet50", "groups=["], "'[' is not a value"),
    "empty": (["resnet50", "groups=[]"], "groups is empty; expected whole numbers"),
    "zero": (["resnet50", "groups=[1,0]"], "groups has 0; expected whole numbers from 1 on"),
    "fraction": (["resnet50", "groups=[1.5]"], "groups has 1.5; expected whole numbers"),
    "truth": (["resnet50", "groups=[true]"], "groups has True; expected whole numbers"),
    "word": (["resnet50", "groups=[two]"], "groups has 'two'; expected whole numbers"),
    "twice": (["resnet50", "groups=[1,2,1]"], "groups names 1 twice"),
    "given twice": (["resnet50", "groups=[1]", "model.groups=[2]"], "groups is given twice"),
    "far too many": (["resnet50", "groups=[1,100000]"], "even 100000x1d, the narrowest, has blocks of 748 times"),
    "basic block": (["resnet18", "groups=[1,2]"], "resnet18 has block=basic, and a block of fewer than three layers"),
    "another family": (["timm/resnet50", "groups=[1,2]"], "timm/resnet50 is of the family 'library', which has no gro"),
    "group width": (["resnet50", "group_width=8", "groups=[1]"], "has group_width=8, from which its groups follow"),
    "unknown model": (["resnt50", "groups=[1]"], "unknown model 'resnt50'; did you mean 'resnet50'?"),
    "unknown axis": (["resnet50", "groups=[1]", "widht=3"], "did you mean 'widths'?"),
    "no axis": (["resnet50", "groups=[1]", "wide"], "'wide' is not of the form KEY=VALUE"),
    "no size": (["resnet50", "groups=[1]", "--input", "0"], "--input 0: expected a whole number of pixels"),
    "no quantity": (["resnet50", "groups=[1]", "--of", "flops"], "invalid choice: 'flops'"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_and_exit_status_2(words: list[str], message: str, repro: Command) -> None:
    status, output, error = repro("budget", *words)
    assert (status, output, error.count("\n")) == (2, "", 1)
    assert message in error
