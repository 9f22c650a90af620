"""Seeds as pure functions of what they are for. Imports nothing heavy and keeps no state."""

from __future__ import annotations

import hashlib

import numpy as np


def derive(purpose: str, *key: int | str) -> int:
    """Return a seed of 63 bits that depends on nothing but `purpose` and `key`.

    Streams with different keys are independent: neighbouring seeds or epochs share no structure.
    """
    text = "\x1f".join([purpose, *(str(part) for part in key)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(purpose: str, *key: int | str) -> np.random.Generator:
    """Return numpy's generator for one purpose; see `derive`."""
    return np.random.Generator(np.random.PCG64(derive(purpose, *key)))
