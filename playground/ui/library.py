"""Handlers of the adapter list (choose, rename, delete, import, export) and of the chat beside it, which uses the
active adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from playground.chat.compare import Sampling, Side, Turn
from playground.errors import InputError, PlaygroundError
from playground.models.adapters import AdapterRow, Switch
from playground.services import Services
from playground.ui import html, side, transcript, words
from playground.ui.html import card, day, plural, size
from playground.ui.side import method_label
from playground.ui.sidebar import require
from playground.ui.transcript import Log, Setup
from playground.ui.wiring import Updates, Visitor, slot

if TYPE_CHECKING:
    from playground.ui.adapters import AdaptersTab

_AWAY = gr.update(visible=False)


def list_html(rows: Sequence[AdapterRow], chosen: str = "", active: str = "") -> str:
    """Every adapter as a real button; what differs from this base is there too, greyed, with its reason."""
    if not rows:
        return f'<div class="empty">{html.esc(words.ADAPTERS_EMPTY)}</div>'
    head = (
        '<li class="head" aria-hidden="true"><span>Name, base</span><span>Method, size</span><span>Trained on,'
        " when</span><span>State</span></li>"
    )
    return (
        '<ul class="lib adapters"'
        f' aria-label="Adapters">{head}{"".join(_row(row, chosen, active) for row in rows)}</ul>'
    )


def _row(row: AdapterRow, chosen: str, active: str) -> str:
    one = row.card
    if one.id == active and row.usable:
        state = html.pill("Active", "ok")
    elif not row.usable:
        state = html.pill("Other base" if "another base" in row.reason or not row.reason else "Cannot run", "warn")
    else:
        state = html.pill("Attached", "ok") if row.attached else html.pill("On disk")
    rows = plural(one.rows, "row") if one.rows else (one.trained_on or "rows unknown")
    base = f"{one.base} {one.base_fingerprint[:8]}".strip()
    reason = (
        f'<span class="q why">{html.esc(html.sentence(row.reason))}</span>' if not row.usable and row.reason else ""
    )
    return (
        f'<li><button type="button" data-id="{html.esc(one.id)}"'
        f' aria-pressed="{"true" if one.id == chosen else "false"}"'
        f"{'' if row.usable else ' class=greyed'}>"
        f'<span class="c1"><b>{html.esc(one.name)}</b><span class="q">{html.esc(base)}</span></span>'
        f'<span class="c2">{html.esc(method_label(one))}<span class="q">{size(one.bytes)}</span></span>'
        f'<span class="c3">{html.esc(rows)}<span'
        f' class="q">{html.esc(day(one.created_s))}{", shipped" if one.shipped else ""}</span></span>'
        f'<span class="c4">{state}</span>{reason}</button></li>'
    )


def _find(services: Services, visitor: Visitor, adapter_id: str) -> AdapterRow:
    row = next((one for one in services.adapters.list(visitor.owner) if one.card.id == adapter_id), None)
    if row is None:
        raise InputError(words.PICK_FIRST)
    return row


def show(services: Services, visitor: Visitor, tab: AdaptersTab, *, chosen: str, active: str) -> Updates:
    return {tab.listing: list_html(services.adapters.list(visitor.owner), chosen, active)}


def pick(services: Services, visitor: Visitor, tab: AdaptersTab, *, picked: str, active: str) -> Updates:
    """A row was pressed: make it active. The id comes from the page, so it is looked up among the visitor's own."""
    row = _find(services, visitor, picked)
    failed = ""
    if not row.usable:
        failed = html.error_card(html.sentence(row.reason) or "This adapter was made for another base.")
    else:
        try:
            require(services)
            said = switched_html(row.card.name, services.adapters.switch(picked, visitor.owner))
            active = picked
        except Exception as error:  # whatever failed, the row is chosen and can be renamed, exported or deleted
            failed = card(error)
    return {
        tab.chosen: picked,
        tab.active: active,
        **show(services, visitor, tab, chosen=picked, active=active),
        tab.message: slot(failed or said),
        tab.actions: gr.update(visible=True),
        tab.use: gr.update(interactive=row.usable),
        **dict.fromkeys((tab.rename_row, tab.delete_row, tab.download), _AWAY),
    }


def switched_html(name: str, switch: Switch) -> str:
    base = switch.fingerprint[:8]
    if not switch.unchanged:
        return html.error_card(
            f"{name} is active, but the base's weights differ from before ({base}). Restart the app to load them"
            " afresh."
        )
    first = "attached now, then " if switch.attached_now else ""
    return (
        f'<p class="note" role="status"><b>{html.esc(name)}</b> <span class="good">{html.icon("check")}'
        f"{first}active in {switch.ms:.1f} ms</span>, base <span class=mono>{html.esc(base)}</span> unchanged. "
        "The next message uses it.</p>"
    )


def ask_rename(services: Services, visitor: Visitor, tab: AdaptersTab, *, chosen: str) -> Updates:
    """Open the row with the name as it is."""
    name = _find(services, visitor, chosen).card.name
    return {tab.rename_row: gr.update(visible=True), tab.new_name: name, tab.delete_row: _AWAY}


def rename(services: Services, visitor: Visitor, tab: AdaptersTab, *, chosen: str, active: str, name: str) -> Updates:
    renamed = services.adapters.rename(chosen, name.strip(), visitor.owner)
    return {
        **show(services, visitor, tab, chosen=chosen, active=active),
        tab.message: slot(html.good(f"Renamed to {renamed.name}.")),
        tab.rename_row: _AWAY,
    }


def ask_remove(services: Services, visitor: Visitor, tab: AdaptersTab, *, chosen: str) -> Updates:
    name = _find(services, visitor, chosen).card.name
    question = html.note(f"Delete {name}? Its files go for good; a run can make it again.")
    return {tab.delete_row: gr.update(visible=True), tab.question: question, tab.rename_row: _AWAY}


def remove(services: Services, visitor: Visitor, tab: AdaptersTab, *, chosen: str, active: str) -> Updates:
    try:
        name = _find(services, visitor, chosen).card.name
        services.adapters.remove(chosen, visitor.owner)
    except PlaygroundError as error:
        return {tab.message: slot(card(error)), tab.delete_row: _AWAY}
    active = "" if active == chosen else active
    return {
        tab.chosen: "",
        tab.active: active,
        **show(services, visitor, tab, chosen="", active=active),
        tab.message: slot(html.good(f"{name} is deleted.")),
        **dict.fromkeys((tab.actions, tab.rename_row, tab.delete_row, tab.download), _AWAY),
    }


def import_file(
    services: Services, visitor: Visitor, tab: AdaptersTab, *, uploaded: list[str] | None, chosen: str, active: str
) -> Updates:
    imported = services.adapters.import_uploads([Path(file) for file in uploaded or []], visitor.owner)
    text = html.good(f"{imported.name} is imported: {method_label(imported)}, {size(imported.bytes)}.")
    text += "".join(html.note(html.sentence(note)) for note in imported.notes)
    return {**show(services, visitor, tab, chosen=chosen, active=active), tab.message: slot(text)}


FORMATS = [
    ("PEFT folder, for anything that reads PEFT", "peft"),
    ("Merged model, for anything that reads safetensors", "merged"),
    ("GGUF file, for llama.cpp and its kin", "gguf"),
]


def export(services: Services, visitor: Visitor, tab: AdaptersTab, *, chosen: str, format: str) -> Iterator[Updates]:
    """Write the adapter in a form to take away."""
    if format == "peft":
        yield _ready(tab, services.adapters.export_zip(chosen, visitor.owner))
        return
    try:
        for step in services.exporter.export(chosen, format, visitor.owner):
            if step.file is not None:
                yield {**_ready(tab, step.file), **_writing(tab, busy=False)}
            else:
                said = html.note(f"{step.phase}. About a minute for a small base.")
                said = html.progress(step.share, step.phase) + said
                yield {tab.download: _AWAY, tab.message: slot(said), **_writing(tab, busy=True)}
    except Exception as error:  # whatever failed, the button comes back
        yield {tab.download: _AWAY, tab.message: slot(card(error)), **_writing(tab, busy=False)}


def stopped(services: Services, visitor: Visitor, tab: AdaptersTab) -> Updates:
    """The export was cut."""
    return {tab.message: slot(html.note("Stopped; nothing was written.")), **_writing(tab, busy=False)}


def _writing(tab: AdaptersTab, *, busy: bool) -> Updates:
    return {tab.write: gr.update(visible=not busy), tab.stop_export: gr.update(visible=busy)}


def _ready(tab: AdaptersTab, file: Path) -> Updates:
    label = f"Download {file.name}, {size(file.stat().st_size)}"
    return {tab.download: gr.update(value=str(file), label=label, visible=True), tab.message: slot("")}


def _chat(tab: AdaptersTab, log: Log) -> Updates:
    return {tab.log: log, tab.chat: transcript.messages(log)}


def _sending(tab: AdaptersTab, *, busy: bool) -> Updates:
    return {tab.send: gr.update(visible=not busy), tab.stop: gr.update(visible=busy)}


def _settled(services: Services, visitor: Visitor, log: Log, active: str) -> Log:
    setup = Setup(active or "base")
    known = side.labels(services, visitor)
    return transcript.settle(log, setup, known.get(setup.model, words.BASE_LABEL))


def turned(services: Services, visitor: Visitor, tab: AdaptersTab, *, log: Log, active: str) -> Updates:
    """The active adapter changed: a divider, and the chat's title."""
    name = side.labels(services, visitor).get(active or "base", words.BASE_LABEL)
    title = html.heading(
        f"Chat with {name}", "Press another adapter on the left and go on; the base stays where it is."
    )
    return {**_chat(tab, _settled(services, visitor, log, active)), tab.title: title}


def send(
    services: Services, visitor: Visitor, tab: AdaptersTab, *, log: Log, question: str, active: str
) -> Iterator[Updates]:
    """Stream one reply, greedy."""
    question = (question or "").strip()
    if not question:
        raise InputError("There is nothing to send yet. Write a message first.")
    require(services)
    log = _settled(services, visitor, log, active)
    history = [Turn(asked, reply) for asked, reply in transcript.history(log)]
    log = transcript.asked(log, question)
    yield {**_chat(tab, log), tab.box: "", **_sending(tab, busy=True)}
    one = Side(log.setup.model, "", 0, None, "")
    sampling = Sampling(0.0, 1.0, 256, 7)
    failed = ""
    try:
        for replies in services.compare.ask([one], [history], question, sampling, visitor.owner, visitor.session):
            log = transcript.answered(log, replies[0])
            yield _chat(tab, log)
    except Exception as error:  # whatever failed, what had arrived is kept and the button comes back
        failed = card(error)
        log = transcript.stopped(log)
    yield {**_chat(tab, log), tab.error: slot(failed), **_sending(tab, busy=False)}


def stop(services: Services, visitor: Visitor, tab: AdaptersTab, *, log: Log) -> Updates:
    return {**_chat(tab, transcript.stopped(log)), **_sending(tab, busy=False)}


def to_base(services: Services, visitor: Visitor, tab: AdaptersTab, *, log: Log, chosen: str) -> Updates:
    """Talk to the base itself again."""
    listed = show(services, visitor, tab, chosen=chosen, active="")
    return {tab.active: "", **listed, **turned(services, visitor, tab, log=log, active="")}
