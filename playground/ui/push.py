"""Push an adapter to the person's own place on the hub: a fold of the Adapters tab."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.ui import html
from playground.ui.failure import card
from playground.ui.wiring import QUIET, Visitor, bind_stream, hidden_slot, slot

NOTE = (
    "The chosen adapter goes to the hub with its model card, under your name. It may repeat what stood in its rows: share it only if "
    "you may share them. Your token is used for this once and is not kept."
)


@dataclass(frozen=True)
class PushView:
    repo: gr.Textbox
    token: gr.Textbox
    private: gr.Checkbox
    send: gr.Button
    said: gr.HTML


def build() -> PushView:
    with gr.Column(elem_classes="card folds"), gr.Accordion("Push to the Hugging Face Hub", open=False):
        gr.HTML(html.note(NOTE))
        repo = gr.Textbox(label="Where it goes", placeholder="your-name/hospital-reports", max_length=200)
        token = gr.Textbox(label="Your token, with write access", type="password", max_length=400)
        private = gr.Checkbox(True, label="Private: only you see it")
        send = gr.Button("Push it", variant="primary", size="sm", elem_classes="fit")
        said = hidden_slot()
    return PushView(repo, token, private, send, said)


def wire(services: Any, view: PushView, chosen: gr.State) -> None:
    view.send.click(
        bind_stream(services, push), [chosen, view.repo, view.token, view.private], [view.token, view.send, view.said],
        trigger_mode="once", **QUIET,
    )  # fmt: skip


def push(services: Any, visitor: Visitor, chosen: str, repo: str, token: str, private: bool) -> Iterator[list[Any]]:
    """Yields the token's box (emptied at once), the button, and what came of it."""
    ready = gr.update(value="Push it", interactive=True)
    if not chosen:
        yield ["", ready, slot(html.note("Choose an adapter in the list above first."))]
        return
    yield [
        "",
        gr.update(value="Pushing", interactive=False),
        slot(html.note("Sending the files. A small adapter takes some seconds.")),
    ]
    try:
        address = services.pusher.push(chosen, repo or "", token or "", private=bool(private), owner=visitor.owner)
        yield [gr.skip(), ready, slot(html.good(f"It is at {address}"))]
    except Exception as error:
        yield [gr.skip(), ready, slot(card(error))]
