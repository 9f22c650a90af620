"""Adaptive gradient clipping: the gradient of a unit is kept below a share of the unit's own weights.

Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization", ICML 2021 (arXiv:2102.06171), §4,
and the rule of the released optimiser (nfnets/optim.py, nfnets/experiment_nfnets.py) where the paper is silent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


class AdaptiveClip:
    """Clip the gradients of `net` in place: G becomes λ max(‖W‖, ε) / ‖G‖ · G in a unit where ‖G‖ is more than that.

    λ is `clipping`, ε `eps`. A unit is an output channel of a convolution or a row of a linear layer: an index of the
    first axis. What has one number per channel or one in all is one unit as a whole, whatever its shape: biases, norms,
    SkipInit and also the gains `(C, 1, 1, 1)` of standardised convolutions, whose numbers timm clips one by one.
    The classifier's weight is left alone, and those of auxiliary classifiers; their biases are clipped, as all are.
    Parameters without a gradient are passed over. Nothing is synchronised with the host.
    """

    def __init__(self, net: nn.Module, clipping: float, eps: float = 1e-3) -> None:
        self.clipping, self.eps = clipping, eps
        spared = {id(weight) for weight in classifier_weights(net)}
        clipped = [p for p in net.parameters() if p.requires_grad and id(p) not in spared]
        self._whole = [p for p in clipped if _is_whole(p)]
        self._split = [p for p in clipped if not _is_whole(p)]

    @torch.no_grad()
    def __call__(self) -> None:
        """Clip the gradients that are there; under mixed precision after unscaling, before the optimiser's step."""
        whole = [p for p in self._whole if p.grad is not None]
        split = [p for p in self._split if p.grad is not None]
        gradients = [p.grad for p in [*whole, *split] if p.grad is not None]
        if not gradients:
            return
        limits = _norms(list(whole), list(split)).clamp_(min=self.eps).mul_(self.clipping)
        factors = limits.div_(_norms(gradients[: len(whole)], gradients[len(whole) :]))
        factors.clamp_(max=1.0)  # of a gradient of zero too, whose quotient is infinite
        torch._foreach_mul_(gradients, _by_unit(factors, len(whole), list(split)))


def classifier_weights(net: nn.Module) -> list[nn.Parameter]:
    """Find the weights of the layers that give logits: the network's own classifier and its auxiliary ones.

    timm's networks name theirs (`get_classifier`); in others it is the last linear layer or convolution. Auxiliary
    classifiers are the children that `models.auxiliary.mark_heads` names.
    """
    ask = getattr(net, "get_classifier", None)
    named = ask() if callable(ask) else net
    own = list(named) if isinstance(named, tuple | nn.ModuleList) else [named]
    heads = [net.get_submodule(name) for name in getattr(net, "auxiliary_heads", ())]
    weights = [_last_weight(module) for module in [*own, *heads] if isinstance(module, nn.Module)]
    return [weight for weight in weights if weight is not None]


def _last_weight(module: nn.Module) -> nn.Parameter | None:
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | _ConvNd)]
    return layers[-1].get_parameter("weight") if layers else None


def _is_whole(tensor: Tensor) -> bool:
    return max(tensor.shape, default=1) == math.prod(tensor.shape)


def _norms(whole: list[Tensor], split: list[Tensor]) -> Tensor:
    """Return the Euclidean norms of all units as one vector: tensors that are one unit, then those of several."""
    together = [torch.stack(torch._foreach_norm(whole))] if whole else []
    return torch.cat(together + [torch.linalg.vector_norm(t, dim=tuple(range(1, t.ndim))) for t in split])


def _by_unit(factors: Tensor, whole: int, split: list[Tensor]) -> list[Tensor]:
    """Cut the vector of one factor per unit into what multiplies each tensor."""
    each, *parts = torch.split(factors, [whole, *(len(tensor) for tensor in split)])
    shaped = [part.view(-1, *[1] * (tensor.ndim - 1)) for part, tensor in zip(parts, split, strict=True)]
    return [*each.unbind(), *shaped]
