"""The sentences of a page: how it differs from the paper, how the intervals were made, where it was run. Pure."""

from __future__ import annotations

from repro.report.format import escape, seconds, sentence
from repro.report.page import Page
from repro.report.provenance import Provenance
from repro.results import Data
from repro.stats import CONFIDENCE

DIVERGED = (
    " A seed that diverged in a row has no value there: means favour the row that lost it. In a verdict a diverged "
    "run is worse than any value; shares of diverged runs are compared by Fisher's exact test."
)


def here(page: Page) -> str:
    """Say what was trained on here, and whether values may be compared with the published ones."""
    scale = page.ablation.at(page.scale)
    parts = [_data(data) for data in page.provenance.data]
    if page.provenance.epochs:
        parts.append(" or ".join(str(epochs) for epochs in page.provenance.epochs) + " epochs")
    setting = "; ".join(part for part in (", ".join(parts), " ".join(scale.note.split())) if part)
    if scale.faithful:
        meaning = "Scale and data follow the paper: values and contrasts are comparable with the published ones."
    else:
        meaning = "Scale and data differ from the paper's: values are not comparable, contrasts are."
    return f"Here: {sentence(setting)} {meaning}" if setting else meaning


def method(page: Page) -> str:
    """Say how spread, intervals and cost are to be read."""
    inputs = [" × ".join(str(size) for size in shape) for shape in page.provenance.inputs]
    price = f" Cost is of one forward pass of one {' or '.join(inputs)} image." if inputs else ""
    diverged = any(row.count("diverged") for row in page.rows)
    kept = DIVERGED if diverged else ""
    return (
        "Reproduced values are of the test split after the last epoch; ± is the sample standard deviation over seeds. "
        f"Contrasts are paired by seed (variant minus reference) with {CONFIDENCE * 100:g} % t intervals; they are not "
        "corrected for the number of contrasts and cover the choice of the seed, not of the test images." + kept + price
    )


def provenance_lines(source: Provenance) -> list[str]:
    """List code, packages, hardware, data and times, one line each; several values of one are all named."""
    named = [
        ("Code", _codes(source)),
        ("Packages", source.packages),
        ("Hardware", source.hardware),
        ("Data fingerprint", tuple(f"{data.name} `{data.fingerprint}`" for data in source.data)),
        ("Treatment of test images", source.test_transforms),
    ]
    lines = [f"{name}: {'; '.join(values)}" for name, values in named if values]
    if source.train_transforms:  # several are no fault: augmentation may be what a variant changes
        lines.append(f"Treatment of training images: {'. Or: '.join(source.train_transforms)}")
    mixed = [name.lower() for name, values in named if len(values) > 1]
    if mixed:
        lines.append(f"The runs do not share one {', one '.join(mixed)}: a difference may not be the variant's alone")
    if source.runs:
        total = f"{seconds(source.total_seconds)} with set-up and evaluation"
        lines.append(f"Time, summed over runs: {seconds(source.train_seconds)} of training steps, {total}")
    return lines


def _codes(source: Provenance) -> tuple[str, ...]:
    """Name the code; where there are several, with the rows that each trained."""
    if len(source.codes) < 2:
        return tuple(source.codes)
    return tuple(f"{name}: {', '.join(map(escape, rows))}" for name, rows in source.codes.items())


def _data(data: Data) -> str:
    sizes = ", ".join(f"{size:,} {split}" for split, size in _splits(data) if size)
    return f"{escape(data.name)} ({sizes} images)"


def _splits(data: Data) -> tuple[tuple[str, int], ...]:
    return ("training", data.train), ("validation", data.val), ("test", data.test)
