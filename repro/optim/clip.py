"""Clipping of gradients before a step, as a recipe has it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from repro.optim.agc import AdaptiveClip
from repro.optim.config import ClipConfig


def build_clip(net: nn.Module, config: ClipConfig) -> Callable[[], None] | None:
    """Build what clips the gradients of `net` in place, or None where nothing is clipped.

    It is called after gradients are accumulated, reduced over devices and unscaled, before the optimiser's step; it
    does not synchronise with the host, so that a gradient that is not finite passes on and shows in the loss.
    """
    if config.agc is not None:
        return AdaptiveClip(net, config.agc, config.agc_eps)
    if config.norm is not None:
        parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        return partial(_clip_norm, parameters, config.norm)
    return None


def _clip_norm(parameters: list[nn.Parameter], norm: float) -> None:
    """Scale all gradients by one factor, so that their joint Euclidean norm is at most `norm`."""
    nn.utils.clip_grad_norm_(parameters, norm, error_if_nonfinite=False)
