"""The README's excerpt is the committed report's; run this file to renew it."""

from __future__ import annotations

import re
from pathlib import Path

from repro.report.index import index_text

ROOT = Path(__file__).resolve().parent.parent
README, REPORTS = ROOT / "README.md", ROOT / "reports"
REPORT = REPORTS / "plain_vs_residual-laptop.md"
BLOCK = re.compile(r"(<!-- excerpt of [\w./-]+ -->\n)(.*?)(<!-- end of the excerpt -->)", re.DOTALL)


def excerpt() -> str:
    """Title, claim, verdict, table and figure of the report, as they stand in the README."""
    head = REPORT.read_text(encoding="utf-8").split("\n¹ ")[0].strip()
    return head.replace("# ", "### ", 1).replace("](plain_vs_residual", "](reports/plain_vs_residual") + "\n\n"


def renewed() -> str:
    """The README with the excerpt of the report as it is now."""
    return BLOCK.sub(lambda match: match[1] + excerpt() + match[3], README.read_text(encoding="utf-8"))


def test_the_excerpt_is_not_stale() -> None:
    assert BLOCK.search(README.read_text(encoding="utf-8"))
    assert README.read_text(encoding="utf-8") == renewed(), "run: python tests/test_readme.py"


def test_the_index_lists_every_report() -> None:
    assert (REPORTS / "README.md").read_text(encoding="utf-8") == index_text(REPORTS)
    assert len(list(REPORTS.glob("*-laptop.md"))) >= 3


def test_every_link_of_the_readme_and_the_reports_leads_somewhere() -> None:
    for page in (README, *REPORTS.glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_begins_with_the_two_commands() -> None:
    first = re.search(r"```\w*\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert first
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["make demo", "make test"]


if __name__ == "__main__":
    README.write_text(renewed(), encoding="utf-8")
