"""The preview: one row exactly as the base is given it, the tokens that count for the loss coloured."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import Any

from playground.ui import html
from playground.ui.failure import card
from playground.ui.figures import plural
from playground.ui.readiness import ready
from playground.ui.source import Source
from playground.ui.wiring import Visitor

SHOWN = 3000
"""Tokens shown of one text at most."""


def show(services: Any, visitor: Visitor, source: Source, max_tokens: float, move: int = 0, checked: Any = None) -> list[Any]:
    """Returns source, text, and which of how many."""
    if source.path is None or not source.good:
        return [source, "", ""]
    if not (base := ready(services)).yes:
        return [source, html.note(f"{base.words}. Then the example shows as the base reads it."), ""]
    try:
        checked = checked or services.data.check(source.path, source.mapping, visitor.owner)
        index = (source.index + move) % max(1, checked.good)
        source = replace(source, index=index)
        place = html.note(f"Row {checked.place(checked.usable[index].row)}, {index + 1:,} of {checked.good:,} that can be used")
        seen = services.data.seen(checked, index, int(max_tokens), source.turns)
    except Exception as error:
        return [source, card(error), html.note(f"Example {source.index + 1:,} of {source.good:,}")]
    return [source, "".join(_text(one) for one in seen), place]


def move(services: Any, visitor: Visitor, by: int, source: Source, max_tokens: float) -> list[Any]:
    return show(services, visitor, source, max_tokens, by)


def turns_chosen(services: Any, visitor: Visitor, turns: str, source: Source, max_tokens: float) -> list[Any]:
    """Another choice of what is learned of a chat. Returns what ``show`` does."""
    return show(services, visitor, replace(source, turns=turns), max_tokens)


def _text(seen: Any) -> str:
    title = html.note(f"{seen.title}:") if seen.title else ""
    shown = seen.tokens[-SHOWN:]
    parts = []
    for kind, tokens in groupby(shown, key=lambda token: token.kind):
        texts = [token.text for token in tokens]
        if kind == "learned":
            parts.append(f"<mark>{''.join(f'<i>{html.esc(text)}</i>' for text in texts)}</mark>")
        elif kind == "cut":
            parts.append(f"<del>{html.esc(''.join(texts))}</del>")
        else:
            parts.append(html.esc("".join(texts)))
    before = html.note(f"The last {SHOWN:,} of {len(seen.tokens):,} tokens.") if len(shown) < len(seen.tokens) else ""
    learned, read, cut = (seen.count(kind) for kind in ("learned", "read", "cut"))
    said = f"Coloured: the {plural(learned, 'token')} it learns to write."
    said += f" The rest, {plural(read, 'token')}, is only read." if read else ""
    said += f" Struck out: {plural(cut, 'token')} cut from the start to fit the limit." if cut else ""
    return f'{title}{before}<pre class="seen">{"".join(parts)}</pre>{html.note(said)}'
