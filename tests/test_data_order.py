"""Order, sharding and held-out splits: what each rank sees, for any sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.data.arrays import ArraySplits, LabelledImages, channel_statistics, hold_out
from repro.data.order import Shuffle, evaluation_positions, evaluation_slices, training_slices
from repro.data.seeds import derive
from repro.data.splits import Delivery
from repro.errors import InputError

CPU = torch.device("cpu")
quick = settings(deadline=None, max_examples=50)


def delivery(batch_size: int, rank: int = 0, world: int = 1, accumulate: int = 1) -> Delivery:
    return Delivery(batch_size, 0, CPU, channels_last=True, rank=rank, world=world, accumulate=accumulate)


@quick
@given(count=st.integers(1, 500), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
def test_each_epoch_is_a_permutation_and_repeats(count: int, seed: int, epoch: int) -> None:
    shuffle = Shuffle(count, seed)
    shuffle.set_epoch(epoch)
    order = shuffle.order()
    assert sorted(order.tolist()) == list(range(count))
    assert torch.equal(order, shuffle.order())


def test_epochs_and_seeds_differ() -> None:
    orders = []
    for seed in range(3):
        for epoch in range(3):
            shuffle = Shuffle(100, seed)
            shuffle.set_epoch(epoch)
            orders.append(tuple(shuffle.order().tolist()))
    assert len(set(orders)) == 9


@quick
@given(part=st.integers(1, 20), world=st.integers(1, 5), extra=st.integers(0, 200))
def test_ranks_take_the_rows_of_the_global_batch_in_turn(part: int, world: int, extra: int) -> None:
    batch, count = part * world, part * world + extra
    whole = training_slices(count, delivery(batch))
    ranks = [training_slices(count, delivery(batch, rank, world)) for rank in range(world)]
    positions = np.arange(count)
    assert len(whole) == count // batch
    for step, part_of_order in enumerate(whole):
        joined = np.concatenate([positions[own[step]] for own in ranks])
        assert joined.tolist() == positions[part_of_order].tolist()


@quick
@given(part=st.integers(1, 9), world=st.integers(1, 4), accumulate=st.integers(1, 4), extra=st.integers(0, 100))
def test_a_rank_gets_its_share_of_a_step_in_parts(part: int, world: int, accumulate: int, extra: int) -> None:
    batch = part * world * accumulate
    positions = np.arange(batch + extra)
    ranks = [training_slices(len(positions), delivery(batch, rank, world, accumulate)) for rank in range(world)]
    steps = len(positions) // batch
    assert {len(own) for own in ranks} == {steps * accumulate}
    for step in range(steps):
        seen = [positions[own[step * accumulate + k]] for own in ranks for k in range(accumulate)]
        assert {len(some) for some in seen} == {part}
        assert np.concatenate(seen).tolist() == positions[step * batch : (step + 1) * batch].tolist()


@quick
@given(count=st.integers(1, 200), repeats=st.integers(1, 5), seed=st.integers(0, 99))
def test_repeats_are_the_beginning_of_the_permutation_each_in_turn(count: int, repeats: int, seed: int) -> None:
    once, often = Shuffle(count, seed).order().tolist(), Shuffle(count, seed, repeats).order().tolist()
    assert often == [image for image in once for _ in range(repeats)][:count]


@quick
@given(count=st.integers(0, 200), batch=st.integers(1, 50), world=st.integers(1, 6))
def test_evaluation_counts_each_image_once(count: int, batch: int, world: int) -> None:
    seen: list[int] = []
    for rank in range(world):
        own = evaluation_positions(count, delivery(batch, rank, world))
        for part in evaluation_slices(len(own), delivery(batch, rank, world)):
            assert len(own[part]) > 0
            seen += own[part]
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize(
    ("count", "batch", "world", "accumulate", "message"),
    [
        (
            100,
            128,
            1,
            1,
            "recipe.batch_size=128 is more than the 100 training images; expected at least one full batch",
        ),
        (100, 9, 2, 1, "recipe.batch_size=9 is the global batch and does not divide over 2 devices"),
        (100, 12, 2, 4, "a device's share of 6 images does not divide into 4 parts; set trainer.micro_batch to"),
    ],
    ids=["no full batch", "odd batch on two devices", "unequal parts"],
)
def test_impossible_batches_are_refused(count: int, batch: int, world: int, accumulate: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        training_slices(count, delivery(batch, 0, world, accumulate))


def test_seeds_do_not_run_into_each_other() -> None:
    seeds = {derive(purpose, a, b) for purpose in ("order", "crop") for a in (1, 11, 111) for b in (1, 11, 111)}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)


@quick
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=200), data=st.data())
def test_held_out_images_are_stratified(labels: list[int], data: st.DataObject) -> None:
    array = np.array(labels, dtype=np.int64)
    count = data.draw(st.integers(0, len(labels)))
    kept, held = hold_out(array, count)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert len(held) == count
    for label in set(labels):
        share = count * labels.count(label) / len(labels)
        assert abs(int((array[held] == label).sum()) - share) < 1


def test_the_held_out_choice_never_changes() -> None:
    _, held = hold_out(np.tile(np.arange(3), 10), 6)
    assert held.tolist() == [0, 8, 10, 22, 24, 26]


def images(values: list[int], labels: list[int]) -> LabelledImages:
    return LabelledImages(np.array(values, dtype=np.uint8).reshape(-1, 1, 1, 1), np.array(labels, dtype=np.int64))


def test_the_fingerprint_sees_every_image_label_and_split() -> None:
    base, extra = images([1, 2, 3], [0, 1, 2]), images([4], [0])
    splits = [
        ArraySplits(base, extra, extra),
        ArraySplits(images([1, 2, 4], [0, 1, 2]), extra, extra),
        ArraySplits(images([1, 2, 3], [0, 2, 1]), extra, extra),
        ArraySplits(extra, base, extra),
    ]
    prints = [split.fingerprint for split in splits]
    assert len(set(prints)) == len(prints)
    assert prints[0] == ArraySplits(base, extra, extra).fingerprint


def test_channel_statistics_are_those_of_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 5, 5), dtype=np.uint8)
    mean, std = channel_statistics(pixels)
    scaled = pixels.transpose(1, 0, 2, 3).reshape(3, -1) / 255
    assert mean == pytest.approx(scaled.mean(1), abs=1e-12)
    assert std == pytest.approx(scaled.std(1), abs=1e-12)


def test_a_constant_channel_is_not_divided_by_zero() -> None:
    assert channel_statistics(np.full((2, 1, 3, 3), 7, dtype=np.uint8))[1] == (1 / 255,)


def test_images_and_labels_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="do not go together"):
        images([1, 2], [0])
