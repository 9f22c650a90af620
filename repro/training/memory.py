"""The most memory that this process held at once."""

from __future__ import annotations

import resource
import sys

import torch


def peak_memory() -> int:
    """Return bytes: of tensors on the GPU where one was used, else of the whole process in the machine's memory.

    A process that was forked from a warmed server counts from its fork, what it shares with the server included.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
