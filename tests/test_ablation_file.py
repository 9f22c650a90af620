"""An ablation file: what is read from it, and one clear line for every kind of mistake in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from repro import ablation
from repro.errors import InputError
from repro.study import check_equal_cost, count_prices, plan
from tests.conftest import MINE, Outcome

Command = Callable[..., Outcome]

MISTAKES = {
    "unknown key": ("claim: ", "clam: ", "unknown key 'clam'; did you mean 'claim'?", 3),
    "unknown key in the paper": ("{key: me2026,", "{kye: me2026,", "unknown key 'paper.kye'; did you mean 'key'?", 2),
    "unknown variant key": ("    published: 9.0", "    publishd: 9.0", "'variants.narrow.publishd'; did you mean", 10),
    "missing key": ("reference: narrow\n", "", "reference is missing", 1),
    "reference that is no row": ("reference: narrow", "reference: narow", "'narow'; did you mean 'narrow'?", 6),
    "value of the wrong type": ("published: 9.0", "published: nine", "variants.narrow.published.value is 'nine'", 10),
    "word that is no choice": ("better: lower", "better: loewr", "did you mean 'lower'?", 4),
    "accuracy that falls": (
        "name: top1_error",
        "name: top1_accuracy",
        "better is 'lower', expected 'higher' for top1_accuracy",
        4,
    ),
    "unknown metric": ("name: top1_error", "name: top1_eror", "did you mean 'top1_error'?", 4),
    "unknown scale": ("  smoke: [", "  smok: [", "unknown scale 'smok'; did you mean 'smoke'?", 15),
    "unknown row at a scale": ("    note: digits", "    variants: [wid]", "unknown variant 'wid'", 18),
    "row without its reference": ("    note: digits", "    variants: [wide]", "its reference 'narrow' is not", 18),
    "rows that are no names": ("    note: digits", "    variants: [{wide: x}]", "scales.laptop.variants is", 18),
    "tag that is no value": ("    note: digits", "    note: !digits", "could not determine a constructor", 18),
    "key given twice": ("base: [", "claim: again\nbase: [", "key 'claim' stands here a second time", 5),
    "extended row that is none": ("published: 8.0", "extends: narow", "variant in extends 'narow'; did you mean", 13),
    "row that extends itself": ("published: 8.0", "extends: wide", "in a circle: wide → wide; one of them must", 13),
    "no YAML": ("title: Width", "title: [Width", "not YAML", 2),
}


@pytest.mark.parametrize(("old", "new", "message", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_file_and_line(old: str, new: str, message: str, line: int, mine: Path) -> None:
    assert MINE.count(old) >= 1
    mine.write_text(MINE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        ablation.load(str(mine))
    assert message in str(caught.value)
    named = int(str(caught.value).split("mine.yaml:")[1].split(":")[0])
    assert abs(named - line) <= 1, str(caught.value)
    assert "\n" not in str(caught.value)


OVERRIDES = {
    "key that does not exist": ('["model.widths=[4,8,8]"]', "[model.width=8]", "model has no 'width'; did you mean"),
    "model that does not exist": ('["model.widths=[4,8,8]"]', "[model=resnet21]", "unknown model 'resnet21'"),
    "value that does not fit": ('["model.widths=[4,8,8]"]', "[model.order=prre]", "did you mean 'pre'?"),
    "groups that do not divide": (
        '["model.widths=[4,8,8]"]',
        "[model.block=bottleneck, model.groups=3]",
        "groups=3 does not divide the width 16 of stage 1",
    ),
    "groups of a basic block": ('["model.widths=[4,8,8]"]', "[model.groups=2]", "needs block=bottleneck"),
    "no key=value": ('["model.widths=[4,8,8]"]', "[wide]", "not of the form key=value"),
    "several values": ('["model.widths=[4,8,8]"]', '["seed=1,2"]', "gives several values"),
}


@pytest.mark.parametrize(("old", "new", "message"), OVERRIDES.values(), ids=OVERRIDES)
def test_an_override_that_does_not_compose_is_named_before_training(
    old: str, new: str, message: str, mine: Path, repro: Command, runs: Path
) -> None:
    mine.write_text(MINE.replace(old, new), encoding="utf-8")
    status, _, error = repro("run", str(mine), "scale=smoke")
    assert status == 2
    assert message in error
    assert "mine.yaml:1" in error
    assert "variant 'wide'" in error
    assert error.count("\n") == 1
    assert not runs.exists()


LADDER = """\
title: Ladder
paper: {key: me2026, title: Ladder, authors: Me, venue: Nowhere, arxiv: "0000.00000", table: Table 1}
claim: Each step helps.
metric: {name: top1_accuracy, unit: "%", better: higher, protocol: digits, decimals: 1}
base: [model=resnet20, model.stem_width=4, "model.widths=[4,4,4]", "model.depths=[1,1,1]"]
reference: base
variants:
  base: {published: 79.0}
  longer: {extends: base, set: [recipe.duration=350ep], published: 78.8}
  smooth: {extends: longer, set: [recipe.label_smoothing=0.1], published: 80.4}
  short: {extends: smooth, set: [recipe.duration=1ep], published: 80.0, reference: base}
scales:
  smoke:
    variants: {base: [], longer: [recipe.duration=4ep], smooth: [recipe.lr=0.2], short: []}
  laptop:
    variants: [base, short]
"""


@pytest.fixture
def ladder(tmp_path: Path) -> Path:
    path = tmp_path / "ladder.yaml"
    path.write_text(LADDER, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("scale", "row", "overrides"),
    [
        pytest.param(None, "base", (), id="a row that stands alone"),
        pytest.param(None, "smooth", ("recipe.duration=350ep", "recipe.label_smoothing=0.1"), id="of all rows above"),
        pytest.param(
            "smoke",
            "smooth",
            ("recipe.duration=350ep", "recipe.duration=4ep", "recipe.label_smoothing=0.1", "recipe.lr=0.2"),
            id="what the scale adds to a row above follows that row's own",
        ),
        pytest.param(
            "laptop",
            "short",
            ("recipe.duration=350ep", "recipe.label_smoothing=0.1", "recipe.duration=1ep"),
            id="rows above that are not run at the scale count too",
        ),
    ],
)
def test_a_row_has_the_overrides_of_the_rows_that_it_extends(
    scale: str | None, row: str, overrides: tuple[str, ...], ladder: Path
) -> None:
    assert ablation.load(str(ladder)).overrides(row, scale) == overrides


def test_a_later_override_wins_over_an_extended_rows(ladder: Path) -> None:
    recipes = {row: config.recipe for row, config in plan(ablation.load(str(ladder)), "smoke", [0]).configs.items()}
    durations = {row: recipe.duration for row, recipe in recipes.items()}
    assert durations == {"base": "2ep", "longer": "4ep", "smooth": "4ep", "short": "1ep"}
    assert {row: recipe.label_smoothing for row, recipe in recipes.items()} == {
        "base": 0.0, "longer": 0.0, "smooth": 0.1, "short": 0.1
    }  # fmt: skip


def test_a_row_is_compared_with_the_row_that_it_extends_unless_it_names_another(ladder: Path) -> None:
    spec = ablation.load(str(ladder))
    references = {row: variant.reference for row, variant in spec.variants.items()}
    assert references == {"base": "base", "longer": "base", "smooth": "longer", "short": "base"}
    assert spec.published_contrast("smooth") == pytest.approx(1.6)


def test_a_reference_by_extension_must_be_run_too(ladder: Path) -> None:
    ladder.write_text(LADDER.replace("variants: [base, short]", "variants: [base, smooth]"), encoding="utf-8")
    with pytest.raises(InputError, match=r"ladder.yaml:1\d: 'smooth' is run .* but its reference 'longer' is not"):
        ablation.load(str(ladder))


def test_a_longer_circle_is_named(ladder: Path) -> None:
    ladder.write_text(LADDER.replace("base: {published", "base: {extends: smooth, published"), encoding="utf-8")
    with pytest.raises(InputError, match=r"ladder.yaml:8: .* circle: base → smooth → longer → base; one of them must"):
        ablation.load(str(ladder))


def test_a_mistake_in_an_extended_row_is_named_there(ladder: Path) -> None:
    ladder.write_text(LADDER.replace("label_smoothing=0.1", "label_smothing=0.1"), encoding="utf-8")
    with pytest.raises(InputError, match=r"ladder.yaml:10: variant 'short': .*did you mean 'label_smoothing'"):
        plan(ablation.load(str(ladder)), "smoke", [0], only=["short"])


def test_what_an_extended_row_sets_cannot_be_overridden(ladder: Path, repro: Command) -> None:
    status, _, error = repro("plan", str(ladder), "scale=laptop", "recipe.label_smoothing=0.2")
    assert (status, error.count("\n")) == (2, 1)
    assert "recipe.label_smoothing is what the rows of ladder differ in (see short)" in error


@pytest.mark.parametrize("name", ablation.names())
def test_every_shipped_table_plans_at_every_scale(name: str) -> None:
    """Each row composes, each is priced, and rows that must cost the same do."""
    spec = ablation.load(name)
    for scale in spec.scales:
        study = plan(spec, scale, [0])
        assert list(study.configs) == list(spec.scales[scale].variants)
        check_equal_cost(study, count_prices(study.configs))
        assert len({run.id for run in study.runs}) == len(study.runs), "two rows are the same run"


@pytest.mark.parametrize(
    ("name", "row", "value"),
    [
        ("plain_vs_residual", "resnet-20", 8.75),
        ("plain_vs_residual", "resnet-32", 7.51),
        ("plain_vs_residual", "resnet-44", 7.17),
        ("plain_vs_residual", "resnet-56", 6.97),
        ("plain_vs_residual", "resnet-110", 6.61),
        ("plain_vs_residual", "plain-18-imagenet", 27.94),
        ("plain_vs_residual", "resnet-18-imagenet", 27.88),
        ("plain_vs_residual", "plain-34-imagenet", 28.54),
        ("plain_vs_residual", "resnet-34-imagenet", 25.03),
        ("preactivation", "110-bn-after-addition", 8.17),
        ("preactivation", "164-preactivation", 5.46),
        ("preactivation", "1001-original", 7.61),
        ("preactivation", "1001-preactivation", 4.92),
        ("preactivation_imagenet", "152-original", 21.3),
        ("preactivation_imagenet", "200-preactivation", 20.7),
        ("resnext_groups", "1x64d", 23.9),
        ("resnext_groups", "32x4d", 22.2),
        ("resnext_groups", "101-8x14d", 21.3),
    ],
)
def test_published_values(name: str, row: str, value: float) -> None:
    published = ablation.load(name).variants[row].published
    assert published.value == value
    assert published.verified


def test_a_third_partys_reading_is_not_verified_and_gives_no_contrast() -> None:
    spec = ablation.load("plain_vs_residual")
    assert not spec.variants["plain-56"].published.verified
    assert spec.published_contrast("resnet-56") is None
    assert spec.published_contrast("resnet-34-imagenet") == pytest.approx(25.03 - 28.54)


def test_published_prices_of_the_cardinality_table() -> None:
    """Xie et al. 2017, Table 3: 4.1 and 7.8 G; the cells recomputed."""
    study = plan(ablation.load("resnext_groups"), "imagenet", [0])
    gmacs = {name: round(cost.macs / 1e9, 3) for name, cost in count_prices(study.configs).items()}
    assert gmacs == {
        "1x64d": 4.089, "2x40d": 4.125, "4x24d": 4.160, "8x14d": 4.267, "32x4d": 4.230,
        "101-1x64d": 7.801, "101-2x40d": 7.844, "101-4x24d": 7.886, "101-8x14d": 8.077, "101-32x4d": 7.970,
    }  # fmt: skip


def test_unequal_cost_is_refused_with_the_figures(mine: Path, repro: Command, runs: Path) -> None:
    mine.write_text(MINE.replace("variants:\n", "equal_cost: {macs: 0.05}\nvariants:\n"), encoding="utf-8")
    for verb in ("plan", "run"):
        status, _, error = repro(verb, str(mine), "scale=smoke")
        assert status == 2
        assert "wide has " in error
        assert "macs, +" in error
        assert "allowed ±5.0%" in error
        assert "mine.yaml:7" in error
    assert not list(runs.rglob("config.yaml"))
