"""The price of one forward pass of one image, and its cache.

MACs are those of convolutions, linear layers and attention, the papers' "FLOPs" (He et al., arXiv:1512.03385, Table 1),
counted by fvcore's rules; poolings and elementwise operators are counted apart. Activations are the output elements of
convolutions and linear layers (Radosavovic et al., arXiv:2003.13678, §3.1); pycls's figures hold a max-pool's output
besides. torch is imported only when something is really counted.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from repro.models.config import ModelConfig
from repro.paths import cache_dir
from repro.results import Cost, write_atomic
from repro.typed import digest

if TYPE_CHECKING:
    from torch import nn

    from repro.cost.capture import Capture

COUNTER_VERSION = 6
"""Raised whenever a count or a network changes, so that older cached prices are not read."""


def price(config: ModelConfig, size: int, channels: int, classes: int) -> Cost:
    """Count what one image `(channels, size, size)` costs.

    Operators without a counting rule are named in the price. Raises InputError for a network that cannot be built, or
    that cannot take such an image.
    """
    from repro.cost.capture import observe

    return _cost(observe(config, size, channels, classes), (channels, size, size))


def count(network: nn.Module, shape: tuple[int, int, int]) -> Cost:
    """Count what one image of `shape` `(C, H, W)` costs in `network`, in evaluation mode, on the network's own device.

    Raises ValueError, or what the network raises, where the image is too small for it.
    """
    from repro.cost.capture import capture

    return _cost(capture(network, shape), shape)


def _cost(found: Capture, shape: tuple[int, int, int]) -> Cost:
    return Cost(
        input=shape,
        params=sum(found.parameters.values()),
        macs=found.macs,
        activations=found.activations,
        pooling=found.pooling,
        elementwise=found.elementwise,
        uncounted=found.uncounted,
    )


def known_price(config: ModelConfig, size: int, channels: int, classes: int) -> Cost | None:
    """Return the cached price, or None where this model was not priced before. Never imports torch."""
    try:
        return Cost.model_validate_json(_cache_file(config, size, channels, classes).read_bytes())
    except (OSError, ValidationError):
        return None


def cached_price(config: ModelConfig, size: int, channels: int, classes: int) -> Cost:
    """Return the price from the cache, else count it and try to keep it. Raises InputError as `price` does."""
    known = known_price(config, size, channels, classes)
    if known is not None:
        return known
    cost = price(config, size, channels, classes)
    with suppress(OSError):  # a cache that cannot be written costs time, not the result
        write_atomic(_cache_file(config, size, channels, classes), cost.model_dump_json() + "\n")
    return cost


def own_price(config: ModelConfig, size: int | None = None) -> Cost:
    """Price a network at `size` pixels, or at the input it was published with; from the cache where it can.

    Raises InputError as `price` does.
    """
    native = config.native
    return cached_price(config, size or native.size, native.channels, native.classes)


def _cache_file(config: ModelConfig, size: int, channels: int, classes: int) -> Path:
    """Name the file by everything that changes the price.

    A preset's name and published error do not, nor does its native input, but where a chain flattens its images;
    the library that builds a network does.
    """
    neutral = {"name", "published"} | (set() if config.family == "chain" else {"native"})
    axes = config.model_dump(mode="json", exclude=neutral)
    library = {"library": getattr(config, "source", ""), "efficientnet": "torchvision"}.get(config.family)
    key = digest([COUNTER_VERSION, axes, size, channels, classes, version(library) if library else None])
    return cache_dir() / "prices" / f"{key}.json"
