"""The update rules of recipes, torch's and timm's. Weight decay is coupled or not as each rule's authors have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from repro.config import RecipeConfig
from repro.optim.groups import parameter_groups


def build_optimizer(net: nn.Module, recipe: RecipeConfig, *, fused: bool = False) -> torch.optim.Optimizer:
    """Build the recipe's optimiser over the trainable parameters of `net`, with `recipe.peak_lr`.

    What weight decay w does to a weight θ with learning rate η:
    sgd: coupled, w θ is added to the gradient and passes through the momentum (He et al., arXiv:1512.03385).
    rmsprop_tf: coupled likewise, before the mean of squares (the L2 term of the loss in TensorFlow's MobileNets and
    EfficientNets). Its momentum holds η.
    adamw: decoupled, θ shrinks by η w θ (Loshchilov & Hutter, arXiv:1711.05101).
    lamb: w θ is added to Adam's direction before the layer's trust ratio is taken; what is not decayed has no trust
    ratio (You et al., arXiv:1904.00962, Algorithm 2, and timm). It clips nothing by itself: a recipe that has timm's
    clipping to a global norm of 1 says so in `clip.norm`.

    `fused`: one kernel for the whole update, for a rule that `has_fused`.
    """
    config = recipe.optimizer
    groups = parameter_groups(net, recipe.weight_decay, recipe.no_decay)
    kernels: dict[str, bool] = {"fused": True} if fused else {"foreach": True}
    return _BUILDERS[config.name](groups, recipe, kernels)


def _sgd(groups: list[dict[str, Any]], recipe: RecipeConfig, kernels: dict[str, bool]) -> torch.optim.Optimizer:
    config = recipe.optimizer
    return torch.optim.SGD(groups, recipe.peak_lr, config.momentum, nesterov=config.nesterov, **kernels)


def _adamw(groups: list[dict[str, Any]], recipe: RecipeConfig, kernels: dict[str, bool]) -> torch.optim.Optimizer:
    config = recipe.optimizer
    return torch.optim.AdamW(groups, recipe.peak_lr, config.betas, config.eps, **kernels)


def _rmsprop_tf(groups: list[dict[str, Any]], recipe: RecipeConfig, kernels: dict[str, bool]) -> torch.optim.Optimizer:
    from timm.optim.rmsprop_tf import RMSpropTF

    config = recipe.optimizer
    made: torch.optim.Optimizer = RMSpropTF(
        groups, recipe.peak_lr, alpha=config.alpha, eps=config.eps, momentum=config.momentum
    )
    return made


def _lamb(groups: list[dict[str, Any]], recipe: RecipeConfig, kernels: dict[str, bool]) -> torch.optim.Optimizer:
    from timm.optim.lamb import Lamb

    config = recipe.optimizer
    made: torch.optim.Optimizer = Lamb(groups, recipe.peak_lr, betas=config.betas, eps=config.eps, max_grad_norm=None)
    return made


_BUILDERS = {"sgd": _sgd, "adamw": _adamw, "rmsprop_tf": _rmsprop_tf, "lamb": _lamb}
