"""The figure of a signal propagation plot: what it says, in which formats, and that one can read it."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from repro.report.signal_figure import Point, draw_signal, make_figure

SUBTITLE = "at initialisation, 32 images of N(0, 1) noise, 3 × 64 × 64, 5 seeds; band: ± 1 standard deviation"


def points(*depths: int, growth: float = 0.04, **changes: Any) -> list[Point]:
    """A normaliser-free network, measured two per cent above its expectation."""
    made = []
    for stage, depth in enumerate(depths, start=1):
        for index in range(1, depth + 1):
            variance = 1 + growth * index
            numbers = {
                "mean_square": 0.01,
                "variance": 1.02 * variance,
                "spread": 0.03,
                "branch_variance": growth,
                "expected_mean_square": 0.0,
                "expected_variance": variance,
                "expected_branch_variance": growth,
            }
            made.append(Point(stage, index, f"stages.{stage - 1}.{index - 1}", **{**numbers, **changes}))
    return made


CONVOLUTIONS = [Point(None, index, f"features.{index}", 0.1, 1.0 / index, 0.01) for index in range(1, 9)]
EXPLODING = [Point(1, i, f"u{i}", 4.0**i, 3.0**i if i < 60 else math.inf, 3.0**i, 2.0**i) for i in range(1, 70)]
HARMLESS = points(3, 4, 6, 3)


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Every labelled line: its x and y."""
    found = {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    return {name: ([*map(float, line.get_xdata())], [*map(float, line.get_ydata())]) for name, line in found.items()}


def boundaries(axes: Axes) -> list[float]:
    return [float(line.get_xdata()[0]) for line in axes.lines if str(line.get_label()).startswith("_")]


def written(figure: Figure) -> list[Text]:
    """Every text that is drawn; labels of ticks outside the view are not."""
    beyond = set()
    for axis in figure.findobj(Axis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                beyond |= {tick.label1, tick.label2}
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in beyond]


def svg_texts(path: Path) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(("form", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_every_format_is_written(tmp_path: Path, form: str, start: bytes) -> None:
    path = tmp_path / f"figure.{form}"
    draw_signal(HARMLESS, path, "nf_resnet50", SUBTITLE)
    assert path.read_bytes().startswith(start)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_picture_is_neither_blank_nor_full(tmp_path: Path) -> None:
    from matplotlib.image import imread

    draw_signal(HARMLESS, tmp_path / "figure.png", "nf_resnet50", SUBTITLE)
    pixels = imread(tmp_path / "figure.png")
    assert pixels.shape[:2] == (645, 1500)
    assert 0.02 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.5


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_figure_is_deterministic_and_ignores_the_users_style(tmp_path: Path, form: str) -> None:
    from matplotlib import rc_context

    draw_signal(HARMLESS, tmp_path / f"a.{form}", "nf_resnet50", SUBTITLE)
    with rc_context({"font.size": 20, "figure.facecolor": "red", "savefig.dpi": 30}):
        draw_signal(HARMLESS, tmp_path / f"b.{form}", "nf_resnet50", SUBTITLE)
    assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes()


def test_svg_says_what_is_drawn(tmp_path: Path) -> None:
    draw_signal(HARMLESS, tmp_path / "figure.svg", "nf_resnet50 alpha=0.2", SUBTITLE)
    texts = svg_texts(tmp_path / "figure.svg")
    assert {"nf_resnet50 alpha=0.2", SUBTITLE} <= set(texts)
    assert {"Output of the residual unit", "End of the residual branch, before the sum"} <= set(texts)
    assert {"channel variance", "squared channel mean", "variance expected", "squared mean expected"} <= set(texts)
    assert texts.count("residual unit") == texts.count("stage") == 2


def test_lines_are_the_data() -> None:
    left, right = make_figure(HARMLESS, "net", SUBTITLE).axes
    drawn = lines(left)
    assert drawn["channel variance"] == (list(range(1, 17)), [point.variance for point in HARMLESS])
    assert drawn["variance expected"][1] == [point.expected_variance for point in HARMLESS]
    assert drawn["squared channel mean"][1] == [0.01] * 16
    assert drawn["squared mean expected"][1] == [0.0] * 16
    assert lines(right)["channel variance"][1] == [0.04] * 16
    assert left.get_yscale() == right.get_yscale() == "linear"
    assert left.get_ylim()[0] == right.get_ylim()[0] == 0


@pytest.mark.parametrize(
    ("depths", "places", "names"),
    [
        pytest.param((3, 4, 6, 3), [3.5, 7.5, 13.5], ["1", "2", "3", "4"], id="ResNet-50"),
        pytest.param((1, 1), [1.5], ["1", "2"], id="one unit a stage"),
        pytest.param((5,), [], ["1"], id="one stage"),
        pytest.param((1,), [], ["1"], id="one unit"),
    ],
)
def test_stages_are_marked(depths: tuple[int, ...], places: list[float], names: list[str]) -> None:
    figure = make_figure(points(*depths), "net", SUBTITLE)
    for axes in figure.axes:
        assert boundaries(axes) == places
        (above,) = axes.child_axes
        assert [tick.get_text() for tick in above.get_xticklabels()] == names
        assert axes.get_xlim() == (0.5, sum(depths) + 0.5)


def test_measured_and_expected_differ_without_colour() -> None:
    for axes in make_figure(HARMLESS, "net", SUBTITLE).axes:
        for line in axes.lines:
            name = str(line.get_label())
            if not name.startswith("_"):
                assert (line.get_marker() == "None") == ("expected" in name)
                assert (line.get_linestyle() == "-") != ("expected" in name)
    left = {str(line.get_label()): line for line in make_figure(HARMLESS, "net", SUBTITLE).axes[0].lines}
    assert left["channel variance"].get_marker() != left["squared channel mean"].get_marker()
    assert left["variance expected"].get_linestyle() != left["squared mean expected"].get_linestyle()


def test_without_branches_there_is_one_panel() -> None:
    (axes,) = make_figure(CONVOLUTIONS, "torchvision/vgg11", SUBTITLE, "convolution").axes
    assert axes.get_xlabel() == "convolution"
    assert axes.get_title() == "Output of the convolution"
    assert set(lines(axes)) == {"channel variance", "squared channel mean"}
    assert boundaries(axes) == []
    assert not axes.child_axes


def test_wide_ranges_are_logarithmic_and_overflows_are_gaps() -> None:
    left, right = make_figure(EXPLODING, "net", SUBTITLE).axes
    assert left.get_yscale() == right.get_yscale() == "log"
    heights = lines(left)["channel variance"][1]
    assert heights[:59] == [3.0**i for i in range(1, 60)]
    assert all(map(math.isnan, heights[59:]))
    low, high = left.get_ylim()
    assert 0 < low < 3
    assert high > 4.0**69


@pytest.mark.parametrize("spread", [None, 0.0, 50.0], ids=["one seed", "no spread", "more than the mean"])
@pytest.mark.parametrize("growth", [0.04, 3.0], ids=["slow", "fast"])
def test_band_is_drawn_around_the_measured_line(spread: float | None, growth: float) -> None:
    left = make_figure(points(9, growth=growth, spread=spread), "net", SUBTITLE).axes[0]
    (band,) = left.collections
    corners = [corner for path in band.get_paths() for corner in path.vertices]  # type: ignore[union-attr]
    if spread is None:
        assert not corners
    else:
        highest = 1.02 * (1 + 9 * growth) + spread
        assert max(y for _, y in corners) == pytest.approx(highest)
        assert left.get_yscale() == "linear" or min(y for _, y in corners) > 0


def test_nothing_finite_still_draws(tmp_path: Path) -> None:
    silent = [Point(1, 1, "u", math.nan, math.nan, None, math.inf)]
    draw_signal(silent, tmp_path / "figure.png", "net", SUBTITLE)
    assert (tmp_path / "figure.png").stat().st_size > 5_000


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that stand on each other, and texts that the edge cuts."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in written(figure)]
    frame = figure.bbox
    cut = [
        (name, "the edge") for name, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > frame.x1 or box.y1 > frame.y1
    ]
    return cut + [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]


@pytest.mark.parametrize(
    ("data", "what", "title"),
    [
        pytest.param(HARMLESS, "residual unit", "nf_resnet50", id="ResNet-50"),
        pytest.param(points(1, 2, 6, 3), "residual unit", "nfnet_f0", id="NFNet-F0"),
        pytest.param(points(18, 18, 18), "residual unit", "preresnet110", id="54 units"),
        pytest.param(points(111, 111, 111), "residual unit", "preresnet1001", id="333 units"),
        pytest.param(EXPLODING, "residual unit", "$x_{ " + "with many axes " * 30, id="long title with dollars"),
        pytest.param(CONVOLUTIONS, "convolution", "torchvision/vgg11 " * 12, id="one panel"),
    ],
)
def test_no_text_overlaps_another(data: list[Point], what: str, title: str, tmp_path: Path) -> None:
    from repro.report.drawing import house_style

    with house_style():
        assert overlapping(make_figure(data, title, SUBTITLE, what)) == []


def test_a_failure_leaves_the_older_figure(tmp_path: Path) -> None:
    (tmp_path / "figure.png").mkdir()
    (tmp_path / "figure.png" / "inside").write_text("kept")
    with pytest.raises(OSError):
        draw_signal(HARMLESS, tmp_path / "figure.png", "net", SUBTITLE)
    assert [item.name for item in tmp_path.iterdir()] == ["figure.png"]
    assert (tmp_path / "figure.png" / "inside").read_text() == "kept"
