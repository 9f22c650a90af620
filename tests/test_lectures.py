"""What lectures and papers print about cost: each difference has its reason, and each reason its difference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from repro.cost import lectures
from repro.cost.lectures import Cell, Claim, Figure, Table
from repro.report.lecture_page import lecture_page
from tests.conftest import Outcome


@pytest.fixture(scope="module")
def tables() -> list[Table]:
    return lectures.tables()


@pytest.fixture(scope="module")
def claims() -> list[Claim]:
    return lectures.claims()


def test_every_difference_has_a_reason_and_every_reason_a_difference(tables: list[Table], claims: list[Claim]) -> None:
    assert lectures.mistakes(tables, claims) == []


@pytest.mark.parametrize(
    ("reason", "printed", "found"),
    [(None, "13.6 G", 1), ("a misprint", "15.5 G", 1), (None, "15.5 G", 0), ("a misprint", "13.6 G", 0)],
    ids=["unexplained", "reason for nothing", "right", "explained"],
)
def test_a_missing_or_idle_reason_is_named(reason: str | None, printed: str, found: int) -> None:
    claim = Claim("VGG-16", "me", "flops", Cell(Figure.parse(printed), 15.476e9, reason), None)
    assert len(lectures.mistakes([], [claim])) == found


@pytest.mark.parametrize(
    ("text", "unit", "computed", "agrees"),
    [
        ("105", "M", 105.415e6, True),
        ("1,849", "M", 1849.688e6, True),  # truncated
        ("145", "M", 149.52e6, False),
        ("117 k", "", 117_600, True),
        ("34,857", "", 34_944, False),
        ("4.1", "M", 4.096e6, True),
        ("1.9 MiB", "", 1.877 * 2**20, True),
        ("48.6", "MiB", 51.68 * 2**20, False),
        ("0", "M", 0.42e6, True),
        ("0", "", 1, False),
    ],
)
def test_a_figure_agrees_when_it_is_rounded_or_truncated(text: str, unit: str, computed: float, agrees: bool) -> None:
    assert Figure.parse(text, unit).agrees(computed) == agrees


@pytest.mark.parametrize("text", ["", "many", "3 T", "1.2.3"])
def test_what_is_no_figure_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a figure"):
        Figure.parse(text)


def test_what_explains_a_printed_figure_gives_it(claims: list[Claim]) -> None:
    explained = [claim for claim in claims if claim.explained is not None]
    assert len(explained) >= 10
    for claim in explained:
        assert claim.explained is not None
        close = abs(claim.explained[1] - claim.cell.figure.value) / claim.cell.figure.value
        assert claim.cell.figure.agrees(claim.explained[1]) or close < 0.05, claim.what


MISPRINTS = {
    ("AlexNet, 64 filters in the first layer (227 × 227)", "conv4", "149.5"),
    ("AlexNet, 96 filters, ungrouped", "conv1", "34,944"),
    ("ZFNet", "pool2", "0.389"),
    ("ZFNet", "conv5", "4,719,104"),
    ("ZFNet", "fc6", "75,501,568"),
    ("VGG-16", "fc6", "102.8"),
    ("LeNet-5", "pool1", "4,704"),
}


def test_the_known_misprints_are_found(tables: list[Table]) -> None:
    found = {
        (table.title, label, cell.figure.write(cell.computed).removesuffix("0"))
        for table in tables
        for label, row in table.rows
        for cell in row
        if cell is not None and not cell.agrees
    }
    wanted = {(title, label, value.removesuffix("0")) for title, label, value in MISPRINTS}
    assert wanted <= found
    assert {label for title, label, _ in found - wanted} == {"fc6", "fc7", "fc8"}  # biases left out


def test_the_committed_page_is_what_is_counted(tables: list[Table], claims: list[Claim]) -> None:
    committed = Path(__file__).parents[1] / "reports" / "lecture_costs.md"
    assert committed.read_text(encoding="utf-8") == lecture_page(tables, claims), (
        "run: repro cost --compare --out reports"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare", "resnet50"], "--compare takes no model (found resnet50)"),
        (["--compare", "--format", "latex"], "--compare has no form latex; expected md or json"),
        (["--compare", "--out", "/proc/nowhere"], "--out /proc/nowhere: cannot be written"),
        (["resnet50", "--out", "there"], "--out goes with --compare only"),
        ([], "cost needs a MODEL"),
    ],
    ids=["model", "form", "folder", "out alone", "nothing"],
)
def test_wrong_words_are_one_line(words: list[str], message: str, repro: Callable[..., Outcome]) -> None:
    status, output, error = repro("cost", *words)
    assert (status, output, error.count("\n")) == (2, "", 1)
    assert message in error


def test_the_verb_writes_the_page_and_renews_the_index(tmp_path: Path, repro: Callable[..., Outcome]) -> None:
    assert repro("cost", "--compare", "--out", str(tmp_path))[0] == 0
    assert repro("cost", "--compare")[1] == (tmp_path / "lecture_costs.md").read_text(encoding="utf-8")
    assert "figures in 6 layer tables" in (tmp_path / "README.md").read_text(encoding="utf-8")
    tree = json.loads(repro("cost", "--compare", "--json")[1])
    assert {len(tree["tables"]), len(tree["claims"])} == {6, len(lectures.claims())}


def test_the_page_shows_both_numbers_and_why(tables: list[Table], claims: list[Claim]) -> None:
    page = lecture_page(tables, claims)
    assert "| conv4 | 169 | 885 | ~~145~~ **149.5** |" in page
    assert "- total flops: 118 + 2 + 13 + 347 + 1 = 481: two digits swapped." in page
    assert "| ResNet-50 | macs | 3.8 G |" in page
    assert "stride_place=1x1: 3.86 G" in page
