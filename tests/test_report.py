"""The page of a study as data and as JSON: what enters a mean, a contrast, a verdict, and what is only shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from repro.ablation import Ablation
from repro.errors import InputError
from repro.report import build_page, to_json, to_markdown
from repro.results import Timing
from tests.report_study import (
    COST,
    FULL,
    LADDER,
    NAN,
    ONE_REFERENCE,
    OUT_OF_MEMORY,
    finished,
    page_of,
    read,
    result,
    row_of,
    stopped,
)


@pytest.fixture
def ablation(tmp_path: Path) -> Ablation:
    return read(tmp_path, ONE_REFERENCE)


def test_row_holds_means_contrasts_and_verdicts(ablation: Ablation) -> None:
    row = row_of(page_of(ablation, FULL), "pre110")
    assert (row.n, row.values) == (3, {0: 2.9, 1: 3.6, 2: 5.0})
    assert (row.mean, row.best_mean) == (pytest.approx(11.5 / 3), pytest.approx(11.5 / 3 - 0.5))
    assert row.train_mean == pytest.approx(11.5 / 3 - 2)
    assert row.published_contrast == pytest.approx(-0.24)
    assert row.contrast is not None
    assert row.contrast.mean == pytest.approx(-6.5 / 3)
    assert row.verdict is not None
    assert row.verdict.word == "effect reproduced"


def test_reference_has_no_verdict(ablation: Ablation) -> None:
    row = row_of(page_of(ablation, FULL), "post110")
    assert row.is_reference
    assert (row.contrast, row.verdict) == (None, None)


def test_rows_follow_the_published_table_and_the_scale(ablation: Ablation) -> None:
    assert [row.variant for row in page_of(ablation, FULL).rows] == list(ablation.variants)
    page = page_of(ablation, FULL, "cifar")
    assert [row.variant for row in page.rows] == ["post110", "pre110"]
    assert page.not_run == ("relu_pre", "bn|after", "plain")


def test_unverified_value_decides_nothing(ablation: Ablation) -> None:
    row = row_of(page_of(ablation, FULL), "relu_pre")
    assert row.contrast is not None
    assert row.contrast.high is not None
    assert row.contrast.high < 0, "the reproduced effect is clear, so only the publication is missing"
    assert row.published_contrast is None
    assert row.verdict is not None
    assert (row.verdict.word, row.verdict.reason) == (None, "no published contrast")
    assert page_of(ablation, FULL).rank is not None
    assert page_of(ablation, FULL).rank.n == 3, "and it has no place in the ranking"  # type: ignore[union-attr]


def test_published_direction_decides_without_a_number(ablation: Ablation) -> None:
    verdict = row_of(page_of(ablation, FULL), "plain").verdict
    assert verdict is not None
    assert verdict.word == "effect reproduced"


def test_accuracy_is_what_is_left_of_the_recorded_error(tmp_path: Path) -> None:
    results = finished(base=[40.0, 38.0, 42.0], cosine=[30.0, 29.0, 33.0], longer=[29.5, 27.0, 32.0])
    page = page_of(read(tmp_path, LADDER), results)
    base, cosine, longer = page.rows
    assert base.values == {0: 60.0, 1: 62.0, 2: 58.0}
    assert (base.mean, base.train_mean, base.best_mean) == (60.0, 62.0, 60.5)
    assert cosine.contrast is not None
    assert cosine.contrast.mean == pytest.approx(28 / 3)
    assert [row.verdict.word for row in (cosine, longer) if row.verdict] == ["effect reproduced", "inconclusive"]
    tree = to_json(page)
    assert (tree["metric"]["better"], tree["rows"][1]["mean"]) == ("higher", pytest.approx(208 / 3))


def test_a_diverged_row_is_judged_as_worse_than_any_value(ablation: Ablation) -> None:
    """Five seeds of five against none of five: Fisher's exact p is 2 / 252."""
    names = {"post110": 6.0, "plain": None}
    results = {
        name: {s: stopped(name, s, "diverged", NAN) if error is None else result(name, s, error) for s in range(5)}
        for name, error in names.items()
    }
    page = page_of(ablation, results)
    row = row_of(page, "plain")
    assert (row.mean, row.contrast, row.n) == (None, None, 0)
    assert row.verdict is not None
    assert row.verdict.word == "effect reproduced"
    assert row.verdict.reason.startswith(
        "5 of 5 seeds diverged, 0 of 5 of the reference: Fisher's exact test (p = 0.0079)"
    )
    assert page.summary == "effect reproduced in 1 of 3 contrasts, 2 inconclusive"
    tree = json.loads(json.dumps(to_json(page), allow_nan=False))["rows"][-1]
    assert tree["statuses"] == {"finished": 0, "diverged": 5, "failed": 0, "missing": 0}
    assert (tree["mean"], tree["contrast"], tree["interval"], tree["verdict"]) == (
        None,
        None,
        None,
        "effect reproduced",
    )


def test_only_finished_runs_enter_means(ablation: Ablation) -> None:
    diverged, failed = stopped("pre110", 1, "diverged", NAN), stopped("pre110", 2, "failed", OUT_OF_MEMORY)
    results = {**FULL, "pre110": {0: FULL["pre110"][0], 1: diverged, 2: failed}}
    row = row_of(page_of(ablation, results), "pre110")
    assert (row.mean, row.std, row.n) == (2.9, None, 1)
    assert row.counts == {"finished": 1, "diverged": 1, "failed": 1, "missing": 0}
    assert row.contrast is not None
    assert row.contrast.n == 1
    assert row.verdict is not None
    assert (row.verdict.word, row.verdict.seeds_needed) == ("inconclusive", 10)
    assert row.verdict.reason.startswith("1 of 2 seeds diverged, 0 of 3 of the reference (Fisher's exact p = 0.4)")


@pytest.mark.parametrize("value", [{}, {"test_top1_error": float("nan")}], ids=["absent", "not a number"])
def test_finished_without_a_value_is_shown_as_failed(ablation: Ablation, value: dict[str, float]) -> None:
    results = {**FULL, "pre110": {seed: result("pre110", seed, 1.0, last=value) for seed in range(3)}}
    page = page_of(ablation, results)
    assert row_of(page, "pre110").counts["failed"] == 3
    assert "the result has no finite test_top1_error" in to_markdown(page).replace("\\", "")


def test_seeds_of_one_row_are_missing_in_the_others(ablation: Ablation) -> None:
    page = page_of(ablation, {**FULL, "plain": {7: result("plain", 7, 60.0)}})
    assert page.seeds == (0, 1, 2, 7)
    assert row_of(page, "pre110").counts["missing"] == 1
    assert row_of(page, "plain").counts["missing"] == 3
    assert row_of(page, "plain").contrast is None


def test_given_price_goes_before_the_recorded_one(ablation: Ablation) -> None:
    cheap = COST.model_copy(update={"macs": 1})
    page = build_page(ablation, "laptop", FULL, {"pre110": cheap}, "")
    assert (row_of(page, "pre110").cost, row_of(page, "post110").cost) == (cheap, COST)


def test_unknown_scale_is_a_mistake_with_the_nearest_name(ablation: Ablation) -> None:
    with pytest.raises(InputError, match="did you mean 'laptop'"):
        page_of(ablation, FULL, "latop")


def test_json_is_strict_and_complete(ablation: Ablation) -> None:
    bad = Timing(setup=1, train=0, evaluate=1, total=float("nan"), images_per_second=float("inf"), steps=9)
    results = {**FULL, "plain": {0: result("plain", 0, 60.0, timing=bad), 1: None}}
    tree = json.loads(json.dumps(to_json(page_of(ablation, results)), allow_nan=False))
    assert {"ablation", "scale", "metric", "rows"} <= tree.keys()
    assert (tree["ablation"], tree["scale"], tree["metric"]["name"]) == ("preactivation", "laptop", "top1_error")
    rows = {row["variant"]: row for row in tree["rows"]}
    assert all(row.keys() == rows["post110"].keys() for row in tree["rows"])
    row = rows["pre110"]
    assert (row["published"], row["published_contrast"]) == (6.37, pytest.approx(-0.24))
    assert (row["n"], row["values"]) == (3, {"0": 2.9, "1": 3.6, "2": 5.0})
    assert (row["contrast"], row["verdict"]) == (pytest.approx(-6.5 / 3), "effect reproduced")
    assert row["interval"] == [pytest.approx(-2.684, abs=1e-3), pytest.approx(-1.650, abs=1e-3)]
    assert (row["params"], row["macs"], row["images_per_second"]) == (1_730_000, 15_800_000, 6600)
    assert (rows["plain"]["interval"], rows["plain"]["std"], rows["plain"]["images_per_second"]) == (None, None, None)
    assert rows["plain"]["statuses"] == {"finished": 1, "diverged": 0, "failed": 0, "missing": 2}
    assert rows["bn|after"]["seeds_needed"] == 25


def test_json_of_no_result(ablation: Ablation) -> None:
    tree = json.loads(json.dumps(to_json(page_of(ablation, {})), allow_nan=False))
    assert tree["rank_agreement"] is None
    assert [row["mean"] for row in tree["rows"]] == [None] * 5


def test_report_imports_neither_torch_nor_what_draws() -> None:
    code = "import sys, repro.report; print(sorted({'torch', 'matplotlib', 'scipy', 'jinja2'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_report_of_a_page_never_imports_torch(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(ONE_REFERENCE)
    code = """
import sys
from pathlib import Path
from repro.ablation import load
from repro.report import build_page, draw, to_json, to_markdown
page = build_page(load(sys.argv[1]), "laptop", {}, {}, "")
to_json(page), to_markdown(page), draw(page, {}, Path(sys.argv[1]).with_suffix(".png"))
print("torch" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "x.yaml")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"
