"""Lines into a run's log, which is where its standard output goes. A full disk loses lines and never the run.

Imports nothing heavy.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def say(text: str) -> None:
    """Print a line at once; what a full disk does not take is left out."""
    try:
        print(text, flush=True)
    except OSError:
        return


def settle() -> None:
    """Write out what is held for standard output and error; drop it where it cannot be written.

    Otherwise the interpreter's end would try once more, fail, and change the exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def write_to(path: Path) -> None:
    """Send standard output and error, of this process and its children, to the end of that file. Raises OSError."""
    settle()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
