"""What happens to images in files: each field of a recipe's augmentation and evaluation, and its words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from repro.data.config import AugmentConfig, EvaluationConfig
from repro.data.files.pixels import Cutout, Erase, Lighting
from repro.data.files.transforms import drawing_from, evaluation_transform, train_transform
from repro.data.statistics import EIGENVALUES, EIGENVECTORS, IMAGENET_MEAN, MEAN_COLOUR
from repro.data.views import Views, cut_views
from repro.errors import InputError
from tests.image_files import epoch, make, picture, same, write_tree

CROP = {"crop": "random_resized"}

EFFECTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pad": ({}, {"crop": "pad"}),
    "pad amount": ({"crop": "pad"}, {"crop": "pad", "pad": 0.4}),
    "pad mode": ({"crop": "pad", "pad": 0.4}, {"crop": "pad", "pad": 0.4, "pad_mode": "reflect"}),
    "random resized": ({}, CROP),
    "area": (CROP, {**CROP, "area": [0.5, 1.0]}),
    "ratio": (CROP, {**CROP, "ratio": [1.0, 1.0]}),
    "scale jitter": ({}, {"crop": "scale_jitter"}),
    "shorter side": ({"crop": "scale_jitter"}, {"crop": "scale_jitter", "shorter_side": [1.0, 1.2]}),
    "bicubic": ({}, {"interpolation": "bicubic"}),
    "random interpolation": ({"interpolation": "bicubic"}, {"interpolation": "random"}),
    "flip": ({}, {"flip": True}),
    "rand augment": ({}, {"policy": {"name": "rand_augment"}}),
    "layers": ({"policy": {"name": "rand_augment"}}, {"policy": {"name": "rand_augment", "layers": 4}}),
    "magnitude": ({"policy": {"name": "rand_augment"}}, {"policy": {"name": "rand_augment", "magnitude": 2.5}}),
    "strong": (
        {"policy": {"name": "rand_augment", "magnitude": 10}},
        {"policy": {"name": "rand_augment", "magnitude": 15}},
    ),
    "deviation": ({"policy": {"name": "rand_augment"}}, {"policy": {"name": "rand_augment", "std": 0.5}}),
    "probability": ({"policy": {"name": "rand_augment"}}, {"policy": {"name": "rand_augment", "probability": 0.2}}),
    "increasing": ({"policy": {"name": "rand_augment"}}, {"policy": {"name": "rand_augment", "increasing": True}}),
    "auto augment": ({}, {"policy": {"name": "auto_augment"}}),
    "trivial augment": ({}, {"policy": {"name": "trivial_augment"}}),
    "colour jitter": ({}, {"color_jitter": [0.4, 0.4, 0.4, 0.0]}),
    "hue": ({}, {"color_jitter": [0.0, 0.0, 0.0, 0.3]}),
    "lighting": ({}, {"lighting": 0.1}),
    "erase": ({}, {"erase": 0.9}),
    "cutout": ({}, {"cutout": 0.5}),
    "repeats": ({"flip": True}, {"flip": True, "repeats": 3}),
    "mixup": ({}, {"mix": {"mixup": 0.5}}),
    "cutmix": ({}, {"mix": {"cutmix": 1.0}}),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("imagenet"))


@pytest.mark.parametrize(("without", "with_it"), EFFECTS.values(), ids=EFFECTS.keys())
def test_each_field_has_an_effect_that_repeats(tree: Path, without: dict[str, Any], with_it: dict[str, Any]) -> None:
    first = epoch(make(tree, augment=with_it), 1)
    assert same(first, epoch(make(tree, augment=with_it), 1))
    assert not same(first, epoch(make(tree, augment=without), 1))


@pytest.mark.parametrize("name", [name for name in EFFECTS if name not in ("mixup", "cutmix")])
def test_what_an_image_becomes_depends_on_its_place_alone(tree: Path, name: str) -> None:
    _, augment = EFFECTS[name]
    whole = torch.cat([images for images, _ in epoch(make(tree, batch=18, augment=augment), 2)])
    parts = torch.cat([images for images, _ in epoch(make(tree, batch=6, augment=augment, accumulate=2), 2)])
    assert torch.equal(whole, parts)


def test_mirrored_images_of_another_class_are_never_flipped(tree: Path) -> None:
    flipping, plain = make(tree, augment={"flip": True}, mirror=False), make(tree, augment={})
    assert same(epoch(flipping), epoch(plain))
    assert "mirror" not in flipping.train_transform
    view = make(tree, augment={}, mirror=False, evaluation={"views": "flip"})
    assert next(iter(view.test))[0].shape[1] == 2  # what is averaged over is the evaluation's own choice


def test_repeats_and_mixing_are_told(tree: Path) -> None:
    splits = make(tree, batch=6, augment={**CROP, "repeats": 3, "mix": {"mixup": 0.2, "cutmix": 1.0}})
    assert splits.train_transform.endswith("; each image 3 times in a batch; mixup 0.2 or CutMix 1 (0.5 of batches)")


def test_repeats_show_each_image_often_and_each_time_changed(tree: Path) -> None:
    splits = make(tree, batch=6, augment={**CROP, "repeats": 3})
    (images, labels), *others = epoch(splits)
    assert len(others) == 2
    assert torch.equal(labels.view(2, 3), labels[::3, None].expand(2, 3))
    assert all(not torch.equal(images[0], images[k]) for k in (1, 2))
    order = splits.train.sampler.order()  # type: ignore[attr-defined]
    assert len(set(order.tolist())) == 6


def test_a_share_of_the_batch_comes_in_parts(tree: Path) -> None:
    whole, parts = make(tree), make(tree, accumulate=3)
    assert (len(whole.train), len(parts.train)) == (3, 9)
    joined = [torch.cat([images for images, _ in epoch(parts)[k : k + 3]]) for k in range(0, 9, 3)]
    assert all(torch.equal(first, second) for first, (second, _) in zip(joined, epoch(whole), strict=True))


def test_mixed_targets_are_shares_of_the_classes(tree: Path) -> None:
    for images, targets in epoch(make(tree, augment={"mix": {"mixup": 0.8, "cutmix": 1.0}})):
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert (targets.shape, targets.dtype) == ((6, 3), torch.float32)
        torch.testing.assert_close(targets.sum(1), torch.ones(6))


@given(st.integers(0, 2**63 - 1))
@settings(max_examples=20, deadline=None)
def test_lighting_moves_all_pixels_along_the_principal_components(seed: int) -> None:
    image = torch.full((3, 4, 5), 128, dtype=torch.uint8)
    with drawing_from(seed):
        changed = Lighting(0.1)(image)
        torch.manual_seed(seed)
        multiples = torch.randn(3) * 0.1
    shift = (changed.double() - 128)[:, 0, 0]
    assert torch.equal(changed, changed[:, :1, :1].expand(3, 4, 5))
    expected = sum(
        255 * float(multiples[k]) * EIGENVALUES[k] * torch.tensor([row[k] for row in EIGENVECTORS]).double()
        for k in range(3)
    )
    torch.testing.assert_close(shift, torch.as_tensor(expected), atol=0.51, rtol=0)


def holes(operation: Any, count: int = 400) -> list[Tensor]:
    """Where an operation fills a white image of 20 x 20: bool `(20, 20)` each."""
    white, fill = torch.full((3, 20, 20), 255, dtype=torch.uint8), torch.tensor(MEAN_COLOUR).view(3, 1, 1)
    found = []
    for seed in range(count):
        with drawing_from(seed):
            image = operation(white)
        found.append((image == fill).all(0))
        assert torch.equal((image != 255).any(0), found[-1])
    return found


def test_cutout_is_a_square_that_may_lie_partly_outside() -> None:
    areas = [int(hole.sum()) for hole in holes(Cutout(6))]
    assert (min(areas), max(areas)) == (9, 36)  # a corner of the image as the centre leaves 3 x 3
    middle = torch.stack(holes(Cutout(6))).float().mean(0)
    assert middle[8:12, 8:12].mean() == pytest.approx(36 / 400, abs=0.02)


def test_erasing_has_its_probability_and_area() -> None:
    areas = np.array([int(hole.sum()) for hole in holes(Erase(0.4))])
    assert np.mean(areas > 0) == pytest.approx(0.4, abs=0.06)
    assert areas[areas > 0].min() >= 0.01 * 400
    assert areas.max() <= 0.36 * 400
    assert not any(hole.any() for hole in holes(Erase(0.0), 20))


def test_the_mean_colour_is_nearly_nothing_once_normalised() -> None:
    assert tuple(round(255 * value) for value in IMAGENET_MEAN) == MEAN_COLOUR


def test_policies_for_small_and_large_images_are_cifars_and_imagenets() -> None:
    augment = AugmentConfig.model_validate({"policy": {"name": "auto_augment"}})
    assert "AutoAugment (CIFAR policy)" in str(train_transform(augment, 64))
    assert "AutoAugment (ImageNet policy)" in str(train_transform(augment, 65))


@pytest.mark.parametrize("crop", ["none", "pad", "random_resized", "scale_jitter"])
def test_pictures_and_tensors_go_the_same_way(crop: str) -> None:
    augment = AugmentConfig.model_validate(
        {"crop": crop, "flip": True, "color_jitter": [0.2, 0.2, 0.2, 0.0], "lighting": 0.1, "cutout": 0.3, "erase": 1}
    )
    image = picture(3).resize((60, 50))
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    for seed in range(5):
        with drawing_from(seed):
            first = train_transform(augment, 32)(image)
        with drawing_from(seed):
            second = train_transform(augment, 32)(pixels)
        assert first.shape == second.shape == (3, 32, 32)
        difference = (first.double() - second.double()).abs()
        assert difference.mean() < 1  # Pillow and torch round a resize differently
        assert difference.max() < 16


@pytest.mark.parametrize(("kind", "views"), [("centre", 1), ("flip", 2), ("ten_crop", 10)])
def test_views_are_delivered_by_the_image(tree: Path, kind: str, views: int) -> None:
    splits = make(tree, evaluation={"views": kind, "crop_ratio": 0.8})
    for images, labels in splits.test:
        shape = (len(labels), 3, 16, 16) if views == 1 else (len(labels), views, 3, 16, 16)
        assert images.shape == shape
        assert images.flatten(0, -4).is_contiguous(memory_format=torch.channels_last)
    if views > 1:
        single = torch.cat([images for images, _ in make(tree, evaluation={"crop_ratio": 0.8}).test])
        several = torch.cat([images for images, _ in splits.test])
        centre = 0 if kind == "flip" else 4
        assert torch.equal(several[:, centre], single)
        assert torch.equal(several[:, centre + views // 2], single.flip(-1))


def test_whole_images_come_singly_in_their_own_shape(tree: Path) -> None:
    splits = make(tree, evaluation={"views": "full", "scale": 1.5}, workers=1)
    shapes = [tuple(images.shape) for images, _ in splits.test]
    assert len(splits.test) == len(shapes) == 9
    assert all(shape[:4] == (1, 2, 3, 24) and shape[4] > 24 for shape in shapes)
    assert len(set(shapes)) > 1
    images, _ = next(iter(splits.test))
    assert torch.equal(images[:, 1], images[:, 0].flip(-1))


@pytest.mark.parametrize(
    ("evaluation", "side"),
    [({}, 16), ({"scale": 1.5}, 24), ({"crop_ratio": 0.5}, 16)],
    ids=["plain", "larger", "smaller part"],
)
def test_the_test_crop_follows_the_evaluation(tree: Path, evaluation: dict[str, Any], side: int) -> None:
    images, _ = next(iter(make(tree, evaluation=evaluation).test))
    assert images.shape[-2:] == (side, side)


def test_bicubic_evaluation_differs(tree: Path) -> None:
    first, second = (list(make(tree, evaluation={"interpolation": mode}).test) for mode in ("bilinear", "bicubic"))
    assert not same(first, second)


VIEWS: list[tuple[Views, int]] = [("centre", 1), ("flip", 2), ("ten_crop", 10), ("full", 2)]


@given(st.sampled_from(VIEWS), st.integers(4, 12), st.integers(4, 12), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_views_are_cuts_of_the_image_and_of_its_mirror(
    view: tuple[Views, int], height: int, width: int, crop: int
) -> None:
    kind, count = view
    images = torch.arange(2 * 3 * height * width).view(2, 3, height, width)
    views = cut_views(images, crop, kind)
    assert views.shape == (count, 2, 3, *((height, width) if kind == "full" else (crop, crop)))
    if count > 1:
        assert torch.equal(views[: count // 2].flip(-1), views[count // 2 :])
    if kind == "ten_crop":
        assert torch.equal(views[0], images[..., :crop, :crop])
        assert torch.equal(views[3], images[..., -crop:, -crop:])


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="evaluation crop of 9 pixels is more than the image of 8 x 10"):
        cut_views(torch.zeros(3, 8, 10), 9, "centre")


def test_a_sentence_names_every_operation_with_its_parameters() -> None:
    augment = AugmentConfig.model_validate(
        {
            **CROP,
            "interpolation": "random",
            "flip": True,
            "policy": {"name": "rand_augment", "magnitude": 7, "std": 0.5, "increasing": True, "probability": 0.5},
            "color_jitter": [0.4, 0.4, 0.0, 0.1],
            "lighting": 0.1,
            "cutout": 0.5,
            "erase": 0.25,
        }
    )
    assert str(train_transform(augment, 224)) == (
        "random crop of area 0.08 to 1 and ratio 0.75 to 1.333 resized to 224 (random); mirrored with probability 0.5; "
        "RandAugment of 2 operations with magnitude 7 and deviation 0.5, each with probability 0.5, increasing set; "
        "colour jitter of brightness 0.4, contrast 0.4, hue 0.1; PCA lighting noise of standard deviation 0.1; "
        "cutout of 112; random erasing with probability 0.25; "
        "normalised by mean 0.485 0.456 0.406 and standard deviation 0.229 0.224 0.225"
    )
    evaluation = EvaluationConfig.model_validate({"crop_ratio": 0.875, "views": "ten_crop", "interpolation": "bicubic"})
    assert str(evaluation_transform(evaluation, 224)).startswith(
        "shorter side to 256 (bicubic); corner and centre crops of 224 and their mirror images; normalised"
    )


def test_pad_fills_with_the_mean_colour_or_the_reflection() -> None:
    white = Image.new("RGB", (16, 16), (255, 255, 255))
    for mode, expected in (("zeros", {255, *MEAN_COLOUR}), ("reflect", {255})):
        augment = AugmentConfig.model_validate({"crop": "pad", "pad": 0.5, "pad_mode": mode})
        seen: set[int] = set()
        for seed in range(8):
            with drawing_from(seed):
                seen |= set(train_transform(augment, 16)(white).unique().tolist())
        assert seen == expected
