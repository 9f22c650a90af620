"""What a network is, typed: the union of all families. Needs no torch.

To add a family: a configuration class with a `family` of its own, a module that builds it, a line here and one in
`models/__init__.py`, and presets in `conf/model/`.
"""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from repro.errors import unknown
from repro.models.chain_config import ChainConfig
from repro.models.library_config import EfficientnetConfig, LibraryConfig
from repro.models.mobile_config import MobilenetConfig, ShufflenetConfig
from repro.models.residual_config import ResidualConfig

Family = ResidualConfig | ChainConfig | MobilenetConfig | ShufflenetConfig | EfficientnetConfig | LibraryConfig
ModelConfig = Annotated[Family, Field(discriminator="family")]


def config_class(family: str) -> type[Family]:
    """Return the configuration class of a family. Raises InputError for a family that does not exist."""
    classes = {member.model_fields["family"].default: member for member in get_args(Family)}
    if family not in classes:
        raise unknown("family", family, classes)
    found: type[Family] = classes[family]
    return found
