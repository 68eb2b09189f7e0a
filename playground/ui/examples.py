"""The Examples card of the Train tab: from a file to what can be learned from it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from playground.data.read import read_records
from playground.errors import InputError, PlaygroundError
from playground.ui import html, words
from playground.ui.failure import card
from playground.ui.figures import plural
from playground.ui.readiness import ready
from playground.ui.wiring import Visitor, slot

ROLES = 4
"""Columns that can be mapped by hand; no format needs more."""
_ROLE_WORDS = {
    "prompt": "Prompt", "completion": "Answer", "system": "System prompt", "instruction": "Instruction", "input": "Input",
    "output": "Answer", "messages": "Conversation", "chosen": "Better answer", "rejected": "Worse answer", "text": "Text",
    "label": "Good or bad",
}  # fmt: skip
_LISTED = 50
"""Bad rows and warnings shown at most; the counts are always whole."""


@dataclass(frozen=True)
class Source:
    """The file that is open on the Train tab, and how its columns are read.

    good: rows that can be trained on. shown: those of them that the preview can show. index: the one it shows, from 0.
    """

    path: Path | None = None
    title: str = ""
    slug: str = ""
    mapping: dict[str, str] | None = None
    roles: tuple[str, ...] = ()
    good: int = 0
    shown: int = 0
    index: int = 0


def open_upload(services: Any, visitor: Visitor, source: Source, uploaded: str | None, max_tokens: float) -> list[Any]:
    """A file was dropped: keep it under the app's own folder, then read it. Returns what ``read`` does, before it the last upload."""
    if not uploaded:
        return [gr.skip()] * 15
    try:
        kept = services.data.keep_upload(Path(uploaded), visitor.owner)
    except Exception as error:
        return [gr.skip(), gr.skip(), slot(card(error)), *[gr.skip()] * 12]
    name = Path(uploaded).name
    return [kept, *read(services, visitor, Source(kept, name, Path(uploaded).stem), max_tokens)]


def open_set(services: Any, visitor: Visitor, set_id: str, source: Source, max_tokens: float) -> list[Any]:
    """One of the shipped sets. Returns what ``read`` does."""
    try:
        shipped = next((one for one in services.data.sets() if one.id == set_id), None)
        if shipped is None:
            raise InputError(f"There is no example set {set_id}. Choose one of those shown, or drop a file.")
    except Exception as error:
        return [gr.skip(), slot(card(error)), *[gr.skip()] * 12]
    return read(services, visitor, Source(Path(shipped.file), shipped.title, shipped.id), max_tokens)


def remap(services: Any, visitor: Visitor, source: Source, max_tokens: float, *columns: str | None) -> list[Any]:
    """Another column was chosen for a role: read the file again that way."""
    mapping = {role: str(column) for role, column in zip(source.roles, columns, strict=False) if column}
    return read(services, visitor, replace(source, mapping=mapping, index=0), max_tokens)


def read(services: Any, visitor: Visitor, source: Source, max_tokens: float) -> list[Any]:
    """Check the file and say what was found.

    Returns source, error, heading, facts, columns' fold, four role dropdowns, bad rows' fold and list, preview's fold, text and place.
    """
    if source.path is None:
        return [source, slot(""), *[gr.skip()] * 12]
    try:
        checked = services.data.check(source.path, source.mapping, visitor.owner)
        tokens = _tokens(services, checked, int(max_tokens))
    except Exception as error:
        return _unreadable(services, source, error)
    roles = _roles(checked.mapping)
    bad = sorted((*checked.bad, *(tokens.bad if tokens else ())), key=lambda row: row.row)
    warnings = sorted((*checked.warnings, *(tokens.warnings if tokens else ())), key=lambda row: row.row)
    source = replace(
        source,
        mapping=dict(checked.mapping) or None,
        roles=roles,
        good=checked.rows - len(bad),
        shown=len(checked.examples),
        index=0,
    )
    chosen = ", ".join(f"{column} → {role_word(role).lower()}" for role, column in checked.mapping.items())
    return [
        source,
        slot(""),
        heading(done=source.good > 0),
        slot(facts_html(checked, tokens, source, int(max_tokens), len(bad))),
        gr.update(label=f"Columns: {chosen or 'choose them'}", visible=bool(checked.columns), open=not checked.mapping),
        *_role_dropdowns(checked.columns, checked.mapping, roles),
        gr.update(label=_fold_label(len(bad), len(warnings)), visible=True),
        rows_html(bad, warnings),
        gr.update(visible=bool(checked.examples)),
        *preview(services, visitor, source, max_tokens, 0, checked)[1:],
    ]


def _unreadable(services: Any, source: Source, error: Exception) -> list[Any]:
    """What is wrong; and where only the columns' meaning is, the columns to choose from."""
    columns: tuple[str, ...] = ()
    if isinstance(error, InputError) and source.path is not None:
        with suppress(PlaygroundError):
            columns = read_records(source.path, services.settings.upload_limit_bytes).columns
    roles = source.roles or _roles({"prompt": "", "completion": ""})
    source = replace(source, good=0, shown=0, roles=roles)
    hidden = gr.update(visible=False)
    return [
        source, slot(card(error)), heading(done=False), slot(""),
        gr.update(label="Columns: choose which is which", visible=len(columns) > 1, open=len(columns) > 1),
        *_role_dropdowns(columns, source.mapping or {}, roles), hidden, "", hidden, "", "",
    ]  # fmt: skip


def _tokens(services: Any, checked: Any, max_tokens: int) -> Any:
    """None while there is no tokenizer yet; a file of which no row fits raises InputError."""
    return services.data.tokens(checked, max_tokens) if ready(services).yes else None


def _roles(mapping: dict[str, str]) -> tuple[str, ...]:
    """What the file has, and where it is prompt and answer, a system prompt too."""
    roles = tuple(mapping)
    return (*roles, "system")[:ROLES] if "prompt" in roles and "completion" in roles and "system" not in roles else roles[:ROLES]


def _fold_label(bad: int, warnings: int) -> str:
    label = f"The {plural(bad, 'row')} that cannot be used" if bad else words.BAD_NONE
    return f"{label} · {plural(warnings, 'row')} to look at" if warnings else label


def heading(*, done: bool) -> str:
    return html.heading("Examples", words.EXAMPLES_TEXT, 1, done=done)


def role_word(role: str) -> str:
    return _ROLE_WORDS.get(role, role.capitalize())


def _role_dropdowns(columns: tuple[str, ...], mapping: dict[str, str], roles: tuple[str, ...]) -> list[Any]:
    updates: list[Any] = []
    for place in range(ROLES):
        if place < len(roles):
            role = roles[place]
            choices = [*(("none", ""),) * (role == "system"), *((column, column) for column in columns)]
            value = mapping.get(role) or ("" if role == "system" else None)
            updates.append(gr.update(label=role_word(role), choices=choices, value=value, visible=True))
        else:
            updates.append(gr.update(visible=False))
    return updates


def facts_html(checked: Any, tokens: Any, source: Source, max_tokens: int, bad: int) -> str:
    facts = [
        (f"{source.title}: {plural(checked.rows, 'row')} read as {checked.format.replace('-', ' / ')}", "ok"),
        (f"{source.good:,} will be trained on", ""),
    ]
    if bad:
        facts.append((f"{plural(bad, 'row')} cannot be used", "warn"))
    if checked.duplicates:
        facts.append((f"{plural(checked.duplicates, 'row repeats', 'rows repeat')} an earlier one", "warn"))
    if tokens is None:
        facts.append(("Tokens are counted once the base is ready", ""))
    else:
        facts.append((f"median {tokens.median:.0f} tokens, longest {tokens.max:,.0f}", ""))
        facts.append((f"{tokens.truncated:,} cut at {max_tokens:,} tokens", "warn" if tokens.truncated else ""))
    return html.chips(facts)


def rows_html(bad: Sequence[Any], warnings: Sequence[Any]) -> str:
    """Rows that cannot be used, with what to do; then rows that are kept and want a look."""
    if not bad and not warnings:
        return html.note(words.BAD_NONE)
    parts = []
    if bad:
        rows = [(one.row, html.sentence(one.reason), html.sentence(one.fix)) for one in bad[:_LISTED]]
        parts.append(html.table(("Row", "Why", "What to do"), rows, caption="Rows that cannot be used"))
        parts.append(html.note(f"The first {_LISTED} of {len(bad):,}.") if len(bad) > _LISTED else "")
    if warnings:
        kept = [(one.row, html.sentence(one.reason)) for one in warnings[:_LISTED]]
        parts.append(html.table(("Row", "Kept, but look at it"), kept, caption="Rows to look at"))
    return "".join(parts)


def preview(services: Any, visitor: Visitor, source: Source, max_tokens: float, move: int = 0, checked: Any = None) -> list[Any]:
    """One example as the model is given it, the learned part marked. Returns source, text, and which of how many."""
    if source.path is None or not source.shown:
        return [source, "", ""]
    index = (source.index + move) % source.shown
    source = replace(source, index=index)
    if not (base := ready(services)).yes:
        return [source, html.note(f"{base.words}. Then the example shows as the base reads it."), ""]
    place = html.note(f"Example {index + 1:,} of {source.shown:,}")
    try:
        checked = checked or services.data.check(source.path, source.mapping, visitor.owner)
        seen = services.data.preview(checked, index, int(max_tokens))
    except Exception as error:
        return [source, card(error), place]
    text = (
        f'<pre class="seen">{html.esc(seen.prompt_text)}<mark>{html.esc(seen.completion_text)}</mark></pre>'
        f"{html.note(f'Marked: the {len(seen.completion_ids)} tokens it learns to write. The rest, {len(seen.prompt_ids)} tokens, is only read.')}"
    )
    if seen.cut:
        text += html.note(f"{plural(seen.cut, 'token')} cut from the start of the prompt to fit the limit.")
    return [source, text, place]


def move_preview(services: Any, visitor: Visitor, by: int, source: Source, max_tokens: float) -> list[Any]:
    return preview(services, visitor, source, max_tokens, by)
