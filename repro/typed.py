"""The base of all configuration objects, and the hash that identifies one. Imports nothing heavy."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

ID_LENGTH = 12  # hexadecimal digits: 48 bits

Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class Typed(BaseModel):
    """Base of all configuration objects: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def digest(tree: Any) -> str:
    """Hash a JSON-like tree to `ID_LENGTH` hexadecimal digits; key order does not matter."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]
