"""The table of a page as records: one per variant, plain values by name, for CSV and for trackers. Pure."""

from __future__ import annotations

import math
from typing import Any

from repro.report.page import Page, Row


def records(page: Page) -> list[dict[str, Any]]:
    """Return the rows; values in the metric's unit, MACs of one forward pass, null for what is not known."""
    return [{name: _strict(value) for name, value in _record(row).items()} for row in page.rows]


def _record(row: Row) -> dict[str, Any]:
    contrast, verdict, cost = row.contrast, row.verdict, row.cost
    return {
        "variant": row.variant,
        "reference": row.reference,
        "published": row.published.value,
        "published contrast": row.published_contrast,
        "reproduced mean": row.mean,
        "std": row.std,
        "n": row.n,
        "contrast": contrast.mean if contrast else None,
        "low": contrast.low if contrast else None,
        "high": contrast.high if contrast else None,
        "verdict": verdict.word or verdict.reason if verdict else None,
        "params": cost.params if cost else None,
        "MACs": cost.macs if cost else None,
        "images/s": row.images_per_second,
    }


def _strict(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
