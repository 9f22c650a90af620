"""How numbers and names are written in a page: proper minus sign, fixed decimals, escaped for Markdown. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from repro.stats import Contrast

MINUS = "\u2212"
DASH = "\u2014"
_TIME_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_SUPERSCRIPT = str.maketrans("0123456789", "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
_SPECIAL = re.compile(r"([\\|`*<>\[\]$]|(?<![^\W_])_|_(?![^\W_]))")


def number(value: float, decimals: int, signed: bool = False) -> str:
    """Write `-0.237` as `−0.24`; `signed` adds the plus. A value that rounds to zero has no sign."""
    text = f"{abs(value):,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        return text
    return (MINUS if value < 0 else "+" if signed else "") + text


def mean_and_std(mean: float, std: float | None, decimals: int) -> str:
    """Write `5.3 ± 1.2`; one seed has no spread."""
    spread = "" if std is None else f" ± {number(std, decimals)}"
    return number(mean, decimals) + spread


def contrast_text(contrast: Contrast, decimals: int) -> str:
    """Write `−2.4 [−3.3, −1.5]`; one seed has no interval.

    A bound next to zero gets more decimals, until one sees on which side of it the interval ends.
    """
    decimals = _until_not_zero([contrast.low, contrast.high], decimals)
    mean = number(contrast.mean, decimals, signed=True)
    if contrast.low is None or contrast.high is None:
        return f"{mean} (n = 1)"
    low, high = (number(bound, decimals, signed=True) for bound in (contrast.low, contrast.high))
    return f"{mean} [{low}, {high}]"


def _until_not_zero(values: Sequence[float | None], decimals: int) -> int:
    small = [abs(value) for value in values if value]
    return next((more for more in range(decimals, decimals + 3) if all(round(v, more) for v in small)), decimals + 3)


def three_digits(value: float) -> str:
    """Write a quantity with three significant digits and without an exponent: `0.0412`, `41.2`, `4,120`."""
    if value == 0:
        return "0"
    exponent = int(f"{value:.2e}".split("e")[1])
    return f"{round(value, 2 - exponent):,.{max(0, 2 - exponent)}f}"


def unit_of(values: Sequence[int], units: Sequence[tuple[str, int]]) -> tuple[str, int]:
    """Choose one unit for a column: the largest that the largest value reaches, else the smallest."""
    largest = max(values, default=0)
    return next(((name, size) for name, size in units if largest >= size), units[-1])


def seconds(value: float) -> str:
    """Write a length of time: `4.7 s`, `47 s`, `12 min`, `3.2 h`, `5.1 d`."""
    unit, size = next(((unit, size) for unit, size in _TIME_UNITS if value >= 1.5 * size), _TIME_UNITS[-1])
    amount = value / size
    return f"{amount:.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"


def superscript(index: int) -> str:
    """Write a footnote mark: `¹`, `¹⁰`."""
    return str(index).translate(_SUPERSCRIPT)


def escape(text: str) -> str:
    """Make text safe in a cell of a Markdown table: one line, and no character that Markdown would read."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def shorten(text: str, longest: int) -> str:
    """Cut a text to one line of at most `longest` characters, ending in an ellipsis where it was cut."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "\u2026"


def label(text: str, width: int = 26) -> str:
    """Write a name as at most two lines of a figure; what does not fit is cut, and `$` starts no formula."""
    first, *rest = textwrap.wrap(text, width) or [""]
    lines = [first, shorten(" ".join(rest), width)] if rest else [first]
    return "\n".join(lines).replace("$", r"\$")


def sentence(text: str) -> str:
    """Return the text in one line, ending with a full stop."""
    line = " ".join(text.split())
    return line if not line or line.endswith((".", "!", "?")) else line + "."
