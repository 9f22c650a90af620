"""`repro show recipe/NAME` and `repro list recipes`: what they print, what they never import, wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.cost import parameter_kinds
from repro.models import build
from repro.models.presets import load_preset
from repro.optim.groups import group_sizes
from repro.optim.schedules import build_schedule
from repro.paths import options
from repro.recipes import load_recipe, steps_per_epoch
from repro.report.recipe_text import (
    augment_text,
    average_text,
    clip_text,
    decay_text,
    evaluation_text,
    loss_text,
    mix_text,
    optimizer_text,
    rate_text,
    schedule_text,
    short_paper,
)
from repro.report.schedule_trace import BLOCKS, sparkline, trace
from tests.conftest import Outcome

Command = Callable[..., Outcome]


def test_json_has_all_of_a_recipe(repro: Command) -> None:
    tree = json.loads(repro("show", "recipe/nfnet", "--json")[1])
    assert (tree["name"], tree["model"], tree["peak_lr"]) == ("nfnet", "nfnet_f0", 1.6)
    assert (tree["steps_per_epoch"], tree["steps"], tree["epochs"]) == (312, 112_320, 360.0)
    assert tree["about"]["expected"][0]["top1_error"] == 16.4
    assert tree["recipe"]["clip"]["agc"] == 0.01
    rates = {point["at"]: (point["step"], point["lr"]) for point in tree["learning_rate"]}
    assert rates["start"] == (0, 0.0)
    assert rates["end of the warm-up"] == (1560, pytest.approx(1.6))
    assert tree["evaluation"] == {
        "train_size": 192, "resize": 288, "crop": 256, "views": "centre", "interpolation": "bicubic"
    }  # fmt: skip
    decay = {group["kind"]: group["weight_decay"] for group in tree["weight_decay"]}
    assert decay == {"weight": 2e-5, "bias": 0.0, "gain": 0.0}


def test_text_has_what_a_reader_looks_for(repro: Command) -> None:
    status, output, error = repro("show", "recipe/he2015_cifar_110")
    assert (status, error) == (0, "")
    for text in [
        "Deep Residual Learning", "section 4.2", "45,000", "2 GPUs", "64,000 steps of 128", "SGD, momentum 0.9",
        "× 0.1 after 91.17 epochs, 136.8 epochs; warm-up at 0.01 over 1.14 epochs", "last of the warm-up", "6.61",
        "parameters of resnet110", "1,719,856", "crop of 32 from 4 pixels of padding", "mean of each pixel",
    ]:  # fmt: skip
        assert text in output
    assert set(BLOCKS) & set(output)


def test_a_number_from_memory_is_marked(repro: Command) -> None:
    assert "Table 1 (unverified)" in repro("show", "recipe/brock2021_nfresnet")[1]
    assert "unverified" not in repro("show", "recipe/wrn_cifar")[1]


def test_overrides_change_what_is_shown(repro: Command) -> None:
    words = ["recipe.schedule.name=cosine", "recipe.batch_size=512", "model=resnet20", "data.size=256"]
    tree = json.loads(repro("show", "recipe/bello2021", *words, "--json")[1])
    assert (tree["recipe"]["schedule"]["name"], tree["peak_lr"], tree["model"]) == ("cosine", 0.2, "resnet20")
    assert tree["overrides"] == words
    assert (tree["evaluation"]["crop"], tree["evaluation"]["resize"]) == (256, 288)
    assert tree["steps"] == 90 * (1_281_167 // 512)
    assert not any("milestone" in point["at"] for point in tree["learning_rate"])


def test_a_model_comes_before_a_recipe_of_its_name(repro: Command) -> None:
    assert "architecture" in json.loads(repro("show", "mobilenet_v2", "--json")[1])
    assert json.loads(repro("show", "recipe/mobilenet_v2", "--json")[1])["peak_lr"] == 0.045
    assert json.loads(repro("show", "wrn_cifar", "--json")[1])["recipe"]["weight_decay"] == 5e-4


@pytest.mark.parametrize("name", options("recipe"))
def test_every_recipe_is_shown(name: str, repro: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    count = parameter_kinds.KindCount(kind="weight", tensors=1, parameters=10)
    monkeypatch.setattr("repro.verbs.show_recipe.kind_counts", lambda config: (count,))
    status, output, error = repro("show", f"recipe/{name}")
    assert (status, error) == (0, "")
    assert "None" not in output
    assert json.loads(repro("show", f"recipe/{name}", "--json")[1])["learning_rate"][-1]["at"].endswith("last step")


@pytest.mark.parametrize("words", [["show", "recipe/wrn_cifar"], ["list", "recipes"], ["list", "recipes", "--json"]])
def test_what_was_counted_before_imports_nothing_heavy(words: list[str], repro: Command) -> None:
    repro("show", "recipe/wrn_cifar")
    code = (
        "import sys; from repro.cli import main; status = main(sys.argv[1:]);"
        "heavy = {'torch', 'lightning', 'timm', 'hydra', 'omegaconf', 'matplotlib', 'scipy'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_kinds_are_counted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    config = load_preset("mobilenet_v2")
    counts = parameter_kinds.kind_counts(config)
    sizes = group_sizes(build(config, 3, 1000))
    assert [(c.kind, c.tensors, c.parameters) for c in counts] == [(s.kind, s.tensors, s.parameters) for s in sizes]
    monkeypatch.setattr(parameter_kinds, "_count", lambda config: pytest.fail("counted again"))
    assert parameter_kinds.kind_counts(config) == counts
    other = load_preset("mobilenet_v2", native={"size": 224, "channels": 3, "classes": 10})
    with pytest.raises(pytest.fail.Exception, match="counted again"):
        parameter_kinds.kind_counts(other)


WRONG = {
    "unknown recipe": (["recipe/nfnets"], "unknown recipe 'nfnets'; did you mean 'nfnet'?"),
    "a part of others": (["recipe/_cifar"], "unknown recipe '_cifar'"),
    "no such thing": (["wrn_cifr"], "unknown ablation, model or recipe 'wrn_cifr'; did you mean 'wrn_cifar'?"),
    "unknown key": (["recipe/nfnet", "recipe.schedul.name=cosine"], "no 'schedul'; did you mean 'schedule'?"),
    "unknown schedule": (["recipe/nfnet", "recipe.schedule.name=cosin"], "did you mean 'cosine'?"),
    "another group": (["recipe/nfnet", "trainer=gpu"], "takes recipe.KEY=VALUE, model=NAME, model.KEY=VALUE and"),
    "no override": (["recipe/nfnet", "cosine"], "'cosine': repro show recipe/nfnet takes recipe.KEY=VALUE"),
    "override of a model": (["resnet50", "model.groups=2"], "repro show resnet50: only a recipe takes model.groups=2"),
    "figure of a model": (["resnet50", "--figure", "x.png"], "repro show resnet50: only a recipe takes --figure x.png"),
    "figure of another kind": (["recipe/nfnet", "--figure", "x.gif"], "--figure x.gif: expected a file that ends in"),
    "too large a batch": (["recipe/nfnet", "recipe.batch_size=9000000"], "is more than the 1281167 training images"),
    "all warm-up": (["recipe/nfnet", "recipe.schedule.warmup=100%"], "the run has only 112320"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_and_exit_status_2(words: list[str], message: str, repro: Command) -> None:
    status, output, error = repro("show", *words)
    assert (status, output, error.count("\n")) == (2, "", 1)
    assert message in error


@pytest.mark.parametrize(
    ("suffix", "head"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")], ids=lambda value: str(value)
)
def test_the_figure_is_written_and_always_the_same(suffix: str, head: bytes, repro: Command, tmp_path: Path) -> None:
    paths = [tmp_path / "new" / f"{number}{suffix}" for number in range(2)]
    for path in paths:
        status, output, _ = repro("show", "recipe/fb_resnet_torch", "--figure", str(path))
        assert status == 0
        assert output.rstrip().endswith(str(path))
    assert paths[0].read_bytes().startswith(head)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_figure_says_what_is_drawn(repro: Command, tmp_path: Path) -> None:
    path = tmp_path / "lr.svg"
    assert repro("show", "recipe/efficientnet", "--figure", str(path), "--json")[0] == 0
    text = path.read_text(encoding="utf-8")
    assert all(word in text for word in ("efficientnet", "learning rate", "epoch", "warm-up", "2.4 epochs"))


def test_list_recipes(repro: Command) -> None:
    status, output, _ = repro("list", "recipes")
    lines = output.splitlines()
    assert status == 0
    assert [line.split()[0] for line in lines[1 : lines.index("")]] == options("recipe")
    assert "nf_resnet50 24.2 % (unverified)" in output
    efficientnet = next(line for line in lines if line.startswith("efficientnet "))
    for text in [
        "Tan & Le, ICML 2019",
        "ImageNet-1k",
        "350 epochs",
        "4096",
        "0.256",
        "RMSProp",
        "efficientnet_b0 22.9 %",
    ]:
        assert text in efficientnet


def test_list_recipes_as_json_has_numbers(repro: Command) -> None:
    rows = {row["name"]: row for row in json.loads(repro("list", "recipes", "--json")[1])}
    assert list(rows) == options("recipe")
    nfnet = rows["nfnet"]
    assert (nfnet["batch_size"], nfnet["peak_lr"], nfnet["duration"], nfnet["images"]) == (4096, 1.6, "360ep", 1281167)
    assert nfnet["expected"][0] == {
        "model": "nfnet_f0", "top1_error": 16.4, "protocol": "ImageNet val, 256 centre crop, mean of 3",
        "source": "Table 2", "verified": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("paper", "short"),
    [
        ('He, Zhang, Ren, Sun, "Deep Residual Learning", CVPR 2016', "He et al., CVPR 2016"),
        ('Tan, Le, "EfficientNet: Rethinking", ICML 2019', "Tan & Le, ICML 2019"),
        ('Howard et al., "Searching for MobileNetV3", ICCV 2019', "Howard et al., ICCV 2019"),
        ('Vryniotis, "How to Train", PyTorch blog 2021', "Vryniotis, PyTorch blog 2021"),
        ("none", "none"),
    ],
    ids=["four authors", "two", "et al.", "one", "no citation"],
)
def test_a_citation_is_shortened(paper: str, short: str) -> None:
    assert short_paper(paper) == short


def test_a_recipe_in_words() -> None:
    nfnet, rsb, efficientnet = (load_recipe(name) for name in ("nfnet", "rsb_a3", "efficientnet"))
    assert rate_text(nfnet) == "0.1 for 256 images: 1.6 for the batch of 4,096"
    assert schedule_text(nfnet, 360) == "cosine to 0; linear warm-up from 0 over 5 epochs"
    assert schedule_text(load_recipe("shufflenet"), 239.8) == "linear to 0"
    assert schedule_text(load_recipe("mobilenet_v2"), 300) == "× 0.98 every 1 epoch"
    assert schedule_text(load_recipe("regnet_100ep"), 100) == "cosine to 0; linear warm-up from 0.08 over 5 epochs"
    assert decay_text(nfnet) == "2e-05, not of norm, bias, gain"
    assert decay_text(load_recipe("wrn_cifar")) == "0.0005, of all parameters"
    assert clip_text(nfnet).startswith("adaptive (AGC), 0.01")
    assert average_text(load_recipe("torchvision_v2")).endswith("of decay 0.9989077333 every 32 steps")
    assert loss_text(rsb) == "binary cross-entropy (targets above 0.2 count as 1)"
    assert optimizer_text(efficientnet) == "RMSProp, momentum 0.9, decay 0.9, epsilon 0.001"
    assert optimizer_text(rsb) == "LAMB, betas 0.9 and 0.999, epsilon 1e-06"
    assert mix_text(nfnet.augment.mix) == "mixup 0.2 and CutMix 1, each for half of a batch"
    assert mix_text(rsb.augment.mix) == "mixup 0.1 and CutMix 1, CutMix for 50 % of batches"
    assert "RandAugment (N = 2, M = 6 ± 0.5)" in augment_text(rsb.augment, 160)
    assert "from a shorter side of 256 to 480" in augment_text(load_recipe("he2015_imagenet").augment, 224)
    ten = evaluation_text(load_recipe("he2015_imagenet").evaluation, 224)
    assert ten == "ten crops of 224 from a shorter side of 256 (bilinear)"


def test_the_trace_has_both_sides_of_each_milestone() -> None:
    recipe = load_recipe("xie2017_imagenet")
    points = trace(build_schedule(recipe, steps_per_epoch(recipe)), steps_per_epoch(recipe))
    rates = {point.at: (point.epoch, point.lr) for point in points}
    assert rates["milestone 2"] == (60.0, pytest.approx(1e-3))
    assert rates["before milestone 2"] == (pytest.approx(60, abs=1e-3), pytest.approx(1e-2))
    assert [point.step for point in points] == sorted({point.step for point in points})


@given(name=st.sampled_from(options("recipe")), width=st.integers(1, 120), per_epoch=st.integers(5, 50))
def test_a_sparkline_is_as_wide_as_asked_and_reaches_its_top(name: str, width: int, per_epoch: int) -> None:
    schedule = build_schedule(load_recipe(name), per_epoch)
    line = sparkline(schedule, width)
    assert len(line) == width
    assert set(line) <= set(BLOCKS)
    assert BLOCKS[-1] in line


def test_the_sparkline_of_a_line_falls_block_by_block() -> None:
    assert sparkline(build_schedule(load_recipe("shufflenet"), 1251), 8) == BLOCKS[::-1]


@pytest.mark.parametrize("name", options("recipe"))
def test_every_recipe_can_be_shown_changed(name: str, repro: Command) -> None:
    """Whatever its test crops are; they may not go with the data set that stands for none."""
    status, out, err = repro("show", f"recipe/{name}", "recipe.lr=0.2", "recipe.lr_batch=null", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["recipe"]["lr"] == 0.2
