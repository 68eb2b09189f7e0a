"""Storage in the Device panel: what lies on disk, item by item, and how to be rid of it. Nothing goes without a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.services.storage import ADAPTER, BASE, CHECKPOINTS, PASSING, PROMPTS, RUN, UPLOAD, VERDICT
from playground.ui import html
from playground.ui.failure import card
from playground.ui.figures import plural, size
from playground.ui.runs import PICK_JS
from playground.ui.wiring import QUIET, Visitor, bind, bind_pick, hidden_slot, slot

TITLES = {
    BASE: "Bases", ADAPTER: "Adapters", RUN: "Runs", CHECKPOINTS: "Checkpoints of ended runs", VERDICT: "Verdicts", PROMPTS: "Prompts", UPLOAD: "Uploads", PASSING: "Passing through",
}  # fmt: skip
NOUNS = {
    BASE: "base", ADAPTER: "adapter", RUN: "run", CHECKPOINTS: "checkpoint folder", VERDICT: "verdict", PROMPTS: "list of prompts", UPLOAD: "upload", PASSING: "folder of passing files",
}  # fmt: skip
NOUNS_MANY = {PASSING: "folders of passing files", PROMPTS: "lists of prompts"}
ALL_OF = {
    BASE: "Remove those not in use", ADAPTER: "Delete all adapters", RUN: "Remove ended runs", CHECKPOINTS: "Free checkpoints of ended runs",
    VERDICT: "Delete all verdicts", PROMPTS: "Delete all prompts", UPLOAD: "Remove uploads", PASSING: "Remove them now",
}  # fmt: skip
CONSEQUENCES = {
    BASE: "A base is fetched and converted anew when it is next chosen.",
    ADAPTER: "Its files go for good; a run can make it again.",
    RUN: "The curve and the log go for good; the adapter it made stays.",
    CHECKPOINTS: "A failed or cancelled run can then not go on from where it stopped.",
    VERDICT: "Its figures and replies go for good; it can be measured anew.",
    PROMPTS: "Every version that was kept goes for good, with its scores.",
    UPLOAD: "Runs keep the copy they train on.",
    PASSING: "A download that has not begun has to be packed again.",
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

    @property
    def asking(self) -> list[Any]:
        return [self.asked, self.words, self.question, self.yes, self.message]


def build(services: Any) -> StorageView:
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


def wire(services: Any, view: StorageView) -> None:
    view.fold.expand(bind(services, show), None, view.shown, **QUIET)
    view.listing.pick(bind_pick(services, ask), None, view.asking, **QUIET)
    view.everything.click(bind(services, ask, EVERYTHING), None, view.asking, **QUIET)
    view.no.click(lambda: ["", gr.update(visible=False)], None, [view.asked, view.question], **QUIET)
    view.yes.click(
        bind(services, remove), view.asked, [view.asked, view.question, view.message, *view.shown], trigger_mode="once", **QUIET
    )


def notice(settings: Any, where: str = "in the Device panel") -> str:
    """What is kept of a visitor, and for how long. where: to delete it earlier."""
    return (
        "What you upload, train and import is seen by nobody else here. It stays until "
        f"{plural(settings.keep_hours, 'hour')} after your last visit from this browser, at most {size(settings.session_disk_bytes)} "
        f"of it; then it is deleted. Delete it yourself at any time {where}."
    )


def show(services: Any, visitor: Visitor) -> list[Any]:
    """The fold's label, and the list."""
    try:
        items, free = services.storage.items(visitor.owner), services.storage.free_bytes()
    except Exception as error:
        return [gr.skip(), card(error)]
    whole = size(sum(item.bytes for item in items)) if items else "empty"
    return [gr.update(label=f"Storage: {whole}"), list_html(items, free, services.settings.shared)]


def list_html(items: Sequence[Any], free: int, shared: bool) -> str:
    if not items:
        nothing = "You have nothing stored here." if shared else "Nothing is stored yet."
        return html.note(nothing)
    parts = [] if shared else [html.note(f"{size(free)} of the disk are free.")]
    for kind, title in TITLES.items():
        mine = sorted((item for item in items if item.kind == kind), key=lambda item: -item.bytes)
        if not mine:
            continue
        held = size(sum(item.bytes for item in mine))
        parts.append(f"<h3>{html.esc(title)}<span>{held}</span></h3>")
        parts.append(f"<ul>{''.join(_row(item) for item in mine[:_LISTED])}</ul>")
        if len(mine) > _LISTED:
            parts.append(html.note(f"The largest {_LISTED} of {len(mine):,}."))
        if sum(not item.stays for item in mine) > 1 or kind in (CHECKPOINTS, UPLOAD):
            parts.append(_button(f"{kind}:", ALL_OF[kind], "whole"))
    return f'<div class="storage">{"".join(parts)}</div>'


def _row(item: Any) -> str:
    why = item.stays.removeprefix("it is ").removeprefix("it ")
    act = f'<span class="q">{html.esc(why)}</span>' if why else _button(f"{item.kind}:{item.id}", "Remove", "", item.name)
    return f'<li><span class="what">{html.esc(item.name)}<span class="q">{size(item.bytes)}</span></span>{act}</li>'


def _button(id: str, text: str, kind: str, about: str = "") -> str:
    label = f' aria-label="{html.esc(f"{text} {about}")}"' if about else ""
    return f'<button type="button" class="{html.esc(kind)}" data-id="{html.esc(id)}"{label}>{html.esc(text)}</button>'


def ask(services: Any, visitor: Visitor, wanted: str) -> list[Any]:
    """The question. ``wanted`` comes from the page: ``KIND:ID``, ``KIND:`` for all of a kind, or ``everything``.

    Returns asked, words, question, Yes, message."""
    try:
        words = question_of(services, visitor, wanted)
    except Exception as error:
        return ["", "", gr.update(visible=False), gr.skip(), slot(card(error))]
    yes = "Yes, delete it all" if wanted == EVERYTHING else "Yes, remove"
    return [wanted, html.note(words), gr.update(visible=True), yes, slot("")]


def question_of(services: Any, visitor: Visitor, wanted: str) -> str:
    kind, _, id = wanted.partition(":")
    if wanted == EVERYTHING:
        items = services.storage.items(visitor.owner)
        what = f"{counted(items)}, {size(sum(item.bytes for item in items))}" if items else "nothing is stored yet"
        return f"Delete everything of yours here ({what})? A run that waits or trains is cancelled. It goes for good."
    if id:
        item = services.storage.find(kind, id, visitor.owner)
        return f"Remove “{item.name}”, {size(item.bytes)}? {CONSEQUENCES[kind]}"
    items = [item for item in services.storage.items(visitor.owner) if item.kind == kind and not item.stays]
    held = size(sum(item.bytes for item in items))
    return f"{ALL_OF.get(kind, 'Remove')} ({counted(items) or 'none'}, {held})? {CONSEQUENCES.get(kind, '')}".strip()


def remove(services: Any, visitor: Visitor, asked: str) -> list[Any]:
    """After Yes. Returns asked, question, message, then what ``show`` does."""
    kind, _, id = asked.partition(":")
    try:
        if asked == EVERYTHING:
            done = services.storage.remove_everything(visitor.owner)
        elif id:
            done = services.storage.remove(kind, id, visitor.owner)
        else:
            done = services.storage.remove_kind(kind, visitor.owner)
        text = done_html(done)
    except Exception as error:
        text = card(error)
    return ["", gr.update(visible=False), slot(text), *show(services, visitor)]


def done_html(done: Any) -> str:
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


def counted(items: Sequence[Any]) -> str:
    """``2 uploads, 1 run and 1 adapter``."""
    counts = [(sum(item.kind == kind for item in items), kind) for kind in TITLES]
    words = [plural(count, NOUNS[kind], NOUNS_MANY.get(kind, "")) for count, kind in counts if count]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
