"""Learning curves and the figure of a page: read back, drawn, the same bytes every time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from repro.ablation import Ablation
from repro.report import Curve, draw, read_curve
from repro.report.contrast_panel import draw_contrasts
from repro.report.curve_panel import band, draw_curves
from repro.report.palette import styles
from repro.results import Result
from tests.report_study import FULL, LADDER, NAN, ONE_REFERENCE, finished, page_of, read, stopped


@pytest.fixture
def ablation(tmp_path: Path) -> Ablation:
    return read(tmp_path, ONE_REFERENCE)


def curve(*errors: float) -> Curve:
    return Curve(tuple(range(1, len(errors) + 1)), {"val_top1_error": errors, "train_top1_error": errors})


def test_read_curve(tmp_path: Path) -> None:
    text = "epoch,step,val_top1_error\n1,10,90.5\n2,20,\n3,30,40\n2,20,50\n"
    (tmp_path / "metrics.csv").write_text(text)
    found = read_curve(tmp_path)
    assert found is not None
    assert found.epoch == (1, 2, 3)
    assert found.columns["val_top1_error"] == (90.5, 50, 40), "the later row of an epoch counts"
    assert band([found, curve(89.5, 60)], "val_top1_error") == ([1, 2, 3], [90, 55, 40], [89.5, 50, 40], [90.5, 60, 40])


def test_empty_cells_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,val_top1_error\n1,\n2,50\n")
    found = read_curve(tmp_path)
    assert found is not None
    assert band([found], "val_top1_error")[0] == [2]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="missing"),
        pytest.param("", id="empty"),
        pytest.param("epoch,val_top1_error\n", id="header only"),
        pytest.param("epoch,val_top1_error\n1,90\n2", id="cut short"),
        pytest.param("epoch,val_top1_error\n1,90,7\n", id="too many cells"),
        pytest.param("epoch,val_top1_error\none,90\n", id="no number"),
        pytest.param("step,val_top1_error\n1,90\n", id="no epoch"),
        pytest.param("\0\0", id="not text"),
    ],
)
def test_broken_curve_is_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "metrics.csv").write_text(text)
    assert read_curve(tmp_path) is None


CURVES = {name: [curve(90, 40, 6 + i), curve(80, 30, 5 + i)] for i, name in enumerate(FULL)}


@pytest.mark.parametrize(
    ("results", "curves"),
    [
        pytest.param(FULL, CURVES, id="full, published and reproduced far apart"),
        pytest.param(finished(post110=[5.0], pre110=[4.0]), {"pre110": [curve(5, 4)]}, id="one seed"),
        pytest.param(finished(post110=[5.0, 5.0], pre110=[5.0, 5.0]), {}, id="no difference, no curve"),
        pytest.param({}, {}, id="nothing"),
    ],
)
def test_figure_is_a_picture(
    ablation: Ablation, tmp_path: Path, results: dict[str, dict[int, Result | None]], curves: dict[str, list[Curve]]
) -> None:
    from matplotlib.image import imread

    draw(page_of(ablation, results), curves, tmp_path / "figure.png")
    pixels = imread(tmp_path / "figure.png")
    assert pixels.shape[:2] == (675, 1650)
    assert 0.02 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.5, "neither blank nor full"


def test_figure_is_deterministic_and_ignores_the_users_style(ablation: Ablation, tmp_path: Path) -> None:
    from matplotlib import rc_context

    draw(page_of(ablation, FULL), CURVES, tmp_path / "a.png")
    with rc_context({"font.size": 20, "figure.facecolor": "red", "savefig.dpi": 30}):
        draw(page_of(ablation, FULL), CURVES, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_figure_shows_the_data(ablation: Ablation, tmp_path: Path) -> None:
    pictures = {}
    for name, split in (("val", "val"), ("train", "train")):
        draw(page_of(ablation, FULL), CURVES, tmp_path / f"{name}.png", split=split)  # type: ignore[arg-type]
        pictures[name] = (tmp_path / f"{name}.png").read_bytes()
    moved = finished(post110=[5.0, 6.0, 7.0], pre110=[9, 9, 9.5])
    draw(page_of(ablation, moved), CURVES, tmp_path / "moved.png")
    assert len({*pictures.values(), (tmp_path / "moved.png").read_bytes()}) == 3


def test_contrasts_stand_where_they_belong(ablation: Ablation) -> None:
    from matplotlib.figure import Figure

    page = page_of(ablation, FULL)
    axes = Figure().subplots()
    draw_contrasts(axes, page, styles([(row.variant, row.reference) for row in page.rows]))
    drawn = {
        (round(float(x), 2), float(y))
        for line in axes.lines
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }
    published = {(-0.24, -0.15), (1.56, 1.85), (0.0, 2.85)}  # the last is a direction: it stands on the zero line
    reproduced = {(-2.17, 0.15), (-2.68, 0.15), (-1.65, 0.15), (-4.9, 1.15), (0.3, 2.15), (59.0, 3.15)}
    assert published | reproduced <= drawn
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["pre110", "relu_pre", "bn|after", "plain"]
    assert axes.get_xscale() == "symlog", "0.24 and 59 on one axis"


def test_an_accuracy_is_drawn_from_the_recorded_errors(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    page = page_of(read(tmp_path, LADDER), finished(base=[40.0, 38.0], cosine=[30.0, 29.0]))
    axes = Figure().subplots()
    look = styles([(row.variant, row.reference) for row in page.rows])
    draw_curves(axes, page, {"base": [curve(90, 40), curve(80, 38)]}, look, "val")
    assert axes.get_yscale() == "linear"
    assert [float(y) for y in axes.lines[0].get_ydata()] == [15.0, 61.0]
    band_ends = {round(float(y), 6) for path in axes.collections[0].get_paths() for y in path.vertices[:, 1]}
    assert band_ends == {10.0, 20.0, 60.0, 62.0}
    assert (axes.get_ylabel(), axes.get_title()) == (
        "top-1 accuracy (%)", "Validation accuracy: mean and range over seeds"
    )  # fmt: skip


def test_a_diverged_row_is_named_in_the_figure(ablation: Ablation) -> None:
    from matplotlib.figure import Figure

    runs = {seed: stopped("pre110", seed, "diverged", NAN) for seed in range(3)}
    page = page_of(ablation, {**FULL, "pre110": runs})
    axes = Figure().subplots()
    draw_contrasts(axes, page, styles([(row.variant, row.reference) for row in page.rows]))
    assert [text.get_text() for text in axes.texts] == ["diverged 3 of 3, reference 0 of 3"]


def test_long_names_and_dollars_draw(tmp_path: Path) -> None:
    text = ONE_REFERENCE.replace("pre110", '"$x_{ a very long name that goes on and on, and on, | and on"')
    page = page_of(read(tmp_path, text), FULL)
    draw(page, {page.rows[1].variant: [curve(3, 2)]}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param([(f"v{i}", "v0") for i in range(20)], id="one reference"),
        pytest.param([(f"{g}{i}", f"{g}0") for g in "abcd" for i in range(4)], id="four groups of four"),
        pytest.param([(f"v{i}", f"v{max(0, i - 1)}") for i in range(9)], id="a chain"),
    ],
)
def test_every_variant_has_its_own_style(pairs: list[tuple[str, str]]) -> None:
    look = styles(pairs)
    assert list(look) == [variant for variant, _ in pairs]
    assert len(set(look.values())) == len(pairs)
    assert all(re.fullmatch("#[0-9A-Fa-f]{6}", style.color) for style in look.values())
