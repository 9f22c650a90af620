"""`repro evaluate`: runs that were really trained, published weights, two processes; one line for each mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

from repro import ablation, folder
from repro.data import load
from repro.errors import InputError
from repro.evaluate import JOB, _network, average, evaluate, predict, run, start
from repro.evaluate import main as process
from repro.evaluation import pretrained
from repro.evaluation.cuts import Choices, cuts
from repro.evaluation.measures import measures, sums
from repro.evaluation.probe import check_network
from repro.evaluation.records import Job, LibraryWeights, Measures, PublishedValue, compare
from repro.evaluation.targets import find_targets
from repro.models.presets import load_preset
from repro.paths import options
from repro.study import Run, Study, plan
from tests.conftest import MINE, Outcome
from tests.image_files import write_tree

Command = Callable[..., Outcome]

STUDY = MINE.replace("recipe.duration=1ep", "recipe.duration=1ep, recipe.ema.decay=0.5")


class Stub:
    """A loader of batches that are given."""

    def __init__(self, images: Tensor, labels: Tensor, batch: int) -> None:
        parts = zip(images.split(batch), labels.split(batch), strict=True)
        self.batches = [(x, y) for x, y in parts if len(y)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)


def stub(batch: int, views: int = 0, images: int = 23) -> Stub:
    draw = torch.Generator().manual_seed(3)
    shape = (images, views, 3, 4, 4) if views else (images, 3, 4, 4)
    return Stub(torch.randn(shape, generator=draw), torch.randint(6, (images,), generator=draw), batch)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.Dropout(0.9))


@pytest.mark.parametrize("views", [0, 10], ids=["one view", "ten crops"])
def test_each_image_counts_once_whatever_the_batch(views: int) -> None:
    """23 images in batches of 1, 5 (the last of 3) and 23; dropout is off."""
    found = [evaluate([network(0)], [stub(batch, views)]) for batch in (1, 5, 23)]
    assert [each.images for each in found] == [23, 23, 23]
    for each in found[1:]:
        assert (each.top1_error, each.top5_error) == (found[0].top1_error, found[0].top5_error)
        assert each.nll == pytest.approx(found[0].nll, rel=1e-5)
        assert each.calibration_error == pytest.approx(found[0].calibration_error, rel=1e-4)


def test_ten_crops_are_the_mean_of_their_probabilities() -> None:
    net, loader = network(0).eval(), stub(5, views=10)
    images, labels = (torch.cat(parts) for parts in zip(*loader.batches, strict=True))
    with torch.no_grad():
        mean = net(images.flatten(0, 1)).softmax(1).view(23, 10, 6).mean(1)
    found, given = predict(net, loader)
    torch.testing.assert_close(found.exp(), mean)
    assert torch.equal(given, labels)


def test_an_ensemble_over_sizes_is_the_mean_of_all_probabilities() -> None:
    nets, loaders = [network(0), network(1)], [stub(5), stub(7)]
    parts = [predict(net, loader)[0].exp() for net in nets for loader in loaders]
    expected = measures(sums(torch.stack(parts).mean(0).log(), predict(nets[0], loaders[0])[1]))
    found = evaluate(nets, loaders)
    assert (found.top1_error, found.top5_error) == (expected.top1_error, expected.top5_error)
    assert found.nll == pytest.approx(expected.nll, rel=1e-5)


def test_probabilities_of_other_images_are_not_averaged() -> None:
    log_probs = torch.zeros(2, 3).log_softmax(1)
    with pytest.raises(InputError, match="the same images only"):
        average([(log_probs, torch.tensor([0, 1])), (log_probs, torch.tensor([0, 2]))])
    with pytest.raises(InputError, match="the split has no image"):
        evaluate([network(0)], [stub(5, images=0)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> tuple[Path, Path]:
    """The smoke study of two rows and two seeds with averaged weights: its file and its folder of runs."""
    from repro.cli import main

    place = tmp_path_factory.mktemp("trained")
    path = place / "mine.yaml"
    path.write_text(STUDY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RUNS", str(place / "runs"))
        patch.setenv("REPRO_CACHE", str(shared_cache))
        assert main(["run", str(path), "scale=smoke", "seeds=2"]) == 0
    return path, place / "runs"


@pytest.fixture
def study(trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, runs: Path) -> Study:
    """The same study, where this test looks for runs."""
    monkeypatch.setenv("REPRO_RUNS", str(trained[1]))
    return plan(ablation.load(str(trained[0])), "smoke", range(2))


def asked(repro: Command, *words: str) -> dict[str, Any]:
    status, output, errors = repro("evaluate", *words, "--json")
    assert status == 0, errors
    tree: dict[str, Any] = json.loads(output)
    return tree


def recorded(one: Run) -> dict[str, float]:
    result = one.result()
    assert result is not None
    return result.last


def test_a_run_measures_what_its_result_says(study: Study, repro: Command) -> None:
    one = study.runs[1]
    before = {path.name: path.read_bytes() for path in one.directory.iterdir()}
    tree = asked(repro, str(one.directory))
    (outcome,) = tree["outcomes"]
    assert outcome["weights"] == "ema"
    assert outcome["measures"]["images"] == 500
    assert outcome["measures"]["top1_error"] == pytest.approx(recorded(one)["test_top1_error"], abs=1e-3)
    assert outcome["measures"]["top5_error"] == pytest.approx(recorded(one)["test_top5_error"], abs=1e-3)
    assert outcome["measures"]["nll"] == pytest.approx(recorded(one)["test_loss"], rel=1e-5)
    assert outcome["images"]["split"] == "test"
    assert outcome["images"]["fingerprint"] == one.result().data.fingerprint  # type: ignore[union-attr]
    assert before == {path.name: path.read_bytes() for path in one.directory.iterdir()}


def test_raw_weights_are_others(study: Study, repro: Command) -> None:
    folder_of_run = str(study.runs[1].directory)
    (raw,), (average_,) = (asked(repro, folder_of_run, "--weights", which)["outcomes"] for which in ("raw", "ema"))
    assert (raw["weights"], average_["weights"]) == ("raw", "ema")
    assert raw["measures"]["nll"] != average_["measures"]["nll"]
    (default,) = asked(repro, folder_of_run)["outcomes"]
    assert default["measures"] == average_["measures"]


def test_a_row_gives_each_seed_mean_and_spread_and_their_ensemble(study: Study, repro: Command) -> None:
    tree = asked(repro, f"{study.ablation.path}/smoke/wide", "--ensemble")
    assert [outcome["name"] for outcome in tree["outcomes"]] == ["mine/smoke/wide/seed0", "mine/smoke/wide/seed1"]
    errors = [outcome["measures"]["top1_error"] for outcome in tree["outcomes"]]
    expected = [recorded(one)["test_top1_error"] for one in study.runs if one.variant == "wide"]
    assert errors == pytest.approx(expected, abs=1e-3)
    (row,) = tree["rows"]
    assert row["mean"]["top1_error"] == pytest.approx(sum(errors) / 2)
    assert row["sd"]["top1_error"] == pytest.approx(abs(errors[0] - errors[1]) / 2**0.5)
    assert tree["ensemble"]["name"] == "ensemble of 2"
    assert tree["ensemble"]["measures"]["nll"] <= max(each["measures"]["nll"] for each in tree["outcomes"])


def test_the_ensemble_is_that_of_the_pure_function(study: Study) -> None:
    targets = find_targets([f"{study.ablation.path}/smoke"], [], Choices())
    found = run(Job(targets=targets, split="val", ensemble=True))
    config = targets[0].config
    recipe = config.recipe
    cpu = torch.device("cpu")
    splits = load(config.data, recipe.augment, recipe.evaluation, batch_size=60, seed=0, device=cpu, channels_last=True)
    expected = evaluate([_network(target) for target in targets], [splits.val])
    assert len(targets) == 4
    assert found.ensemble is not None
    assert found.ensemble.measures.images == 97
    assert found.ensemble.measures.top1_error == expected.top1_error
    assert found.ensemble.measures.nll == pytest.approx(expected.nll, rel=1e-6)


def test_the_page(study: Study, repro: Command) -> None:
    status, page, _ = repro("evaluate", f"{study.ablation.path}/smoke", "--ensemble", "--format", "md")
    assert status == 0
    lines = page.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:9]] == [
        *("mine/smoke/narrow/seed0", "mine/smoke/narrow/seed1", "mine/smoke/narrow, mean of 2"),
        *("mine/smoke/wide/seed0", "mine/smoke/wide/seed1", "mine/smoke/wide, mean of 2", "ensemble of 4"),
    ]
    assert all("9.0 ¹" in line for line in lines[2:5])
    assert "¹ digits: Table 1. Not measured as here: no difference is taken." in page
    assert "Read: the test split of digits, 500 images, each once, data fingerprint" in page
    assert "No run's result is changed by it." in page
    assert repro("evaluate", f"{study.ablation.path}/smoke", "--format", "latex")[1].startswith("% needs")
    table = repro("evaluate", str(study.runs[0].directory), "--format", "csv")[1].splitlines()
    assert len(table) == 2
    assert table[0].startswith("name,row,seed,weights,top1_error,top5_error,nll,calibration_error,images")
    assert "calibration error %" in repro("evaluate", str(study.runs[0].directory))[1]


TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


@pytest.mark.training
def test_two_processes_count_each_image_once(study: Study, repro: Command) -> None:
    """97 images on two ranks: 49 and 48, in 13 and 12 batches, the last of 49 with one image."""
    words = (f"{study.ablation.path}/smoke/wide", "--split", "val", "--ensemble", "--batch", "4")
    alone, both = asked(repro, *words), asked(repro, *words, *TWO)
    pairs = zip([*alone["outcomes"], alone["ensemble"]], [*both["outcomes"], both["ensemble"]], strict=True)
    for one, other in pairs:
        assert (one["measures"]["images"], other["measures"]["images"]) == (97, 97)
        for error in ("top1_error", "top5_error"):
            assert one["measures"][error] == other["measures"][error]
        assert other["measures"]["nll"] == pytest.approx(one["measures"]["nll"], rel=1e-6)
        assert other["measures"]["calibration_error"] == pytest.approx(one["measures"]["calibration_error"], rel=1e-5)


@pytest.mark.training
def test_fewer_images_than_processes(study: Study, repro: Command) -> None:
    tree = asked(repro, str(study.runs[0].directory), "--split", "val", "data.val=1", *TWO)
    assert tree["outcomes"][0]["measures"]["images"] == 1


def test_a_mistake_in_a_process_is_one_line(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process says of a batch larger than the training set is what the command says."""
    (target,) = find_targets([str(study.runs[0].directory)], [], Choices(batch=5000))
    (tmp_path / JOB).write_text(Job(targets=(target,), split="test", ensemble=False).model_dump_json())
    assert process([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), "5000" in said) == (1, True)
    done = subprocess.CompletedProcess([], 1, stderr=f"GLOBAL_RANK: 1\n{said}Traceback ...\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    (target,) = find_targets([str(study.runs[0].directory)], TWO, Choices())
    with pytest.raises(InputError) as caught:
        start(Job(targets=(target,), split="test", ensemble=False))
    assert f"repro: {caught.value}\n" == said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}", "--weights", "ema", "recipe.lr=1"], "'recipe.lr=1': an evaluation changes only data, trainer"),
        (["{run}", "data.foo=1"], "unknown key 'data.foo'"),
        (["{run}", "data.test=x"], "data.test is 'x'"),
        (["{run}", "data.test=1,2"], "gives no single value"),
        (["{run}", "--views", "flip"], "views=flip has mirror images, and one of data=digits is of no class"),
        (["{run}", "--views", "full"], "views=full has mirror images"),
        (["{run}", "--crop", "9"], "a crop of 9 pixels is larger than the image, whose shorter side is resized to 8"),
        (["{run}", "--crop", "0"], "--crop 0: expected a whole number of pixels from 1 on"),
        (["{run}", "--sizes", "8,8"], "--sizes 8,8: a size is given twice"),
        (["{run}", "--sizes", "8", "--resize", "8"], "leave out --resize and --crop"),
        (["{run}", "--ensemble"], "--ensemble needs at least two networks"),
        (["{run}", "data=shapes"], "cannot take images of 3 x 16 x 16"),
        (["{run}", "trainer.devices=2"], "need trainer.strategy=ddp"),
        (["{run}", "trainer.strategy=ddp", "trainer.nodes=2"], "an evaluation runs on one machine"),
        (["{run}", "{run}/nothing"], "unknown target"),
        (["{runs}"], "no run's folder; it has no config.yaml"),
        (["data.test=3"], "name what to evaluate"),
        (["{file}"], "say at which scale: {file}/SCALE, one of laptop, smoke"),
        (["{file}/smok"], "unknown scale 'smok'; did you mean 'smoke'?"),
        (["{file}/smoke/wid"], "unknown variant 'wid'; did you mean 'wide'?"),
        (["{file}/laptop"], "no finished run in"),
        (["preactivaton/smoke"], "unknown ablation 'preactivaton'; did you mean 'preactivation'?"),
        (["preactivation"], "say at which scale: preactivation/SCALE"),
        (["resnet5"], "unknown target 'resnet5'; did you mean 'resnet56'?"),
        (["lenet5"], "model lenet5: no published weights are known to fit it"),
        (["resnet50", "--weights", "raw"], "--weights raw|ema is for runs"),
        (["torchvision/resnet50:V3"], "unknown weights of torchvision/resnet50 'V3'"),
        (["torchvision/resnet51"], "unknown architecture of torchvision 'resnet51'; did you mean 'resnet50'?"),
        (["timm/resnet50.a9_in1k"], "unknown architecture of timm 'resnet50.a9_in1k'"),
        (["timm/resnet200"], "timm/resnet200: timm has no weights of this network"),
        (["torchvision/resnet50", "data=digits"], "say data=imagenet data.root=/path"),
        (["torchvision/resnet50", "data=imagenet", "data.classes=10"], "the weights are for 1000 classes"),
        (["torchvision/resnet50", "data.root=/nowhere"], "/nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(study: Study, repro: Command, words: Sequence[str], message: str) -> None:
    known = {"{runs}": study.directory, "{run}": study.runs[0].directory, "{file}": study.ablation.path}

    def filled(text: str) -> str:
        for mark, path in known.items():
            text = text.replace(mark, str(path))
        return text

    status, output, error = repro("evaluate", *map(filled, words))
    assert (status, output, error.count("\n")) == (2, "", 1), error
    assert error.startswith("repro: ")
    assert filled(message) in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: (run / "result.json").unlink(), "the run is not finished (planned)"),
        (lambda run: (run / "final.ckpt").unlink(), "final.ckpt: no such file"),
        (lambda run: (run / "final.ckpt").write_bytes(b"x"), "final.ckpt: not the weights of a run"),
        (lambda run: torch.save({"raw": {}, "ema": None}, run / "final.ckpt"), "kept no average of its weights"),
        (lambda run: torch.save({"raw": {}, "ema": {}}, run / "final.ckpt"), "do not fit the network"),
    ],
    ids=["not finished", "no weights", "damaged weights", "no average", "weights of another network"],
)
def test_a_run_that_cannot_be_evaluated(
    study: Study, repro: Command, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (folder.CONFIG, "result.json", folder.WEIGHTS):
        (copy / name).write_bytes((study.runs[0].directory / name).read_bytes())
    change(copy)
    status, _, error = repro("evaluate", str(copy))
    assert (status, error.count("\n")) == (2, 1)
    assert message in error


@pytest.mark.training
def test_runs_of_another_experiment_are_not_mixed_into_a_row(mine: Path, repro: Command, runs: Path) -> None:
    """Two configs of one row in one folder: the table's own are taken; of two others, none."""
    mine.write_text(STUDY)
    for more in ([], ["recipe.lr=0.01"], ["recipe.lr=0.02"]):
        assert repro("run", str(mine), "scale=smoke", "seeds=1", "variants=[narrow]", *more)[0] == 0
    own = plan(ablation.load(str(mine)), "smoke", [0]).runs[0]
    (target,) = find_targets([f"{mine}/smoke/narrow"], [], Choices())
    assert target.weights.directory == str(own.directory)  # type: ignore[union-attr]
    (own.directory / "result.json").unlink()
    with pytest.raises(InputError, match="runs of 2 different configs; name a run's folder"):
        find_targets([f"{mine}/smoke/narrow"], [], Choices())


PUBLISHED = PublishedValue(metric="top1_error", value=23.9, protocol="ImageNet", source="Table 3", comparable=True)
FOUND = Measures(top1_error=24.5, top5_error=7.0, nll=1.0, calibration_error=2.0, images=10)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({}, 0.6),
        ({"metric": "top5_error", "value": 8.0}, -1.0),
        ({"metric": "top1_accuracy", "value": 75.0}, 0.5),
        ({"comparable": False}, None),
    ],
    ids=["top-1 error", "top-5 error", "top-1 accuracy", "another protocol"],
)
def test_the_difference_from_the_published_value(change: dict[str, Any], difference: float | None) -> None:
    (found,) = compare(FOUND, (PUBLISHED.model_copy(update=change),))
    assert found.difference == (None if difference is None else pytest.approx(difference))


IMAGENET = ["data=imagenet", "data.root=/nowhere"]


@pytest.mark.parametrize(
    ("name", "choices", "expected"),
    [
        ("torchvision/resnet50:IMAGENET1K_V1", Choices(), [(256, 224, "centre", "bilinear")]),
        ("torchvision/resnet50", Choices(), [(232, 224, "centre", "bilinear")]),
        ("torchvision/inception_v3", Choices(), [(342, 299, "centre", "bilinear")]),
        ("timm/resnet50.a1_in1k", Choices(), [(288, 288, "centre", "bicubic")]),
        ("resnet50", Choices(views="ten_crop"), [(256, 224, "ten_crop", "bilinear")]),
        ("resnet50", Choices(resize=320, crop=320), [(320, 320, "centre", "bilinear")]),
        ("resnet50", Choices(crop=240), [(256, 240, "centre", "bilinear")]),
        ("resnet50", Choices(resize=480), [(480, 224, "centre", "bilinear")]),
        ("resnet50", Choices(sizes=(224, 320)), [(256, 224, "centre", "bilinear"), (365, 320, "centre", "bilinear")]),
        (
            "resnet50",
            Choices(views="full", sizes=(224, 256, 384, 480, 640)),
            [(side, side, "full", "bilinear") for side in (224, 256, 384, 480, 640)],
        ),
    ],
    ids=["V1", "V2", "Inception", "timm", "ten crops", "320", "crop", "resize", "sizes", "He et al. 2015"],
)
def test_how_images_are_cut(name: str, choices: Choices, expected: list[tuple[int, int, str, str]]) -> None:
    (target,) = find_targets([name], IMAGENET, choices)
    found = [(cut.resize(224), cut.crop(224), cut.views, cut.interpolation) for cut in target.cuts]
    assert found == expected


@pytest.mark.parametrize(
    ("name", "overrides", "choices", "expected"),
    [
        ("resnet50", [], Choices(), [True, True, True]),
        ("resnet50", [], Choices(views="ten_crop"), [False, False, False]),
        ("resnet50", [], Choices(resize=320, crop=320), [False, False, False]),
        ("resnet50", [], Choices(sizes=(224, 320)), [False, False, False]),
        ("resnet50", ["data=imagenette", "data.classes=1000"], Choices(), [False, False, False]),
        ("vgg16", [], Choices(), [False, True, True]),
        ("vgg16", [], Choices(views="ten_crop"), [True, False, False]),
    ],
    ids=["centre", "ten crops", "320", "sizes", "other data", "published for ten crops", "ten crops of that"],
)
def test_a_difference_is_taken_by_the_published_protocol_only(
    name: str, overrides: list[str], choices: Choices, expected: list[bool]
) -> None:
    """The preset's published value first, then torchvision's metadata: top-1 and top-5."""
    (target,) = find_targets([name], [*IMAGENET, *overrides], choices)
    assert [each.comparable for each in target.published] == expected
    assert [each.difference for each in compare(FOUND, target.published, "val")] == [None] * 3


def test_an_override_of_the_evaluation_wins_over_the_library() -> None:
    (target,) = find_targets(["resnet50"], [*IMAGENET, "recipe.evaluation.crop_ratio=1"], Choices())
    assert (target.cuts[0].resize(224), target.cuts[0].crop(224)) == (224, 224)
    assert [(each.metric, each.value) for each in target.published] == [
        *(("top1_error", 23.84), ("top1_error", 23.87), ("top5_error", 7.138)),
    ]


@pytest.mark.parametrize("flag", [{"crop": 8}], ids=["crop"])
def test_whole_images_are_not_cropped(flag: dict[str, int]) -> None:
    (target,) = find_targets(["resnet50"], IMAGENET, Choices())
    with pytest.raises(InputError, match="views=full cuts nothing"):
        cuts(target.config, Choices(views="full", **flag), "x")


@pytest.mark.parametrize("name", ["torchvision/vgg11", "torchvision/alexnet"])
def test_dense_evaluation_needs_a_fully_convolutional_network(name: str) -> None:
    (target,) = find_targets([name], IMAGENET, Choices(views="full"))
    net = models.get_model(name.partition("/")[2]).eval()
    with pytest.raises(InputError, match=r"views=full needs a fully convolutional network .* a map of [67] x [67]"):
        check_network(net, target)


def test_a_network_of_one_input_size_is_named() -> None:
    (target,) = find_targets(["torchvision/vit_b_32"], IMAGENET, Choices(resize=256, crop=256))
    with pytest.raises(InputError, match="torchvision/vit_b_32: cannot take images of 3 x 256 x 256"):
        check_network(models.vit_b_32(), target)


@pytest.mark.parametrize("name", sorted(pretrained.PRESETS))
def test_the_weights_of_a_preset_exist(name: str) -> None:
    card = pretrained.card(pretrained.weights_of(load_preset(name)))
    assert card.weights.name == pretrained.PRESETS[name]
    assert card.weights.classes == 1000
    assert name in options("model")


@pytest.fixture
def tiny_resnet(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A ResNet-18 for three classes, in the place of the one whose weights torchvision fetches."""
    torch.manual_seed(0)
    net = models.resnet18(num_classes=3)
    monkeypatch.setitem(models.ResNet18_Weights.IMAGENET1K_V1.meta, "categories", ["a", "b", "c"])
    monkeypatch.setattr(pretrained, "_library_network", lambda weights: net)
    return net


@pytest.mark.parametrize("views", ["centre", "ten_crop", "full"])
def test_published_weights_and_the_same_ones_on_our_network(
    tiny_resnet: nn.Module, repro: Command, tmp_path: Path, views: str
) -> None:
    """torchvision's network and ours with its weights mapped onto it measure the same, also averaged over sizes."""
    root = write_tree(tmp_path / "images")
    words = ["data=imagenet", f"data.root={root}", "data.classes=3", "data.val=3", "data.workers=0", "--batch", "4"]
    shown = ["torchvision/resnet18:IMAGENET1K_V1", "resnet18", *words, "--views", views, "--sizes", "32,48"]
    tree = asked(repro, *shown)
    theirs, ours = tree["outcomes"]
    assert theirs["measures"]["images"] == 9
    assert theirs["weights"] == ours["weights"] == "IMAGENET1K_V1"
    assert ours["measures"]["top1_error"] == theirs["measures"]["top1_error"]
    assert ours["measures"]["nll"] == pytest.approx(theirs["measures"]["nll"], rel=1e-4)
    (meta, _) = theirs["published"]
    assert meta["published"]["value"] == pytest.approx(100 - 69.758)
    assert meta["difference"] is None  # published for a centre crop of 224 of 256 pixels
    assert len(theirs["images"]["transforms"]) == 2


def test_published_weights_need_no_training_images(tiny_resnet: nn.Module, repro: Command, tmp_path: Path) -> None:
    """Whoever has the validation images alone measures the same, in batches of any size; a wrong tree is named."""
    root = write_tree(tmp_path / "images")
    shown = ["torchvision/resnet18", "data=imagenet", f"data.root={root}", "data.workers=0", "--resize", "32"]
    shown += ["--crop", "32", "data.val=3"]
    (whole,) = asked(repro, *shown, "data.classes=3", "--batch", "4")["outcomes"]
    shutil.rmtree(root / "train")
    (alone,) = asked(repro, *shown, "data.classes=3", "--batch", "64")["outcomes"]
    assert alone["measures"] == pytest.approx(whole["measures"])
    assert alone["measures"]["images"] == 9
    status, _, error = repro("evaluate", *shown, "data.classes=3", "--split", "val")
    assert (status, error.count("\n")) == (2, 1)
    assert f"{root / 'train'}: no such folder" in error
    shutil.rmtree(next((root / "val").iterdir()))
    status, _, error = repro("evaluate", *shown, "data.classes=3")
    assert (status, error) == (2, f"repro: {root / 'val'}: found 2 classes, expected data.classes=3\n")


def test_a_network_with_statistics_of_its_own_sees_its_own_images() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    weights = LibraryWeights(
        source="timm", architecture="x", classes=3, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5), own_network=True
    )
    pixels = torch.rand(2, 3, 4, 4)
    seen: list[Tensor] = []
    net = nn.Identity()
    net.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    given, own = (
        (pixels - torch.tensor(m).view(3, 1, 1)) / torch.tensor(s).view(3, 1, 1)
        for m, s in ((mean, std), (weights.mean, weights.std))
    )
    pretrained._renormalised(net, weights)(given)
    torch.testing.assert_close(seen[0], own, rtol=1e-5, atol=1e-5)


def test_weights_that_are_there_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = pretrained.card("torchvision/squeezenet1_1").weights
    state = models.squeezenet1_1().state_dict()
    path, _ = pretrained._place(weights)
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    found = pretrained.network(weights).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_weights_that_cannot_be_fetched_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repro: Command
) -> None:
    """Says which, from where, where they are looked for and how to put them there."""

    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    root = write_tree(tmp_path / "images")
    monkeypatch.setitem(models.ResNet18_Weights.IMAGENET1K_V1.meta, "categories", ["a", "b", "c"])
    words = [f"data.root={root}", "data.classes=3", "data.val=3", "--batch", "4"]
    status, output, error = repro("evaluate", "torchvision/resnet18", "data=imagenet", *words)
    assert (status, output) == (2, "")
    fetching, line = error.splitlines()
    assert fetching == "repro: torchvision/resnet18:IMAGENET1K_V1: fetching the weights"
    assert line.startswith("repro: torchvision/resnet18:IMAGENET1K_V1: torchvision could not load the weights")
    assert "no network" in line
    assert str(tmp_path / "home/hub/checkpoints/resnet18-f37072fd.pth") in line
    assert "TORCH_HOME" in line


def test_timm_weights_that_cannot_be_fetched_name_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("offline")

    monkeypatch.setattr(timm, "create_model", refuse)
    weights = pretrained.card("timm/resnet18.a1_in1k").weights
    with pytest.raises(InputError) as caught:
        pretrained.network(weights)
    message = str(caught.value)
    assert message.startswith("timm/resnet18.a1_in1k: timm could not load the weights (offline). It keeps them at ")
    assert "models--timm--resnet18.a1_in1k" in message
    assert "hf download timm/resnet18.a1_in1k" in message
