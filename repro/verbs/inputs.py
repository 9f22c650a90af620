"""What several verbs read from a command line: axes of a model, whole numbers, the name of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from repro.errors import InputError


def axes_of(words: Sequence[str], example: str = "groups=32") -> dict[str, Any]:
    """Read `groups=32 se.reduction=4` into axes by name; a dot reaches into a part of the model.

    Raises InputError for a word of another form, and for an axis that is given twice.
    """
    axes: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.removeprefix("model.").partition("=")
        *parts, last = key.split(".")
        if not equals or not all([*parts, last]):
            raise InputError(f"{word!r} is not of the form KEY=VALUE, for example {example}")
        inner = axes
        for part in parts:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise InputError(f"{word!r}: {part} was given a value before")
        if last in inner:
            raise InputError(f"{key} is given twice")
        inner[last] = _value(word, text)
    return axes


def _value(word: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"{word!r}: {text!r} is not a value") from None


def whole(flag: str, text: str, unit: str) -> int:
    """Read a number of pixels or images. Raises InputError for what is no whole number from 1 on."""
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise InputError(f"{flag} {text}: expected a whole number of {unit} from 1 on")
    return int(text)


def pixels(text: str | None) -> int | None:
    """Read `--input`; None where it is not given. Raises InputError as `whole` does."""
    return None if text is None else whole("--input", text, "pixels")


FIGURES = (".png", ".svg", ".pdf")


def figure_path(out: str | None, flag: str = "--out") -> Path | None:
    """Read the path after `flag` before anything is measured that could not be drawn then; makes the folder.

    Raises InputError for another ending, for a folder, and where the folder cannot be made.
    """
    if out is None:
        return None
    path = Path(out)
    if path.suffix.lower() not in FIGURES:
        raise InputError(f"{flag} {out}: expected a file that ends in {', '.join(FIGURES)}")
    if path.is_dir():
        raise InputError(f"{flag} {out}: that is a folder, expected a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{flag} {out}: the folder cannot be made ({error.strerror})") from None
    return path
