"""Models side by side: the table, the family's word, the figure and what it refuses to compare."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.cost.count import cached_price
from repro.errors import InputError
from repro.models.preset_config import Published
from repro.models.presets import load_preset
from repro.paths import options
from repro.report.compare_figure import area_steps, check_drawable, draw_comparison, place_names
from repro.report.compare_table import Model, builder_of, compare_sheet, family_word, records, usual_data
from repro.report.sheet import latex, to_csv, to_latex, to_markdown
from repro.results import Cost
from tests.conftest import Outcome

torch.set_num_threads(1)

Command = Callable[..., Outcome]

IMAGENET, CIFAR = "ImageNet-1k val, 224 centre crop", "CIFAR-10 test"


def model(name: str, error: float | None = 25.0, **more: Any) -> Model:
    """A model of 10 M parameters and 1 GMAC, where nothing else is said."""
    published = Published(
        top1_error=error or 0, data=more.pop("data", IMAGENET), source="Me 2026", verified=more.pop("verified", True)
    )
    cost = Cost(input=(3, 224, 224), params=more.pop("params", 10**7), macs=more.pop("macs", 10**9), activations=10**6)
    return Model(name, more.pop("family", "ResNet"), "ours", cost, published if error else None, **more)


MODELS = [
    model("small_net", 30.25, macs=2 * 10**8, params=4 * 10**6),
    model("large|net", 21.0, macs=10**10, params=10**8, family="VGG"),
    model("guess", 24.2, verified=False),
    model("tall", 20.0, data="ImageNet-1k val, 320 centre crop"),
    model("silent", None),
]

WORDS = {
    ("resnet50", "ours"): "ResNet",
    ("resnet50d", "ours"): "ResNet-D",
    ("preresnet110", "ours"): "pre-activation ResNet",
    ("plain34", "ours"): "plain",
    ("resnext101_32x4d", "ours"): "ResNeXt",
    ("seresnet50", "ours"): "SE-ResNet",
    ("seresnext50_32x4d", "ours"): "SE-ResNeXt",
    ("wrn_28_10", "ours"): "WRN",
    ("wide_resnet50_2", "ours"): "WRN",
    ("regnetx_032", "ours"): "RegNetX",
    ("regnety_032", "ours"): "RegNetY",
    ("resnetrs50", "ours"): "ResNet-RS",
    ("nf_resnet50", "ours"): "NF-ResNet",
    ("nfnet_f0", "ours"): "NFNet",
    ("torchvision/vgg16", "torchvision"): "VGG",
    ("torchvision/googlenet", "torchvision"): "GoogLeNet",
    ("timm/seresnext50_32x4d", "timm"): "SE-ResNeXt",
    ("timm/tf_efficientnetv2_s", "timm"): "EfficientNet",
    ("timm/inception_resnet_v2", "timm"): "Inception-ResNet",
    ("timm/wide_resnet50_2", "timm"): "WRN",
    ("timm/beit3_base_patch16_224", "timm"): "beit",
}


@pytest.mark.parametrize(("name", "builder"), WORDS, ids=lambda value: value)
def test_the_family_as_its_papers_name_it(name: str, builder: str) -> None:
    config = load_preset(name)
    assert (family_word(config), builder_of(config)) == (WORDS[name, builder], builder)


def test_every_preset_has_a_family_that_is_no_number_of_a_version() -> None:
    words = {family_word(load_preset(name)) for name in options("model")}
    assert not any(word in ("residual", "library", "chain") or not word for word in words)
    assert len(words) >= 14


def test_a_row_is_marked_where_it_was_measured_otherwise() -> None:
    assert usual_data(MODELS) == IMAGENET
    sheet = compare_sheet(MODELS)
    rows = {row[0]: row for row in sheet.rows}
    assert rows["small_net"] == ("small_net", "ResNet", "4.00", "0.200", "1.00", "30.25 ¹")
    assert rows["guess"][-1] == "24.2 (unverified) ¹"
    assert rows["tall"][-1] == "20.0 ² ³"
    assert rows["silent"][-1] == "—"
    assert sheet.notes == (
        "¹ ImageNet-1k val, 224 centre crop: Me 2026.",
        "² ImageNet-1k val, 320 centre crop: Me 2026.",
        "³ Not comparable with most rows, which were measured on ImageNet-1k val, 224 centre crop.",
    )
    assert [row["usual_data"] for row in records(MODELS)] == [True, True, True, False, None]


def test_formats_escape_what_they_must() -> None:
    markdown = to_markdown(compare_sheet(MODELS))
    assert "| large\\|net | VGG |" in markdown
    assert all(line.count(" | ") == 5 for line in markdown.splitlines() if line.startswith("| "))
    table = to_latex(compare_sheet(MODELS))
    assert table.partition("\n")[2].startswith("\\begin{tabular}{llrrrr}\n\\toprule\nmodel & family & ")
    assert "small\\_net & ResNet & 4.00 & 0.200 & 1.00 & 30.25\\textsuperscript{1} \\\\" in table
    assert latex("a_b & 5 % −1 × ¹²") == r"a\_b \& 5 \% $-$1 $\times$\textsuperscript{12}"
    lines = list(csv.DictReader(io.StringIO(to_csv(records(MODELS)))))
    assert [(line["name"], line["input"], line["params"], line["top1_error"]) for line in lines][1:] == [
        ("large|net", "3x224x224", "100000000", "21.0"),
        ("guess", "3x224x224", "10000000", "24.2"),
        ("tall", "3x224x224", "10000000", "20.0"),
        ("silent", "3x224x224", "10000000", ""),
    ]


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_the_figure_is_the_same_every_time(ending: str, tmp_path: Path) -> None:
    from matplotlib import rc_context

    draw_comparison(MODELS, tmp_path / f"a{ending}")
    with rc_context({"font.size": 20, "figure.facecolor": "red"}):
        draw_comparison(MODELS, tmp_path / f"b{ending}")
    first = (tmp_path / f"a{ending}").read_bytes()
    assert first == (tmp_path / f"b{ending}").read_bytes()
    draw_comparison([*MODELS[:3], model("tall", 19.0)], tmp_path / f"b{ending}")
    assert first != (tmp_path / f"b{ending}").read_bytes()


class Drawn:
    """What `draw_comparison` put on its axes."""

    def __init__(self, models: list[Model], path: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
        from matplotlib.figure import Figure

        kept: list[Figure] = []
        save = Figure.savefig
        monkeypatch.setattr(
            Figure, "savefig", lambda self, *args, **options: kept.append(self) or save(self, *args, **options)
        )
        draw_comparison(models, path, **more)
        (figure,) = kept
        self.axes = figure.axes[0]
        markers = self.axes.collections[::2]  # every other one is a marker's centre
        self.points = {tuple(round(float(v), 6) for v in m.get_offsets()[0]): m for m in markers}  # type: ignore[index]
        self.names = [text.get_text() for text in self.axes.texts if text.get_text()]
        self.legends = [[text.get_text() for text in legend.get_texts()] for legend in figure.legends]


def test_the_figure_shows_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(MODELS, tmp_path / "figure.png", monkeypatch)
    assert set(drawn.points) == {(0.2, 69.75), (10, 79), (1, 75.8), (1, 80)}
    areas = {point: marker.get_sizes()[0] for point, marker in drawn.points.items()}
    assert areas[0.2, 69.75] / areas[1, 80] == pytest.approx(4 / 10)
    assert areas[10, 79] / areas[1, 80] == pytest.approx(10)
    assert len(drawn.points[1, 75.8].get_facecolor()) == 0, "unverified: hollow"
    assert len(drawn.points[1, 80].get_facecolor()) == 1
    assert set(drawn.names) == {"small_net", "large|net", "guess", "tall*"}
    assert drawn.axes.get_xscale() == "log"
    caption = drawn.axes.get_xlabel()
    assert caption.startswith("GMACs of a 224 × 224 image, log scale\n")
    assert "not drawn: silent" in caption
    assert "* measured by another protocol than ImageNet-1k val, 224 centre crop" in caption
    assert drawn.legends == [["ResNet", "VGG"], ["5", "20", "100"]]


def test_areas_compare_across_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.path import Path as Outline

    models = [model(f"m{index}", 20.0 + index, family=f"family {index:02}") for index in range(22)]
    drawn = Drawn(models, tmp_path / "figure.png", monkeypatch)

    def area(marker: Any) -> float:
        (outline,) = marker.get_paths()
        corners = Outline(outline.to_polygons()[0]).vertices
        x, y = corners[:, 0], corners[:, 1]
        return float(abs(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2 * marker.get_sizes()[0])

    looks = {(tuple(m.get_edgecolor()[0]), m.get_paths()[0].vertices.shape) for m in drawn.points.values()}
    found = [area(marker) for marker in drawn.points.values()]
    assert len(looks) >= 21, "every family has a colour and shape of its own"
    assert min(found) == pytest.approx(max(found), rel=0.02)


def test_parameters_on_the_axis_make_macs_the_area(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(MODELS, tmp_path / "figure.png", monkeypatch, axis="params")
    assert set(drawn.points) == {(4, 69.75), (100, 79), (10, 75.8), (10, 80)}
    areas = {point: marker.get_sizes()[0] for point, marker in drawn.points.items()}
    assert areas[4, 69.75] / areas[10, 80] == pytest.approx(0.2)


REFUSED = {
    "one": ([model("a")], "at least 2 models with a published error; found 1"),
    "one with an error": ([model("a"), model("b", None)], "at least 2 models with a published error; found 1"),
    "two data sets": ([model("a"), model("b", data=CIFAR)], r"a \(ImageNet-1k\), b \(CIFAR-10\)"),
}


@pytest.mark.parametrize(("models", "message"), REFUSED.values(), ids=REFUSED)
def test_what_no_figure_can_show(models: list[Model], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        check_drawable(models)
    with pytest.raises(InputError, match=message):
        draw_comparison(models, tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []


spots = st.lists(st.tuples(st.floats(100, 1100), st.floats(100, 700)), min_size=2, max_size=24)


@settings(deadline=None, max_examples=30)
@given(points=spots, radius=st.floats(2, 40))
def test_names_do_not_overlap(points: list[tuple[float, float]], radius: float) -> None:
    bounds = (0.0, 0.0, 1200.0, 800.0)
    places = place_names(points, [radius] * len(points), [(90.0, 14.0)] * len(points), bounds)
    boxes = [place.box for place in places]
    for index, box in enumerate(boxes):
        assert box[2] - box[0] == pytest.approx(90)
        assert box[3] - box[1] == pytest.approx(14)
        assert bounds[0] <= box[0] <= box[2] <= bounds[2]
        assert bounds[1] <= box[1] <= box[3] <= bounds[3]
        for other in boxes[:index]:
            wide = min(box[2], other[2]) - max(box[0], other[0])
            high = min(box[3], other[3]) - max(box[1], other[1])
            assert wide <= 1e-6 or high <= 1e-6


def test_a_name_beside_anothers_marker_gets_a_line() -> None:
    points = [(500.0, 400.0), (500.0, 400.0), (500.0, 401.0)]
    places = place_names(points, [30.0] * 3, [(90.0, 14.0)] * 3, (0, 0, 1000, 800))
    assert any(place.unclear for place in places)
    alone = place_names([(500.0, 400.0), (100.0, 100.0)], [5.0, 5.0], [(90.0, 14.0)] * 2, (0, 0, 1000, 800))
    assert not any(place.unclear for place in alone)


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ([2.3, 138.0], [2.0, 5.0, 20.0, 100.0]),
        ([25.0, 26.0], [20.0]),
        ([0.27, 0.85], [0.2, 0.5]),
        ([11.7, 60.2], [10.0, 50.0]),
    ],
    ids=str,
)
def test_areas_of_the_legend(values: list[float], steps: list[float]) -> None:
    assert area_steps(values) == pytest.approx(steps)


def test_compare(repro: Command, tmp_path: Path) -> None:
    figure = tmp_path / "figure.png"
    status, output, error = repro("compare", "resnet18", "resnet50", "resnet18", "resnext50*", "--out", str(figure))
    assert (status, error) == (0, "")
    rows = [line.split() for line in output.splitlines()[1:4]]
    assert [row[:5] for row in rows] == [
        ["resnet18", "ResNet", "11.7", "1.81", "2.48"],
        ["resnet50", "ResNet", "25.6", "4.09", "11.1"],
        ["resnext50_32x4d", "ResNeXt", "25.0", "4.23", "14.4"],
    ]
    assert rows[2][5] == "22.2"
    assert "Xie et al., CVPR 2017, Table 3." in output
    from matplotlib.image import imread

    pixels = imread(figure)
    assert 0.01 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.4, "neither blank nor full"


def test_compare_as_data(repro: Command) -> None:
    rows = json.loads(repro("compare", "resnet20", "timm/resnet10t", "--input", "64", "--json")[1])
    assert [(row["name"], row["family"], row["builder"], row["input"]) for row in rows] == [
        ("resnet20", "ResNet", "ours", [3, 64, 64]), ("timm/resnet10t", "ResNet", "timm", [3, 64, 64]),
    ]  # fmt: skip
    small = load_preset("resnet20")
    linear = 64 * 10  # the only layer whose cost does not grow with the input
    assert rows[0]["macs"] - linear == 4 * (cached_price(small, 32, 3, 10).macs - linear)
    assert rows[1]["params"] == cached_price(load_preset("timm/resnet10t"), 64, 3, 1000).params > 5 * 10**6


def test_data_sets_do_not_share_a_figure_but_a_table(repro: Command, tmp_path: Path) -> None:
    figure = tmp_path / "figure.svg"
    status, output, error = repro("compare", "resnet20", "resnet50", "--out", str(figure))
    assert status == 2
    assert output.splitlines()[1].startswith("resnet20")
    assert error == (
        "repro: no figure: errors on different data do not compare: resnet20 (CIFAR-10), resnet50 (ImageNet-1k); name "
        "models of one data set\n"
    )
    assert not figure.exists()


WRONG = {
    "unknown model": (["resnet50", "resnt18"], "unknown model 'resnt18'; did you mean"),
    "pattern of nothing": (["resnxt50*"], "unknown pattern of models 'resnxt50*'; did you mean 'resnet50'?"),
    "unknown to timm": (["timm/resnet_50"], "unknown architecture of timm 'resnet_50'; did you mean 'resnet50'?"),
    "no size": (["resnet18", "--input", "big"], "--input big: expected a whole number of pixels"),
    "ending": (["resnet18", "resnet50", "--out", "figure.bmp"], "expected a file that ends in .png, .svg, .pdf"),
    "folder": (["resnet18", "resnet50", "--out", "/proc/nowhere/a.png"], "the folder cannot be made"),
    "axis": (["resnet18", "--x", "flops"], "invalid choice: 'flops'"),
    "nothing": ([], "the following arguments are required: MODEL"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_and_exit_status_2(words: list[str], message: str, repro: Command) -> None:
    status, output, error = repro("compare", *words)
    assert (status, output, error.count("\n")) == (2, "", 1)
    assert message in error
