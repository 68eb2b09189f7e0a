"""The Adapters tab: every adapter on one frozen base, a chat that swaps between them, and the folds that blend and push
adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import gradio as gr
from gradio.events import Dependency

from playground.errors import InputError
from playground.methods import all_methods
from playground.services import Services
from playground.ui import html, library, side, words
from playground.ui.html import card
from playground.ui.runs import PICK_JS
from playground.ui.sidebar import require
from playground.ui.transcript import Log
from playground.ui.wiring import PICKED, QUIET, Dropdown, Updates, Visitor, hidden_slot, listen, show, slot

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
        label = f"How much of {names.get(id, id)}"
        updates[slider] = (
            gr.update(visible=True, label=label, value=round(1 / len(ids), 2)) if id else gr.update(visible=False)
        )
    return updates


def make(
    services: Services,
    visitor: Visitor,
    tab: AdaptersTab,
    *,
    parts: list[str] | None,
    how: str,
    name: str,
    made: str,
    weights: Sequence[float],
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
    said = html.good(f"{blended.name} is blended and active: the next reply comes from it.")
    yield {
        **dict.fromkeys((tab.made, tab.chosen, tab.active), blended.id),
        **library.show(services, visitor, tab, chosen=blended.id, active=blended.id),
        tab.message: slot(said),
    }


def moved(
    services: Services,
    visitor: Visitor,
    tab: AdaptersTab,
    *,
    parts: list[str] | None,
    how: str,
    name: str,
    made: str,
    weights: Sequence[float],
) -> Iterator[Updates]:
    """A slider was moved: blend again, once there is a blend to hear."""
    if not made:
        yield {}
    else:
        yield from make(services, visitor, tab, parts=parts, how=how, name=name, made=made, weights=weights)


NOTE = (
    "The chosen adapter goes to the hub with its model card, under your name. It may repeat what stood in its rows:"
    " share it only if you may share them. Your token is used for this once and is not kept."
)


@dataclass(frozen=True)
class PushView:
    repo: gr.Textbox
    token: gr.Textbox
    private: gr.Checkbox
    send: gr.Button
    said: gr.HTML


def build_push() -> PushView:
    with gr.Column(elem_classes="card folds"), gr.Accordion("Push to the Hugging Face Hub", open=False):
        gr.HTML(html.note(NOTE))
        repo = gr.Textbox(label="Where it goes", placeholder="your-name/hospital-reports", max_length=200)
        token = gr.Textbox(label="Your token, with write access", type="password", max_length=400)
        private = gr.Checkbox(True, label="Private: only you see it")
        send = gr.Button("Push it", variant="primary", size="sm", elem_classes="fit")
        said = hidden_slot()
    return PushView(repo, token, private, send, said)


def push(
    services: Services, visitor: Visitor, view: PushView, *, chosen: str, repo: str, token: str, private: bool
) -> Iterator[Updates]:
    """The token's box is emptied at once."""
    ready: Updates = {view.send: gr.update(value="Push it", interactive=True)}
    if not chosen:
        yield {view.token: "", **ready, view.said: slot(html.note("Choose an adapter in the list above first."))}
        return
    yield {
        view.token: "",
        view.send: gr.update(value="Pushing", interactive=False),
        view.said: slot(html.note("Sending the files. A small adapter takes some seconds.")),
    }
    try:
        address = services.pusher.push(chosen, repo or "", token or "", private=bool(private), owner=visitor.owner)
        yield {**ready, view.said: slot(html.good(f"It is at {address}"))}
    except Exception as error:  # whatever failed, the button comes back
        yield {**ready, view.said: slot(card(error))}


@dataclass(frozen=True)
class AdaptersTab:
    """Every widget of the tab, named once."""

    chosen: gr.State
    active: gr.State
    log: gr.State
    listing: gr.HTML
    message: gr.HTML
    actions: gr.Row
    use: gr.Button
    export: gr.Button
    export_row: gr.Row
    format: gr.Radio
    write: gr.Button
    stop_export: gr.Button
    leave_export: gr.Button
    download: gr.DownloadButton
    rename: gr.Button
    delete: gr.Button
    upload: gr.UploadButton
    blend: gr.Accordion
    parts: gr.Dropdown
    weights: list[gr.Slider]
    how: gr.Radio
    blend_name: gr.Textbox
    make: gr.Button
    made: gr.State
    rename_row: gr.Row
    new_name: gr.Textbox
    save: gr.Button
    keep_name: gr.Button
    delete_row: gr.Column
    question: gr.HTML
    yes: gr.Button
    no: gr.Button
    title: gr.HTML
    chat: gr.Chatbot
    error: gr.HTML
    box: gr.Textbox
    send: gr.Button
    stop: gr.Button
    base: gr.Button
    push: PushView


def build() -> AdaptersTab:
    parts: dict[str, Any] = {
        "chosen": gr.State(""),
        "active": gr.State(""),
        "log": gr.State(Log()),
        "made": gr.State(""),
    }
    with gr.Row(elem_classes="two"):
        with gr.Column(scale=7, min_width=320):
            gr.HTML(html.note(words.ADAPTERS_TEXT))
            parts["listing"] = gr.HTML("", js_on_load=PICK_JS)
            parts["message"] = hidden_slot()
            with gr.Row(elem_classes="acts", visible=False) as actions:
                parts["use"] = gr.Button("Use as side B", variant="primary", size="sm")
                parts["export"] = gr.Button("Export", size="sm")
                parts["rename"] = gr.Button("Rename", size="sm")
                parts["delete"] = gr.Button("Delete", size="sm")
            with gr.Column(visible=False, elem_classes="in-place") as export_row:
                parts["format"] = gr.Radio(
                    library.FORMATS, value="peft", label="Export as", container=False, show_label=False
                )
                with gr.Row(elem_classes="acts"):
                    parts["write"] = gr.Button("Write it", size="sm", variant="primary")
                    parts["stop_export"] = gr.Button("Stop", size="sm", variant="stop", visible=False)
                    parts["leave_export"] = gr.Button("Leave it", size="sm")
            parts["download"] = gr.DownloadButton("Download", size="sm", visible=False, elem_classes="fit")
            with gr.Row(visible=False, elem_classes="acts in-place") as rename_row:
                parts["new_name"] = gr.Textbox(
                    label="New name", show_label=False, container=False, max_length=64, min_width=180
                )
                parts["save"] = gr.Button("Save the name", size="sm")
                parts["keep_name"] = gr.Button("Leave it", size="sm")
            with gr.Column(visible=False, elem_classes="in-place") as delete_row:
                parts["question"] = gr.HTML("")
                with gr.Row(elem_classes="acts"):
                    parts["yes"] = gr.Button("Yes, delete", variant="stop", size="sm")
                    parts["no"] = gr.Button("Keep", size="sm")
            with gr.Row(elem_classes="acts"):
                parts["upload"] = gr.UploadButton(
                    "Import a PEFT folder's files, or its zip", size="sm", file_count="multiple"
                )
            parts |= _blend()
            parts["push"] = build_push()
        with gr.Column(scale=5, min_width=300, elem_classes="card rail one-pane"):
            parts["title"] = gr.HTML(html.heading(f"Chat with {words.BASE_LABEL}"))
            hint = "Choose an adapter, write below, and it answers here."
            parts["chat"] = side.chat_pane("Chat with the active adapter", height=360, placeholder=hint)
            parts["error"] = hidden_slot()
            with gr.Row(elem_classes="ask-row"):
                parts["box"] = gr.Textbox(
                    label="Message to the active adapter",
                    show_label=False,
                    container=False,
                    placeholder="Write a message",
                    lines=1,
                    max_lines=4,
                    max_length=20_000,
                    scale=1,
                    min_width=100,
                )
                parts["send"] = gr.Button("Send", variant="primary", elem_classes="ask", min_width=72)
                parts["stop"] = gr.Button("Stop", variant="stop", visible=False, elem_classes="ask", min_width=72)
            with gr.Row(elem_classes="acts"):
                parts["base"] = gr.Button("Back to the base", size="sm")
    return AdaptersTab(**parts, export_row=export_row, actions=actions, rename_row=rename_row, delete_row=delete_row)


def _blend() -> dict[str, Any]:
    with gr.Column(elem_classes="card folds"), gr.Accordion("Blend several into one", open=False) as fold:
        gr.HTML(html.note(IDEA))
        parts = Dropdown([], multiselect=True, max_choices=MOST, label="Adapters to blend")
        weights = [gr.Slider(-1, 2, value=0.5, step=0.05, label="How much", visible=False) for _ in range(MOST)]
        how = gr.Radio(WAYS, value="linear", label="How", container=False, show_label=False)
        name = gr.Textbox("blend", label="Name of the blend", max_length=64)
        with gr.Row(elem_classes="acts"):
            make = gr.Button("Blend and listen", variant="primary", size="sm", interactive=False)
    return {"blend": fold, "parts": parts, "weights": weights, "how": how, "blend_name": name, "make": make}


def wire(services: Services, tab: AdaptersTab) -> None:
    on = partial(listen, services, failure=tab.message)
    now: dict[str, Any] = {"chosen": tab.chosen, "active": tab.active}
    turned: dict[str, Any] = {"log": tab.log, "active": tab.active}
    chat = [tab.log, tab.chat]

    def then_turned(event: Dependency) -> Dependency:
        return listen(services, event.then, library.turned, tab, [*chat, tab.title], **turned)

    folds = [tab.rename_row, tab.delete_row, tab.download]
    picked = [tab.chosen, tab.active, tab.listing, tab.actions, tab.use, *folds]
    then_turned(on(tab.listing.pick, library.pick, tab, picked, picked=PICKED, active=tab.active))
    asked = [tab.rename_row, tab.new_name, tab.delete_row]
    on(tab.rename.click, library.ask_rename, tab, asked, chosen=tab.chosen)
    saved = [tab.save.click, tab.new_name.submit]
    on(saved, library.rename, tab, [tab.listing, tab.rename_row], name=tab.new_name, **now)
    asked = [tab.delete_row, tab.question, tab.rename_row]
    on(tab.delete.click, library.ask_remove, tab, asked, chosen=tab.chosen)
    removed = [tab.chosen, tab.active, tab.listing, tab.actions, *folds]
    then_turned(on(tab.yes.click, library.remove, tab, removed, **now))
    on(tab.upload.upload, library.import_file, tab, tab.listing, uploaded=tab.upload, **now)
    for button, row, visible in (
        (tab.keep_name, tab.rename_row, False),
        (tab.no, tab.delete_row, False),
        (tab.export, tab.export_row, True),
        (tab.leave_export, tab.export_row, False),
    ):
        show(button.click, row, visible=visible)
    writing = [tab.write, tab.stop_export]
    written = on(
        tab.write.click,
        library.export,
        tab,
        [tab.download, *writing],
        stream=True,
        chosen=tab.chosen,
        format=tab.format,
    )
    on(tab.stop_export.click, library.stopped, tab, writing, cancels=[written])

    sent = listen(
        services,
        [tab.send.click, tab.box.submit],
        library.send,
        tab,
        [*chat, tab.box, tab.send, tab.stop],
        stream=True,
        failure=tab.error,
        question=tab.box,
        **turned,
    )
    stopped = tab.stop.click(None, None, None, cancels=[sent], **QUIET)
    listen(services, stopped.then, library.stop, tab, [*chat, tab.send, tab.stop], log=tab.log)
    outputs = [tab.active, tab.listing, *chat, tab.title]
    listen(services, tab.base.click, library.to_base, tab, outputs, log=tab.log, chosen=tab.chosen)

    listen(services, tab.blend.expand, offered, tab, tab.parts)
    listen(services, tab.parts.input, chosen, tab, [*tab.weights, tab.make], parts=tab.parts)
    blend: dict[str, Any] = {
        "parts": tab.parts,
        "how": tab.how,
        "name": tab.blend_name,
        "made": tab.made,
        "weights": tab.weights,
    }
    outputs = [tab.made, tab.chosen, tab.active, tab.listing]
    heard = [*(weight.release for weight in tab.weights), tab.how.input]
    for events, handler in ((tab.make.click, make), (heard, moved)):
        blended = on(events, handler, tab, outputs, stream=True, **blend)
        show(then_turned(blended).then, tab.actions)

    view = tab.push
    listen(
        services,
        view.send.click,
        push,
        view,
        [view.token, view.send, view.said],
        stream=True,
        chosen=tab.chosen,
        repo=view.repo,
        token=view.token,
        private=view.private,
    )
