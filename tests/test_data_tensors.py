"""The device-resident loaders: layout, normalisation, augmentation, and the same batch for any number of ranks."""

from __future__ import annotations

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from repro.config import AugmentConfig
from repro.data.arrays import ArraySplits, LabelledImages
from repro.data.augment import CropFlip, Draws, draw_epoch
from repro.data.splits import Delivery, Splits
from repro.data.tensors import TensorLoader, resident_splits

CPU = torch.device("cpu")
quick = settings(deadline=None, max_examples=25)


def random_images(count: int, channels: int = 3, size: int = 6) -> LabelledImages:
    """Label i is the position of image i, so that a batch tells which images it holds."""
    pixels = np.random.default_rng(count).integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    return LabelledImages(pixels, np.arange(count, dtype=np.int64))


def make(
    count: int = 40,
    batch: int = 8,
    augment: AugmentConfig | None = None,
    *,
    channels: int = 3,
    seed: int = 0,
    channels_last: bool = True,
    rank: int = 0,
    world: int = 1,
) -> Splits:
    train, rest = random_images(count, channels), random_images(13, channels)
    delivery = Delivery(batch, seed, CPU, channels_last, rank, world)
    return resident_splits(ArraySplits(train, rest, rest), augment or AugmentConfig(), 10, delivery)


def epoch(splits: Splits, number: int) -> list[tuple[Tensor, Tensor]]:
    splits.train.sampler.set_epoch(number)
    return list(splits.train)


BOTH = AugmentConfig(pad=2, flip=True)


@quick
@given(
    part=st.integers(1, 6),
    world=st.integers(1, 4),
    extra=st.integers(0, 30),
    seed=st.integers(0, 99),
    e=st.integers(0, 5),
)
def test_ranks_together_see_the_batch_of_one_rank_bit_for_bit(
    part: int, world: int, extra: int, seed: int, e: int
) -> None:
    batch = part * world
    one = epoch(make(batch + extra, batch, BOTH, seed=seed), e)
    several = [epoch(make(batch + extra, batch, BOTH, seed=seed, rank=rank, world=world), e) for rank in range(world)]
    for step, (images, labels) in enumerate(one):
        assert torch.equal(torch.cat([rank[step][0] for rank in several]), images)
        assert torch.equal(torch.cat([rank[step][1] for rank in several]), labels)


@quick
@given(count=st.integers(1, 40), part=st.integers(1, 9), world=st.integers(1, 5))
def test_evaluation_yields_each_image_once(count: int, part: int, world: int) -> None:
    arrays = ArraySplits(random_images(part * world), random_images(count), random_images(1))
    seen: list[int] = []
    for rank in range(world):
        loader = resident_splits(arrays, BOTH, 10, Delivery(part * world, 0, CPU, True, rank, world)).val
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
@pytest.mark.parametrize("augment", [AugmentConfig(), BOTH], ids=["plain", "augmented"])
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
    draws = draw_epoch(AugmentConfig(pad=pad, flip=True), 7, seed, 0)
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
    draws = draw_epoch(AugmentConfig(pad=pad), 50, seed, number)
    for offsets in (draws.rows, draws.columns):
        assert int(offsets.min()) >= 0
        assert int(offsets.max()) <= 2 * pad
    assert not draws.flips.any()


def test_all_offsets_and_both_directions_occur_evenly() -> None:
    draws = draw_epoch(AugmentConfig(pad=2, flip=True), 10_000, 0, 0)
    for offsets in (draws.rows, draws.columns):
        assert torch.bincount(offsets).tolist() == pytest.approx([2000] * 5, rel=0.1)
    assert float(draws.flips.float().mean()) == pytest.approx(0.5, abs=0.02)


def test_flips_do_not_change_the_crops() -> None:
    with_flips, without = (draw_epoch(AugmentConfig(pad=3, flip=flip), 20, 1, 2) for flip in (True, False))
    assert torch.equal(with_flips.rows, without.rows)
    assert torch.equal(with_flips.columns, without.columns)


def test_padding_is_the_mean_of_the_training_images() -> None:
    white = LabelledImages(np.full((64, 1, 4, 4), 255, dtype=np.uint8), np.zeros(64, dtype=np.int64))
    white.images[32:] = 155
    splits = resident_splits(ArraySplits(white, white, white), AugmentConfig(pad=4), 1, Delivery(64, 0, CPU, True))
    ((images, _),) = list(splits.train)
    assert sorted(images.unique().tolist()) == [-1.0, 0.0, 1.0]


def test_sizes_shape_and_fingerprint_describe_the_data() -> None:
    splits = make(channels=1)
    assert splits.sizes == {"train": 40, "val": 13, "test": 13}
    assert (splits.channels, splits.size, splits.classes) == (1, 6, 10)
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
