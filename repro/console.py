"""The console that tables are printed on: as wide as the terminal, and wide enough not to cut when piped."""

from __future__ import annotations

import sys

from rich.console import Console

PIPED_WIDTH = 200


def console(stderr: bool = False) -> Console:
    """Return a console for standard output, or for standard error."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else PIPED_WIDTH)
