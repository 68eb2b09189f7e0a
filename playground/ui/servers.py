"""Other servers as models of a side, on a person's own app: one is added and asked for a word, or removed."""

from __future__ import annotations

from functools import partial
from typing import TypedDict

import gradio as gr
from gradio.blocks import Block

from playground.errors import InputError
from playground.models.endpoints import Endpoint
from playground.services import Services
from playground.ui import html
from playground.ui.wiring import AWAY, Choices, Drawn, Dropdown, Updates, Visit, hidden_slot, listen, slot, unasked

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
