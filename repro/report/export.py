"""The page as strictly valid JSON data: no NaN, no infinity, nothing that a program would have to parse again."""

from __future__ import annotations

import math
from typing import Any

from repro.report.page import Page, Rank, Row


def to_json(page: Page) -> dict[str, Any]:
    """Return the page as JSON-ready data; values in the metric's unit, times in seconds, MACs of one forward pass."""
    metric, source = page.ablation.metric, page.provenance
    tree: dict[str, Any] = {
        "ablation": page.ablation.name,
        "scale": page.scale,
        "metric": {"name": metric.name, "unit": metric.unit, "better": metric.better, "protocol": metric.protocol},
        "faithful": page.faithful,
        "seeds": list(page.seeds),
        "summary": page.summary,
        "rank_agreement": _rank(page.rank),
        "rows": [_row(row) for row in page.rows],
        "not_run": list(page.not_run),
        "rerun": page.rerun,
        "provenance": {
            "commits": list(source.commits),
            "codes": {code: list(rows) for code, rows in source.codes.items()},
            "packages": list(source.packages),
            "hardware": list(source.hardware),
            "data": [data.model_dump(exclude={"train_transform", "test_transform"}) for data in source.data],
            "train_transforms": list(source.train_transforms),
            "test_transforms": list(source.test_transforms),
            "epochs": list(source.epochs),
            "train_seconds": source.train_seconds,
            "total_seconds": source.total_seconds,
            "runs": list(source.runs),
        },
    }
    return {key: strict(value) for key, value in tree.items()}


def strict(tree: Any) -> Any:
    """Replace numbers that JSON does not know by null."""
    if isinstance(tree, dict):
        return {key: strict(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [strict(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _row(row: Row) -> dict[str, Any]:
    head = {"variant": row.variant, "reference": row.reference, "note": row.note}
    return {**head, **_published(row), **_reproduced(row), **_price(row)}


def _published(row: Row) -> dict[str, Any]:
    return {
        "published": row.published.value,
        "published_verified": row.published.verified,
        "published_sd": row.published.sd,
        "published_source": row.published.source,
        "published_contrast": row.published_contrast,
        "expected": row.expected.direction if row.expected else None,
    }


def _reproduced(row: Row) -> dict[str, Any]:
    contrast, verdict = row.contrast, row.verdict
    known = contrast is not None and contrast.low is not None and contrast.high is not None
    return {
        "values": {str(seed): value for seed, value in row.values.items()},
        "mean": row.mean,
        "std": row.std,
        "n": row.n,
        "best_epoch_val": {"mean": row.best_mean, "std": row.best_std},
        "train": {"mean": row.train_mean, "std": row.train_std},
        "contrast": contrast.mean if contrast else None,
        "contrast_sd": contrast.sd if contrast else None,
        "contrast_n": contrast.n if contrast else 0,
        "interval": [contrast.low, contrast.high] if contrast and known else None,
        "verdict": verdict.word if verdict else None,
        "reason": verdict.reason if verdict else None,
        "seeds_needed": verdict.seeds_needed if verdict else None,
        "statuses": row.counts,
        "codes": {str(seed): code for seed, code in row.codes.items()},
        "messages": {str(run.seed): run.message for run in row.outcomes if run.message},
    }


def _price(row: Row) -> dict[str, Any]:
    return {
        "params": row.cost.params if row.cost else None,
        "macs": row.cost.macs if row.cost else None,
        "images_per_second": row.images_per_second,
        "device_shared": row.shared,
    }


def _rank(rank: Rank | None) -> dict[str, Any] | None:
    return None if rank is None else {"tau": rank.tau, "p": rank.p, "n": rank.n, "exact": rank.exact}
