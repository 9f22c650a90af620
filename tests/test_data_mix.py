"""Mixing: timm's rule, pure targets, any batch size, and the same draws for the same step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from repro.data.config import MixConfig
from repro.data.mix import Mixing

CLASSES = 5
quick = settings(deadline=None, max_examples=40)


def batch(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 8, 8, generator=stream).contiguous(memory_format=torch.channels_last)
    return images, torch.randint(CLASSES, (count,), generator=stream)


def mixed(config: MixConfig, count: int = 8, step: int = 0, rank: int = 0, epoch: int = 0) -> tuple[Tensor, Tensor]:
    return Mixing(config, CLASSES, seed=3, rank=rank)(*batch(count), epoch, step)


CONFIGS = {
    "mixup": MixConfig(mixup=0.4),
    "cutmix": MixConfig(cutmix=1.0),
    "both": MixConfig(mixup=0.4, cutmix=1.0),
    "sometimes": MixConfig(mixup=0.4, probability=0.5),
    "half": MixConfig(mixup=0.4, cutmix=1.0, mode="half"),
    "half of one": MixConfig(mixup=0.4, mode="half"),
}


@quick
@given(name=st.sampled_from(list(CONFIGS)), count=st.integers(1, 11), step=st.integers(0, 9), epoch=st.integers(0, 3))
def test_targets_are_distributions_whose_mass_is_on_the_labels(name: str, count: int, step: int, epoch: int) -> None:
    images, targets = mixed(CONFIGS[name], count, step, epoch=epoch)
    assert (targets.shape, targets.dtype) == ((count, CLASSES), torch.float32)
    torch.testing.assert_close(targets.sum(1), torch.ones(count))
    assert (targets >= 0).all()
    assert ((targets > 0).sum(1) <= 2).all()
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_off_leaves_batches_as_they_are() -> None:
    images, labels = batch(6)
    assert Mixing(MixConfig(), CLASSES, 0)(images, labels, 0, 0) == (images, labels)
    assert torch.equal(images, batch(6)[0])


def test_mixup_is_the_same_mixture_of_images_and_labels() -> None:
    original, labels = batch(8)
    images, targets = mixed(CONFIGS["mixup"])
    onehot = torch.nn.functional.one_hot(labels, CLASSES).float()
    share = float(((images - original.flip(0)) / (original - original.flip(0)))[0, 0, 0, 0])
    assert 0 < share < 1
    torch.testing.assert_close(images, share * original + (1 - share) * original.flip(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets, share * onehot + (1 - share) * onehot.flip(0), atol=1e-5, rtol=0)


def test_cutmix_pastes_a_box_whose_area_is_in_the_targets() -> None:
    original, labels = batch(8)
    images, targets = mixed(CONFIGS["cutmix"], step=1)
    pasted = (images != original).any(1)
    assert torch.equal(pasted, pasted[:1].expand_as(pasted))
    assert torch.equal(images, torch.where(pasted[:, None], original.flip(0), original))
    onehot = torch.nn.functional.one_hot(labels, CLASSES).float()
    share = pasted[0].float().mean()
    assert 0 < share < 1
    torch.testing.assert_close(targets, (1 - share) * onehot + share * onehot.flip(0))


@pytest.mark.parametrize("name", ["mixup", "cutmix", "both"])
def test_an_even_batch_is_what_timm_makes_of_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.data.mixup import Mixup

    config = CONFIGS[name]
    states: list[object] = []
    seed = np.random.seed
    monkeypatch.setattr(np.random, "seed", lambda words: (states.append(words), seed(words)))
    for step in range(6):
        ours = mixed(config, step=step)
        seed(states[-1])
        theirs = Mixup(config.mixup, config.cutmix, label_smoothing=0.0, num_classes=CLASSES)(*batch(8))
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_half_mixes_up_the_first_half_and_pastes_into_the_second() -> None:
    original, _ = batch(8)
    images, _ = mixed(CONFIGS["half"])
    first, second = (images != original).any(1).chunk(2)
    assert first.all()
    assert not second.all()
    assert second.any()
    assert torch.equal(torch.where(second[:, None], original[4:].flip(0), original[4:]), images[4:])


@pytest.mark.parametrize(
    ("name", "count", "alone"),
    [("mixup", 7, [6]), ("mixup", 1, [0]), ("half", 6, [2, 5]), ("half of one", 4, [2, 3])],
    ids=["odd", "single", "odd halves", "one half only"],
)
def test_the_odd_one_out_stays_as_it_is(name: str, count: int, alone: list[int]) -> None:
    original, labels = batch(count)
    images, targets = mixed(CONFIGS[name], count)
    changed = (images != original).flatten(1).any(1)
    assert (~changed).nonzero().flatten().tolist() == alone
    for place in alone:
        assert float(targets[place, labels[place]]) == 1.0


def test_a_share_of_batches_is_mixed_and_a_share_of_those_is_cutmix() -> None:
    kinds = []
    config = MixConfig(mixup=0.8, cutmix=1.0, probability=0.6, switch=0.25)
    mixing, original = Mixing(config, CLASSES, seed=0), batch(2)[0]
    for step in range(600):
        images, _ = mixing(*batch(2), 0, step)
        share = (images != original).any(1).float().mean()
        kinds.append("none" if share == 0 else "mixup" if share == 1 else "cutmix")
    assert kinds.count("none") / 600 == pytest.approx(0.4, abs=0.06)
    assert kinds.count("cutmix") / 600 == pytest.approx(0.15, abs=0.05)


def test_draws_depend_on_seed_epoch_step_and_rank_alone() -> None:
    config = CONFIGS["mixup"]
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    targets = [mixed(config, step=step, rank=rank, epoch=epoch)[1] for step, rank, epoch in keys]
    again = [mixed(config, step=step, rank=rank, epoch=epoch)[1] for step, rank, epoch in reversed(keys)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(targets, again, strict=True))
    assert len({tuple(target.flatten().tolist()) for target in targets}) == 4
    assert not torch.equal(targets[0], Mixing(config, CLASSES, seed=4)(*batch(8), 0, 0)[1])


def test_numpys_global_generator_is_left_alone() -> None:
    np.random.seed(5)
    expected = np.random.rand(3)
    np.random.seed(5)
    mixed(CONFIGS["both"])
    assert np.random.rand(3).tolist() == expected.tolist()
