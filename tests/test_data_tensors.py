"""The device-resident loaders: layout, normalisation, augmentation, and the same batch for any number of ranks."""

from __future__ import annotations

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from repro.data.arrays import ArraySplits, LabelledImages
from repro.data.config import (
    AugmentConfig,
    CifarConfig,
    DigitsConfig,
    EvaluationConfig,
    MixConfig,
    PolicyConfig,
    ShapesConfig,
)
from repro.data.resident.crop_flip import CropFlip, Draws, draw_epoch
from repro.data.resident.tensors import TensorLoader, resident_splits
from repro.data.splits import Delivery, Splits

CPU = torch.device("cpu")
quick = settings(deadline=None, max_examples=25)


def random_images(count: int, channels: int = 3, size: int = 6) -> LabelledImages:
    """Label i is the position of image i, so that a batch tells which images it holds."""
    pixels = np.random.default_rng(count).integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    return LabelledImages(pixels, np.arange(count, dtype=np.int64))


SHAPES = ShapesConfig(size=12, train=40, val=13, test=13)
PLAIN = AugmentConfig()
WHOLE = EvaluationConfig()


def make(
    count: int = 40,
    batch: int = 8,
    augment: AugmentConfig = PLAIN,
    evaluation: EvaluationConfig = WHOLE,
    *,
    channels: int = 3,
    size: int = 6,
    seed: int = 0,
    channels_last: bool = True,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
) -> Splits:
    """Splits of random images; labels are positions, so there are as many classes."""
    train, rest = random_images(count, channels, size), random_images(13, channels, size)
    delivery = Delivery(batch, seed, CPU, channels_last, rank, world, accumulate)
    config = SHAPES.model_copy(update={"classes": count})
    return resident_splits(ArraySplits(train, rest, rest), config, augment, evaluation, delivery)


def epoch(splits: Splits, number: int) -> list[tuple[Tensor, Tensor]]:
    splits.train.sampler.set_epoch(number)
    return list(splits.train)


BOTH = AugmentConfig(crop="pad", pad=0.34, flip=True)
"""2 of 6 pixels."""
EVERYTHING = AugmentConfig(
    crop="random_resized",
    flip=True,
    policy=PolicyConfig(name="rand_augment", std=0.5),
    color_jitter=(0.4, 0.4, 0.4, 0.1),
    lighting=0.1,
    erase=0.5,
    cutout=0.5,
    repeats=3,
)


@quick
@given(
    part=st.integers(1, 6),
    world=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    extra=st.integers(0, 30),
    seed=st.integers(0, 99),
    e=st.integers(0, 5),
    augment=st.sampled_from([BOTH, EVERYTHING]),
)
def test_ranks_and_their_parts_together_see_the_batch_of_one_rank_bit_for_bit(
    part: int, world: int, accumulate: int, extra: int, seed: int, e: int, augment: AugmentConfig
) -> None:
    batch = part * world * accumulate
    one = epoch(make(batch + extra, batch, augment, seed=seed), e)
    several = [
        epoch(make(batch + extra, batch, augment, seed=seed, rank=rank, world=world, accumulate=accumulate), e)
        for rank in range(world)
    ]
    assert {len(rank) for rank in several} == {len(one) * accumulate}
    for step, (images, labels) in enumerate(one):
        parts = [rank[step * accumulate + k] for rank in several for k in range(accumulate)]
        assert torch.equal(torch.cat([images for images, _ in parts]), images)
        assert torch.equal(torch.cat([labels for _, labels in parts]), labels)


@quick
@given(count=st.integers(1, 40), part=st.integers(1, 9), world=st.integers(1, 5))
def test_evaluation_yields_each_image_once(count: int, part: int, world: int) -> None:
    arrays = ArraySplits(random_images(part * world), random_images(count), random_images(1))
    seen: list[int] = []
    for rank in range(world):
        delivery = Delivery(part * world, 0, CPU, True, rank, world)
        loader = resident_splits(arrays, SHAPES, BOTH, WHOLE, delivery).val
        batches = [labels for _, labels in loader]
        assert len(batches) == len(loader)
        seen += [label for labels in batches for label in labels.tolist()]
    assert sorted(seen) == list(range(count))


def test_an_epoch_repeats_and_the_next_one_differs() -> None:
    first, again, second = (epoch(make(augment=BOTH), number) for number in (0, 0, 1))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][1], second[0][1])


def test_training_drops_the_last_incomplete_batch() -> None:
    splits = make(count=43, batch=8)
    batches = epoch(splits, 0)
    assert len(splits.train) == len(batches) == 5
    assert {len(labels) for _, labels in batches} == {8}


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("augment", [PLAIN, BOTH, EVERYTHING], ids=["plain", "augmented", "everything"])
def test_every_loader_returns_the_layout_asked_for(channels: int, channels_last: bool, augment: AugmentConfig) -> None:
    splits = make(augment=augment, channels=channels, channels_last=channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for loader in (splits.train, splits.val, splits.test):
        for images, labels in loader:
            assert images.stride() == torch.empty(images.shape, memory_format=layout).stride()
            assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
            assert images.shape[1:] == (channels, 6, 6)


def test_without_augmentation_training_images_are_the_normalised_ones() -> None:
    source = random_images(40).images
    scaled = torch.from_numpy(source).double() / 255
    expected = (scaled - scaled.mean((0, 2, 3), keepdim=True)) / scaled.std((0, 2, 3), keepdim=True, correction=0)
    for images, labels in epoch(make(), 3):
        torch.testing.assert_close(images.double(), expected[labels], atol=1e-5, rtol=0)


def test_layout_does_not_change_the_values() -> None:
    for last, first in zip(
        epoch(make(augment=BOTH), 1), epoch(make(augment=BOTH, channels_last=False), 1), strict=True
    ):
        assert torch.equal(last[0], first[0])


def cut_by_hand(image: Tensor, pad: int, row: int, column: int, flip: bool) -> Tensor:
    """Pad, crop and flip one image `(H, W, C)`, the slow way."""
    size = image.shape[0]
    padded = torch.zeros(size + 2 * pad, size + 2 * pad, image.shape[2])
    padded[pad : pad + size, pad : pad + size] = image
    crop = padded[row : row + size, column : column + size]
    return crop.flip(1) if flip else crop


@quick
@given(pad=st.integers(0, 4), size=st.integers(1, 9), channels=st.sampled_from([1, 3]), seed=st.integers(0, 999))
def test_crop_and_flip_agree_with_doing_it_one_by_one(pad: int, size: int, channels: int, seed: int) -> None:
    images = torch.randn(7, size, size, channels, generator=torch.Generator().manual_seed(seed))
    draws = draw_epoch(pad, True, 7, seed, 0)
    augmented = CropFlip(pad, size, CPU)(images, draws)
    for i in range(7):
        by_hand = cut_by_hand(images[i], pad, int(draws.rows[i]), int(draws.columns[i]), bool(draws.flips[i]))
        assert torch.equal(augmented[i], by_hand)


def test_a_centred_crop_without_flip_is_the_identity() -> None:
    images = torch.randn(5, 6, 6, 3)
    centre, never = torch.full((5,), 2), torch.zeros(5, dtype=torch.bool)
    assert torch.equal(CropFlip(2, 6, CPU)(images, Draws(centre, centre, never)), images)


@quick
@given(pad=st.integers(0, 5), seed=st.integers(0, 999), number=st.integers(0, 99))
def test_offsets_stay_inside_the_padded_image(pad: int, seed: int, number: int) -> None:
    draws = draw_epoch(pad, False, 50, seed, number)
    for offsets in (draws.rows, draws.columns):
        assert int(offsets.min()) >= 0
        assert int(offsets.max()) <= 2 * pad
    assert not draws.flips.any()


def test_all_offsets_and_both_directions_occur_evenly() -> None:
    draws = draw_epoch(2, True, 10_000, 0, 0)
    for offsets in (draws.rows, draws.columns):
        assert torch.bincount(offsets).tolist() == pytest.approx([2000] * 5, rel=0.1)
    assert float(draws.flips.float().mean()) == pytest.approx(0.5, abs=0.02)


def test_flips_do_not_change_the_crops() -> None:
    with_flips, without = (draw_epoch(3, flip, 20, 1, 2) for flip in (True, False))
    assert torch.equal(with_flips.rows, without.rows)
    assert torch.equal(with_flips.columns, without.columns)


def test_padding_is_the_mean_of_the_training_images() -> None:
    white = LabelledImages(np.full((64, 1, 4, 4), 255, dtype=np.uint8), np.zeros(64, dtype=np.int64))
    white.images[32:] = 155
    augment = AugmentConfig(crop="pad", pad=1.0)
    delivery = Delivery(64, 0, CPU, True)
    splits = resident_splits(ArraySplits(white, white, white), SHAPES, augment, WHOLE, delivery)
    ((images, _),) = list(splits.train)
    assert sorted(images.unique().tolist()) == [-1.0, 0.0, 1.0]


def test_sizes_shape_and_fingerprint_describe_the_data() -> None:
    splits = make(channels=1)
    assert splits.sizes == {"train": 40, "val": 13, "test": 13}
    assert (splits.channels, splits.size, splits.classes) == (1, 6, 40)
    assert splits.fingerprint == make(seed=5, batch=4, channels=1).fingerprint


class _Recorder(lightning.LightningModule):
    """Keeps the labels of each step; trains a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.seen.append(batch[1])
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_sets_the_epoch() -> None:
    module = _Recorder()
    trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", barebones=True)
    trainer.fit(module, make(augment=BOTH).train)
    expected = torch.cat([labels for number in range(3) for _, labels in epoch(make(augment=BOTH), number)])
    assert torch.equal(torch.cat(module.seen), expected)


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epoch(make(augment=BOTH), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loader_can_be_read_again() -> None:
    loader = make(augment=BOTH).train
    assert isinstance(loader, TensorLoader)
    assert torch.equal(next(iter(loader))[0], next(iter(loader))[0])


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_repeats_come_in_turn_each_changed_anew(repeats: int) -> None:
    splits = make(count=40, batch=12, augment=AugmentConfig(crop="random_resized", repeats=repeats))
    batches = epoch(splits, 0)
    assert len(batches) == len(splits.train) == 3
    for images, labels in batches:
        groups = labels.view(-1, repeats)
        assert torch.equal(groups, groups[:, :1].expand_as(groups))
        assert len(set(labels.tolist())) == 12 // repeats
        flat = images.flatten(1).view(len(groups), repeats, -1)
        if repeats > 1:
            assert not (flat[:, 0] == flat[:, 1]).all(1).any()


@pytest.mark.parametrize("mode", ["batch", "half"])
def test_mixed_batches_have_targets_over_the_classes(mode: str) -> None:
    mix = MixConfig.model_validate({"mixup": 0.2, "cutmix": 1.0, "mode": mode})
    plain, mixed = (epoch(make(augment=AugmentConfig(mix=config)), 1) for config in (MixConfig(), mix))
    for (images, labels), (changed, targets) in zip(plain, mixed, strict=True):
        assert (targets.dtype, targets.shape) == (torch.float32, (8, 40))
        torch.testing.assert_close(targets.sum(1), torch.ones(8))
        assert (targets.gather(1, labels[:, None]) > 0).float().mean() > 0.5
        assert not torch.equal(images, changed)
    again = epoch(make(augment=AugmentConfig(mix=mix)), 1)
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(mixed, again, strict=True))


def test_parts_of_a_batch_are_mixed_differently() -> None:
    augment = AugmentConfig(mix=MixConfig(mixup=0.5))
    targets = [t for _, t in epoch(make(augment=augment, accumulate=2), 0)]
    shares = [round(float(target.max(1).values.min()), 4) for target in targets]
    assert len(set(shares)) > len(shares) // 2


def test_images_that_may_not_be_mirrored_are_not() -> None:
    grey = random_images(40, 1, 8)
    splits = [
        resident_splits(
            ArraySplits(grey, grey, grey),
            DigitsConfig(size=8, val=10, test=10),
            AugmentConfig(crop=crop, flip=flip),
            WHOLE,
            Delivery(8, 0, CPU, True),
        )
        for crop in ("pad", "random_resized")
        for flip in (False, True)
    ]
    for plain, asked in (splits[:2], splits[2:]):
        assert plain.train_transform == asked.train_transform
        for a, b in zip(plain.train, asked.train, strict=True):
            assert torch.equal(a[0], b[0])


NORMALISED = "normalised by the training images' mean and deviation"


@pytest.mark.parametrize(
    ("evaluation", "shape", "words"),
    [
        (WHOLE, (3, 16, 16), NORMALISED),
        (EvaluationConfig(scale=1.25), (3, 20, 20), f"resized to 20 (bilinear); {NORMALISED}"),
        (
            EvaluationConfig(crop_ratio=0.8, interpolation="bicubic"),
            (3, 16, 16),
            f"resized to 20 (bicubic); centre crop of 16; {NORMALISED}",
        ),
        (
            EvaluationConfig(crop_ratio=0.8, views="flip"),
            (2, 3, 16, 16),
            f"resized to 20 (bilinear); centre crop of 16 and its mirror image; {NORMALISED}",
        ),
        (
            EvaluationConfig(crop_ratio=0.8, views="ten_crop"),
            (10, 3, 16, 16),
            f"resized to 20 (bilinear); corner and centre crops of 16 and their mirror images; {NORMALISED}",
        ),
        (
            EvaluationConfig(crop_ratio=0.8, views="full"),
            (2, 3, 20, 20),
            f"resized to 20 (bilinear); the whole image and its mirror image; {NORMALISED}",
        ),
    ],
    ids=["as they are", "larger", "resized and cut", "flip", "ten crops", "full"],
)
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
def test_held_out_images_are_resized_and_cut(
    evaluation: EvaluationConfig, shape: tuple[int, ...], words: str, channels_last: bool
) -> None:
    splits = make(evaluation=evaluation, size=16, channels_last=channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert splits.test_transform == words
    for loader in (splits.val, splits.test):
        for images, labels in loader:
            assert images.shape == (len(labels), *shape)
            flat = images.flatten(0, -4)
            assert flat.stride() == torch.empty(flat.shape, memory_format=layout).stride()


@pytest.mark.parametrize("views", ["centre", "flip", "ten_crop", "full"])
def test_views_are_those_of_torchvision(views: str) -> None:
    from torchvision.transforms.v2 import functional as vision

    train, rest = random_images(40, size=16), random_images(13, size=16)
    evaluation = EvaluationConfig.model_validate({"crop_ratio": 0.8, "views": views})
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in _statistics(train))
    (images,) = [torch.cat([images for images, _ in make(evaluation=evaluation, size=16).val])]
    for image, source in zip(images, torch.from_numpy(rest.images), strict=True):
        resized = vision.resize(source, [20, 20], antialias=True)
        centre = vision.center_crop(resized, [16, 16])
        corners = vision.five_crop(resized, [16, 16])
        expected = {
            "centre": [centre],
            "flip": [centre, centre.flip(-1)],
            "ten_crop": [*corners, *(corner.flip(-1) for corner in corners)],
            "full": [resized, resized.flip(-1)],
        }[views]
        normalised = (torch.stack(expected) / 255 - mean) / std
        torch.testing.assert_close(image.view_as(normalised), normalised, atol=1e-4, rtol=0)


def _statistics(split: LabelledImages) -> tuple[list[float], list[float]]:
    pixels = torch.from_numpy(split.images).double() / 255
    return pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3), correction=0).tolist()


@pytest.mark.parametrize("evaluation", [WHOLE, EvaluationConfig(crop_ratio=0.8, views="ten_crop")])
def test_an_empty_split_has_no_batches(evaluation: EvaluationConfig) -> None:
    train = random_images(40, size=16)
    nothing = train[np.zeros(0, dtype=np.int64)]
    config = CifarConfig(name="cifar10", root="nowhere", classes=10, val=0)
    splits = resident_splits(ArraySplits(train, nothing, train), config, BOTH, evaluation, Delivery(8, 0, CPU, True))
    assert splits.sizes["val"] == len(splits.val) == len(list(splits.val)) == 0
    assert len(list(splits.test)) == 5
