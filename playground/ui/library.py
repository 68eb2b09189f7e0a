"""Handlers of the adapter list (choose, rename, delete, import, export) and of the chat with the active adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from playground.chat.compare import Side, Turn
from playground.engine.request import Sampling
from playground.errors import InputError
from playground.models.adapters import AdapterRow
from playground.services import Services
from playground.ui import html, side, words
from playground.ui.html import FAILURES, card, size
from playground.ui.side import Log, Setup, method_label
from playground.ui.sidebar import require
from playground.ui.wiring import AWAY, Updates, Visitor, slot

if TYPE_CHECKING:
    from playground.ui.adapters import AdaptersTab

FORMATS = [
    ("PEFT folder, for anything that reads PEFT", "peft"),
    ("Merged model, for anything that reads safetensors", "merged"),
    ("GGUF file, for llama.cpp and its kin", "gguf"),
]
_listed, switched_html = html.piece("chat", "adapters"), html.piece("chat", "switched")


def list_html(rows: Sequence[AdapterRow], chosen: str = "", active: str = "") -> str:
    """Every adapter as a button, those of another base too."""
    return _listed(rows, chosen, active, method_label) if rows else html.empty(words.ADAPTERS_EMPTY)


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
    message = html.error_card(html.sentence(row.reason) or "This adapter was made for another base.")
    if row.usable:
        try:
            require(services)
            message = switched_html(row.card.name, services.adapters.switch(picked, visitor.owner))
            active = picked
        except FAILURES as error:  # the row is chosen all the same, and can be renamed, exported or deleted
            message = card(error)
    return {
        tab.chosen: picked,
        tab.active: active,
        **show(services, visitor, tab, chosen=picked, active=active),
        tab.message: slot(message),
        tab.actions: gr.update(visible=True),
        tab.use: gr.update(interactive=row.usable),
        **dict.fromkeys((tab.rename_row, tab.delete_row, tab.download), AWAY),
    }


def ask_rename(services: Services, visitor: Visitor, tab: AdaptersTab, *, chosen: str) -> Updates:
    """Open the row with the name as it is."""
    name = _find(services, visitor, chosen).card.name
    return {tab.rename_row: gr.update(visible=True), tab.name: name, tab.delete_row: AWAY}


def rename(services: Services, visitor: Visitor, tab: AdaptersTab, *, chosen: str, active: str, name: str) -> Updates:
    renamed = services.adapters.rename(chosen, name.strip(), visitor.owner)
    return {
        **show(services, visitor, tab, chosen=chosen, active=active),
        tab.message: slot(html.good(f"Renamed to {renamed.name}.")),
        tab.rename_row: AWAY,
    }


def ask_remove(services: Services, visitor: Visitor, tab: AdaptersTab, *, chosen: str) -> Updates:
    name = _find(services, visitor, chosen).card.name
    question = html.note(f"Delete {name}? Its files go for good; a run can make it again.")
    return {tab.delete_row: gr.update(visible=True), tab.asked: question, tab.rename_row: AWAY}


def remove(services: Services, visitor: Visitor, tab: AdaptersTab, *, chosen: str, active: str) -> Updates:
    name = _find(services, visitor, chosen).card.name
    services.adapters.remove(chosen, visitor.owner)
    active = "" if active == chosen else active
    return {
        tab.chosen: "",
        tab.active: active,
        **show(services, visitor, tab, chosen="", active=active),
        tab.message: slot(html.good(f"{name} is deleted.")),
        **dict.fromkeys((tab.actions, tab.rename_row, tab.delete_row, tab.download), AWAY),
    }


def import_file(
    services: Services, visitor: Visitor, tab: AdaptersTab, *, uploaded: list[str] | None, chosen: str, active: str
) -> Updates:
    imported = services.adapters.import_uploads([Path(file) for file in uploaded or []], visitor.owner)
    text = html.good(f"{imported.name} is imported: {method_label(imported)}, {size(imported.bytes)}.")
    for note in imported.notes:
        text += html.note(html.sentence(note))
    return {**show(services, visitor, tab, chosen=chosen, active=active), tab.message: slot(text)}


def export(services: Services, visitor: Visitor, tab: AdaptersTab, *, chosen: str, format: str) -> Iterator[Updates]:
    """Write the adapter in a form to take away."""
    if format == "peft":
        yield _ready(tab, services.adapters.export_zip(chosen, visitor.owner))
        return
    for step in services.exporter.export(chosen, format, visitor.owner):
        if step.file is not None:
            yield {**_ready(tab, step.file), **writing(tab, busy=False)}
        else:
            bar = html.progress(step.share, step.phase) + html.note(f"{step.phase}. About a minute for a small base.")
            yield {tab.download: AWAY, tab.message: slot(bar), **writing(tab, busy=True)}


def stopped(services: Services, visitor: Visitor, tab: AdaptersTab) -> Updates:
    """The export was cut."""
    return {tab.message: slot(html.note("Stopped; nothing was written.")), **writing(tab, busy=False)}


def writing(tab: AdaptersTab, *, busy: bool) -> Updates:
    """The buttons beside a file that is written."""
    return {tab.write: gr.update(visible=not busy), tab.stop_export: gr.update(visible=busy)}


def _ready(tab: AdaptersTab, file: Path) -> Updates:
    label = f"Download {file.name}, {size(file.stat().st_size)}"
    return {tab.download: gr.update(value=str(file), label=label, visible=True), tab.message: slot("")}


def _chat(tab: AdaptersTab, log: Log) -> Updates:
    return {tab.log: log, tab.chat: side.messages(log)}


def _sending(tab: AdaptersTab, *, busy: bool) -> Updates:
    return {tab.send: gr.update(visible=not busy), tab.stop: gr.update(visible=busy)}


def _settled(services: Services, visitor: Visitor, log: Log, active: str) -> Log:
    setup = Setup(active or "base")
    known = side.labels(services, visitor)
    return side.settle(log, setup, known.get(setup.model, words.BASE_LABEL))


def turned(services: Services, visitor: Visitor, tab: AdaptersTab, *, log: Log, active: str) -> Updates:
    """The active adapter changed: a divider, and the chat's title."""
    name = side.labels(services, visitor).get(active or "base", words.BASE_LABEL)
    hint = "Press another adapter on the left and go on; the base stays where it is."
    title = html.heading(f"Chat with {name}", hint)
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
    history = [Turn(asked, reply) for asked, reply in side.history(log)]
    log = side.asked(log, question)
    yield {**_chat(tab, log), tab.question: "", **_sending(tab, busy=True)}
    one, sampling, failed = Side(log.setup.model), Sampling(0.0, 1.0, 256, 7), list[str]()
    replies = services.compare.ask([one], [history], question, sampling, visitor.owner, visitor.session)
    for reply, *_ in side.streamed(replies, failed.append):
        log = side.answered(log, reply)
        yield _chat(tab, log)
    log = side.stopped(log) if failed else log
    yield {**_chat(tab, log), tab.error: slot("".join(failed)), **_sending(tab, busy=False)}


def stop(services: Services, visitor: Visitor, tab: AdaptersTab, *, log: Log) -> Updates:
    return {**_chat(tab, side.stopped(log)), **_sending(tab, busy=False)}


def to_base(services: Services, visitor: Visitor, tab: AdaptersTab, *, log: Log, chosen: str) -> Updates:
    """Talk to the base itself again."""
    listed = show(services, visitor, tab, chosen=chosen, active="")
    return {tab.active: "", **listed, **turned(services, visitor, tab, log=log, active="")}
