"""Handlers of the adapter list: choose, rename, delete, import, export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from playground.errors import InputError
from playground.ui import html, words
from playground.ui.failure import card
from playground.ui.figures import day, plural, size
from playground.ui.readiness import require
from playground.ui.side import method_label
from playground.ui.wiring import Visitor, slot


def list_html(rows: list[Any], chosen: str = "", active: str = "") -> str:
    """Every adapter as a real button; what differs from this base is there too, greyed, with its reason."""
    if not rows:
        return f'<div class="empty">{html.esc(words.ADAPTERS_EMPTY)}</div>'
    head = '<li class="head" aria-hidden="true"><span>Name, base</span><span>Method, size</span><span>Trained on, when</span><span>State</span></li>'
    return f'<ul class="lib adapters" aria-label="Adapters">{head}{"".join(_row(row, chosen, active) for row in rows)}</ul>'


def _row(row: Any, chosen: str, active: str) -> str:
    one = row.card
    if one.id == active and row.usable:
        state = html.pill("Active", "ok")
    elif not row.usable:
        state = html.pill("Other base" if "another base" in row.reason or not row.reason else "Cannot run", "warn")
    else:
        state = html.pill("Attached", "ok") if row.attached else html.pill("On disk")
    rows = plural(one.rows, "row") if one.rows else (one.trained_on or "rows unknown")
    base = f"{one.base} {one.base_fingerprint[:8]}".strip()
    reason = f'<span class="q why">{html.esc(html.sentence(row.reason))}</span>' if not row.usable and row.reason else ""
    return (
        f'<li><button type="button" data-id="{html.esc(one.id)}" aria-pressed="{"true" if one.id == chosen else "false"}"'
        f"{'' if row.usable else ' class=greyed'}>"
        f'<span class="c1"><b>{html.esc(one.name)}</b><span class="q">{html.esc(base)}</span></span>'
        f'<span class="c2">{html.esc(method_label(one))}<span class="q">{size(one.bytes)}</span></span>'
        f'<span class="c3">{html.esc(rows)}<span class="q">{html.esc(day(one.created_s))}{", shipped" if one.shipped else ""}</span></span>'
        f'<span class="c4">{state}</span>{reason}</button></li>'
    )


def show(services: Any, visitor: Visitor, chosen: str, active: str) -> str:
    try:
        return list_html(services.adapters.list(visitor.owner), chosen, active)
    except Exception as error:
        return card(error)


def _find(services: Any, visitor: Visitor, adapter_id: str) -> Any:
    row = next((one for one in services.adapters.list(visitor.owner) if one.card.id == adapter_id), None)
    if row is None:
        raise InputError(words.PICK_FIRST)
    return row


def pick(services: Any, visitor: Visitor, picked: str, chosen: str, active: str) -> list[Any]:
    """A row was pressed: make it active. The id comes from the page, so it is looked up among the visitor's own.

    Returns chosen, active, list, what happened, the action row, Use, and the fold-away rows (rename, delete, download).
    """
    away = [gr.update(visible=False)] * 3
    try:
        row = _find(services, visitor, picked)
    except Exception as error:
        return [chosen, active, gr.skip(), slot(card(error)), gr.skip(), gr.skip(), *away]
    there = gr.update(visible=True)
    if not row.usable:
        text = html.error_card(html.sentence(row.reason) or "This adapter was made for another base.")
        return [picked, active, show(services, visitor, picked, active), slot(text), there, gr.update(interactive=False), *away]
    try:
        require(services)
        switch = services.adapters.switch(picked, visitor.owner)
    except Exception as error:
        return [
            picked,
            active,
            show(services, visitor, picked, active),
            slot(card(error)),
            there,
            gr.update(interactive=True),
            *away,
        ]
    return [
        picked,
        picked,
        show(services, visitor, picked, picked),
        slot(switched_html(row.card.name, switch)),
        there,
        gr.update(interactive=True),
        *away,
    ]


def switched_html(name: str, switch: Any) -> str:
    base = switch.fingerprint[:8]
    if not switch.unchanged:
        return html.error_card(
            f"{name} is active, but the base's weights differ from before ({base}). Restart the app to load them afresh."
        )
    first = "attached now, then " if switch.attached_now else ""
    return (
        f'<p class="note" role="status"><b>{html.esc(name)}</b> <span class="good">{html.icon("check")}'
        f"{first}active in {switch.ms:.1f} ms</span>, base <span class=mono>{html.esc(base)}</span> unchanged. "
        "The next message uses it.</p>"
    )


def ask_rename(services: Any, visitor: Visitor, chosen: str) -> list[Any]:
    """Open the rename row with the name as it is. Returns the row, the box, the delete row."""
    try:
        name = _find(services, visitor, chosen).card.name
    except Exception:
        return [gr.update(visible=False), "", gr.update(visible=False)]
    return [gr.update(visible=True), name, gr.update(visible=False)]


def rename(services: Any, visitor: Visitor, chosen: str, active: str, name: str) -> list[Any]:
    """Returns list, message, rename row."""
    try:
        renamed = services.adapters.rename(chosen, name.strip(), visitor.owner)
    except Exception as error:
        return [gr.skip(), slot(card(error)), gr.skip()]
    return [show(services, visitor, chosen, active), slot(html.good(f"Renamed to {renamed.name}.")), gr.update(visible=False)]


def ask_remove(services: Any, visitor: Visitor, chosen: str) -> list[Any]:
    """The question in place of the answer. Returns the delete row, its question, the rename row."""
    try:
        name = _find(services, visitor, chosen).card.name
    except Exception:
        return [gr.update(visible=False), "", gr.update(visible=False)]
    question = html.note(f"Delete {name}? Its files go for good; a run can make it again.")
    return [gr.update(visible=True), question, gr.update(visible=False)]


def remove(services: Any, visitor: Visitor, chosen: str, active: str) -> list[Any]:
    """Returns chosen, active, list, message, action row, rename row, delete row, download."""
    away = gr.update(visible=False)
    try:
        name = _find(services, visitor, chosen).card.name
        services.adapters.remove(chosen, visitor.owner)
    except Exception as error:
        return [chosen, active, gr.skip(), slot(card(error)), gr.skip(), gr.skip(), away, gr.skip()]
    active = "" if active == chosen else active
    return ["", active, show(services, visitor, "", active), slot(html.good(f"{name} is deleted.")), away, away, away, away]


def import_file(services: Any, visitor: Visitor, uploaded: list[str] | None, chosen: str, active: str) -> list[Any]:
    """Returns list and message."""
    if not uploaded:
        return [gr.skip(), gr.skip()]
    try:
        imported = services.adapters.import_uploads([Path(file) for file in uploaded], visitor.owner)
    except Exception as error:
        return [gr.skip(), slot(card(error))]
    text = html.good(f"{imported.name} is imported: {method_label(imported)}, {size(imported.bytes)}.")
    text += "".join(html.note(html.sentence(note)) for note in imported.notes)
    return [show(services, visitor, chosen, active), slot(text)]


FORMATS = [
    ("PEFT folder, for anything that reads PEFT", "peft"),
    ("Merged model, for anything that reads safetensors", "merged"),
    ("GGUF file, for llama.cpp and its kin", "gguf"),
]


def export(services: Any, visitor: Visitor, chosen: str, format: str) -> Iterator[list[Any]]:
    """Write the adapter in a form to take away. Yields the download button, a message, and the buttons Write and Stop."""
    away = gr.update(visible=False)
    try:
        if format == "peft":
            yield [*_ready(services.adapters.export_zip(chosen, visitor.owner)), gr.skip(), gr.skip()]
            return
        for step in services.exporter.export(chosen, format, visitor.owner):
            if step.file is not None:
                yield [*_ready(step.file), gr.update(visible=True), away]
            else:
                said = html.progress(step.share, step.phase) + html.note(f"{step.phase}. About a minute for a small base.")
                yield [away, slot(said), away, gr.update(visible=True)]
    except Exception as error:
        yield [away, slot(card(error)), gr.update(visible=True), away]


def stopped() -> list[Any]:
    """Returns message, Write and Stop."""
    return [slot(html.note("Stopped; nothing was written.")), gr.update(visible=True), gr.update(visible=False)]


def _ready(file: Path) -> list[Any]:
    label = f"Download {file.name}, {size(file.stat().st_size)}"
    return [gr.update(value=str(file), label=label, visible=True), slot("")]
