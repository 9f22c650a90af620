"""The page of a study as Markdown: its sentences, its table, and rows of diverged, failed and missing runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from repro.ablation import Ablation
from repro.report import build_page, to_markdown
from repro.report.format import contrast_text, escape, label, number, seconds, shorten, three_digits, unit_of
from repro.results import Result, Timing
from repro.stats import Contrast
from tests.report_study import (
    COST,
    DATA,
    ENVIRONMENT,
    FULL,
    LADDER,
    NAN,
    ONE_REFERENCE,
    OUT_OF_MEMORY,
    TWO_REFERENCES,
    cell,
    cells_of,
    finished,
    page_of,
    read,
    result,
    stopped,
)


@pytest.fixture
def ablation(tmp_path: Path) -> Ablation:
    return read(tmp_path, ONE_REFERENCE)


def test_page_has_everything_a_user_comes_for(ablation: Ablation) -> None:
    text = to_markdown(page_of(ablation, FULL), "preactivation-laptop.png")
    for part in (
        "# Original against pre-activation residual units · laptop scale\n",
        "**Claim** (He et al., *Mappings*, ECCV 2016, Table 3, [arXiv:1603.05027]",
        "very deep nets.\n",
        "**Verdict:** effect reproduced in 2 of 3 contrasts, 1 inconclusive; rank agreement τ = 1.00 (exact p = 0.33, "
        "over 3 rows with a verified published and a reproduced value).\n",
        "(preactivation-laptop.png)",
        "Published: Table 3; CIFAR-10 test, median of 5.",
        "Published: memory; not verified against the paper, so it does not decide a verdict.",
        "Figure 6: a direction was published, no number.",
        "Here: digits (1,297 training, 250 validation, 250 test images), 15 epochs; digits 8 x 8, recipe laptop.",
        "Scale and data differ from the paper's: values are not comparable, contrasts are.",
        "sample standard deviation over seeds",
        "not corrected for the number of contrasts",
        "one 1 × 8 × 8 image",
        "- The depth is 110.",
        "```\nrepro run preactivation scale=laptop seeds=3\n```",
        "- Code: commit 0123456789ab\n",
        "- Packages: Python 3.11.9, torch 2.11.0, lightning 2.5.1\n",
        "- Hardware: Some CPU, 2 cores, no GPU\n",
        "- Data fingerprint: digits `feedbeef`\n",
        "- Time, summed over runs: 5.0 min of training steps, 6.2 min with set-up and evaluation\n",
        "post110-0 post110-1",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("variant", "cells"),
    [
        pytest.param("post110", ["post110", "6.61 ²", "ref", "6.00 ± 1.00", "ref", ""], id="reference"),
        pytest.param(
            "pre110", ["pre110", "6.37 ²", "−0.24", "3.83 ± 1.07", "−2.17 [−2.68, −1.65]", "effect reproduced"],
            id="reproduced",
        ),
        pytest.param(
            "relu_pre", ["relu_pre", "6.71 ³", "—", "1.10 ± 0.10", "−4.90 [−7.14, −2.66]", "— (no published contrast)"],
            id="unverified",
        ),
        pytest.param(
            r"bn\|after", [r"bn\|after", "8.17 ²", "+1.56", "6.30 ± 1.39", "+0.30 [−1.49, +2.09]", "inconclusive"],
            id="inconclusive, a pipe in its name",
        ),
        pytest.param(
            "plain ¹", ["plain ¹", "—", "higher ⁴", "65.00 ± 5.00", "+59.00 [+49.06, +68.94]", "effect reproduced"],
            id="direction only",
        ),
    ],
)  # fmt: skip
def test_table_row(ablation: Ablation, variant: str, cells: list[str]) -> None:
    assert cells_of(to_markdown(page_of(ablation, FULL)), variant)[:6] == cells


def test_every_row_of_the_table_has_as_many_cells_as_the_header(ablation: Ablation) -> None:
    text = to_markdown(page_of(ablation, FULL))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {12}
    assert len(table) == 2 + 5


@pytest.mark.parametrize(
    ("runs", "shown"),
    [
        pytest.param({}, "missing", id="never started"),
        pytest.param({0: None, 1: None, 2: None}, "missing", id="all missing"),
        pytest.param(
            {s: stopped("pre110", s, "diverged", NAN) for s in range(3)}, "diverged (3 of 3)", id="all diverged"
        ),
        pytest.param(
            {s: stopped("pre110", s, "failed", OUT_OF_MEMORY) for s in range(3)},
            r"failed: out of memory: tried to allocate 2 GiB \| of 1 GiB", id="all failed, with the reason",
        ),
        pytest.param(
            {0: result("pre110", 0, 3.0), 1: stopped("pre110", 1, "diverged", NAN), 2: None},
            "3.00 (n = 1); diverged (1 of 3), 1 of 3 missing", id="one of three left",
        ),
        pytest.param(
            {0: result("pre110", 0, 3.0), 1: result("pre110", 1, 4.0), 2: stopped("pre110", 2, "failed", None)},
            "3.50 ± 0.71 (n = 2); 1 of 3 failed", id="two of three left",
        ),
    ],
)  # fmt: skip
def test_runs_without_a_value_are_shown(ablation: Ablation, runs: dict[int, Result | None], shown: str) -> None:
    assert cell(to_markdown(page_of(ablation, {**FULL, "pre110": runs})), "pre110", "reproduced") == shown


@pytest.mark.parametrize(
    ("lost", "contrasts"),
    [
        pytest.param(("pre110",), {"pre110": "— (diverged)", "plain": "+59.00 [+49.06, +68.94]"}, id="a row"),
        pytest.param(
            ("post110",), {"pre110": "— (reference diverged)", "plain": "— (reference diverged)"}, id="the reference"
        ),
        pytest.param(
            ("post110", "pre110"), {"pre110": "— (both diverged)", "plain": "— (reference diverged)"}, id="both"
        ),
    ],
)
def test_a_contrast_to_a_diverged_row_is_named(
    ablation: Ablation, lost: tuple[str, ...], contrasts: dict[str, str]
) -> None:
    runs = {name: {seed: stopped(name, seed, "diverged", NAN) for seed in range(3)} for name in lost}
    text = to_markdown(page_of(ablation, {**FULL, **runs}))
    for name in lost:
        assert cell(text, name, "reproduced") == "diverged (3 of 3)"
    assert {name: cell(text, "plain ¹" if name == "plain" else name, "contrast [") for name in contrasts} == contrasts
    assert not re.search(r"\b(nan|None|inf)\b", text.replace("loss is nan", ""))


def test_accuracy_is_shown_as_published(tmp_path: Path) -> None:
    text = to_markdown(
        page_of(read(tmp_path, LADDER), finished(base=[40.0, 38.0], cosine=[30.0, 29.0], longer=[29, 27]))
    )
    assert cells_of(text, "variant")[2:6:2] == ["published top-1 accuracy %", "reproduced top-1 accuracy %, n = 2"]
    assert cells_of(text, "cosine")[:5] == ["cosine", "base", "79.30 ¹", "+0.30", "70.50 ± 0.71"]


def test_reasons_are_listed_once_with_their_seeds(ablation: Ablation) -> None:
    runs = {0: stopped("pre110", 0, "diverged", NAN), 1: None, 2: stopped("pre110", 2, "diverged", NAN)}
    text = to_markdown(page_of(ablation, {**FULL, "pre110": runs}))
    assert "- **pre110**, seeds 0, 2: diverged: training loss is nan in epoch 3\n" in text
    assert "- **pre110**, seed 1: missing: no result yet\n" in text
    assert "- **pre110**: 2 of 2 seeds diverged, 0 of 3 of the reference (Fisher's exact p = 0.1); 4 seeds" in text
    assert "means favour the row that lost it" in text


def test_inconclusive_contrast_says_how_to_settle_it(ablation: Ablation) -> None:
    text = to_markdown(page_of(ablation, FULL))
    assert r"- **bn\|after**: the interval contains 0; 25 seeds would settle it at the observed" in text


def test_contrast_of_fewer_pairs_than_values_says_so(ablation: Ablation) -> None:
    results = {**FULL, **finished(post110=[5.0, 6.0, None])}
    assert cell(to_markdown(page_of(ablation, results)), "pre110", "contrast [95 %]").endswith("] (n = 2)")


def test_page_without_any_result(ablation: Ablation) -> None:
    text = to_markdown(page_of(ablation, {}))
    assert "effect reproduced in 0 of 3 contrasts, 3 inconclusive.\n" in text
    assert cells_of(text, "post110")[3] == "missing"
    assert "Provenance" not in text
    assert not re.search(r"\b(nan|None|inf)\b", text)


def test_faithful_scale_says_that_values_compare(ablation: Ablation) -> None:
    text = to_markdown(page_of(ablation, FULL, "cifar"))
    assert "values and contrasts are comparable with the published ones" in text
    assert "not comparable" not in text
    assert r"Not run at this scale: relu_pre, bn\|after, plain." in text


def test_several_references_are_named_in_a_column(tmp_path: Path) -> None:
    results = finished(post20=[9, 8, 9], pre20=[9, 8, 7], post110=[7, 6, 7], pre110=[2, 3, 1])
    text = to_markdown(page_of(read(tmp_path, TWO_REFERENCES), results))
    assert cells_of(text, "pre110")[:4] == ["pre110", "post110", "6.37 ¹", "−0.24"]
    assert cells_of(text, "post20")[1] == "—"
    assert "across references" in text


@pytest.mark.parametrize(
    ("macs", "header", "shown"),
    [
        pytest.param([41_000_000, 253_000_000], "MMACs", ["41.0", "253"], id="all below a giga"),
        pytest.param([253_000_000, 1_488_000_000], "GMACs", ["0.253", "1.49"], id="one unit, the larger"),
        pytest.param([81_000, 640_000], "MMACs", ["0.0810", "0.640"], id="tiny"),
    ],
)
def test_one_unit_for_the_column(tmp_path: Path, macs: list[int], header: str, shown: list[str]) -> None:
    costs = dict(zip(("post110", "pre110"), (COST.model_copy(update={"macs": n}) for n in macs), strict=True))
    page = build_page(read(tmp_path, ONE_REFERENCE), "cifar", {}, costs, "")
    assert [cell(to_markdown(page), name, header) for name in costs] == shown


@pytest.mark.parametrize(
    ("shared", "header", "speed"),
    [
        pytest.param((False, False), "img/s", "6,600", id="none shared"),
        pytest.param((True, True), "img/s ⁴", "—", id="all shared: said once"),
        pytest.param((False, True), "img/s", "— ⁴", id="some shared: said there"),
    ],
)
def test_speed_on_a_shared_device_is_not_published(
    tmp_path: Path, shared: tuple[bool, bool], header: str, speed: str
) -> None:
    timing = Timing(setup=1, train=2, evaluate=1, total=4, images_per_second=6600, steps=9)
    results = {
        name: {0: result(name, 0, 5.0, timing=timing.model_copy(update={"shared": busy}))}
        for name, busy in zip(("post110", "pre110"), shared, strict=True)
    }
    text = to_markdown(page_of(read(tmp_path, ONE_REFERENCE), results, "cifar"))
    assert cells_of(text, "variant")[-1] == header
    assert cells_of(text, "pre110")[-1] == speed
    assert ("their speed is not a measurement of the model alone" in text) is any(shared)


def test_the_speed_of_a_row_is_that_of_its_runs_that_were_alone(tmp_path: Path) -> None:
    """Of a row that was packed, the first run went alone and was measured."""
    timing = Timing(setup=1, train=2, evaluate=1, total=4, images_per_second=6600, steps=9)
    packed = timing.model_copy(update={"shared": True, "images_per_second": 1100})
    runs = {seed: result("pre110", seed, 5.0, timing=packed if seed else timing) for seed in range(3)}
    text = to_markdown(page_of(read(tmp_path, ONE_REFERENCE), {"pre110": runs}, "cifar"))
    assert cells_of(text, "pre110")[-1] == "6,600"
    assert "Other runs shared" not in text


def test_mixed_runs_are_named(ablation: Ablation) -> None:
    other = ENVIRONMENT.model_copy(update={"commit": "f" * 40, "dirty": True})
    results = {**FULL, "pre110": {0: result("pre110", 0, 3.0, environment=other)}}
    text = to_markdown(page_of(ablation, results))
    assert (
        "- Code: commit 0123456789ab: post110, relu_pre, bn\\|after, plain; commit ffffffffffff (dirty): pre110\n"
        in text
    )
    assert "The runs do not share one code: a difference may not be the variant's alone" in text


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (number(-0.237, 2), "−0.24"),
        (number(0.5, 1, signed=True), "+0.5"),
        (number(-0.001, 2, signed=True), "0.00"),
        (three_digits(6543.2), "6,540"),
        (three_digits(0.04123), "0.0412"),
        (three_digits(9.996), "10.0"),
        (three_digits(999.7), "1,000"),
        (three_digits(0), "0"),
        (seconds(4.71), "4.7 s"),
        (seconds(47), "47 s"),
        (seconds(720), "12 min"),
        (seconds(11_520), "3.2 h"),
        (seconds(440_640), "5.1 d"),
        (escape("a|b\n`c` *d* snake_case _e_ $x$"), r"a\|b \`c\` \*d\* snake_case \_e\_ \$x\$"),
        (shorten("a  b\nc", 9), "a b c"),
        (shorten("abcdefgh", 5), "abcd…"),
        (label("a" * 60, 20), "a" * 20 + "\n" + "a" * 19 + "…"),
        (label("short"), "short"),
        (unit_of([], (("G", 10**9), ("M", 10**6)))[0], "M"),
    ],
)
def test_wording(found: str, text: str) -> None:
    assert found == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (-0.9, -0.004, "−0.452 [−0.900, −0.004]"),
        (-0.9, 0.03, "−0.43 [−0.90, +0.03]"),
        (-3.3, -1.5, "−2.4 [−3.3, −1.5]"),
        (-0.5, 0.0, "−0.2 [−0.5, 0.0]"),
        (-0.5, -1e-9, "−0.2500 [−0.5000, 0.0000]"),
    ],
)
def test_a_bound_next_to_zero_shows_its_side(low: float, high: float, text: str) -> None:
    assert contrast_text(Contrast((low + high) / 2, 1.0, 5, low, high), 1) == text


@pytest.mark.parametrize(
    ("changes", "mixed"),
    [({"train_transform": "flip"}, False), ({"test_transform": "ten crops"}, True)],
    ids=["augmentation may be what a variant changes", "another test is another protocol"],
)
def test_what_happened_to_the_images_is_told(ablation: Ablation, changes: dict[str, str], mixed: bool) -> None:
    data = DATA.model_copy(update={"train_transform": "crop", "test_transform": "centre crop"})
    results = {
        "post110": {0: result("post110", 0, 5.0, data=data)},
        "pre110": {0: result("pre110", 0, 3.0, data=data.model_copy(update=changes))},
    }
    text = to_markdown(page_of(ablation, results))
    assert ("The runs do not share one treatment of test images" in text) is mixed
    assert ("- Treatment of test images: centre crop; ten crops\n" in text) is mixed
    assert ("- Treatment of training images: crop. Or: flip\n" in text) is not mixed
    assert "- Data fingerprint: digits `feedbeef`\n" in text
