"""Storage in the Device panel: what lies on disk, item by item, and how to be rid of it. Nothing goes without a
question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from playground.errors import NotFoundError, PlaygroundError
from playground.services import Services
from playground.settings import Settings
from playground.ui import html
from playground.ui.html import card, plural, size
from playground.ui.runs import PICK_JS
from playground.ui.wiring import PICKED, Updates, Visitor, hidden_slot, listen, slot
from playground.workspace.storage import ADAPTER, BASE, CHECKPOINTS, PASSING, PROMPTS, RUN, UPLOAD, VERDICT, Freed, Item


@dataclass(frozen=True)
class Kind:
    """How a kind of item is named, what the button for all of it says, and what is lost with it."""

    title: str
    noun: str
    all_of: str
    consequence: str
    nouns: str = ""


KINDS = {
    BASE: Kind(
        "Bases",
        "base",
        "Remove those not in use",
        "A base is fetched and converted anew when it is next chosen.",
    ),
    ADAPTER: Kind("Adapters", "adapter", "Delete all adapters", "Its files go for good; a run can make it again."),
    RUN: Kind("Runs", "run", "Remove ended runs", "The curve and the log go for good; the adapter it made stays."),
    CHECKPOINTS: Kind(
        "Checkpoints of ended runs",
        "checkpoint folder",
        "Free checkpoints of ended runs",
        "A failed or cancelled run can then not go on from where it stopped.",
    ),
    VERDICT: Kind(
        "Verdicts",
        "verdict",
        "Delete all verdicts",
        "Its figures and replies go for good; it can be measured anew.",
    ),
    PROMPTS: Kind(
        "Prompts",
        "list of prompts",
        "Delete all prompts",
        "Every version that was kept goes for good, with its scores.",
        "lists of prompts",
    ),
    UPLOAD: Kind("Uploads", "upload", "Remove uploads", "Runs keep the copy they train on."),
    PASSING: Kind(
        "Passing through",
        "folder of passing files",
        "Remove them now",
        "A download that has not begun has to be packed again.",
        "folders of passing files",
    ),
}
EVERYTHING = "everything"
_LISTED = 40


@dataclass(frozen=True)
class StorageView:
    """asked: what the open question is about, as a button names it."""

    asked: gr.State
    fold: gr.Accordion
    listing: gr.HTML
    message: gr.HTML
    question: gr.Column
    words: gr.HTML
    yes: gr.Button
    no: gr.Button
    everything: gr.Button

    @property
    def shown(self) -> list[Any]:
        return [self.fold, self.listing]


def build(services: Services) -> StorageView:
    shared = services.settings.shared
    asked = gr.State("")
    if shared:
        gr.HTML(f"<h3>What is kept</h3>{html.note(notice(services.settings, 'with the button below'))}")
    everything = gr.Button("Delete my data", size="sm", variant="stop", visible=shared, elem_classes="fit")
    with gr.Column(visible=False, elem_classes="in-place in-sight") as question:
        words = gr.HTML("")
        with gr.Row(elem_classes="acts"):
            yes = gr.Button("Yes, remove", variant="stop", size="sm", min_width=90)
            no = gr.Button("Keep", size="sm", min_width=60)
    message = hidden_slot(elem_classes="in-sight")
    with gr.Accordion("Storage", open=False, elem_classes="picker") as fold:
        listing = gr.HTML("", js_on_load=PICK_JS)
    return StorageView(asked, fold, listing, message, question, words, yes, no, everything)


def wire(services: Services, view: StorageView) -> None:
    on = partial(listen, services, failure=view.message)
    on(view.fold.expand, show, view, view.shown)
    asking = [view.asked, view.words, view.question, view.yes]
    on(view.listing.pick, ask, view, asking, picked=PICKED)
    on(view.everything.click, partial(ask, picked=EVERYTHING), view, asking)
    on(view.no.click, keep, view, [view.asked, view.question])
    on(view.yes.click, remove, view, [view.asked, view.question, *view.shown], asked=view.asked)


def notice(settings: Settings, where: str = "in the Device panel") -> str:
    """What is kept of a visitor, and for how long. where: to delete it earlier."""
    return (
        "What you upload, train and import is seen by nobody else here. It stays until"
        f" {plural(settings.keep_hours, 'hour')} after your last visit from this browser, at most"
        f" {size(settings.session_disk_bytes)} of it; then it is deleted. Delete it yourself at any time {where}."
    )


def show(services: Services, visitor: Visitor, view: StorageView) -> Updates:
    """The fold's label, and the list."""
    items, free = services.storage.items(visitor.owner), services.storage.free_bytes()
    whole = size(sum(item.bytes for item in items)) if items else "empty"
    listing = list_html(items, free, services.settings.shared)
    return {view.fold: gr.update(label=f"Storage: {whole}"), view.listing: listing}


def list_html(items: Sequence[Item], free: int, shared: bool) -> str:
    if not items:
        nothing = "You have nothing stored here." if shared else "Nothing is stored yet."
        return html.note(nothing)
    parts = [] if shared else [html.note(f"{size(free)} of the disk are free.")]
    for kind, words in KINDS.items():
        mine = sorted((item for item in items if item.kind == kind), key=lambda item: -item.bytes)
        if not mine:
            continue
        held = size(sum(item.bytes for item in mine))
        parts.append(f"<h3>{html.esc(words.title)}<span>{held}</span></h3>")
        parts.append(f"<ul>{''.join(_row(item) for item in mine[:_LISTED])}</ul>")
        if len(mine) > _LISTED:
            parts.append(html.note(f"The largest {_LISTED} of {len(mine):,}."))
        if sum(not item.stays for item in mine) > 1 or kind in (CHECKPOINTS, UPLOAD):
            parts.append(_button(f"{kind}:", words.all_of, "whole"))
    return f'<div class="storage">{"".join(parts)}</div>'


def _row(item: Item) -> str:
    why = item.stays.removeprefix("it is ").removeprefix("it ")
    act = (
        f'<span class="q">{html.esc(why)}</span>' if why else _button(f"{item.kind}:{item.id}", "Remove", "", item.name)
    )
    return f'<li><span class="what">{html.esc(item.name)}<span class="q">{size(item.bytes)}</span></span>{act}</li>'


def _button(id: str, text: str, kind: str, about: str = "") -> str:
    label = f' aria-label="{html.esc(f"{text} {about}")}"' if about else ""
    return f'<button type="button" class="{html.esc(kind)}" data-id="{html.esc(id)}"{label}>{html.esc(text)}</button>'


def ask(services: Services, visitor: Visitor, view: StorageView, *, picked: str) -> Updates:
    """The question before anything is removed. ``picked`` comes from the page: ``KIND:ID``, ``KIND:`` for all of a
    kind, or ``everything``."""
    try:
        words = question_of(services, visitor, picked)
    except PlaygroundError as error:
        return {**keep(services, visitor, view), view.message: slot(card(error))}
    yes = "Yes, delete it all" if picked == EVERYTHING else "Yes, remove"
    return {view.asked: picked, view.words: html.note(words), view.question: gr.update(visible=True), view.yes: yes}


def keep(services: Services, visitor: Visitor, view: StorageView) -> Updates:
    """The question is taken back."""
    return {view.asked: "", view.question: gr.update(visible=False)}


def question_of(services: Services, visitor: Visitor, wanted: str) -> str:
    kind, _, id = wanted.partition(":")
    if wanted == EVERYTHING:
        items = services.storage.items(visitor.owner)
        what = f"{counted(items)}, {size(sum(item.bytes for item in items))}" if items else "nothing is stored yet"
        return f"Delete everything of yours here ({what})? A run that waits or trains is cancelled. It goes for good."
    if id:
        item = services.storage.find(kind, id, visitor.owner)
        return f"Remove “{item.name}”, {size(item.bytes)}? {KINDS[item.kind].consequence}"
    if kind not in KINDS:
        raise NotFoundError("There is nothing of this kind.")
    items = [item for item in services.storage.items(visitor.owner) if item.kind == kind and not item.stays]
    held = size(sum(item.bytes for item in items))
    return f"{KINDS[kind].all_of} ({counted(items) or 'none'}, {held})? {KINDS[kind].consequence}"


def remove(services: Services, visitor: Visitor, view: StorageView, *, asked: str) -> Updates:
    """After Yes."""
    kind, _, id = asked.partition(":")
    try:
        if asked == EVERYTHING:
            done = services.storage.remove_everything(visitor.owner)
        elif id:
            done = services.storage.remove(kind, id, visitor.owner)
        else:
            done = services.storage.remove_kind(kind, visitor.owner)
        text = done_html(done)
    except Exception as error:  # whatever failed, the question closes and the list says what is left
        text = card(error)
    return {**keep(services, visitor, view), view.message: slot(text), **show(services, visitor, view)}


def done_html(done: Freed) -> str:
    """What a removal did, in words."""
    said = (
        html.good(f"Removed: {counted(done.items)}, {size(done.bytes)}.")
        if done.items
        else html.note("There was nothing to remove.")
    )
    if done.stopping:
        verb = (
            "is still stopping and goes as soon as it has"
            if done.stopping == 1
            else "are still stopping and go as soon as they have"
        )
        said += html.note(f"{plural(done.stopping, 'run')} {verb}.")
    for item in [item for item in done.stayed if item.kind != RUN or not done.stopping][:5]:
        said += html.note(f"{item.name} stays: {item.stays}.")
    return said


def counted(items: Sequence[Item]) -> str:
    """``2 uploads, 1 run and 1 adapter``."""
    counts = [(sum(item.kind == kind for item in items), kind) for kind in KINDS]
    words = [plural(count, KINDS[kind].noun, KINDS[kind].nouns) for count, kind in counts if count]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
