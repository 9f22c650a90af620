"""The recipes say what the papers say: rates, steps, decay, augmentation and crops, computed by hand."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest

from repro.compose import compose
from repro.config import About, RecipeConfig
from repro.duration import Duration
from repro.errors import InputError
from repro.models.presets import load_preset
from repro.optim.schedules import build_schedule
from repro.paths import conf_dir, options
from repro.recipes import about_of, load_recipe, steps_per_epoch

NAMES = options("recipe")


class Paper(NamedTuple):
    """What a paper prints, or what follows from it: `rates` by place, at the images of `about`."""

    peak: float
    batch: int
    steps: int
    decay: float
    no_decay: tuple[str, ...]
    rates: dict[str, float]


THIRDS = {"29.9ep": 0.1, "30ep": 0.01, "60ep": 1e-3, "89.9ep": 1e-3}
PAPERS = {
    "he2015_imagenet": Paper(0.1, 256, 600_480, 1e-4, (), {"29.9ep": 0.1, "30ep": 0.01, "60ep": 1e-3, "90ep": 1e-4}),
    "he2015_cifar": Paper(0.1, 128, 64_000, 1e-4, (), {"0st": 0.1, "31999st": 0.1, "32000st": 0.01, "48000st": 1e-3}),
    "he2015_cifar_110": Paper(
        0.1, 128, 64_000, 1e-4, (), {"0st": 0.01, "399st": 0.01, "400st": 0.1, "31999st": 0.1, "32000st": 0.01}
    ),
    "fb_resnet_torch": Paper(0.1, 256, 450_360, 1e-4, (), THIRDS),
    "xie2017_imagenet": Paper(0.1, 256, 500_400, 1e-4, (), {"29.9ep": 0.1, "30ep": 0.01, "60ep": 1e-3, "90ep": 1e-4}),
    "xie2017_cifar": Paper(0.1, 128, 117_000, 5e-4, (), {"149ep": 0.1, "150ep": 0.01, "225ep": 1e-3}),
    "hu2018": Paper(0.6, 1024, 125_100, 1e-4, (), {"29.9ep": 0.6, "30ep": 0.06, "60ep": 6e-3, "90ep": 6e-4}),
    "hu2018_ablation": Paper(
        0.1, 256, 1_351_080, 1e-4, (), {"124.9ep": 0.1, "125ep": 0.01, "200ep": 1e-3, "249.9ep": 1e-3, "250ep": 1e-4}
    ),
    "hu2018_mobile": Paper(0.1, 256, 2_001_600, 4e-5, (), {"0ep": 0.1, "399ep": 1e-4}),
    "wrn_cifar": Paper(0.1, 128, 78_000, 5e-4, (), {"59ep": 0.1, "60ep": 0.02, "120ep": 4e-3, "160ep": 8e-4}),
    "bello2021": Paper(
        1.6, 4096, 28_080, 1e-4, ("norm",),
        {"0ep": 0.0, "2.5ep": 0.8, "5ep": 1.6, "30ep": 0.16, "60ep": 0.016, "79.9ep": 0.016, "80ep": 0.0016},
    ),
    "bello2021_rs": Paper(
        1.6, 4096, 109_200, 4e-5, ("norm",), {"9.7222ep": 0.8, "19.4455ep": 1.6, "184.7228ep": 0.8, "350ep": 0.0}
    ),
    "brock2021_nfresnet": Paper(
        0.4, 1024, 112_590, 1e-4, ("norm", "bias", "gain"), {"0ep": 0.0, "5ep": 0.4, "47.5ep": 0.2, "90ep": 0.0}
    ),
    "nfnet": Paper(
        1.6, 4096, 112_320, 2e-5, ("norm", "bias", "gain"),
        {"0ep": 0.0, "2.5ep": 0.8, "5ep": 1.6, "182.5ep": 0.8, "360ep": 0.0},
    ),
    "he2019_bag_of_tricks": Paper(
        0.4, 1024, 250_200, 1e-4, ("norm", "bias"), {"0ep": 0.0, "5ep": 0.4, "102.5ep": 0.2, "200ep": 0.0}
    ),
    "mobilenet": Paper(
        0.045, 96, 4_003_500, 4e-5, ("norm", "depthwise"), {"0ep": 0.045, "1ep": 0.0441, "10ep": 0.045 * 0.98**10}
    ),
    "mobilenet_v2": Paper(0.045, 96, 4_003_500, 4e-5, ("norm",), {"0.99ep": 0.045, "1ep": 0.0441, "2ep": 0.043218}),
    "mobilenet_v3": Paper(0.1, 4096, 187_200, 1e-5, ("norm",), {"2.99ep": 0.1, "3ep": 0.099, "30ep": 0.1 * 0.99**10}),
    "shufflenet": Paper(0.5, 1024, 300_000, 4e-5, (), {"0st": 0.5, "75000st": 0.375, "150000st": 0.25, "300000st": 0}),
    "efficientnet": Paper(
        0.256, 4096, 109_200, 1e-5, ("norm",),
        {"2.5ep": 0.128, "5ep": 0.256 * 0.97**2, "24ep": 0.256 * 0.97**10, "349.9ep": 0.256 * 0.97**145},
    ),
    "regnet_100ep": Paper(0.8, 1024, 125_100, 5e-5, (), {"0ep": 0.08, "5ep": 0.8, "52.5ep": 0.4, "100ep": 0.0}),
    "densenet_cifar": Paper(0.1, 64, 234_300, 1e-4, (), {"149ep": 0.1, "150ep": 0.01, "225ep": 1e-3}),
    "torchvision_v1": Paper(0.1, 256, 450_360, 1e-4, (), THIRDS),
    "torchvision_v2": Paper(0.5, 1024, 750_600, 2e-5, ("norm",), {"0ep": 5e-3, "5ep": 0.5, "302.5ep": 0.25}),
    "rsb_a1": Paper(5e-3, 2048, 375_000, 0.01, ("norm", "bias"), {"5ep": 5e-3, "302.5ep": 2.5e-3, "600ep": 0.0}),
    "rsb_a2": Paper(5e-3, 2048, 187_500, 0.02, ("norm", "bias"), {"5ep": 5e-3, "152.5ep": 2.5e-3, "300ep": 0.0}),
    "rsb_a3": Paper(8e-3, 2048, 62_500, 0.02, ("norm", "bias"), {"5ep": 8e-3, "52.5ep": 4e-3, "100ep": 0.0}),
    "cutmix_imagenet": Paper(0.1, 256, 1_501_200, 1e-4, (), {"74ep": 0.1, "75ep": 0.01, "150ep": 1e-3, "225ep": 1e-4}),
    "mixup_cifar": Paper(0.1, 128, 78_000, 1e-4, (), {"99ep": 0.1, "100ep": 0.01, "150ep": 1e-3}),
    "stochastic_depth_cifar": Paper(0.1, 128, 175_500, 1e-4, (), {"249ep": 0.1, "250ep": 0.01, "375ep": 1e-3}),
    "laptop": Paper(0.1, 128, 135, 5e-4, (), {"0ep": 0.004, "3ep": 0.1, "9ep": 0.05, "15ep": 0.0}),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_it_optimises_as_the_paper_does(name: str) -> None:
    recipe, paper = load_recipe(name), PAPERS[name]
    schedule = build_schedule(recipe, steps_per_epoch(recipe))
    assert recipe.peak_lr == pytest.approx(paper.peak)
    assert (recipe.batch_size, schedule.total, recipe.weight_decay) == (paper.batch, paper.steps, paper.decay)
    assert set(recipe.no_decay) == set(paper.no_decay)
    found = {text: schedule(Duration.parse(text).steps(steps_per_epoch(recipe), 1)) for text in paper.rates}
    assert found == pytest.approx(paper.rates, rel=2e-4, abs=1e-9)


SGD, NESTEROV = ("sgd", 0.9, False), ("sgd", 0.9, True)
OPTIMIZERS = {
    **dict.fromkeys(NAMES, NESTEROV),
    **dict.fromkeys(["he2015_imagenet", "he2015_cifar", "he2015_cifar_110", "hu2018", "hu2018_ablation"], SGD),
    **dict.fromkeys(["hu2018_mobile", "shufflenet", "torchvision_v1", "torchvision_v2", "mixup_cifar"], SGD),
    "stochastic_depth_cifar": SGD,
    **dict.fromkeys(["efficientnet", "mobilenet", "mobilenet_v2", "mobilenet_v3"], ("rmsprop_tf", 0.9, False)),
    **dict.fromkeys(["rsb_a1", "rsb_a2", "rsb_a3"], ("lamb", 0.0, False)),
}


@pytest.mark.parametrize("name", NAMES)
def test_it_has_the_papers_optimiser(name: str) -> None:
    optimizer = load_recipe(name).optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.nesterov) == OPTIMIZERS[name]


EXTRAS: dict[str, dict[str, Any]] = {
    "he2015_imagenet": {"augment.crop": "scale_jitter", "augment.lighting": 0.1, "evaluation.views": "ten_crop"},
    "he2015_cifar": {"augment.crop": "pad", "augment.pad": 0.125, "augment.flip": True, "label_smoothing": 0.0},
    "wrn_cifar": {"augment.crop": "pad", "augment.pad_mode": "reflect", "augment.flip": True},
    "fb_resnet_torch": {"augment.area": (0.08, 1.0), "augment.ratio": (0.75, 1.3333333333333333),
                        "augment.color_jitter": (0.4, 0.4, 0.4, 0.0), "augment.lighting": 0.1},
    "hu2018": {"label_smoothing": 0.0},
    "hu2018_ablation": {"label_smoothing": 0.1},
    "bello2021": {"ema.decay": None, "label_smoothing": 0.0, "augment.policy.name": "none"},
    "bello2021_rs": {"ema.decay": 0.9999, "label_smoothing": 0.1, "augment.policy.name": "rand_augment",
                     "augment.policy.layers": 2, "augment.policy.magnitude": 15, "batch_norm.momentum": 1.0},
    "brock2021_nfresnet": {"label_smoothing": 0.1, "clip.agc": None},
    "nfnet": {"clip.agc": 0.01, "clip.agc_eps": 1e-3, "ema.decay": 0.99999, "ema.warmup": True, "label_smoothing": 0.1,
              "augment.policy.layers": 4, "augment.policy.magnitude": 5, "augment.mix.mixup": 0.2,
              "augment.mix.mode": "half"},
    "he2019_bag_of_tricks": {"label_smoothing": 0.1, "augment.mix.mixup": 0.2, "augment.mix.cutmix": 0.0},
    "efficientnet": {"batch_norm.momentum": 0.01, "ema.decay": 0.9999, "label_smoothing": 0.1,
                     "augment.policy.name": "auto_augment", "optimizer.alpha": 0.9},
    "mobilenet_v3": {"batch_norm.momentum": 0.01, "ema.decay": 0.9999, "label_smoothing": 0.0},
    "mobilenet_v2": {"optimizer.alpha": 0.9},
    "regnet_100ep": {"augment.color_jitter": (0, 0, 0, 0), "augment.flip": True, "label_smoothing": 0.0},
    "torchvision_v1": {"augment.color_jitter": (0, 0, 0, 0), "augment.lighting": 0.0},
    "torchvision_v2": {"ema.every": 32, "ema.decay": 1 - (1 - 0.99998) * 8 * 128 * 32 / 600, "label_smoothing": 0.1,
                       "augment.policy.name": "trivial_augment", "augment.erase": 0.1, "augment.repeats": 4,
                       "augment.mix.mixup": 0.2, "augment.mix.cutmix": 1.0},
    "rsb_a1": {"loss": "bce", "label_smoothing": 0.1, "augment.policy.magnitude": 7, "augment.policy.std": 0.5,
               "augment.mix.mixup": 0.2, "augment.mix.cutmix": 1.0, "augment.repeats": 3},
    "rsb_a2": {"loss": "bce", "label_smoothing": 0.0, "augment.policy.magnitude": 7, "augment.mix.mixup": 0.1,
               "augment.mix.cutmix": 1.0, "augment.repeats": 3},
    "rsb_a3": {"loss": "bce", "label_smoothing": 0.0, "augment.policy.magnitude": 6, "augment.policy.std": 0.5,
               "augment.mix.mixup": 0.1, "augment.mix.cutmix": 1.0, "augment.repeats": 1},
    "cutmix_imagenet": {"augment.mix.cutmix": 1.0, "augment.mix.probability": 1.0, "augment.mix.mixup": 0.0},
    "mixup_cifar": {"augment.mix.mixup": 1.0, "augment.crop": "pad"},
}  # fmt: skip


@pytest.mark.parametrize("name", EXTRAS)
def test_it_regularises_and_augments_as_the_paper_does(name: str) -> None:
    found = {key: _field(load_recipe(name), key) for key in EXTRAS[name]}
    assert found == {key: pytest.approx(value) for key, value in EXTRAS[name].items()}


def _field(recipe: RecipeConfig, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


CROPS = {  # recipe: (data.size, shorter side, crop) of the test
    "he2015_imagenet": (224, 256, 224),
    "fb_resnet_torch": (224, 256, 224),
    "he2015_cifar": (32, 32, 32),
    "bello2021": (256, 288, 256),
    "nfnet": (192, 288, 256),
    "efficientnet": (224, 256, 224),
    "torchvision_v1": (224, 256, 224),
    "torchvision_v2": (176, 232, 224),
    "rsb_a1": (224, 235, 224),
    "rsb_a3": (160, 235, 224),
}


@pytest.mark.parametrize("name", CROPS)
def test_it_tests_on_the_papers_crop(name: str) -> None:
    size, shorter, crop = CROPS[name]
    evaluation = load_recipe(name).evaluation
    assert (evaluation.resize(size), evaluation.crop(size)) == (shorter, crop)


@pytest.mark.parametrize("line", re.findall(r"^#   (F\d .+)$", (conf_dir() / "recipe/nfnet.yaml").read_text(), re.M))
def test_larger_nfnets_are_tested_at_their_native_size_from_32_pixels_more(line: str) -> None:
    model, *words = line.split()
    values = dict(word.split("=") for word in words)
    keys = ["recipe=nfnet", *(f"recipe.evaluation.{key}={values[key]}" for key in ("scale", "crop_ratio"))]
    evaluation, size = compose(keys).recipe.evaluation, int(values["data.size"])
    native = load_preset(f"nfnet_{model.lower()}").native.size
    assert (evaluation.crop(size), evaluation.resize(size)) == (native, native + 32)


@pytest.mark.parametrize("name", NAMES)
def test_it_composes_with_its_model_and_is_what_hydra_reads(name: str) -> None:
    recipe = load_recipe(name)
    about = about_of(recipe)
    scale = "laptop" if name == "laptop" else "cifar" if about.data.startswith("CIFAR") else "imagenet"
    run = compose([f"scale={scale}", f"recipe={name}", f"model={about.model}"])
    assert run.recipe == recipe
    assert (run.model.name, recipe.name) == (about.model, name)


ELSEWHERE = (
    "DenseNet (L=40, k=12)",
    "DenseNet-BC (L=100, k=12)",
    "DenseNet-BC (L=250, k=24)",
    "DenseNet-BC (L=190, k=40)",
)


@pytest.mark.parametrize("name", NAMES)
def test_it_says_where_it_comes_from(name: str) -> None:
    about = about_of(load_recipe(name))
    assert all([about.paper, about.section, about.data, about.hardware, about.expected])
    assert about.images in (1_281_167, 50_000, 45_000, 1200)
    assert about.model in options("model")
    for expected in about.expected:
        assert expected.model in (*options("model"), *ELSEWHERE)
        assert 0 < expected.top1_error < 60
        assert expected.protocol
        assert expected.source


@pytest.mark.parametrize("name", [name for name in NAMES if name != "laptop"])
def test_its_first_line_names_the_author(name: str) -> None:
    author = re.split(r"[, ]", about_of(load_recipe(name)).paper)[0]
    first = (conf_dir() / "recipe" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert author in first


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("hu2018", "weight decay"), ("hu2018_ablation", "batch 256"), ("fb_resnet_torch", "Nesterov"),
        ("xie2017_imagenet", "Nesterov"), ("shufflenet", "momentum"), ("efficientnet", "epsilon"),
        ("brock2021_nfresnet", "weight_decay=5e-5"), ("he2019_bag_of_tricks", "weight decay 1e-4"),
        ("rsb_a1", "3 repeats"), ("mobilenet_v2", "epsilon"), ("bello2021", "288"), ("nfnet", "CutMix"),
    ],
    ids=str,
)  # fmt: skip
def test_what_nobody_looked_up_is_marked(name: str, word: str) -> None:
    assert any(text.startswith("unverified:") and word in text for text in about_of(load_recipe(name)).deviations)


def test_numbers_from_memory_are_not_verified() -> None:
    unsure = {name for name in NAMES if not all(entry.verified for entry in about_of(load_recipe(name)).expected)}
    assert unsure == {"brock2021_nfresnet", "mixup_cifar", "laptop"}


ROW = re.compile(r"^#   (\d+) [^:]+: (.+)$", re.M)


def _ladder() -> list[list[str]]:
    """The overrides of rows 1 to 10 of Bello et al., Table 1, as the recipe's first lines have them."""
    rows = ROW.findall((conf_dir() / "recipe" / "bello2021.yaml").read_text(encoding="utf-8"))
    assert [int(number) for number, _ in rows] == list(range(1, 11))
    return [overrides.split() for _, overrides in rows]


def test_resnet_rs_is_its_baseline_and_the_ten_overrides() -> None:
    base = ["scale=imagenet", "recipe=bello2021", "model=resnet200", "model.zero_init=true", "data.size=256"]
    runs = [compose(base)]
    for row in _ladder():
        base += row
        runs.append(compose(base))
    assert len({run.id for run in runs}) == 11
    assert [run.recipe == runs[0].recipe for run in runs].count(True) == 1
    other = {"name": True, "about": True}
    final = load_recipe("bello2021_rs").model_dump(exclude=other)
    assert [run.recipe.model_dump(exclude=other) == final for run in runs] == [False] * 8 + [True] * 3
    network = {"name", "native", "published"}
    preset = load_preset("resnetrs200", zero_init=True).model_dump(exclude=network)
    assert runs[-1].model.model_dump(exclude=network) == preset


@pytest.mark.parametrize(
    ("name", "overrides", "peak"),
    [
        ("regnet_100ep", ["recipe.batch_size=512"], 0.4),
        ("nfnet", ["recipe.batch_size=1024"], 0.4),
        ("efficientnet", ["recipe.batch_size=2048"], 0.128),
        ("he2019_bag_of_tricks", ["recipe.batch_size=256"], 0.1),
        ("he2015_cifar_110", ["recipe.batch_size=64"], 0.1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_rate_grows_with_the_batch_only_where_the_paper_says_so(
    name: str, overrides: list[str], peak: float
) -> None:
    assert compose([f"recipe={name}", *overrides]).recipe.peak_lr == pytest.approx(peak)


@pytest.mark.parametrize("name", NAMES)
def test_a_tenth_of_the_epochs_keeps_the_shape(name: str) -> None:
    """Warm-up and milestones are parts of the run: any budget can be asked for."""
    recipe = load_recipe(name)
    whole = build_schedule(recipe, 1000)
    tenth = build_schedule(recipe.model_copy(update={"duration": f"{whole.total // 10}st"}), 1000)
    assert tenth.warmup == pytest.approx(whole.warmup / 10, abs=1)
    assert tenth.milestones == pytest.approx([step / 10 for step in whole.milestones], abs=1)
    assert tenth.every == pytest.approx(whole.every / 10 if recipe.schedule.name == "exponential" else whole.every)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown recipe 'he2015_cifr'; did you mean 'he2015_cifar'"):
        load_recipe("he2015_cifr")
    with pytest.raises(InputError, match="unknown recipe 'nfnets'; did you mean 'nfnet'"):
        compose(["recipe=nfnets"])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"about": None}, "about is null"), ({"batch_size": 10**7}, "is more than the 45000 training images")],
    ids=["no images", "no batch"],
)
def test_steps_need_images(change: dict[str, Any], message: str) -> None:
    recipe = load_recipe("he2015_cifar").model_copy(update=change)
    with pytest.raises(InputError, match=message):
        steps_per_epoch(recipe)


def test_about_is_no_part_of_a_runs_identity() -> None:
    run = compose(["recipe=nfnet"])
    about = About.model_validate({**about_of(run.recipe).model_dump(), "hardware": "another"})
    other = run.model_copy(update={"recipe": run.recipe.model_copy(update={"about": about})})
    assert run.id == other.id
