"""A recipe in words: what is optimised and how, what happens to images, how they are cut for the test. Pure."""

from __future__ import annotations

import re

from repro.config import Expected, RecipeConfig
from repro.data.config import AugmentConfig, EvaluationConfig, MixConfig, PolicyConfig
from repro.duration import Duration, Unit
from repro.report.format import DASH

_OPTIMIZERS = {"sgd": "SGD", "rmsprop_tf": "RMSProp", "adamw": "AdamW", "lamb": "LAMB"}
_POLICIES = {"auto_augment": "AutoAugment", "trivial_augment": "TrivialAugment (wide)"}
_UNITS: dict[Unit, str] = {"ep": "epochs", "st": "steps", "ex": "examples", "%": "% of the run"}
_CITATION = re.compile(r'^(?P<authors>.+?), ".+", (?P<venue>.+)$')


def short_paper(paper: str) -> str:
    """Shorten a citation to its authors and venue: `He et al., CVPR 2016`."""
    found = _CITATION.match(" ".join(paper.split()))
    if found is None:
        return paper
    first, *others = found["authors"].split(", ")
    rest = f" & {others[0]}" if len(others) == 1 else " et al." if others else ""
    return f"{first}{rest}, {found['venue']}"


def duration_text(text: str) -> str:
    """Write `90ep` as `90 epochs`."""
    duration = Duration.parse(text)
    return _amount(duration.value, _UNITS[duration.unit])


def _amount(value: float, unit: str) -> str:
    number = f"{value:,.10g}" if value >= 10_000 else f"{value:.4g}"
    return f"{number} {unit.removesuffix('s') if number == '1' else unit}"


def expected_text(expected: Expected) -> str:
    """Write `resnet20 8.75 %`; a number that nobody looked up in the paper is marked."""
    return f"{expected.model} {expected.top1_error:g} %" + ("" if expected.verified else " (unverified)")


def optimizer_text(recipe: RecipeConfig) -> str:
    """Write `SGD, momentum 0.9, Nesterov`."""
    rule = recipe.optimizer
    parts = [_OPTIMIZERS[rule.name]]
    if rule.name in ("sgd", "rmsprop_tf"):
        parts.append(f"momentum {rule.momentum:g}")
    if rule.nesterov:
        parts.append("Nesterov")
    if rule.name == "rmsprop_tf":
        parts.append(f"decay {rule.alpha:g}")
    if rule.name in ("adamw", "lamb"):
        parts.append(f"betas {rule.betas[0]:g} and {rule.betas[1]:g}")
    if rule.name != "sgd":
        parts.append(f"epsilon {rule.eps:g}")
    return ", ".join(parts)


def rate_text(recipe: RecipeConfig) -> str:
    """Write `0.1 for 256 images: 1.6 for the batch of 4,096`."""
    if recipe.lr_batch is None:
        return f"{recipe.lr:g}, whatever the batch ({recipe.batch_size:,})"
    return f"{recipe.lr:g} for {recipe.lr_batch:,} images: {recipe.peak_lr:g} for the batch of {recipe.batch_size:,}"


def schedule_text(recipe: RecipeConfig, epochs: float) -> str:
    """Write `× 0.1 after 30 epochs, 60 epochs; linear warm-up from 0 over 5 epochs`, for a run of so many epochs."""
    plan = recipe.schedule
    text = _shape_text(recipe, epochs)
    if Duration.parse(plan.warmup).value == 0:
        return text
    start = plan.warmup_factor * recipe.peak_lr
    shape = f"linear warm-up from {start:g}" if plan.warmup_shape == "linear" else f"warm-up at {start:g}"
    return f"{text}; {shape} over {_length(plan.warmup, epochs)}"


def _shape_text(recipe: RecipeConfig, epochs: float) -> str:
    plan = recipe.schedule
    end = f"to {plan.final_factor * recipe.peak_lr:g}"
    if plan.name == "step" and plan.milestones:
        return f"× {plan.gamma:g} after {', '.join(_length(text, epochs) for text in plan.milestones)}"
    if plan.name == "exponential":
        return f"× {plan.gamma:g} every {_length(plan.every, epochs)}" + ("" if plan.staircase else ", without stairs")
    if plan.name == "polynomial":
        return f"linear {end}" if plan.power == 1 else f"polynomial of power {plan.power:g} {end}"
    return f"cosine {end}" if plan.name == "cosine" else "constant"


def _length(text: str, epochs: float) -> str:
    """Write a length of time; a percentage of the run in epochs."""
    duration = Duration.parse(text)
    return duration_text(text) if duration.unit != "%" else _amount(duration.value / 100 * epochs, "epochs")


def decay_text(recipe: RecipeConfig) -> str:
    """Write `4e-05, not of norm, bias`."""
    if not recipe.weight_decay:
        return DASH
    exempt = ", ".join(recipe.no_decay)
    return f"{recipe.weight_decay:g}" + (f", not of {exempt}" if exempt else ", of all parameters")


def loss_text(recipe: RecipeConfig) -> str:
    """Write `cross-entropy, label smoothing 0.1`."""
    text = "cross-entropy" if recipe.loss == "cross_entropy" else "binary cross-entropy"
    if recipe.loss == "bce" and recipe.bce_threshold is not None:
        text += f" (targets above {recipe.bce_threshold:g} count as 1)"
    return text + (f", label smoothing {recipe.label_smoothing:g}" if recipe.label_smoothing else "")


def clip_text(recipe: RecipeConfig) -> str:
    """Write how gradients are clipped."""
    clip = recipe.clip
    if clip.agc is not None:
        return f"adaptive (AGC), {clip.agc:g} of the weights' norm, at least {clip.agc_eps:g}; not of the classifier"
    return DASH if clip.norm is None else f"to a global norm of {clip.norm:g}"


def average_text(recipe: RecipeConfig) -> str:
    """Write how weights are averaged."""
    ema = recipe.ema
    if ema.decay is None:
        return DASH
    every = "every step" if ema.every == 1 else f"every {ema.every} steps"
    warmup = ", at first (1 + t) / (10 + t)" if ema.warmup else ""
    return f"exponential moving average of decay {ema.decay:.10g} {every}{warmup}"


def batch_norm_text(recipe: RecipeConfig) -> str:
    """Write what the recipe changes of batch normalisation."""
    norm = recipe.batch_norm
    parts = [] if norm.momentum is None else [f"weight of the newest batch {norm.momentum:g}"]
    parts += ["statistics over all devices"] if norm.sync else []
    parts += [f"statistics computed anew from {norm.recalibrate} batches"] if norm.recalibrate else []
    return ", ".join(parts) or DASH


def augment_text(augment: AugmentConfig, size: int) -> str:
    """Write what happens to training images of `size` pixels, in order."""
    parts = [_crop(augment, size)]
    parts += ["mirror image"] if augment.flip else []
    parts += [_policy(augment.policy)] if augment.policy.name != "none" else []
    named = zip(("brightness", "contrast", "saturation", "hue"), augment.color_jitter, strict=True)
    jitter = " ".join(f"{name} {value:g}" for name, value in named if value)
    parts += [f"colour jitter ({jitter})"] if jitter else []
    parts += [f"PCA lighting {augment.lighting:g}"] if augment.lighting else []
    parts += [f"random erasing {augment.erase:g}"] if augment.erase else []
    parts += [f"Cutout of {round(augment.cutout * size)}"] if augment.cutout else []
    parts += [f"{augment.repeats} repeats of an image in a batch"] if augment.repeats > 1 else []
    return ", ".join(part for part in parts if part) or DASH


def _crop(augment: AugmentConfig, size: int) -> str:
    if augment.crop == "pad":
        return f"crop of {size} from {round(augment.pad * size)} pixels of padding ({augment.pad_mode})"
    if augment.crop == "random_resized":
        (low, high), (narrow, wide) = augment.area, augment.ratio
        part = f"{100 * low:g} to {100 * high:g} % of the area, ratio {narrow:.3g} to {wide:.3g}"
        return f"random resized crop of {size} ({part}, {augment.interpolation})"
    if augment.crop == "scale_jitter":
        low, high = (round(side * size) for side in augment.shorter_side)
        return f"crop of {size} from a shorter side of {low} to {high} ({augment.interpolation})"
    return ""


def _policy(policy: PolicyConfig) -> str:
    if policy.name != "rand_augment":
        return _POLICIES[policy.name]
    std = f" ± {policy.std:g}" if policy.std else ""
    chance = f", each with probability {policy.probability:g}" if policy.probability < 1 else ""
    return f"RandAugment (N = {policy.layers}, M = {policy.magnitude:g}{std}{chance})"


def mix_text(mix: MixConfig) -> str:
    """Write how images are mixed in pairs."""
    if not mix.on:
        return DASH
    both = mix.mixup > 0 and mix.cutmix > 0
    methods = [f"{name} {alpha:g}" for name, alpha in (("mixup", mix.mixup), ("CutMix", mix.cutmix)) if alpha]
    text = " and ".join(methods)
    if both:
        text += (
            ", each for half of a batch" if mix.mode == "half" else f", CutMix for {100 * mix.switch:g} % of batches"
        )
    return text + (f", with probability {mix.probability:g}" if mix.probability < 1 else "")


def evaluation_text(evaluation: EvaluationConfig, size: int) -> str:
    """Write how test images are cut when training crops have `size` pixels."""
    crop, shorter = evaluation.crop(size), evaluation.resize(size)
    if evaluation.views == "full":
        return f"the whole image of shorter side {shorter} ({evaluation.interpolation}) and its mirror image"
    view = {
        "centre": f"one centre crop of {crop}",
        "flip": f"a centre crop of {crop} and its mirror image",
        "ten_crop": f"ten crops of {crop}",
    }[evaluation.views]
    return f"{view} from a shorter side of {shorter} ({evaluation.interpolation})"
