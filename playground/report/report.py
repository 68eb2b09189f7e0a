"""A verdict as HTML: the answer first, then what it rests on. One piece for a page, or one file that needs nothing
else.

The templates escape what they are given, and only what ``render`` or ``charts`` made goes in as HTML.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.ext import Extension
from markupsafe import Markup

from playground.report import sections
from playground.report.cost import cost
from playground.report.differences import differences, rows_csv
from playground.report.format import Record, Rows, element_id, title_of
from playground.report.safe_html import safe_html

__all__ = ["SECTIONS", "STYLE", "body_html", "page_html", "rows_csv", "section"]

_HERE = Path(__file__).parent
STYLE = (_HERE / "report.css").read_text(encoding="utf-8")
"""How the pieces look; the page that holds them gives the colours."""
FRAME = (_HERE / "report_frame.css").read_text(encoding="utf-8")
"""What a page of its own needs beside that: colours for light and dark, type, paper."""
SECTIONS = {
    "answer": sections.answer,
    "table": sections.table,
    "radar": sections.overview,
    "metrics": sections.metrics,
    "differences": differences,
    "cost": cost,
    "forgetting": sections.forgetting,
    "refusals": sections.refusals,
    "measured": sections.measured,
}
"""Template -> what it shows, in the order of the report."""


class _OneLine(Extension):
    """Line breaks and indentation of a template are for its reader, and not sent."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return re.sub(r"\n[ \t]*", "", source)


_TEMPLATES = Environment(
    loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, extensions=[_OneLine]
)
_TEMPLATES.filters["element_id"] = element_id


def render(name: str, context: dict[str, Any]) -> Markup:
    """A template as HTML, every value escaped."""
    return Markup(_TEMPLATES.get_template(f"{name}.html").render(context))


def section(name: str, record: Record, rows: Rows = (), only: int | None = None, replay: bool = False) -> Markup:
    """One of ``SECTIONS``; empty where there is nothing to show. rows, only, replay: as in ``differences``."""
    make: Any = partial(differences, rows=rows, only=only, replay=replay) if name == "differences" else SECTIONS[name]
    return render(name, make(record))


def body_html(record: Record, rows: Rows, only: int | None = None, replay: bool = False) -> str:
    """The whole report as one piece of a page. only, replay: as in ``differences``."""
    answer, *others = (section(name, record, rows, only, replay) for name in SECTIONS)
    return str(render("body", {"answer": answer, "sections": [one for one in others if one]}))


def page_html(record: Record, rows: Rows) -> str:
    """One HTML file that needs nothing else: no script, no font, no picture from elsewhere. Light and dark, phone and
    paper."""
    under = f"{record['examples']:,} examples, {len(record['sides'])} sides"
    under += f". Judged by: {title_of(record, metric)}" if (metric := record["main_metric"]) else ""
    context = {
        "headline": sections.headline(record),
        "name": str(record.get("name") or record.get("file") or "Verdict"),
        "under": under,
        "style": Markup(FRAME + STYLE),
        "body": Markup(safe_html(body_html(record, rows))),
    }
    return f"{render('page', context)}\n"
