"""How many parameters of each kind a network has, and the cache of it beside the prices.

Weight decay goes by kind (`repro/optim/groups.py`). torch is imported only when something is really counted.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter, ValidationError

from repro.cost.count import COUNTER_VERSION
from repro.models.config import Family
from repro.optim.config import ParameterKind
from repro.paths import cache_dir
from repro.results import write_atomic
from repro.typed import Typed, digest

if TYPE_CHECKING:
    from torch import nn

KINDS_VERSION = 1
"""Raised whenever a parameter is of another kind than before, so that older cached counts are not read."""


class KindCount(Typed):
    """Trainable parameter tensors of one kind, and the numbers in them."""

    kind: Literal["weight"] | ParameterKind
    tensors: int
    parameters: int


_Counts = TypeAdapter(tuple[KindCount, ...])


def kind_counts(config: Family) -> tuple[KindCount, ...]:
    """Count a network's parameters by kind, as it was published, auxiliary classifiers included; from the cache.

    Raises InputError for a network that cannot be built.
    """
    file = _cache_file(config)
    with suppress(OSError, ValidationError):
        return _Counts.validate_json(file.read_bytes())
    counts = _count(config)
    with suppress(OSError):  # a cache that cannot be written costs time, not the result
        write_atomic(file, _Counts.dump_json(counts).decode() + "\n")
    return counts


def _count(config: Family) -> tuple[KindCount, ...]:
    from repro.cost.blank import with_network
    from repro.optim.groups import group_sizes

    def work(network: nn.Module) -> tuple[KindCount, ...]:
        sizes = group_sizes(network)
        return tuple(KindCount(kind=size.kind, tensors=size.tensors, parameters=size.parameters) for size in sizes)

    native = config.native
    return with_network(config, native.size, native.channels, native.classes, work)


def _cache_file(config: Family) -> Path:
    """Name the file by everything that changes the counts, the library that builds the network included."""
    axes = config.model_dump(mode="json", exclude={"name", "published"})
    library = {"library": getattr(config, "source", ""), "efficientnet": "torchvision"}.get(config.family)
    key = digest([COUNTER_VERSION, KINDS_VERSION, axes, version(library) if library else None])
    return cache_dir() / "kinds" / f"{key}.json"
