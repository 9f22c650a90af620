"""Random changes by the batch: ranges, identities, agreement with torchvision, draws that are the position's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.v2 import functional as vision

from repro.data.config import AugmentConfig, MixConfig, PolicyConfig
from repro.data.holes import cut_holes, draw_cutout, draw_erased
from repro.data.order import cpu_generator
from repro.data.resident.augment import Augmentation
from repro.data.resident.tensors import to_layout
from repro.data.resident.windows import (
    draw_bicubic,
    draw_boxes,
    draw_resized_crops,
    draw_scale_jitter,
    mirrored,
    resample,
)
from repro.data.words import train_words
from repro.errors import InputError

SIZE = 16
MEAN, STD = torch.tensor([100.0, 120.0, 140.0]), torch.tensor([50.0, 60.0, 70.0])
quick = settings(deadline=None, max_examples=25)

AUGMENTS = {
    "none": AugmentConfig(),
    "pad": AugmentConfig(crop="pad", flip=True),
    "reflect": AugmentConfig(crop="pad", pad=0.25, pad_mode="reflect"),
    "random_resized": AugmentConfig(crop="random_resized", flip=True),
    "random interpolation": AugmentConfig(crop="random_resized", interpolation="random"),
    "scale_jitter": AugmentConfig(crop="scale_jitter", flip=True, interpolation="bicubic"),
    "rand_augment": AugmentConfig(policy=PolicyConfig(name="rand_augment", std=0.5, increasing=True)),
    "auto_augment": AugmentConfig(policy=PolicyConfig(name="auto_augment")),
    "trivial_augment": AugmentConfig(policy=PolicyConfig(name="trivial_augment")),
    "color_jitter": AugmentConfig(color_jitter=(0.4, 0.4, 0.4, 0.1)),
    "lighting": AugmentConfig(lighting=0.1),
    "erase": AugmentConfig(erase=0.5),
    "cutout": AugmentConfig(cutout=0.5),
    "everything": AugmentConfig(
        crop="random_resized",
        flip=True,
        policy=PolicyConfig(name="rand_augment"),
        color_jitter=(0.4, 0.4, 0.4, 0.0),
        lighting=0.1,
        erase=0.25,
        cutout=0.25,
    ),
}
every = pytest.mark.parametrize("name", AUGMENTS)


def pictures(count: int, channels: int = 3) -> Tensor:
    """Images `(N, H, W, C)` of noise."""
    stream = torch.Generator().manual_seed(count)
    return torch.randint(256, (count, SIZE, SIZE, channels), generator=stream, dtype=torch.uint8)


def augmented(config: AugmentConfig, images: Tensor, part: int, channels: int = 3, epoch: int = 0) -> Tensor:
    """An epoch of `images` in their own order, in batches of `part`, normalised; `(N, H, W, C)`."""
    slices = [slice(start, start + part) for start in range(0, len(images), part)]
    mean, std = MEAN[:channels], STD[:channels]
    changes = Augmentation(config, SIZE, mean, std, slices).draw(len(images), 5, epoch)
    batches = []
    for number, batch in enumerate(images[part].clone() for part in slices):
        for change in changes.before:
            batch = change(batch, number)
        batch = (batch.float() - mean) / std
        for change in changes.after:
            batch = change(batch, number)
        batches.append(batch)
    return torch.cat(batches)


@every
def test_what_happens_to_a_position_does_not_depend_on_the_batch(name: str) -> None:
    images = pictures(24)
    whole = augmented(AUGMENTS[name], images, 24)
    for part in (1, 6, 8):
        assert torch.equal(augmented(AUGMENTS[name], images, part), whole)


@every
def test_an_epoch_repeats_and_the_next_one_differs(name: str) -> None:
    images = pictures(24)
    first, again, second = (augmented(AUGMENTS[name], images, 12, epoch=epoch) for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, second) == (name == "none")


@every
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_shape_type_and_layout_stay(name: str, channels: int) -> None:
    images = pictures(12, channels)
    slices = [slice(0, 12)]
    changes = Augmentation(AUGMENTS[name], SIZE, MEAN[:channels], STD[:channels], slices).draw(12, 0, 0)
    batch = images
    for change in changes.before:
        batch = change(batch, 0)
    batch = batch.float()
    for change in changes.after:
        batch = change(batch, 0)
    assert batch.shape == (12, SIZE, SIZE, channels)
    expected = torch.empty(12, channels, SIZE, SIZE, memory_format=torch.channels_last).stride()
    assert to_layout(batch, channels_last=True).stride() == expected


IDENTITIES = {
    "pad of nothing": AugmentConfig(crop="pad", pad=0.0),
    "the whole image": AugmentConfig(crop="random_resized", area=(1.0, 1.0), ratio=(1.0, 1.0)),
    "no jitter of the scale": AugmentConfig(crop="scale_jitter", shorter_side=(1.0, 1.0)),
    "bicubic": AugmentConfig(crop="scale_jitter", shorter_side=(1.0, 1.0), interpolation="bicubic"),
    "a policy never applied": AugmentConfig(policy=PolicyConfig(name="rand_augment", probability=0.0)),
    "a hole of nothing": AugmentConfig(cutout=0.01),
    "mixing is not done here": AugmentConfig(mix=MixConfig(mixup=1.0)),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_parameters_leave_images_untouched(name: str) -> None:
    images = pictures(20)
    torch.testing.assert_close(
        augmented(IDENTITIES[name], images, 10), (images.float() - MEAN) / STD, atol=1e-4, rtol=0
    )


def test_turning_one_change_on_leaves_the_draws_of_the_others() -> None:
    """Lighting and cutout act on each pixel alone: the same crops and flips lie below them."""
    images = pictures(20)
    plain = AugmentConfig(crop="random_resized", flip=True)
    more = plain.model_copy(update={"cutout": 0.5, "lighting": 0.1, "erase": 1.0})
    below, above = augmented(plain, images, 10), augmented(more, images, 10)
    shift = (above - below)[above.abs().amax(-1) > 0]
    assert len(shift) > 0
    noise = augmented(AugmentConfig(lighting=0.1), images, 10) - (images.float() - MEAN) / STD
    rows = noise[:, 0, 0, :]
    expected = torch.where((above == 0).all(-1, keepdim=True), above, below + rows[:, None, None, :])
    torch.testing.assert_close(above, expected, atol=1e-4, rtol=0)


@quick
@given(
    low=st.floats(0.05, 1.0),
    span=st.floats(0.0, 1.0),
    ratio=st.floats(1.0, 3.0),
    size=st.integers(8, 40),
    seed=st.integers(0, 999),
)
def test_boxes_lie_inside_and_have_the_area_and_ratio_asked_for(
    low: float, span: float, ratio: float, size: int, seed: int
) -> None:
    area = (low, low + span * (1 - low))
    boxes = draw_boxes(area, (1 / ratio, ratio), size, 200, cpu_generator("box", seed), inside=False)
    top, left, height, width = boxes[boxes[:, 2] > 0].double().unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= size).all()
    assert (left + width <= size).all()
    side = size * area[1] ** 0.5 * ratio**0.5
    slack = (2 * side + 1) / 2  # each side is rounded by at most a half
    assert (height * width <= area[1] * size**2 + slack).all()
    assert (height * width >= area[0] * size**2 - slack).all()
    assert ((width - 0.5) / (height + 0.5) <= ratio + 1e-9).all()
    assert ((height - 0.5) / (width + 0.5) <= ratio + 1e-9).all()


def test_areas_are_even_and_corners_are_anywhere() -> None:
    boxes = draw_boxes((0.1, 0.3), (1.0, 1.0), 400, 20_000, cpu_generator("box", 0), inside=False).double()
    share = boxes[:, 2] * boxes[:, 3] / 400**2
    assert torch.histc(share, 4, 0.1, 0.3).tolist() == pytest.approx([5000] * 4, rel=0.06)
    place = boxes[:, 0] / (400 - boxes[:, 2])
    assert torch.histc(place, 4, 0, 1).tolist() == pytest.approx([5000] * 4, rel=0.06)
    assert float(place.min()) == 0.0
    assert float(place.max()) == 1.0


@pytest.mark.parametrize(
    ("ratio", "central"),
    [((2.0, 3.0), (4, 0, 8, 16)), ((1 / 3, 0.5), (0, 4, 16, 8)), ((0.75, 4 / 3), (0, 0, 16, 16))],
    ids=["wide", "tall", "square"],
)
def test_where_no_box_fits_the_centre_is_taken(ratio: tuple[float, float], central: tuple[int, ...]) -> None:
    windows = draw_resized_crops((1.0, 1.0), ratio, SIZE, 30, 0, 0)
    assert central in {window_box(window) for window in windows}


def window_box(window: Tensor) -> tuple[int, ...]:
    """Top, left, height, width of a random resized crop's window."""
    (top, height), (left, width) = ((round(float(s)), round(float(d) * SIZE)) for s, d, *_ in window)
    return top, left, height, width


@pytest.mark.parametrize("flip", [False, True], ids=["as it is", "mirrored"])
def test_a_random_resized_crop_is_torchvisions_crop_and_resize(flip: bool) -> None:
    images = pictures(40).float()
    windows = draw_resized_crops((0.08, 1.0), (3 / 4, 4 / 3), SIZE, 40, 0, 0)
    found = resample(images, mirrored(windows, torch.full((40,), flip), SIZE), "bilinear").permute(0, 3, 1, 2)
    for i in range(40):
        box = window_box(windows[i])
        expected = vision.resized_crop(images[i].permute(2, 0, 1), *box, [SIZE, SIZE], antialias=True)
        torch.testing.assert_close(found[i], expected.flip(-1) if flip else expected, atol=0.02, rtol=0)


def test_scale_jitter_is_torchvisions_resize_and_crop() -> None:
    images, (low, high) = pictures(40).float(), (SIZE, 2 * SIZE)
    windows = draw_scale_jitter(low, high, SIZE, 40, 0, 0)
    found = resample(images, windows, "bilinear").permute(0, 3, 1, 2)
    sides = (SIZE / windows[:, 0, 1]).round().int().tolist()
    assert low <= min(sides) < low + 4 < high - 4 < max(sides) <= high
    for i, side in enumerate(sides):
        resized = vision.resize(images[i].permute(2, 0, 1), [side, side], antialias=True)
        top, left = (round(float(start) * side / SIZE) for start in windows[i, :, 0])
        torch.testing.assert_close(found[i], resized[:, top : top + SIZE, left : left + SIZE], atol=0.02, rtol=0)


def test_sides_are_drawn_evenly() -> None:
    windows = draw_scale_jitter(20, 23, SIZE, 8000, 0, 0)
    sides = (SIZE / windows[:, 0, 1]).round().int()
    assert torch.bincount(sides)[20:].tolist() == pytest.approx([2000] * 4, rel=0.1)


def test_bicubic_is_torchvisions_inside_the_image() -> None:
    images = pictures(10).float()
    windows = draw_scale_jitter(25, 25, SIZE, 10, 0, 0)
    found = resample(images, windows, "bicubic").permute(0, 3, 1, 2)
    for i in range(10):
        plain = torch.nn.functional.interpolate(
            images[i : i + 1].permute(0, 3, 1, 2), size=(25, 25), mode="bicubic", align_corners=False
        )[0].clamp(0, 255)
        top, left = (round(float(start) * 25 / SIZE) for start in windows[i, :, 0])
        torch.testing.assert_close(found[i], plain[:, top : top + SIZE, left : left + SIZE], atol=0.05, rtol=0)


@pytest.mark.parametrize(("interpolation", "share"), [("bilinear", 0.0), ("bicubic", 1.0), ("random", 0.5)])
def test_interpolation_is_drawn_where_it_is_random(interpolation: str, share: float) -> None:
    assert float(draw_bicubic(interpolation, 4000, 0, 0).float().mean()) == pytest.approx(share, abs=0.03)
    if interpolation == "random":
        config = {"crop": "random_resized", "area": (0.3, 0.5)}
        both = [augmented(AugmentConfig(**config, interpolation=kind), pictures(20), 20) for kind in KINDS]
        alike = [[bool((both[2][i] == other[i]).all()) for i in range(20)] for other in both[:2]]
        assert [sum(pair) for pair in zip(*alike, strict=True)] == [1] * 20
        assert 0 < sum(alike[0]) < 20


KINDS = ("bilinear", "bicubic", "random")


@quick
@given(side=st.integers(1, SIZE), seed=st.integers(0, 99))
def test_cutout_is_a_square_around_a_pixel_cut_by_the_border(side: int, seed: int) -> None:
    holes = draw_cutout(side, SIZE, 50, seed, 0)
    cut = cut_holes(torch.ones(50, SIZE, SIZE, 2), holes)
    for image, (top, left, *_) in zip(cut, holes.tolist(), strict=True):
        expected = torch.ones(SIZE, SIZE, 2)
        expected[max(top, 0) : top + side, max(left, 0) : left + side] = 0
        assert torch.equal(image, expected)
        assert 0 <= top + side // 2 < SIZE


def test_cutouts_centres_are_anywhere() -> None:
    holes = draw_cutout(8, SIZE, 16_000, 0, 0)
    for corner in holes[:, :2].unbind(1):
        assert torch.bincount(corner + 4).tolist() == pytest.approx([1000] * SIZE, rel=0.15)


def test_a_share_of_images_is_erased_by_a_rectangle_within_the_range() -> None:
    holes = draw_erased(0.3, 32, 10_000, 0, 0)
    erased = holes[holes[:, 2] > 0].double()
    assert len(erased) / 10_000 == pytest.approx(0.3, abs=0.02)
    top, left, height, width = erased.unbind(1)
    share = height * width / 32**2
    assert 0.01 < float(share.min()) < 0.03
    assert 0.31 < float(share.max()) < 0.36
    assert float((height / width).log().mean()) == pytest.approx(0.0, abs=0.05)
    assert (top + height <= 32).all()
    assert (left + width <= 32).all()


def test_a_hole_is_the_mean_colour() -> None:
    changed = augmented(AugmentConfig(erase=1.0), pictures(10), 10)
    plain = (pictures(10).float() - MEAN) / STD
    holes = (changed != plain).any(-1)
    assert holes.flatten(1).any(1).all()
    assert not changed[holes].any()


def test_lighting_adds_one_colour_along_the_components() -> None:
    (change,) = Augmentation(AugmentConfig(lighting=0.1), 2, MEAN, STD, [slice(0, 6000)]).draw(6000, 0, 0).after
    changed = change(torch.zeros(6000, 2, 2, 3), 0)
    assert torch.equal(changed, changed[:, :1, :1].expand_as(changed))
    noise = (changed * STD / 255)[:, 0, 0, :].double()
    eigenvalues = torch.linalg.eigvalsh(noise.T.cov()).sqrt()
    assert eigenvalues.tolist() == pytest.approx([0.00045, 0.00188, 0.02175], rel=0.05)
    assert float(noise.mean(0).abs().max()) < 1e-3


def test_reflected_padding_repeats_no_edge() -> None:
    images = pictures(30)
    config = AugmentConfig(crop="pad", pad=0.25, pad_mode="reflect")
    padded = torch.nn.functional.pad(images.permute(0, 3, 1, 2).float(), [4] * 4, mode="reflect")
    found = (augmented(config, images, 30) * STD + MEAN).round().permute(0, 3, 1, 2)
    for image, whole in zip(found, padded, strict=True):
        windows = whole.unfold(1, SIZE, 1).unfold(2, SIZE, 1)  # (C, 9, 9, H, W)
        assert (windows == image[:, None, None]).all((0, 3, 4)).any()


def test_reflecting_more_than_the_image_is_refused() -> None:
    config = AugmentConfig(crop="pad", pad=1.0, pad_mode="reflect")
    with pytest.raises(InputError, match=r"recipe.augment.pad=1 is 16 pixels; reflecting images of 16 pixels needs"):
        Augmentation(config, SIZE, MEAN, STD, [slice(0, 1)])


class _NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for a device: reading a value, sizes that depend on data, new host tensors."""

    refused = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "is_nonzero", "equal.", "lift_fresh")

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        name = str(function)
        assert not any(name.startswith(f"aten.{word}") for word in self.refused), name
        if name.startswith(("aten.index.", "aten.index_put")):
            assert all(index is None or index.dtype != torch.bool for index in arguments[1]), name
        return function(*arguments, **(keywords or {}))


def test_the_guard_sees_what_waits() -> None:
    values = torch.arange(3.0)
    waits: list[Callable[[], object]] = [
        lambda: float(values[0]),
        lambda: values[values > 1],
        lambda: values.nonzero(),
        lambda: torch.tensor([1.0]),
    ]
    for wait in waits:
        with pytest.raises(AssertionError), _NoWaiting():
            wait()


@every
@pytest.mark.parametrize("mode", ["batch", "half"])
def test_no_training_batch_waits_for_the_host(name: str, mode: str) -> None:
    from tests.test_data_tensors import make

    mix = {"mixup": 0.2, "cutmix": 1.0, "mode": mode}
    augment = AUGMENTS[name].model_copy(update={"mix": MixConfig.model_validate(mix)})
    batches = iter(make(count=40, batch=8, augment=augment, size=SIZE).train)
    next(batches)
    with _NoWaiting():
        assert len(list(batches)) == 4


WORDS = {
    "pad": "normalised by the training images' mean and deviation; padded by 2 with zeros, random crop of 16; mirrored "
    "with probability 0.5",
    "random_resized": "random crop of area 0.08 to 1 and ratio 0.75 to 1.333 resized to 16 (bilinear); normalised by "
    "the training images' mean and deviation; mirrored with probability 0.5",
    "scale_jitter": "shorter side drawn from 18 to 34 (bicubic), random crop of 16; normalised by the training images' "
    "mean and deviation; mirrored with probability 0.5",
    "rand_augment": "RandAugment of 2 operations with magnitude 9 and deviation 0.5, increasing set; normalised by the "
    "training images' mean and deviation",
    "everything": "RandAugment of 2 operations with magnitude 9; colour jitter of brightness 0.4, contrast 0.4, "
    "saturation 0.4; random crop of area 0.08 to 1 and ratio 0.75 to 1.333 resized to 16 (bilinear); normalised by the "
    "training images' mean and deviation; PCA lighting noise of standard deviation 0.1; mirrored with probability 0.5; "
    "cutout of 4; random erasing with probability 0.25",
}


@pytest.mark.parametrize("name", WORDS)
def test_every_change_is_said_in_words(name: str) -> None:
    assert train_words(AUGMENTS[name], SIZE, 3) == WORDS[name]


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        (MixConfig(mixup=0.2), "mixup 0.2"),
        (MixConfig(mixup=0.2, cutmix=1.0, probability=0.8), "mixup 0.2 or CutMix 1 (0.5 of batches), with probability"),
        (MixConfig(mixup=0.2, cutmix=1.0, mode="half"), "mixup 0.2 and CutMix 1 on one half each of a batch"),
        (MixConfig(cutmix=1.0, mode="half"), "CutMix 1 on one half of a batch"),
    ],
    ids=["mixup", "either", "half", "half of one"],
)
def test_mixing_is_said_in_words(mix: MixConfig, words: str) -> None:
    assert f"each image 3 times in a batch; {words}" in train_words(AugmentConfig(mix=mix, repeats=3), SIZE, 1)


def test_what_grey_images_do_not_get_is_not_said() -> None:
    assert "saturation" not in train_words(AUGMENTS["everything"], SIZE, 1)
    assert "PCA" not in train_words(AUGMENTS["everything"], SIZE, 1)
