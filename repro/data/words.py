"""What happens to resident images, and to any batch, in words that name every operation with its parameters."""

from __future__ import annotations

from repro.data.config import AugmentConfig, EvaluationConfig, MixConfig, PolicyConfig
from repro.data.spaces import SMALL

NORMALISED = "normalised by the training images' mean and deviation"


def train_words(config: AugmentConfig, size: int, channels: int) -> str:
    """Say how training images of `size` are changed, in the order of the changes."""
    parts = [policy_words(config.policy, size), _jitter(config.color_jitter, channels)]
    parts += [_window(config, size), NORMALISED]
    if config.lighting and channels == 3:
        parts.append(f"PCA lighting noise of standard deviation {config.lighting:g}")
    parts += [_padding(config, size), "mirrored with probability 0.5" if config.flip else ""]
    parts += [f"cutout of {round(config.cutout * size)}" if round(config.cutout * size) else ""]
    parts += [f"random erasing with probability {config.erase:g}" if config.erase else ""]
    return "; ".join([part for part in parts if part] + batch_words(config))


def batch_words(config: AugmentConfig) -> list[str]:
    """Say what happens to a batch as a whole: repeats and mixing, for images in files too."""
    repeats = f"each image {config.repeats} times in a batch" if config.repeats > 1 else ""
    return [part for part in (repeats, _mix(config.mix)) if part]


def test_words(config: EvaluationConfig, size: int) -> str:
    """Say how validation and test images are cut."""
    resize, crop = config.resize(size), config.crop(size)
    cut = {
        "centre": f"centre crop of {crop}" if crop < resize else "",
        "flip": f"centre crop of {crop} and its mirror image",
        "ten_crop": f"corner and centre crops of {crop} and their mirror images",
        "full": "the whole image and its mirror image",
    }[config.views]
    resized = f"resized to {resize} ({config.interpolation})" if resize != size else ""
    return "; ".join(part for part in (resized, cut, NORMALISED) if part)


def policy_words(policy: PolicyConfig, size: int) -> str:
    """Name a policy with its parameters, for images of `size`; empty where there is none."""
    if policy.name == "rand_augment":
        words = (
            f"RandAugment of {policy.layers} operation{'s' * (policy.layers > 1)} with magnitude {policy.magnitude:g}"
        )
        words += f" and deviation {policy.std:g}" if policy.std else ""
        words += f", each with probability {policy.probability:g}" if policy.probability < 1 else ""
        return words + (", increasing set" if policy.increasing else "")
    if policy.name == "auto_augment":
        return f"AutoAugment ({'CIFAR' if size <= SMALL else 'ImageNet'} policy)"
    return "TrivialAugment (wide)" if policy.name == "trivial_augment" else ""


def _jitter(strengths: tuple[float, float, float, float], channels: int) -> str:
    names = ("brightness", "contrast", *(("saturation", "hue") if channels == 3 else ()))
    used = [f"{name} {strength:g}" for name, strength in zip(names, strengths, strict=False) if strength]
    return f"colour jitter of {', '.join(used)}" if used else ""


def _window(config: AugmentConfig, size: int) -> str:
    if config.crop == "random_resized":
        area, ratio = (f"{low:.4g} to {high:.4g}" for low, high in (config.area, config.ratio))
        return f"random crop of area {area} and ratio {ratio} resized to {size} ({config.interpolation})"
    if config.crop == "scale_jitter":
        low, high = (round(side * size) for side in config.shorter_side)
        return f"shorter side drawn from {low} to {high} ({config.interpolation}), random crop of {size}"
    return ""


def _padding(config: AugmentConfig, size: int) -> str:
    pad = round(config.pad * size) if config.crop == "pad" else 0
    if not pad:
        return ""
    filled = "zeros" if config.pad_mode == "zeros" else "its reflection"
    return f"padded by {pad} with {filled}, random crop of {size}"


def _mix(config: MixConfig) -> str:
    used = [f"{name} {alpha:g}" for name, alpha in (("mixup", config.mixup), ("CutMix", config.cutmix)) if alpha]
    if not config.on:
        return ""
    if config.mode == "half":
        words = " and ".join(used) + f" on {'one half each' if len(used) == 2 else 'one half'} of a batch"
    else:
        words = f"{used[0]} or {used[1]} ({config.switch:g} of batches)" if len(used) == 2 else used[0]
    return words + (f", with probability {config.probability:g}" if config.probability < 1 else "")
