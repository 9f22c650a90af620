"""A study on Weights & Biases: one W&B run that summarises its runs, with the final table and the figure.

What is to be shown is written into the study's folder first, in `wandb/summary.json`; from there it is uploaded, now or
by `repro sync`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from repro.config import LoggerConfig
from repro.report.page import Page
from repro.results import write_atomic
from repro.study import Study
from repro.tracking.records import records
from repro.tracking.server import base_url, first_line, import_wandb, unreachable, wandb_mode
from repro.tracking.uploads import HOW_TO_UPLOAD, MARK
from repro.tracking.wandb_runs import group, init, stop
from repro.typed import digest

SUMMARY = Path("wandb") / "summary.json"
FIGURE = "report.png"


def publish_study(study: Study, page: Page, settings: LoggerConfig) -> None:
    """Write the study's summary down and upload it where there is a key; without one it waits for `repro sync`.

    Raises:
        OSError: the study's folder cannot be written.
        ConnectionError: the server did not take it; it waits as well.
    """
    write_atomic(study.directory / SUMMARY, json.dumps(describe(study, page, settings), indent=2))
    if wandb_mode(settings) == "offline":
        return
    url = base_url()
    reason = unreachable(url)
    if reason is not None:
        raise ConnectionError(f"{url} cannot be reached ({reason}); {HOW_TO_UPLOAD}")
    try:
        upload_summary(study.directory, url, settings.timeout)
    except Exception as error:
        raise ConnectionError(f"{first_line(error)}; {HOW_TO_UPLOAD}") from error
    finally:
        stop()


def describe(study: Study, page: Page, settings: LoggerConfig) -> dict[str, Any]:
    """Return the summary of a study as JSON-ready data; its id is of the ablation, the scale and the runs' ids."""
    ids = sorted(run.id for run in study.runs)
    name, scale = study.ablation.name, study.scale
    return {
        "project": settings.project,
        "entity": settings.entity,
        "id": digest({"ablation": name, "scale": scale, "runs": ids}),
        "name": f"{name}/{scale}",
        "group": group(name, scale),
        "tags": list(dict.fromkeys([name, scale, *settings.tags])),
        "config": {"ablation": name, "scale": scale, "seeds": list(study.seeds), "rerun": study.rerun, "runs": ids},
        "verdict": page.summary,
        "table": records(page),
    }


def upload_summary(directory: Path, url: str, timeout: float) -> None:
    """Upload the summary of the study in `directory` to the server at `url`, with its figure where there is one.

    Raises:
        Exception: whatever W&B raises, TimeoutError among it; the folder is as it was.
    """
    tree = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
    fields = {key: tree[key] for key in ("project", "entity", "id", "name", "group", "tags", "config")}
    wandb, rows = import_wandb(), tree["table"]
    with tempfile.TemporaryDirectory(prefix="repro-sync-") as scratch:
        run = init(Path(scratch), "online", timeout, job_type="summary", **fields)
        run.summary["verdict"] = tree["verdict"]
        shown: dict[str, Any] = {
            "table": wandb.Table(
                columns=list(rows[0]), data=[list(row.values()) for row in rows], allow_mixed_types=True
            )
        }
        if (directory / FIGURE).exists():
            shown["figure"] = wandb.Image(str(directory / FIGURE))
        run.log(shown)
        run.finish()
    write_atomic(directory / MARK, json.dumps(_mark(directory, url)), durable=False)


def _mark(directory: Path, url: str) -> dict[str, str]:
    return {"server": url, "content": digest((directory / SUMMARY).read_text(encoding="utf-8"))}


def waiting_summaries(directories: Iterable[Path], url: str) -> Iterator[Path]:
    """Yield the studies of which the server at `url` does not have the newest summary."""
    for directory in directories:
        if not (directory / SUMMARY).exists():
            continue
        try:
            mark = json.loads((directory / MARK).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            mark = None
        if mark != _mark(directory, url):
            yield directory
