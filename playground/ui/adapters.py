"""The Adapters tab: every adapter on one frozen base, and a chat that swaps between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.ui import blend, chat, html, library, push, words
from playground.ui.runs import PICK_JS
from playground.ui.transcript import Log
from playground.ui.wiring import QUIET, Dropdown, bind, bind_pick, bind_stream, hidden_slot


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
    push: push.PushView


def build() -> AdaptersTab:
    parts: dict[str, Any] = {"chosen": gr.State(""), "active": gr.State(""), "log": gr.State(Log()), "made": gr.State("")}
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
                parts["format"] = gr.Radio(library.FORMATS, value="peft", label="Export as", container=False, show_label=False)
                with gr.Row(elem_classes="acts"):
                    parts["write"] = gr.Button("Write it", size="sm", variant="primary")
                    parts["stop_export"] = gr.Button("Stop", size="sm", variant="stop", visible=False)
                    parts["leave_export"] = gr.Button("Leave it", size="sm")
            parts["download"] = gr.DownloadButton("Download", size="sm", visible=False, elem_classes="fit")
            with gr.Row(visible=False, elem_classes="acts in-place") as rename_row:
                parts["new_name"] = gr.Textbox(label="New name", show_label=False, container=False, max_length=64, min_width=180)
                parts["save"] = gr.Button("Save the name", size="sm")
                parts["keep_name"] = gr.Button("Leave it", size="sm")
            with gr.Column(visible=False, elem_classes="in-place") as delete_row:
                parts["question"] = gr.HTML("")
                with gr.Row(elem_classes="acts"):
                    parts["yes"] = gr.Button("Yes, delete", variant="stop", size="sm")
                    parts["no"] = gr.Button("Keep", size="sm")
            with gr.Row(elem_classes="acts"):
                parts["upload"] = gr.UploadButton("Import a PEFT folder's files, or its zip", size="sm", file_count="multiple")
            parts |= _blend()
            parts["push"] = push.build()
        with gr.Column(scale=5, min_width=300, elem_classes="card rail one-pane"):
            parts["title"] = gr.HTML(html.heading(f"Chat with {words.BASE_LABEL}"))
            parts["chat"] = gr.Chatbot(
                label="Chat with the active adapter", show_label=False, layout="panel", render_markdown=False, buttons=[], height=360,
                feedback_options=None, placeholder="Choose an adapter, write below, and it answers here.", elem_classes="bot-box",
            )  # fmt: skip
            parts["error"] = hidden_slot()
            with gr.Row(elem_classes="ask-row"):
                parts["box"] = gr.Textbox(
                    label="Message to the active adapter", show_label=False, container=False, placeholder="Write a message", lines=1,
                    max_lines=4, max_length=20_000, scale=1, min_width=100,
                )  # fmt: skip
                parts["send"] = gr.Button("Send", variant="primary", elem_classes="ask", min_width=72)
                parts["stop"] = gr.Button("Stop", variant="stop", visible=False, elem_classes="ask", min_width=72)
            with gr.Row(elem_classes="acts"):
                parts["base"] = gr.Button("Back to the base", size="sm")
    return AdaptersTab(**parts, export_row=export_row, actions=actions, rename_row=rename_row, delete_row=delete_row)


def _blend() -> dict[str, Any]:
    with gr.Column(elem_classes="card folds"), gr.Accordion("Blend several into one", open=False) as fold:
        gr.HTML(html.note(blend.IDEA))
        parts = Dropdown([], multiselect=True, max_choices=blend.MOST, label="Adapters to blend")
        weights = [gr.Slider(-1, 2, value=0.5, step=0.05, label="How much", visible=False) for _ in range(blend.MOST)]
        how = gr.Radio(blend.WAYS, value="linear", label="How", container=False, show_label=False)
        name = gr.Textbox("blend", label="Name of the blend", max_length=64)
        with gr.Row(elem_classes="acts"):
            make = gr.Button("Blend and listen", variant="primary", size="sm", interactive=False)
    return {"blend": fold, "parts": parts, "weights": weights, "how": how, "blend_name": name, "make": make}


def wire(services: Any, tab: AdaptersTab) -> None:
    _wire_blend(services, tab)
    push.wire(services, tab.push, tab.chosen)
    picked = tab.listing.pick(
        bind_pick(services, library.pick),
        [tab.chosen, tab.active],
        [tab.chosen, tab.active, tab.listing, tab.message, tab.actions, tab.use, tab.rename_row, tab.delete_row, tab.download],
        **QUIET,
    )
    picked.then(bind(services, chat.turned), [tab.log, tab.active], [tab.log, tab.chat, tab.title], **QUIET)
    tab.rename.click(bind(services, library.ask_rename), tab.chosen, [tab.rename_row, tab.new_name, tab.delete_row], **QUIET)
    gr.on(
        [tab.save.click, tab.new_name.submit], bind(services, library.rename), [tab.chosen, tab.active, tab.new_name],
        [tab.listing, tab.message, tab.rename_row], **QUIET,
    )  # fmt: skip
    tab.keep_name.click(lambda: gr.update(visible=False), None, tab.rename_row, **QUIET)
    tab.delete.click(bind(services, library.ask_remove), tab.chosen, [tab.delete_row, tab.question, tab.rename_row], **QUIET)
    tab.no.click(lambda: gr.update(visible=False), None, tab.delete_row, **QUIET)
    tab.yes.click(
        bind(services, library.remove),
        [tab.chosen, tab.active],
        [tab.chosen, tab.active, tab.listing, tab.message, tab.actions, tab.rename_row, tab.delete_row, tab.download],
        **QUIET,
    ).then(bind(services, chat.turned), [tab.log, tab.active], [tab.log, tab.chat, tab.title], **QUIET)
    tab.upload.upload(
        bind(services, library.import_file), [tab.upload, tab.chosen, tab.active], [tab.listing, tab.message], **QUIET
    )
    tab.export.click(lambda: gr.update(visible=True), None, tab.export_row, **QUIET)
    tab.leave_export.click(lambda: gr.update(visible=False), None, tab.export_row, **QUIET)
    written = tab.write.click(
        bind_stream(services, library.export),
        [tab.chosen, tab.format],
        [tab.download, tab.message, tab.write, tab.stop_export],
        **QUIET,
    )
    tab.stop_export.click(lambda: library.stopped(), None, [tab.message, tab.write, tab.stop_export], cancels=[written], **QUIET)

    sent = gr.on(
        [tab.send.click, tab.box.submit], bind_stream(services, chat.send), [tab.log, tab.box, tab.active],
        [tab.log, tab.chat, tab.box, tab.error, tab.send, tab.stop], trigger_mode="once", **QUIET,
    )  # fmt: skip
    tab.stop.click(None, None, None, cancels=[sent], **QUIET).then(
        bind(services, chat.stop), tab.log, [tab.log, tab.chat, tab.send, tab.stop], **QUIET
    )
    tab.base.click(bind(services, chat.to_base), tab.log, [tab.active, tab.log, tab.chat, tab.title], **QUIET).then(
        bind(services, library.show), [tab.chosen, tab.active], tab.listing, **QUIET
    )


def _wire_blend(services: Any, tab: AdaptersTab) -> None:
    tab.blend.expand(bind(services, blend.offered), None, tab.parts, **QUIET)
    tab.parts.input(bind(services, blend.chosen), tab.parts, [*tab.weights, tab.make], **QUIET)
    asked = [tab.parts, tab.how, tab.blend_name, tab.made, tab.active, *tab.weights]
    shown = [tab.made, tab.chosen, tab.active, tab.listing, tab.message]
    chat_shown = [tab.log, tab.chat, tab.title]
    for event in (
        tab.make.click(bind_stream(services, blend.make), asked, shown, **QUIET),
        gr.on(
            [*(weight.release for weight in tab.weights), tab.how.input],
            bind_stream(services, blend.moved),
            asked,
            shown,
            **QUIET,
        ),
    ):
        event.then(bind(services, chat.turned), [tab.log, tab.active], chat_shown, **QUIET).then(
            lambda: gr.update(visible=True), None, tab.actions, **QUIET
        )
