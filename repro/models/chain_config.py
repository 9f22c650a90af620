"""Configuration of plain chains of layers, from LeNet to VGG. Needs no torch.

A chain's layers know what they make of a shape, so that a mistake is named when the file is read, not when a network of
sixty million weights has been built.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from repro.errors import nearest
from repro.models.preset_config import Preset
from repro.typed import BelowOne, Positive, Typed

Shape = tuple[int, ...]
"""`(C, H, W)` of one image, or `(features,)` behind a flatten."""

Padding = Annotated[int, Field(ge=0)]
LayerName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]


class LayerConfig(Typed):
    """What every layer of a chain has: a name, which becomes the module's; null: its kind and a running number."""

    name: LayerName | None = None

    def output(self, entry: Shape, classes: int) -> Shape:
        """Return the shape of what the layer makes of an input of shape `entry`. Raises ValueError where it cannot."""
        return entry


class ActivationConfig(LayerConfig):
    """An activation function."""

    kind: Literal["relu", "tanh", "sigmoid"]


class DropoutConfig(LayerConfig):
    """Dropout (Srivastava et al., JMLR 2014) of single values with probability `p`."""

    kind: Literal["dropout"]
    p: BelowOne = 0.5


class ConvConfig(LayerConfig):
    """A convolution; `kernel` is one side of a square, or height and width."""

    kind: Literal["conv"]
    filters: PositiveInt
    kernel: PositiveInt | tuple[PositiveInt, PositiveInt]
    stride: PositiveInt = 1
    padding: Padding = 0
    groups: PositiveInt = 1
    bias: bool = True

    def output(self, entry: Shape, classes: int) -> Shape:
        """Map `(C, H, W)` to `(filters, H', W')`. Raises ValueError for a window or groups that do not fit."""
        channels, *sides = _image(entry)
        if channels % self.groups or self.filters % self.groups:
            raise ValueError(f"groups={self.groups} does not divide {channels} channels and {self.filters} filters")
        kernels = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        return self.filters, *(
            _places(side, kernel, self.stride, self.padding) for side, kernel in zip(sides, kernels, strict=True)
        )


class PoolConfig(LayerConfig):
    """A pooling over windows; `ceil_mode` keeps a last window that the input does not fill."""

    kind: Literal["max_pool", "avg_pool"]
    kernel: PositiveInt
    stride: PositiveInt
    padding: Padding = 0
    ceil_mode: bool = False

    @model_validator(mode="after")
    def _padding_fits(self) -> PoolConfig:
        if 2 * self.padding > self.kernel:
            raise ValueError(f"padding={self.padding} is more than half of kernel={self.kernel}")
        return self

    def output(self, entry: Shape, classes: int) -> Shape:
        """Map `(C, H, W)` to `(C, H', W')`. Raises ValueError for a window that does not fit."""
        channels, *sides = _image(entry)
        return channels, *(_places(side, self.kernel, self.stride, self.padding, self.ceil_mode) for side in sides)


class GlobalPoolConfig(LayerConfig):
    """The average over all places."""

    kind: Literal["global_avg_pool"]

    def output(self, entry: Shape, classes: int) -> Shape:
        """Map `(C, H, W)` to `(C, 1, 1)`."""
        return _image(entry)[0], 1, 1


class ResponseNormConfig(LayerConfig):
    """Local response normalisation over `size` neighbouring channels (Krizhevsky et al. 2012, §3.3).

    b = a / (k + alpha sum a^2)^beta with the paper's constants. torch and Caffe divide alpha by `size` besides.
    """

    kind: Literal["local_response_norm"]
    size: PositiveInt = 5
    alpha: Positive = 1e-4
    beta: Positive = 0.75
    k: Positive = 2.0

    def output(self, entry: Shape, classes: int) -> Shape:
        """Keep `(C, H, W)`."""
        return _image(entry)


class BatchNormConfig(LayerConfig):
    """Batch normalisation (Ioffe & Szegedy, arXiv:1502.03167)."""

    kind: Literal["batch_norm"]

    def output(self, entry: Shape, classes: int) -> Shape:
        """Keep `(C, H, W)`."""
        return _image(entry)


class FlattenConfig(LayerConfig):
    """All values of an image in a row."""

    kind: Literal["flatten"]

    def output(self, entry: Shape, classes: int) -> Shape:
        """Map `(C, H, W)` to `(C H W,)`."""
        channels, height, width = _image(entry)
        return (channels * height * width,)


class LinearConfig(LayerConfig):
    """A fully connected layer; `features: null` is the number of classes."""

    kind: Literal["linear"]
    features: PositiveInt | None = None
    bias: bool = True

    def output(self, entry: Shape, classes: int) -> Shape:
        """Map `(features,)` to as many as the layer has. Raises ValueError for an image."""
        if len(entry) != 1:
            raise ValueError(f"needs a flatten before it (its input is {' x '.join(map(str, entry))})")
        return (self.features or classes,)


AnyLayer = (
    ActivationConfig
    | DropoutConfig
    | ConvConfig
    | PoolConfig
    | GlobalPoolConfig
    | ResponseNormConfig
    | BatchNormConfig
    | FlattenConfig
    | LinearConfig
)

KINDS = (
    *("conv", "relu", "tanh", "sigmoid", "max_pool", "avg_pool", "global_avg_pool", "local_response_norm"),
    *("batch_norm", "flatten", "linear", "dropout"),
)


def _of_known_kind(layer: Any) -> Any:
    if isinstance(layer, LayerConfig):
        return layer
    kind = layer.get("kind") if isinstance(layer, dict) else None
    if kind not in KINDS:
        guess = nearest(str(kind), KINDS) if kind is not None else None
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}{hint}")
    return layer


def _image(entry: Shape) -> Shape:
    if len(entry) != 3:
        raise ValueError("needs an image, and the flatten before it leaves none")
    return entry


def _places(side: int, kernel: int, stride: int, padding: int, ceil_mode: bool = False) -> int:
    """Number of places of a window along one side, as torch counts them: the last one starts inside the input."""
    rest = side + 2 * padding - kernel
    places = (-(-rest // stride) if ceil_mode else rest // stride) + 1
    if ceil_mode and (places - 1) * stride >= side + padding:
        places -= 1
    if places < 1:
        padded = f" padded by {padding}" if padding else ""
        raise ValueError(f"a window of {kernel} does not fit an input of {side}{padded}")
    return places


class ChainConfig(Preset):
    """A plain chain of layers, from images to logits; `models/chain.py` builds it.

    Fully connected layers have the sizes that follow from `native.size`, whatever the size of the images.
    """

    family: Literal["chain"] = "chain"
    layers: Annotated[
        tuple[Annotated[AnyLayer, Field(discriminator="kind"), BeforeValidator(_of_known_kind)], ...],
        Field(min_length=1),
    ]

    @model_validator(mode="after")
    def _consistent(self) -> ChainConfig:
        taken: dict[str, int] = {}
        for index, name in enumerate(self.names):
            if taken.setdefault(name, index) != index:
                raise ValueError(f"layers.{index}: the name {name!r} is that of layers.{taken[name]}")
        self.entries(self.native.channels, self.native.classes, self.native.size)
        last = self.layers[-1]
        if not (isinstance(last, LinearConfig) and last.features is None):
            raise ValueError("layers must end with {kind: linear}, features null: the logits")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers; those that have none are numbered within their kind, as `relu1`."""
        seen: Counter[str] = Counter()
        names = []
        for layer in self.layers:
            seen[layer.kind] += 1
            names.append(layer.name or f"{layer.kind}{seen[layer.kind]}")
        return tuple(names)

    def entries(self, channels: int, classes: int, size: int) -> list[Shape]:
        """Shapes of what enters each layer for images `(channels, size, size)`.

        Raises ValueError, naming the layer, where one cannot take what it gets.
        """
        shape: Shape = (channels, size, size)
        shapes = []
        for index, (name, layer) in enumerate(zip(self.names, self.layers, strict=True)):
            shapes.append(shape)
            try:
                shape = layer.output(shape, classes)
            except ValueError as error:
                raise ValueError(f"layers.{index} ({name}): {error}") from None
        return shapes

    def smallest(self) -> int:
        """Side of the smallest image that every window fits."""
        return bisect_left(range(self.native.size), True, lo=1, key=self._fits)

    def _fits(self, size: int) -> bool:
        try:
            self.entries(self.native.channels, self.native.classes, size)
        except ValueError:
            return False
        return True
