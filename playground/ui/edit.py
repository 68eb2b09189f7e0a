"""Rows to edit in the page: those that cannot be used first, then all of them, some at a time. Saving makes a copy; the file stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from playground.ui import html
from playground.ui.failure import card
from playground.ui.readiness import ready
from playground.ui.rows import split_report
from playground.ui.source import Source
from playground.ui.wiring import Visitor, slot

PAGE = 20
BAD, ALL = "Rows that cannot be used", "All rows"


def show(services: Any, visitor: Visitor, which: str, by: int, source: Source, max_tokens: float) -> list[Any]:
    """Returns source, the table, which rows it holds, and an error."""
    if source.path is None:
        return [source, gr.skip(), "", slot("")]
    try:
        rows = _rows(services, visitor, which, source, max_tokens)
        pages = max(1, -(-len(rows) // PAGE))
        source = replace(source, page=(source.page + by) % pages if by else 0)
        shown = rows[source.page * PAGE : (source.page + 1) * PAGE]
        table = services.data.table(source.path, shown, visitor.owner)
        order = _order(table.columns, source.mapping or {})
    except Exception as error:
        return [source, gr.skip(), "", slot(card(error))]
    place = html.note(f"Page {source.page + 1} of {pages}. Rows keep their numbers; saving makes a copy of the file.")
    frame = gr.update(
        value=[[number, *(cells[place] for place in order)] for number, cells in table.rows.items()],
        headers=["row", *(table.columns[place] for place in order)],
        column_widths=["60px", *[f"{max(28, 88 // max(1, len(order)))}%"] * len(order)],
    )
    return [source, frame, place if rows else html.note("There is no such row."), slot("")]


def save(services: Any, visitor: Visitor, source: Source, frame: Any) -> tuple[Source | None, Any]:
    """The file with what was typed into the table. Returns the new source, None where nothing changed, and an error."""
    if source.path is None:
        return None, slot("")
    columns, lines = _frame(frame)
    try:
        before = services.data.table(source.path, [int(line[0]) for line in lines], visitor.owner)
        changes = {}
        for line in lines:
            old = dict(zip(before.columns, before.rows.get(int(line[0]), []), strict=False))
            changed = {
                name: value
                for name, value in zip(columns[1:], line[1:], strict=False)
                if name in old and ("" if value is None else str(value)) != old[name]
            }
            if changed:
                changes[int(line[0])] = changed
        if not changes:
            return None, slot(html.note("Nothing was changed in the table."))
        kept = services.data.edited(source.path, changes, visitor.owner)
    except Exception as error:
        return None, slot(card(error))
    title = source.title if source.title.endswith(", edited") else f"{source.title}, edited"
    return replace(source, path=kept, title=title, page=0), slot("")


def _order(there: Sequence[str], mapping: Mapping[str, str]) -> list[int]:
    """Places of the columns: those that are learned from first."""
    mapped = [there.index(column) for column in mapping.values() if column in there]
    return [*mapped, *(place for place in range(len(there)) if place not in mapped)]


def _rows(services: Any, visitor: Visitor, which: str, source: Source, max_tokens: float) -> list[int]:
    try:
        checked = services.data.check(source.path, source.mapping, visitor.owner)
    except Exception:
        return list(range(1, PAGE + 1))  # nothing can be used yet: the file's first rows are what there is to mend
    if which == ALL:
        return list(range(1, checked.rows + 1))
    tokens = services.data.tokens(checked, int(max_tokens)) if ready(services).yes else None
    return [row.row for row in split_report(checked, tokens)[0]]


def _frame(frame: Any) -> tuple[list[str], Sequence[Sequence[Any]]]:
    """(column names, lines) of what the table hands over."""
    if hasattr(frame, "values") and hasattr(frame, "columns"):
        return [str(name) for name in frame.columns], frame.values.tolist()
    return [str(name) for name in frame["headers"]], frame["data"]
