"""A small made-up study and its results, for the tests of the report. Holds no test."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.ablation import Ablation, load
from repro.report import Page, Row, build_page
from repro.results import Cost, Data, Environment, Failure, Result, Status, Timing

HEAD = """
title: Original against pre-activation residual units
paper: {key: he2016, title: Mappings, authors: He et al., venue: ECCV 2016, arxiv: "1603.05027", table: Table 3}
claim: identity shortcuts ease optimisation of very deep nets
metric: {name: top1_error, unit: "%", better: lower, protocol: "CIFAR-10 test, median of 5", decimals: 2}
"""

ONE_REFERENCE = (
    HEAD
    + """
reference: post110
variants:
  post110: {published: 6.61}
  pre110: {published: 6.37}
  relu_pre: {published: {value: 6.71, source: memory, verified: false}}
  bn|after: {published: 8.17}
  plain: {published: null, expected: {direction: higher, source: Figure 6}, note: No shortcuts at all}
scales:
  laptop: {note: "digits 8 x 8, recipe laptop"}
  cifar: {note: "64,000 iterations", faithful: true, variants: [post110, pre110]}
notes: [The depth is 110.]
"""
)

TWO_REFERENCES = (
    HEAD
    + """
reference: post20
variants:
  post20: {published: 8.75}
  pre20: {published: 8.5}
  post110: {published: 6.61, reference: post110}
  pre110: {published: 6.37, reference: post110}
scales: {laptop: {note: digits}}
"""
)

LADDER = (
    HEAD.replace("top1_error", "top1_accuracy").replace("better: lower", "better: higher")
    + """
reference: base
variants:
  base: {published: 79.0}
  cosine: {extends: base, set: [recipe.schedule.name=cosine], published: 79.3}
  longer: {extends: cosine, set: [recipe.duration=350ep], published: 78.8}
scales: {laptop: {note: digits}}
"""
)
"""An accuracy, each row compared with the row above it."""

ENVIRONMENT = Environment(
    python="3.11.9", packages={"torch": "2.11.0", "lightning": "2.5.1", "zzz": "1"}, platform="Linux", cpu="Some CPU",
    cores=2, gpu=None, commit="0123456789abcdef0123", dirty=False,
)  # fmt: skip
GAPS = {"test": 0.0, "val": 1.0, "train": -2.0}
"""Last-epoch error of each split over the test error."""
COST = Cost(input=(1, 8, 8), params=1_730_000, macs=15_800_000, activations=1)
DATA = Data(name="digits", fingerprint="feedbeef", train=1297, val=250, test=250)
OUT_OF_MEMORY = Failure(kind="out_of_memory", message="tried to allocate 2 GiB | of 1\nGiB")
NAN = Failure(kind="nan", message="training loss is nan in epoch 3")


def result(variant: str, seed: int, error: float | None, **changes: Any) -> Result:
    fields: dict[str, Any] = {
        "status": "finished", "id": f"{variant}-{seed}", "seed": seed, "ablation": "x", "scale": "laptop",
        "variant": variant, "config_hash": "c", "started": "s", "finished": "f", "epochs": 15,
        "last": {} if error is None else {f"{split}_top1_error": error + gap for split, gap in GAPS.items()},
        "best": {} if error is None else {"val_top1_error": error - 0.5}, "cost": COST, "data": DATA,
        "environment": ENVIRONMENT,
        "timing": Timing(setup=1, train=20, evaluate=1, total=25, images_per_second=6600.0, steps=9),
    }  # fmt: skip
    return Result(**{**fields, **changes})


def stopped(variant: str, seed: int, status: Status, failure: Failure | None) -> Result:
    return result(variant, seed, None, status=status, failure=failure)


def finished(**errors: Sequence[float | None]) -> dict[str, dict[int, Result | None]]:
    """Results by variant and seed (0, 1, …); None is a missing run."""
    return {
        variant.replace("__", "|"): {
            seed: None if error is None else result(variant, seed, error) for seed, error in enumerate(by_seed)
        }
        for variant, by_seed in errors.items()
    }


FULL = finished(
    post110=[5.0, 6.0, 7.0], pre110=[2.9, 3.6, 5.0], relu_pre=[1.0, 1.1, 1.2], bn__after=[5.5, 5.5, 7.9],
    plain=[60.0, 65.0, 70.0],
)  # fmt: skip


def read(folder: Path, text: str) -> Ablation:
    path = folder / "preactivation.yaml"
    path.write_text(text, encoding="utf-8")
    return load(str(path))


def page_of(ablation: Ablation, results: Mapping[str, Mapping[int, Result | None]], scale: str = "laptop") -> Page:
    return build_page(ablation, scale, results, {}, "repro run preactivation scale=laptop seeds=3")


def row_of(page: Page, variant: str) -> Row:
    return next(row for row in page.rows if row.variant == variant)


def cells_of(text: str, variant: str) -> list[str]:
    """The cells of the table's row of a variant, as they stand in the Markdown."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {variant} "))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def cell(text: str, variant: str, header: str) -> str:
    """The cell of a variant in the first column whose header starts so."""
    headers = cells_of(text, "variant")
    return cells_of(text, variant)[next(i for i, name in enumerate(headers) if name.startswith(header))]
