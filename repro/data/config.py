"""What data a run reads, how training images are augmented, how test images are cut. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from repro.typed import Fraction, NonNegative, Positive, Typed

Count = Annotated[int, Field(ge=0)]
Level = Annotated[float, Field(ge=0, le=10)]


class DigitsConfig(Typed):
    """scikit-learn's handwritten digits: 1,797 real 8x8 images, upsampled to `size`."""

    name: Literal["digits"] = "digits"
    size: Annotated[int, Field(ge=8)]
    channels: Literal[1] = 1
    classes: Literal[10] = 10
    val: PositiveInt
    test: PositiveInt
    mirror: Literal[False] = False
    """Whether a mirrored image is of the same class; where it is not, no recipe's flip is applied."""


class ShapesConfig(Typed):
    """The generated set: 5 shapes x 2 textures."""

    name: Literal["shapes"] = "shapes"
    size: Annotated[int, Field(ge=12)]
    channels: Literal[3] = 3
    classes: Literal[10] = 10
    train: PositiveInt
    val: PositiveInt
    test: PositiveInt
    seed: Count = 0
    mirror: bool = True


class CifarConfig(Typed):
    """CIFAR-10 or CIFAR-100 from torchvision's files under `root`; `val` images of train are held out.

    `download`: whether `repro run` fetches missing files, once, before the runs start; a run never downloads.
    """

    name: Literal["cifar10", "cifar100"]
    root: str
    size: Literal[32] = 32
    channels: Literal[3] = 3
    classes: PositiveInt
    val: Count
    download: bool = True
    mirror: bool = True


class ImagenetConfig(Typed):
    """ImageNet-1k, a subset of it, or any images in class folders; `val` images of train are held out.

    `source`: `folder` (`root/{train,val}/CLASS/*`; the val folder is the test split), `tars` (webdataset shards or tars
    of class folders below root) or `huggingface` (a data set's path, or its name in the library's cache, in root; read
    through timm). `keep`: the class folders that are used: null for all, a number for the first so many by name, or
    their names. `test`: images held out as the test split where `root` has class folders but no train and val. `size`
    is that of training crops.
    """

    name: Literal["imagenet", "imagenet100", "imagenette", "folder"] = "imagenet"
    source: Literal["folder", "tars", "huggingface"] = "folder"
    root: str
    size: PositiveInt
    channels: Literal[3] = 3
    classes: PositiveInt
    keep: PositiveInt | tuple[str, ...] | None = None
    val: Count
    test: Count = 0
    workers: Count = 8
    decode: Literal["cpu", "gpu"] = "cpu"
    mirror: bool = True


DataConfig = Annotated[DigitsConfig | ShapesConfig | CifarConfig | ImagenetConfig, Field(discriminator="name")]


class PolicyConfig(Typed):
    """A learned or random policy of image operations.

    `rand_augment` (Cubuk et al., arXiv:1909.13719): `layers` operations (N) of strength `magnitude` (M, on the scale
    where 10 is AutoAugment's strongest), varied by a normal deviation `std`; each applied with `probability`;
    `increasing`: timm's set in which every operation gets stronger with the magnitude. `auto_augment`: the policy found
    on ImageNet, or on CIFAR for images up to 64 pixels (Cubuk et al., arXiv:1805.09501). `trivial_augment`: one
    operation of random strength, the wide space (Mueller and Hutter, arXiv:2103.10158).
    """

    name: Literal["none", "rand_augment", "auto_augment", "trivial_augment"] = "none"
    layers: PositiveInt = 2
    magnitude: Annotated[float, Field(ge=0, le=30)] = 9.0
    std: NonNegative = 0.0
    probability: Fraction = 1.0
    increasing: bool = False


class MixConfig(Typed):
    """Mixing of pairs of images and of their labels, by timm's Mixup; off while both alphas are 0.

    mixup: Zhang et al., arXiv:1710.09412. CutMix: Yun et al., arXiv:1905.04899. With both on, `switch` is the share of
    batches that get CutMix; `mode: half` mixes one half of every batch by each (NFNets).
    """

    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    probability: Fraction = 1.0
    switch: Fraction = 0.5
    mode: Literal["batch", "half"] = "batch"

    @property
    def on(self) -> bool:
        """Whether any batch is mixed."""
        return (self.mixup > 0 or self.cutmix > 0) and self.probability > 0


class AugmentConfig(Typed):
    """How training images are changed at random. Lengths are relative to the image size, so that recipes keep theirs.

    `crop`: `pad` adds `pad` x size on each side (4 pixels at 32 are 0.125) and cuts the native size; `random_resized`
    cuts a part of `area` and `ratio` and resizes it (Szegedy et al. 2014); `scale_jitter` resizes the shorter side to
    `shorter_side` x size, drawn evenly ([256, 480] for 224), and cuts (He et al. 2015, section 3.4).
    `color_jitter`: brightness, contrast, saturation and hue as torchvision has them. `lighting`: standard deviation of
    the PCA noise of Krizhevsky et al. 2012. `erase`: probability of random erasing (arXiv:1708.04896). `cutout`: side
    of the hole x size (arXiv:1708.04552). `repeats`: how often an image comes in a batch, each time changed anew
    (arXiv:1902.05509); an epoch keeps its length.
    """

    crop: Literal["none", "pad", "random_resized", "scale_jitter"] = "none"
    pad: Fraction = 0.125
    pad_mode: Literal["zeros", "reflect"] = "zeros"
    area: tuple[Positive, Positive] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    shorter_side: tuple[Positive, Positive] = (256 / 224, 480 / 224)
    interpolation: Literal["bilinear", "bicubic", "random"] = "bilinear"
    flip: bool = False
    policy: PolicyConfig = PolicyConfig()
    color_jitter: tuple[NonNegative, NonNegative, NonNegative, NonNegative] = (0.0, 0.0, 0.0, 0.0)
    lighting: NonNegative = 0.0
    erase: Fraction = 0.0
    cutout: Fraction = 0.0
    repeats: PositiveInt = 1
    mix: MixConfig = MixConfig()

    @model_validator(mode="after")
    def _ordered(self) -> AugmentConfig:
        for name in ("area", "ratio", "shorter_side"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}=[{low:g}, {high:g}] is empty; expected the smaller value first")
        if self.area[1] > 1:
            raise ValueError(f"area=[{self.area[0]:g}, {self.area[1]:g}] exceeds the image; expected at most 1")
        if self.crop == "scale_jitter" and self.shorter_side[0] < 1:
            raise ValueError(f"shorter_side from {self.shorter_side[0]:g} is less than the crop; expected at least 1")
        if self.color_jitter[3] > 0.5:
            raise ValueError(f"color_jitter turns the hue by {self.color_jitter[3]:g} of the circle; at most 0.5")
        return self


class EvaluationConfig(Typed):
    """How validation and test images are cut. The shorter side is resized to the crop's side / `crop_ratio`.

    `scale`: side of the test crop / data.size (FixRes: 224 / 176). `views`: one centre crop; the same with its mirror
    image; ten crops (four corners and the centre, mirrored: Krizhevsky et al. 2012); or the whole image with its mirror
    image, for a fully convolutional network. Probabilities are averaged over views.
    """

    scale: Positive = 1.0
    crop_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    views: Literal["centre", "flip", "ten_crop", "full"] = "centre"

    def crop(self, size: int) -> int:
        """Side of the test crop in pixels, for training crops of `size`."""
        return round(size * self.scale)

    def resize(self, size: int) -> int:
        """Shorter side in pixels before the crop; rounded down, as timm does, but 224 / (224 / 232) is 232."""
        return int(self.crop(size) / self.crop_ratio + 1e-6)
