"""The Examples card of the Train tab: from a file to what can be learned from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr

from playground.errors import InputError, PlaygroundError
from playground.ui import html, words
from playground.ui.failure import card
from playground.ui.figures import plural
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
    """The file that is open on the Train tab, and how its columns are read."""

    path: Path | None = None
    title: str = ""
    slug: str = ""
    mapping: dict[str, str] | None = None
    roles: tuple[str, ...] = ()
    good: int = 0
    index: int = 0
    uploads: tuple[Path, ...] = field(default=())


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
        checked = services.data.check(source.path, source.mapping)
    except Exception as error:
        gone = [gr.update(visible=False)] * 3
        hidden = gr.update(visible=False)
        return [
            replace(source, good=0), slot(card(error)), heading(done=False), slot(""), gone[0], *[gr.skip()] * ROLES, hidden, gr.skip(),
            hidden, gr.skip(), gr.skip(),
        ]  # fmt: skip
    roles = tuple(checked.mapping)[:ROLES] or ("prompt", "completion")
    source = replace(source, mapping=dict(checked.mapping) or None, roles=roles, good=len(checked.examples), index=0)
    chosen = ", ".join(f"{column} → {role_word(role).lower()}" for role, column in checked.mapping.items())
    bad = len(checked.bad)
    fold = f"The {plural(bad, 'row')} that cannot be used" if bad else words.BAD_NONE
    if checked.warnings:
        fold += f" · {plural(len(checked.warnings), 'row')} to look at"
    return [
        source,
        slot(""),
        heading(done=bool(checked.examples)),
        slot(facts_html(services, checked, source.title, int(max_tokens))),
        gr.update(label=f"Columns: {chosen or 'choose them'}", visible=bool(checked.columns), open=not checked.mapping),
        *_role_dropdowns(checked, roles),
        gr.update(label=fold, visible=True),
        rows_html(checked),
        gr.update(visible=bool(checked.examples)),
        *preview(services, visitor, source, max_tokens, 0, checked)[1:],
    ]


def heading(*, done: bool) -> str:
    return html.heading("Examples", words.EXAMPLES_TEXT, 1, done=done)


def role_word(role: str) -> str:
    return _ROLE_WORDS.get(role, role.capitalize())


def _role_dropdowns(checked: Any, roles: tuple[str, ...]) -> list[Any]:
    updates: list[Any] = []
    for place in range(ROLES):
        if place < len(roles):
            role = roles[place]
            updates.append(
                gr.update(label=role_word(role), choices=list(checked.columns), value=checked.mapping.get(role), visible=True)
            )
        else:
            updates.append(gr.update(visible=False))
    return updates


def facts_html(services: Any, checked: Any, title: str, max_tokens: int) -> str:
    facts = [
        (f"{title}: {plural(checked.rows, 'row')} read as {checked.format.replace('-', ' / ')}", "ok"),
        (f"{len(checked.examples):,} will be trained on", ""),
    ]
    if checked.bad:
        facts.append((f"{plural(len(checked.bad), 'row')} cannot be used", "warn"))
    if checked.duplicates:
        facts.append((f"{plural(checked.duplicates, 'row repeats', 'rows repeat')} an earlier one", "warn"))
    try:
        tokens = services.data.tokens(checked, max_tokens)
    except PlaygroundError:
        facts.append(("Tokens are counted once the base is ready", ""))
    else:
        facts.append((f"{tokens.median:.0f} tokens in the middle, {tokens.max:.0f} at most", ""))
        facts.append((f"{tokens.truncated:,} cut at {max_tokens:,} tokens", "warn" if tokens.truncated else ""))
    return html.chips(facts)


def rows_html(checked: Any) -> str:
    """Rows that cannot be used, with what to do; then rows that are kept and want a look."""
    if not checked.bad and not checked.warnings:
        return html.note(words.BAD_NONE)
    parts = []
    if checked.bad:
        rows = [(bad.row, bad.reason, bad.fix) for bad in checked.bad[:_LISTED]]
        parts.append(html.table(("Row", "Why", "What to do"), rows, caption="Rows that cannot be used"))
        parts.append(html.note(f"The first {_LISTED} of {len(checked.bad):,}.") if len(checked.bad) > _LISTED else "")
    if checked.warnings:
        kept = [(warning.row, warning.reason) for warning in checked.warnings[:_LISTED]]
        parts.append(html.table(("Row", "Kept, but look at it"), kept, caption="Rows to look at"))
    return "".join(parts)


def preview(
    services: Any, visitor: Visitor, source: Source, max_tokens: float, move: int = 0, checked: Any = None
) -> list[Any]:
    """One example as the model is given it, the learned part marked. Returns source, text, and which of how many."""
    if source.path is None or not source.good:
        return [source, "", ""]
    index = (source.index + move) % source.good
    source = replace(source, index=index)
    place = html.note(f"Example {index + 1:,} of {source.good:,}")
    try:
        checked = checked or services.data.check(source.path, source.mapping)
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
