"""The Adapters tab: the adapters of one frozen base, a chat that swaps between them, blending, a push to the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import gradio as gr
from gradio.events import Dependency

from playground.errors import InputError
from playground.methods import all_methods
from playground.services import Services
from playground.ui import html, library, side, words
from playground.ui.runs import PICK_JS
from playground.ui.side import Log
from playground.ui.sidebar import require
from playground.ui.wiring import AWAY, QUIET, Dropdown, Updates, Visitor, hidden_slot, listen, show, slot

MOST = 4
WAYS = [
    ("Linear: the weighted sum", "linear"),
    ("TIES: settle signs first", "ties"),
    ("DARE: drop a part at random", "dare"),
]
IDEA = (
    "A blend adds the weighted changes of several LoRA adapters. It can mix manners; whether it keeps both is for your"
    " examples to say."
)
NOTE = (
    "The chosen adapter goes to the hub with its model card, under your name. It may repeat what stood in its rows:"
    " share it only if you may share them. Your token is used for this once and is not kept."
)


class PushView:
    def __init__(self) -> None:
        with gr.Column(elem_classes="card folds"), gr.Accordion("Push to the Hugging Face Hub", open=False):
            gr.HTML(html.note(NOTE))
            self.repo = gr.Textbox(label="Where it goes", placeholder="your-name/hospital-reports", max_length=200)
            self.token = gr.Textbox(label="Your token, with write access", type="password", max_length=400)
            self.private = gr.Checkbox(True, label="Private: only you see it")
            self.send = gr.Button("Push it", variant="primary", size="sm", elem_classes="fit")
            self.result = hidden_slot()


class AdaptersTab:
    """Every widget of the tab. blend: what a blend is made of."""

    def __init__(self) -> None:
        self.chosen, self.active, self.made, self.log = gr.State(""), gr.State(""), gr.State(""), gr.State(Log())
        with gr.Row(elem_classes="two"):
            with gr.Column(scale=7, min_width=320):
                gr.HTML(html.note(words.ADAPTERS_TEXT))
                self.listing = gr.HTML("", js_on_load=PICK_JS)
                self.message = hidden_slot()
                self._build_acts()
                with gr.Row(elem_classes="acts"):
                    label = "Import a PEFT folder's files, or its zip"
                    self.upload = gr.UploadButton(label, size="sm", file_count="multiple")
                self._build_blend()
                self.push = PushView()
            with gr.Column(scale=5, min_width=300, elem_classes="card rail one-pane"):
                self._build_chat()
        self.folds = [self.rename_row, self.delete_row, self.download]

    def _build_acts(self) -> None:
        small, place = partial(gr.Button, size="sm"), partial(gr.Column, visible=False, elem_classes="in-place")
        self.actions = gr.Row(elem_classes="acts", visible=False)
        with self.actions:
            self.use = small("Use as side B", variant="primary")
            self.export, self.rename, self.delete = small("Export"), small("Rename"), small("Delete")
        self.export_row = place()
        with self.export_row:
            bare: dict[str, Any] = {"label": "Export as", "container": False, "show_label": False}
            self.format = gr.Radio(library.FORMATS, value="peft", **bare)
            with gr.Row(elem_classes="acts"):
                self.write = small("Write it", variant="primary")
                self.stop_export = small("Stop", variant="stop", visible=False)
                self.leave_export = small("Leave it")
        self.download = gr.DownloadButton("Download", size="sm", visible=False, elem_classes="fit")
        self.rename_row = gr.Row(visible=False, elem_classes="acts in-place")
        with self.rename_row:
            bare = {"label": "New name", "show_label": False, "container": False}
            self.name = gr.Textbox(max_length=64, min_width=180, **bare)
            self.save, self.keep_name = small("Save the name"), small("Leave it")
        self.delete_row = place()
        with self.delete_row:
            self.asked = gr.HTML("")
            with gr.Row(elem_classes="acts"):
                self.yes, self.no = small("Yes, delete", variant="stop"), small("Keep")

    def _build_blend(self) -> None:
        with gr.Column(elem_classes="card folds"):
            self.blend_fold = gr.Accordion("Blend several into one", open=False)
            with self.blend_fold:
                gr.HTML(html.note(IDEA))
                self.parts = Dropdown([], multiselect=True, max_choices=MOST, label="Adapters to blend")
                share = partial(gr.Slider, -1, 2, value=0.5, step=0.05, label="How much", visible=False)
                self.weights = [share() for _ in range(MOST)]
                self.how = gr.Radio(WAYS, value="linear", label="How", container=False, show_label=False)
                name = gr.Textbox("blend", label="Name of the blend", max_length=64)
                with gr.Row(elem_classes="acts"):
                    self.make = gr.Button("Blend and listen", variant="primary", size="sm", interactive=False)
        self.blend: dict[str, Any] = {"parts": self.parts, "how": self.how, "name": name, "weights": self.weights}

    def _build_chat(self) -> None:
        self.title = gr.HTML(html.heading(f"Chat with {words.BASE_LABEL}"))
        hint = "Choose an adapter, write below, and it answers here."
        self.chat = side.chat_pane("Chat with the active adapter", height=360, placeholder=hint)
        self.error = hidden_slot()
        with gr.Row(elem_classes="ask-row"):
            bare: dict[str, Any] = {"label": "Message to the active adapter", "show_label": False, "container": False}
            size: dict[str, Any] = {"lines": 1, "max_lines": 4, "max_length": 20_000, "scale": 1, "min_width": 100}
            self.question = gr.Textbox(placeholder="Write a message", **bare, **size)
            self.send = gr.Button("Send", variant="primary", elem_classes="ask", min_width=72)
            self.stop = gr.Button("Stop", variant="stop", visible=False, elem_classes="ask", min_width=72)
        with gr.Row(elem_classes="acts"):
            self.base = gr.Button("Back to the base", size="sm")


def wire(services: Services, tab: AdaptersTab) -> None:
    on = partial(listen, services, tab, failure=tab.message)
    chat = [tab.log, tab.chat]

    def then_turned(event: Dependency) -> Dependency:
        return listen(services, tab, event.then, library.turned, [*chat, tab.title])

    picked = [tab.chosen, tab.active, tab.listing, tab.actions, tab.use, *tab.folds]
    then_turned(on(tab.listing.pick, library.pick, picked))
    on(tab.rename.click, library.ask_rename, [tab.rename_row, tab.name, tab.delete_row])
    on([tab.save.click, tab.name.submit], library.rename, [tab.listing, tab.rename_row])
    on(tab.delete.click, library.ask_remove, [tab.delete_row, tab.asked, tab.rename_row])
    removed = [tab.chosen, tab.active, tab.listing, tab.actions, *tab.folds]
    then_turned(on(tab.yes.click, library.remove, removed, restored={tab.delete_row: AWAY}))
    on(tab.upload.upload, library.import_file, tab.listing, uploaded=tab.upload)
    for button, row, visible in (
        (tab.keep_name, tab.rename_row, False),
        (tab.no, tab.delete_row, False),
        (tab.export, tab.export_row, True),
        (tab.leave_export, tab.export_row, False),
    ):
        show(button.click, row, visible=visible)
    idle = library.writing(tab, busy=False)
    written = on(tab.write.click, library.export, restored={tab.download: AWAY, **idle})
    on(tab.stop_export.click, library.stopped, list(idle), cancels=[written])

    sending = [*chat, tab.question, tab.send, tab.stop]
    sent = listen(services, tab, [tab.send.click, tab.question.submit], library.send, sending, failure=tab.error)
    stopped = tab.stop.click(None, None, None, cancels=[sent], **QUIET)
    listen(services, tab, stopped.then, library.stop, [*chat, tab.send, tab.stop])
    listen(services, tab, tab.base.click, library.to_base, [tab.active, tab.listing, *chat, tab.title])

    listen(services, tab, tab.blend_fold.expand, offered, tab.parts)
    listen(services, tab, tab.parts.input, chosen, [*tab.weights, tab.make])
    outputs, moves = [tab.made, tab.chosen, tab.active, tab.listing], [weight.release for weight in tab.weights]
    for events, handler in ((tab.make.click, make), ([*moves, tab.how.input], moved)):
        show(then_turned(on(events, handler, outputs, **tab.blend)).then, tab.actions)
    view = tab.push
    ready = {view.token: "", **_push_button(view, busy=False)}
    listen(services, view, view.send.click, push, list(ready), failure=view.result, restored=ready, chosen=tab.chosen)


def offered(services: Services, visitor: Visitor, tab: AdaptersTab) -> Updates:
    """The adapters that can be blended, whenever the fold is opened."""
    blendable = [name for name, method in all_methods().items() if method.blendable]
    rows = services.adapters.list(visitor.owner)
    linear = [(row.card.name, row.card.id) for row in rows if row.usable and row.card.method in blendable]
    return {tab.parts: gr.update(choices=linear)}


def chosen(services: Services, visitor: Visitor, tab: AdaptersTab, *, parts: list[str] | None) -> Updates:
    """One slider for each that is chosen; all weigh the same until they are moved."""
    ids = (parts or [])[:MOST]
    names = {row.card.id: row.card.name for row in services.adapters.list(visitor.owner)}
    updates: Updates = {tab.make: gr.update(interactive=len(ids) > 1)}
    for slider, id in zip_longest(tab.weights, ids):
        shown: dict[str, Any] = (
            {"label": f"How much of {names.get(id, id)}", "value": round(1 / len(ids), 2)} if id else {}
        )
        updates[slider] = gr.update(visible=bool(id), **shown)
    return updates


def make(
    services: Services,
    visitor: Visitor,
    tab: AdaptersTab,
    *,
    parts: list[str] | None,
    how: str,
    name: str,
    weights: Sequence[float],
    made: str,
) -> Iterator[Updates]:
    """Blend, in the place of the last blend of this tab, and make it active."""
    yield {tab.message: slot(html.note("Blending; the first one takes some seconds."))}
    require(services)
    ids = parts or []
    if len(ids) < 2:
        raise InputError("Choose two adapters or more to blend.")
    shares = dict(zip(ids, map(float, weights), strict=False))
    blended = services.adapters.blend(shares, how, name or "blend", visitor.owner)
    if made and made not in ids and any(row.card.id == made for row in services.adapters.list(visitor.owner)):
        services.adapters.remove(made, visitor.owner)
    services.adapters.switch(blended.id, visitor.owner)
    active = html.good(f"{blended.name} is blended and active: the next reply comes from it.")
    yield {
        **dict.fromkeys((tab.made, tab.chosen, tab.active), blended.id),
        **library.show(services, visitor, tab, chosen=blended.id, active=blended.id),
        tab.message: slot(active),
    }


def moved(services: Services, visitor: Visitor, tab: AdaptersTab, *, made: str, **blend: Any) -> Iterator[Updates]:
    """A slider was moved: blend again, once there is a blend."""
    if made:
        yield from make(services, visitor, tab, made=made, **blend)
    else:
        yield {}


def push(
    services: Services, visitor: Visitor, view: PushView, *, chosen: str, repo: str, token: str, private: bool
) -> Iterator[Updates]:
    """The token's box is emptied at once."""
    sending = html.note("Sending the files. A small adapter takes some seconds.")
    if not chosen:
        sending = html.note("Choose an adapter in the list above first.")
    yield {view.token: "", **_push_button(view, busy=bool(chosen)), view.result: slot(sending)}
    if chosen:
        address = services.pusher.push(chosen, repo or "", token or "", private=bool(private), owner=visitor.owner)
        yield {**_push_button(view, busy=False), view.result: slot(html.good(f"It is at {address}"))}


def _push_button(view: PushView, *, busy: bool) -> Updates:
    return {view.send: gr.update(value="Pushing" if busy else "Push it", interactive=not busy)}
