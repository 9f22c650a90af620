"""The one error a user sees: what was found, where, what was expected, the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Something the user gave cannot be used; the command line prints it as one line and exits with 2."""


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that is spelled most like `name`, or None when nothing is close."""
    choices = list(valid)
    folded = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), list(folded), n=1, cutoff=0.5)
    return folded[close[0]] if close else None


def unknown(what: str, name: str, valid: Iterable[str], where: str | None = None) -> InputError:
    """Build the message for a name that does not exist: nearest valid name first, else all of them."""
    choices = sorted(valid)
    place = f"{where}: " if where else ""
    guess = nearest(name, choices)
    listed = ", ".join(choices) if len(choices) <= 16 else ", ".join(choices[:16]) + ", …"
    hint = f"did you mean {guess!r}?" if guess else f"valid: {listed}"
    return InputError(f"{place}unknown {what} {name!r}; {hint}")
