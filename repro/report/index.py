"""The index of a folder of reports: one line per report, with its title and its verdict. Reads and writes Markdown."""

from __future__ import annotations

from pathlib import Path

from repro.results import write_atomic

INDEX = "README.md"

_HEAD = """# Reports

Each page is a published table that was really rerun: published and reproduced numbers side by side, their spread, their
cost and a verdict. Made by `repro report ABLATION scale=SCALE --out reports`, which also renews this index. One page
holds printed costs beside counted ones, made by `repro cost --compare --out reports`.

| report | verdict |
| --- | --- |
"""


def index_text(directory: Path) -> str:
    """Return the index of the reports in `directory`, sorted by file name."""
    rows = [_row(path) for path in sorted(directory.glob("*.md")) if path.name != INDEX]
    return _HEAD + "".join(rows)


def write_index(directory: Path) -> Path:
    """Renew the index of `directory` and return its path."""
    path = directory / INDEX
    write_atomic(path, index_text(directory))
    return path


def _row(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    title = next((line.removeprefix("# ") for line in lines if line.startswith("# ")), path.stem)
    verdict = next((line.split(":", 1)[1].strip(" *") for line in lines if "Verdict:" in line), "—")
    return f"| [{title}]({path.name}) | {verdict.replace('|', chr(92) + '|')} |\n"
