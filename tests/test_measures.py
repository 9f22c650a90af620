"""Errors, likelihood and calibration of probabilities: against scikit-learn and the papers' formulas, and as sums."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, top_k_accuracy_score
from torch import Tensor, nn

from repro.errors import InputError
from repro.evaluation.measures import BINS, log_probabilities, mean_probability, measures, sums
from repro.evaluation.records import Measures


def predictions(images: int, classes: int, seed: int, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """Log probabilities and labels, right more often than by chance."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=draw)
    logits = scale * torch.randn(images, classes, generator=draw)
    logits[torch.arange(images), labels] += scale
    return logits.log_softmax(1), labels


def assert_equal(found: Measures, expected: Measures) -> None:
    assert found.images == expected.images
    assert (found.top1_error, found.top5_error) == (expected.top1_error, expected.top5_error)
    assert found.nll == pytest.approx(expected.nll, rel=1e-12)
    assert found.calibration_error == pytest.approx(expected.calibration_error, rel=1e-9, abs=1e-12)


def calibration_by_hand(log_probs: Tensor, labels: Tensor) -> float:
    """Guo et al. 2017, eq. 3, in a loop over the bins (m - 1) / M < confidence <= m / M."""
    probabilities = log_probs.double().exp().numpy()
    confidence, predicted = probabilities.max(1), probabilities.argmax(1)
    right = predicted == labels.numpy()
    total = 0.0
    for m in range(1, 16):
        inside = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        if inside.any():
            total += inside.sum() / len(labels) * abs(right[inside].mean() - confidence[inside].mean())
    return 100 * total


@pytest.mark.parametrize(("classes", "scale"), [(10, 2.0), (10, 0.1), (1000, 3.0), (7, 30.0)])
def test_against_scikit_learn_and_the_formula(classes: int, scale: float) -> None:
    log_probs, labels = predictions(300, classes, seed=classes, scale=scale)
    found = measures(sums(log_probs, labels))
    probabilities, every = log_probs.double().exp().numpy(), np.arange(classes)
    probabilities /= probabilities.sum(1, keepdims=True)
    for k, error in ((1, found.top1_error), (5, found.top5_error)):
        right = top_k_accuracy_score(labels.numpy(), probabilities, k=k, labels=every)
        assert error == pytest.approx(100 * (1 - right), abs=1e-9)
    if scale < 30:  # scikit-learn clips what is smaller than its epsilon
        assert found.nll == pytest.approx(log_loss(labels.numpy(), probabilities, labels=every), rel=1e-5)
    assert found.calibration_error == pytest.approx(calibration_by_hand(log_probs, labels), abs=1e-9)
    assert found.images == 300


@pytest.mark.parametrize(
    ("probabilities", "labels", "expected"),
    [
        ([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], [0, 2], Measures(50.0, 0.0, (math.log(2) - math.log(0.1)) / 2, 65.0, 2)),
        ([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [0, 0], Measures(0.0, 0.0, 0.0, 0.0, 2)),
        ([[0.6, 0.4], [0.6, 0.4]], [0, 1], Measures(50.0, 0.0, -(math.log(0.6) + math.log(0.4)) / 2, 10.0, 2)),
    ],
    ids=["two bins", "certain and right", "one bin"],
)
def test_by_hand(probabilities: list[list[float]], labels: list[int], expected: Measures) -> None:
    log_probs = torch.tensor(probabilities, dtype=torch.float64).log()
    found = measures(sums(log_probs, torch.tensor(labels)))
    assert (found.top1_error, found.images) == (expected.top1_error, expected.images)
    assert found.nll == pytest.approx(expected.nll)
    assert found.calibration_error == pytest.approx(expected.calibration_error, abs=1e-9)


def test_a_confidence_of_one_belongs_to_the_last_bin() -> None:
    """Confidences 1 (wrong) and 0.95 (right): one bin, in which half are right."""
    log_probs = torch.tensor([[0.0, -200.0], [math.log(0.95), math.log(0.05)]])
    labels = torch.tensor([1, 0])
    found = measures(sums(log_probs, labels)).calibration_error
    assert found == pytest.approx(100 * abs(1 - 1.95) / 2, abs=1e-4)
    assert found == pytest.approx(calibration_by_hand(log_probs, labels), abs=1e-4)


def test_top_five_counts_the_five_most_likely() -> None:
    """Image k has its label at rank k, counted from zero."""
    log_probs = torch.linspace(0, -3, 8).expand(8, 8).log_softmax(1)
    assert measures(sums(log_probs, torch.arange(8))).top5_error == 37.5
    assert measures(sums(log_probs, torch.arange(8))).top1_error == 87.5


def test_among_equal_probabilities_the_lower_class_comes_first() -> None:
    """A network that says nothing is right by chance, not always."""
    log_probs = torch.zeros(20, 10).log_softmax(1)
    found = measures(sums(log_probs, torch.arange(20) % 10))
    assert (found.top1_error, found.top5_error) == (90.0, 50.0)
    assert found.nll == pytest.approx(math.log(10), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_neither_order_nor_batches_nor_processes_change_the_result(data: st.DataObject) -> None:
    images = data.draw(st.integers(1, 40), label="images")
    log_probs, labels = predictions(images, data.draw(st.integers(2, 12)), seed=data.draw(st.integers(0, 99)))
    expected = measures(sums(log_probs, labels))
    order = torch.tensor(data.draw(st.permutations(range(images))))
    assert_equal(measures(sums(log_probs[order], labels[order])), expected)
    ends = [0, *sorted(data.draw(st.lists(st.integers(0, images), max_size=4))), images]
    parts = [sums(log_probs[a:b], labels[a:b]) for a, b in itertools.pairwise(ends)]
    assert_equal(measures(torch.stack(parts).sum(0)), expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), parts=st.integers(1, 5))
def test_probabilities_are_averaged_and_not_logits(seed: int, parts: int) -> None:
    members = [predictions(6, 5, seed + part)[0].double() for part in range(parts)]
    found = mean_probability(members)
    torch.testing.assert_close(found.exp(), torch.stack(members).exp().mean(0), rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(6, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_a_probability_that_underflows_keeps_its_likelihood() -> None:
    tiny = torch.tensor([[0.0, -200.0]])  # exp(-200) is 0 in float32
    assert mean_probability([tiny, tiny])[0, 1].item() == pytest.approx(-200.0, abs=1e-4)


class _Pixel(nn.Module):
    """Its logits are the pixel in the top left corner and zero."""

    def forward(self, x: Tensor) -> Tensor:
        corner = x[:, 0, 0, 0]
        return torch.stack([corner, torch.zeros_like(corner)], 1)


def test_ten_crops_are_averaged_by_their_probabilities() -> None:
    """The network sees of each view one pixel, so that the mean over the views is known."""
    corners = torch.tensor([[0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [3.0, -1, -2, -3, 0, 0, 0, 1, 1, 1]])
    views = corners[:, :, None, None, None].expand(2, 10, 1, 4, 4)
    found = log_probabilities(_Pixel(), views)
    torch.testing.assert_close(found[:, 0].exp(), corners.sigmoid().mean(1))
    single = log_probabilities(_Pixel(), views[:, 3])
    torch.testing.assert_close(single[:, 0].exp(), corners[:, 3].sigmoid())


@pytest.mark.parametrize(
    ("log_probs", "message"),
    [
        (torch.zeros(0, 3), "the split has no image"),
        (torch.tensor([[math.nan, math.nan], [0.0, -9.0]]), "some outputs of the network are not finite"),
        (torch.tensor([[-math.inf, 0.0]]), "some outputs of the network are not finite"),
    ],
    ids=["no image", "NaN", "infinite"],
)
def test_what_cannot_be_measured_is_refused(log_probs: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measures(sums(log_probs, torch.zeros(len(log_probs), dtype=torch.int64)))


def test_no_probabilities_have_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_probability([])


def test_sums_have_the_documented_form() -> None:
    assert sums(*predictions(9, 4, 0)).shape == (4 + 3 * BINS,)
    assert sums(*predictions(9, 4, 0)).dtype == torch.float64
