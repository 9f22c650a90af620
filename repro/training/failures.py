"""Why a run failed, from what was raised."""

from __future__ import annotations

import errno
import traceback

import torch

from repro.results import Failure, FailureKind
from repro.training.distributed import RankError

MEMORY = ("can't allocate memory", "not enough memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""How PyTorch says that there was no memory where it raises a plain RuntimeError."""

WAITED = ("timed out", "timeout", "connection closed by peer", "connection reset by peer")
"""How gloo and NCCL say that another process of the run did not answer."""

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


def explain(error: BaseException) -> Failure:
    """Return the kind, one line, and the end of the traceback; of an error of another rank, what that rank told."""
    if isinstance(error, RankError):
        return error.failure
    lines = [line for line in "".join(traceback.format_exception(error)).splitlines() if line.strip()]
    return Failure(kind=_kind(error), message=_message(error), log=tuple(lines[-8:]))


def _kind(error: BaseException) -> FailureKind:
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in text for words in MEMORY):
        return "out_of_memory"
    distributed = isinstance(error, torch.distributed.DistError) or "gloo" in text or "ProcessGroup" in text
    if distributed and any(words in text.lower() for words in WAITED):
        return "timeout"
    return "crash"


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in DISK:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}cannot be written or read ({error.strerror}); the next start goes on from the last checkpoint"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
