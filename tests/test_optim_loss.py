"""Losses against their formulas and the libraries' own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.loss import BinaryCrossEntropy
from torch import Tensor

from repro.config import RecipeConfig
from repro.optim.config import OptimizerConfig, ScheduleConfig
from repro.optim.loss import Loss, build_loss


def loss(name: str, smoothing: float = 0.0, threshold: float | None = None) -> Loss:
    return build_loss(
        RecipeConfig(
            name="test", duration="1ep", batch_size=1, lr=0.1, weight_decay=0, optimizer=OptimizerConfig(),
            schedule=ScheduleConfig(name="constant"), loss=name, label_smoothing=smoothing, bce_threshold=threshold,
        )
    )  # fmt: skip


def batch(seed: int, classes: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels, and mixed targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(5, classes, generator=generator)
    labels = torch.randint(classes, (5,), generator=generator)
    others = torch.randint(classes, (5,), generator=generator)
    return logits, labels, 0.7 * F.one_hot(labels, classes) + 0.3 * F.one_hot(others, classes)


seeds = st.integers(0, 2**31)
smoothings = st.floats(0, 1)


@settings(max_examples=30)
@given(seed=seeds, smoothing=smoothings)
def test_cross_entropy_of_labels_is_torchs_bit_for_bit(seed: int, smoothing: float) -> None:
    logits, labels, _ = batch(seed)
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    assert torch.equal(loss("cross_entropy", smoothing)(logits, labels), expected)


@settings(max_examples=30)
@given(seed=seeds, smoothing=smoothings)
def test_cross_entropy_of_mixed_targets_smooths_them_too(seed: int, smoothing: float) -> None:
    logits, _, mixed = batch(seed)
    shares = mixed * (1 - smoothing) + smoothing / 7
    expected = -(shares * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss("cross_entropy", smoothing)(logits, mixed), expected)


@settings(max_examples=30)
@given(seed=seeds, smoothing=smoothings, threshold=st.none() | st.floats(0, 1))
def test_bce_is_a_question_to_each_class(seed: int, smoothing: float, threshold: float | None) -> None:
    logits, labels, mixed = batch(seed)
    for targets in (labels, mixed):
        shares = targets if targets is mixed else F.one_hot(labels, 7).float()
        shares = shares * (1 - smoothing) + smoothing / 7
        if threshold is not None:
            shares = torch.where(shares > threshold, 1.0, 0.0)
        chance = logits.double().sigmoid()
        expected = -(shares * chance.log() + (1 - shares) * (1 - chance).log()).mean()
        torch.testing.assert_close(loss("bce", smoothing, threshold)(logits, targets), expected.float())


@pytest.mark.parametrize("threshold", [None, 0.2], ids=["soft", "threshold"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bce_of_labels_is_timms(smoothing: float, threshold: float | None) -> None:
    logits, labels, mixed = batch(0)
    theirs = BinaryCrossEntropy(smoothing=smoothing, target_threshold=threshold)
    ours = loss("bce", smoothing, threshold)
    torch.testing.assert_close(ours(logits, labels), theirs(logits, labels))
    torch.testing.assert_close(ours(logits, mixed), theirs(logits, mixed * (1 - smoothing) + smoothing / 7))


def test_a_threshold_undoes_the_smoothing() -> None:
    """Wightman et al. 2021: every class that an image has a visible share of is wholly right."""
    logits, labels, mixed = batch(1)
    ours = loss("bce", 0.1, 0.2)
    torch.testing.assert_close(ours(logits, labels), loss("bce")(logits, labels))
    torch.testing.assert_close(ours(logits, mixed), loss("bce")(logits, (mixed > 0).float()))


@pytest.mark.parametrize("name", ["cross_entropy", "bce"])
def test_a_loss_is_taken_in_float32_under_mixed_precision(name: str) -> None:
    logits, labels, mixed = batch(2)
    half = logits.bfloat16()
    for targets in (labels, mixed):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(name, 0.1)(half, targets)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(name, 0.1)(half.float(), targets))


@pytest.mark.parametrize("name", ["cross_entropy", "bce"])
def test_a_loss_does_not_look_at_values_on_the_host(name: str) -> None:
    """A tensor on the meta device has no values to look at."""
    logits, labels, mixed = (tensor.to("meta") for tensor in batch(3))
    for targets in (labels, mixed):
        assert loss(name, 0.1, 0.2 if name == "bce" else None)(logits, targets).shape == ()
