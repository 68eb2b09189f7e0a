"""Other servers: as models of a side, on a person's own app, where one is added and asked for a word, or removed; and
an adapter for one, on the Adapters tab: its files, and whether that server answers as the adapter does here."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypedDict

import gradio as gr
from gradio.blocks import Block

from playground.errors import InputError
from playground.library.exporting import LABELS, OLLAMA
from playground.models.endpoints import Endpoint
from playground.plain import and_left
from playground.services import Services
from playground.ui import html
from playground.ui.wiring import (
    AWAY,
    Choices,
    Drawn,
    Dropdown,
    Stream,
    Updates,
    Visit,
    hidden_slot,
    listen,
    slot,
    unasked,
)
from playground.verdict.handover import Handover

IDEA = (
    "Any server that speaks OpenAI's protocol can answer a side: vLLM, Ollama, llama.cpp, a hosted one. It is kept in"
    " endpoints.toml; its key stays in the environment of this app. What its side is asked leaves for that server."
)


class ServerValues(TypedDict):
    """As in ``Endpoint``."""

    name: str
    url: str
    model: str
    key_env: str
    prompt_per_million: float | None
    completion_per_million: float | None


class ServersView:
    """server: what the handler's value of this name holds."""

    def __init__(self, services: Services) -> None:
        text, price = partial(gr.Textbox, max_length=300), partial(gr.Number, None, min_width=110)
        with gr.Accordion("Other servers", open=False, visible=not services.settings.shared, elem_classes="picker"):
            gr.HTML(html.note(IDEA))
            self.server: dict[str, gr.Textbox | gr.Number] = {
                "name": text(label="Name here"),
                "url": text(label="Address", placeholder="http://127.0.0.1:11434/v1"),
                "model": text(label="Model, as the server calls it"),
                "key_env": text(label="Variable that holds its key", info="Never the key itself; empty: none."),
            }
            with gr.Row():
                self.server["prompt_per_million"] = price(label="Price in", info="A million tokens.")
                self.server["completion_per_million"] = price(label="Price out", info="Empty or 0: not known.")
            self.add = gr.Button("Add and ask it for a word", size="sm")
            with gr.Row(visible=False) as self.there:
                self.name = Dropdown([], label="Set up here", filterable=False, min_width=110)
                self.remove = gr.Button("Remove", size="sm", elem_classes="fit")
            with gr.Column(visible=False, elem_classes="in-place") as self.question:
                self.ask = gr.HTML("")
                with gr.Row(elem_classes="acts"):
                    self.yes = gr.Button("Yes, remove", variant="stop", size="sm")
                    self.no = gr.Button("Keep", size="sm")
            self.error, self.said = hidden_slot(), hidden_slot()


def wire(services: Services, view: ServersView, page: gr.Blocks) -> None:
    listed: list[Block] = [view.there, view.name]
    cleared: Updates = {view.said: slot("")}
    on = partial(listen, services, view, failure=view.error, restored=cleared)
    asked: list[Block] = [view.question, view.ask]
    unasked(services, view, page.load, there, listed)
    listen(services, view, on(view.add.click, add, view.said).then, there, listed)
    on(view.remove.click, ask_remove, asked)
    on(view.no.click, keep, view.question)
    listen(services, view, on(view.yes.click, remove, [view.said, view.question, view.name]).then, there, listed)


def add(visit: Visit, view: ServersView, *, server: ServerValues) -> Updates:
    """Raises InputError, and EndpointError where it is kept and does not answer."""
    if visit.services.settings.shared:
        raise InputError("Endpoints are set by whoever runs this app.")
    texts = (server["name"], server["url"], server["model"], server["key_env"])
    name, url, model, key_env = ((text or "").strip() for text in texts)
    prices = server["prompt_per_million"] or None, server["completion_per_million"] or None  # empty reaches us as 0
    endpoint = Endpoint(name, url, model, key_env, *prices)
    visit.services.endpoints.add(endpoint)
    reply = visit.services.client.test(endpoint)
    said = f"{endpoint.name} answered in {reply.state.seconds:.1f} s. Choose it as the model of a side."
    return {view.said: slot(html.good(said))}


def there(visit: Visit, view: ServersView) -> Drawn:
    """Those that are set up, to remove one; none where they are not this person's to change."""
    names = [] if visit.services.settings.shared else [one.name for one in visit.services.endpoints.usable()]
    return {view.there: gr.update(visible=bool(names)), view.name: Choices(names)}


def ask_remove(visit: Visit, view: ServersView, *, name: str | None) -> Updates:
    """Before it is lost. Raises InputError, NotFoundError."""
    if visit.services.settings.shared or not name:
        raise InputError("Choose which one to remove.")
    label = visit.services.endpoints.get(name).label
    text = f"Remove {name} ({label})? Its address and prices are forgotten here; what it answered stays."
    return {view.question: gr.update(visible=True), view.ask: html.note(text)}


def keep(visit: Visit, view: ServersView) -> Updates:
    return {view.question: AWAY}


def remove(visit: Visit, view: ServersView, *, name: str | None) -> Updates:
    """Raises InputError, NotFoundError."""
    if visit.services.settings.shared:
        raise InputError("Endpoints are set by whoever runs this app.")
    gone = visit.services.endpoints.remove(name or "")
    return {view.said: slot(html.good(f"{gone.name} is removed.")), view.question: AWAY, view.name: None}


HANDOVER = (
    "Write what Ollama, llama.cpp or vLLM need to serve the chosen adapter, start it there, and ask it the held-out"
    " rows: it is told whether it answers the same, or what differs, row by row."
)
PICK = "Choose an adapter in the list above first."
SHOWN = 20
"""Rows that differ, at most."""
_compared = html.piece("chat", "handed_over")


class HandoverView:
    def __init__(self, *, shared: bool) -> None:
        with gr.Column(elem_classes="card folds"), gr.Accordion("Hand it over to another server", open=False):
            gr.HTML(html.note(HANDOVER))
            small = partial(gr.Button, size="sm", elem_classes="fit")
            targets = [(label, name) for name, label in LABELS.items()]
            self.to = gr.Radio(targets, value=OLLAMA, label="Which server")
            self.write = small("Write the files", variant="primary")
            self.download = gr.DownloadButton("Download", size="sm", visible=False, elem_classes="fit")
            where = "Then: the endpoint that serves it" if shared else "Then: where it serves, or an endpoint's name"
            hint = "" if shared else "http://127.0.0.1:8080/v1#MODEL"
            self.url = gr.Textbox(label=where, placeholder=hint, max_lines=1, max_length=300)
            gr.HTML(html.note("Held-out rows; without a file, those of its run are asked:"))
            self.rows = gr.File(label="Held-out rows", show_label=False, height=96, elem_classes="drop")
            self.agree = gr.Checkbox(False, label="The rows may leave this machine for that server")
            with gr.Row(elem_classes="acts"):
                self.ask = small("Ask it and compare", variant="primary")
                self.stop = gr.Button("Stop", size="sm", variant="stop", visible=False)
            self.result = hidden_slot()


def wire_handover(services: Services, view: HandoverView, chosen: gr.State) -> None:
    idle = _busy(view, busy=False)
    on = partial(listen, services, view, failure=view.result, restored=idle)
    writing = on(view.write.click, write, [*idle, view.download], chosen=chosen)
    asking = on(view.ask.click, ask, list(idle), chosen=chosen)
    listen(services, view, view.stop.click, stopped, [*idle, view.result], cancels=[writing, asking])


def _busy(view: HandoverView, *, busy: bool) -> Updates:
    able = gr.update(interactive=not busy)
    return {view.write: able, view.ask: able, view.stop: gr.update(visible=busy)}


def write(visit: Visit, view: HandoverView, *, chosen: str, to: str) -> Stream:
    """The files as one zip. Closing it stops the writing."""
    if not chosen:
        raise InputError(PICK)
    began_s = time.monotonic()
    for step in visit.services.exporter.export(chosen, to, visit.owner):
        if step.file is not None:
            label = f"Download {step.file.name}, {html.size(step.file.stat().st_size)}"
            said = slot(html.good("Written; its README.md says what to run. Start it, then ask it below."))
            ready = gr.update(value=str(step.file), label=label, visible=True)
            yield {view.download: ready, view.result: said, **_busy(view, busy=False)}
        else:
            left_s = (time.monotonic() - began_s) * (1 - step.share) / step.share if step.share else None
            bar = slot(html.progress(step.share, step.phase) + html.note(step.phase + and_left(left_s)))
            yield {view.download: AWAY, view.result: bar, **_busy(view, busy=True)}


def ask(visit: Visit, view: HandoverView, *, chosen: str, url: str, rows: str | None, agree: bool) -> Stream:
    """The held-out rows, here and there. Closing it stops the asking."""
    if not chosen:
        raise InputError(PICK)
    if not (url or "").strip():
        raise InputError("Say where it serves: an address with /v1, or the name of an endpoint that is set up.")
    file = visit.services.data.keep_uploads([Path(rows)], visit.owner) if rows else None
    asked = Handover(chosen, url.strip(), file, owner=visit.owner, send=bool(agree))
    with closing(visit.services.handover.start(asked, visit.session).follow()) as following:
        for now in following:
            if now.error:
                raise InputError(now.error)
            bar = html.progress(now.done / now.of if now.of else 0.0, now.words) + html.note(now.words)
            said = _compared(now.result, SHOWN) if now.result is not None else bar
            yield {view.result: slot(said), **_busy(view, busy=now.live)}


def stopped(visit: Visit, view: HandoverView) -> Updates:
    return {**_busy(view, busy=False), view.result: slot(html.note("Stopped."))}
