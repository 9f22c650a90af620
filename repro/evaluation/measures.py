"""How good predicted probabilities are: errors, likelihood and calibration, as sums that add up over processes.

Pure functions of tensors. torchmetrics is not used here: its calibration error looks at the values of every batch on
the host, gives a confidence of exactly 1 a bin of its own, and closes its bins on the left where Guo et al. close them
on the right.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import InputError
from repro.evaluation.records import Measures

BINS = 15
TOP = 5


def log_probabilities(net: nn.Module, images: Tensor) -> Tensor:
    """Return log probabilities `(B, classes)` of images `(B, C, H, W)`, or of views `(B, V, C, H, W)`.

    Probabilities, not logits, are averaged over the views (Krizhevsky et al., NeurIPS 2012, section 4.1). The views are
    run in turn, so that ten crops need no more memory than one.
    """
    views = images.unbind(1) if images.ndim == 5 else (images,)
    return mean_probability(F.log_softmax(net(view).float(), 1) for view in views)


def mean_probability(parts: Iterable[Tensor]) -> Tensor:
    """Average probabilities that are given and returned as their logarithms `(B, classes)`; at least one is needed.

    Stays in logarithms, so that a probability that is tiny in every part keeps a finite likelihood.
    """
    total, count = None, 0
    for part in parts:
        total, count = part if total is None else torch.logaddexp(total, part), count + 1
    if total is None:
        raise ValueError("the mean of no probabilities is not defined; expected at least one")
    return total if count == 1 else total - torch.tensor(float(count)).log().item()


def sums(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Reduce log probabilities `(N, classes)` and labels `(N,)` to sums `(4 + 3 * BINS,)`, float64.

    Images, top-1 hits, top-5 hits, negative log-likelihood (nats); then for each bin of confidence its images,
    confidences and hits. The sums of two sets of images add up to those of both. Among equal probabilities the lower
    class comes first, as in argmax.
    """
    own = log_probs.gather(1, labels[:, None])
    classes = torch.arange(log_probs.shape[1], device=labels.device)
    before = (log_probs > own) | ((log_probs == own) & (classes < labels[:, None]))
    rank = before.sum(1)
    hits = (rank == 0).double()
    heads = torch.stack([torch.ones_like(hits), hits, (rank < TOP).double(), -own[:, 0].double()], 1).sum(0)
    return torch.cat([heads, _bins(log_probs, hits)])


def _bins(log_probs: Tensor, hits: Tensor) -> Tensor:
    """Images, confidences and hits of each bin `((m - 1) / BINS, m / BINS]`, one after the other."""
    confidence = log_probs.amax(1).double().exp()
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64, device=hits.device)[1:-1]
    bins = F.one_hot(torch.bucketize(confidence, edges), BINS).double()  # (N, BINS)
    return (torch.stack([torch.ones_like(hits), confidence, hits]) @ bins).flatten()


def measures(sums: Tensor) -> Measures:
    """Turn the sums of all images into errors (%), likelihood (nats) and calibration error (%).

    Raises InputError where there is no image, or where some output was not finite.
    """
    count, top1, top5, nll = sums[:4].tolist()
    if not count:
        raise InputError("the split has no image; nothing can be measured")
    if not bool(torch.isfinite(sums).all()):
        raise InputError("some outputs of the network are not finite; it has no probabilities")
    _, confidence, hits = sums[4:].view(3, BINS)
    return Measures(
        top1_error=100 * (count - top1) / count,
        top5_error=100 * (count - top5) / count,
        nll=nll / count,
        calibration_error=100 * float((hits - confidence).abs().sum()) / count,
        images=int(count),
    )
