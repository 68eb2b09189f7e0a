"""The fold of rows that cannot be used or want a look: all of them by number, what to do, and both kinds to take away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from playground.ui import html, words
from playground.ui.failure import card
from playground.ui.figures import plural
from playground.ui.readiness import ready
from playground.ui.source import Source
from playground.ui.wiring import Visitor, slot

LISTED = 500
"""Rows listed at most; the counts are always whole, and the download holds them all."""
KINDS = {
    "duplicate": ("repeats an earlier one", "repeat an earlier one"),
    "conflict": ("has another answer to the same prompt", "have another answer to the same prompt"),
    "long": ("is cut to fit", "are cut to fit"),
    "damaged": ("lost a character", "lost a character"),
    "label": ("has a label seen once", "have a label seen once"),
}


def split_report(checked: Any, tokens: Any) -> tuple[list[Any], list[Any]]:
    """(bad rows, rows with a warning), in the file's order; a row that turned out bad is not warned of as well."""
    bad = sorted((*checked.bad, *(tokens.bad if tokens else ())), key=lambda row: row.row)
    numbers = {row.row for row in bad}
    warnings = (*checked.warnings, *(tokens.warnings if tokens else ()))
    return bad, sorted((row for row in warnings if row.row not in numbers), key=lambda row: row.row)


def show(checked: Any, bad: Sequence[Any], warnings: Sequence[Any], left_out: tuple[str, ...]) -> list[Any]:
    """Fold, list, which kinds are left out, the row of downloads, and the downloads themselves (emptied: they belong to another file)."""
    counts = Counter(row.kind for row in warnings if row.kind)
    choices = [(f"{plural(count, 'row')} that {KINDS[kind][count > 1]}", kind) for kind, count in counts.items() if kind in KINDS]
    return [
        gr.update(label=fold_label(len(bad), len(warnings)), visible=True, open=bool(bad)),
        rows_html(checked, bad, warnings),
        gr.update(choices=choices, value=[kind for kind in left_out if kind in counts], visible=bool(choices)),
        gr.update(visible=True),
        gr.update(interactive=bool(bad)),
        *[gr.update(value=None, visible=False)] * 2,
    ]


def hidden() -> list[Any]:
    away = gr.update(visible=False)
    return [away, "", gr.update(visible=False, value=[]), away, gr.skip(), away, away]


def fold_label(bad: int, warnings: int) -> str:
    label = f"The {plural(bad, 'row')} that cannot be used" if bad else words.BAD_NONE
    return f"{label} · {plural(warnings, 'row')} to look at" if warnings else label


def rows_html(checked: Any, bad: Sequence[Any], warnings: Sequence[Any]) -> str:
    """Rows that cannot be used, with what to do; then rows that are kept and want a look."""
    if not bad and not warnings:
        return html.note(words.BAD_NONE)
    parts = []
    if bad:
        rows = [(checked.place(one.row), html.sentence(one.reason), html.sentence(one.fix)) for one in bad[:LISTED]]
        parts.append(html.table(("Row", "Why", "What to do"), rows, caption="Rows that cannot be used"))
        parts.append(_more(len(bad)))
    if warnings:
        kept = [(checked.place(one.row), html.sentence(one.reason)) for one in warnings[:LISTED]]
        parts.append(html.table(("Row", "Kept, but look at it"), kept, caption="Rows to look at"))
        parts.append(_more(len(warnings)))
    return f'<div class="scrolls">{"".join(parts)}</div>'


def _more(count: int) -> str:
    return html.note(f"The first {LISTED} of {count:,}; the download holds them all.") if count > LISTED else ""


def download(services: Any, visitor: Visitor, which: str, source: Source, max_tokens: float) -> list[Any]:
    """Write the bad or the good rows into a file. Returns the button that hands it over, and an error."""
    if source.path is None:
        return [gr.skip(), gr.skip()]
    try:
        checked = services.data.check(source.path, source.mapping, visitor.owner)
        tokens = services.data.tokens(checked, int(max_tokens)) if ready(services).yes else None
        file: Path = (
            services.data.bad_rows_file(source.path, checked, tokens, visitor.owner)
            if which == "bad"
            else services.data.good_rows_file(source.path, checked, visitor.owner)
        )
    except Exception as error:
        return [gr.update(visible=False), slot(card(error))]
    return [gr.update(value=str(file), label=f"Download {file.name}", visible=True), slot("")]
