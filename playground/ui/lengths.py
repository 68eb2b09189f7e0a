"""How long the rows are against the limit, and into which parts they fall."""

from __future__ import annotations

from typing import Any

import gradio as gr

from playground.ui import chart, html
from playground.ui.figures import plural

BINS = 24


def show(tokens: Any, batch_size: int = 8) -> list[Any]:
    """Fold and what is in it; away while no tokens are counted."""
    if tokens is None:
        return hidden()
    padding = tokens.padding(batch_size)
    label = f"Lengths: median {tokens.median:,.0f} tokens, longest {tokens.max:,.0f}"
    said = (
        f"{plural(tokens.truncated, 'row')} cut at {tokens.limit:,} tokens."
        if tokens.truncated
        else f"No row is cut at {tokens.limit:,} tokens."
    )
    if tokens.packed:
        said = f"Raw text is read in pieces of up to {tokens.limit:,} tokens; nothing is cut or padded."
    elif padding.random > 0.01:
        said += (
            f" In batches of {padding.batch_size}, {padding.random:.0%} would be padding; with rows of like length together, "
            f"{padding.by_length:.0%}."
        )
    return [
        gr.update(label=label, visible=True),
        chart.histogram(tokens.histogram(BINS), None if tokens.packed else tokens.limit) + html.note(said) + _cuts(tokens),
    ]


def hidden() -> list[Any]:
    return [gr.update(visible=False), ""]


def _cuts(tokens: Any) -> str:
    cuts = tokens.cut[:50]
    if not cuts:
        return ""
    rows = [(one.row, f"the first {one.tokens:,} of {one.prompt:,}", f"{one.answer:,}, kept") for one in cuts]
    table = html.table(("Row", "Cut from the prompt", "Answer"), rows, caption="Where rows are cut")
    return f'<div class="scrolls">{table}</div>'
