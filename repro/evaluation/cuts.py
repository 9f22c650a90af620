"""How the flags of an evaluation change the cut of its images. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from repro.config import RunConfig
from repro.data.config import EvaluationConfig
from repro.errors import InputError

Views = Literal["centre", "flip", "ten_crop", "full"]


@dataclass(frozen=True)
class Choices:
    """What the flags say; None leaves it as the run or the weights have it. Lengths are in pixels."""

    which: Literal["raw", "ema"] | None = None
    resize: int | None = None
    crop: int | None = None
    views: Views | None = None
    sizes: tuple[int, ...] = ()
    batch: int | None = None


def cuts(config: RunConfig, choices: Choices, name: str) -> tuple[EvaluationConfig, ...]:
    """Return how the images are cut: once as the config and the flags say, or once for each of `sizes`.

    A size is the side of the crop, and the shorter side is resized in the same ratio to it as before; with the views
    `full` it is the shorter side itself (He et al., CVPR 2016, section 3.4: 224, 256, 384, 480 and 640).
    Raises InputError for flags that contradict each other, a crop that is larger than the image, and views with mirror
    images of data whose mirror images are of no class.
    """
    cut, size = config.recipe.evaluation, config.data.size
    cut = cut if choices.views is None else cut.model_copy(update={"views": choices.views})
    if cut.views != "centre" and not config.data.mirror:
        raise InputError(
            f"{name}: views={cut.views} has mirror images, and one of data={config.data.name} is of no class "
            "(data.mirror=false); expected views=centre"
        )
    if not choices.sizes:
        return (_resized(cut, size, choices),)
    if choices.resize or choices.crop:
        raise InputError("--sizes says how images are resized and cropped; leave out --resize and --crop")
    ratio = 1.0 if cut.views == "full" else cut.crop_ratio
    return tuple(cut.model_copy(update={"scale": side / size, "crop_ratio": ratio}) for side in choices.sizes)


def _resized(cut: EvaluationConfig, size: int, choices: Choices) -> EvaluationConfig:
    if cut.views == "full" and choices.crop:
        raise InputError("--crop: views=full cuts nothing; set --resize, the shorter side")
    if choices.resize is None and choices.crop is None:
        return cut
    resize = choices.resize or cut.resize(size)
    crop = resize if cut.views == "full" else choices.crop or cut.crop(size)
    if crop > resize:
        raise InputError(
            f"a crop of {crop} pixels is larger than the image, whose shorter side is resized to {resize}; "
            f"expected --crop of at most {resize}, or --resize of at least {crop}"
        )
    return cut.model_copy(update={"scale": crop / size, "crop_ratio": crop / resize})
