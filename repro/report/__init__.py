"""The page of a study: tables, figure and files made from results. Nothing here imports torch or trains.

Heavy imports (matplotlib, scipy, jinja2) happen when a function needs them.
"""

from __future__ import annotations

from repro.report.curves import Curve, read_curve
from repro.report.export import to_json
from repro.report.figure import draw
from repro.report.markdown import to_markdown
from repro.report.page import Page, Row, build_page

__all__ = ["Curve", "Page", "Row", "build_page", "draw", "read_curve", "to_json", "to_markdown"]
