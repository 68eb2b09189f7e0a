"""The Adapters tab: the adapters of one frozen base, a chat that swaps between them, blending, a push to the hub."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency
from markupsafe import Markup

from playground.chat.compare import Side
from playground.engine.request import Sampling
from playground.errors import InputError
from playground.jobs import Job
from playground.library.adapters import AdapterCard
from playground.methods import all_methods
from playground.models.adapters import AdapterRow
from playground.plain import and_left
from playground.services import Services
from playground.ui import html, servers, side, wiring, words
from playground.ui.html import FAILURES, card, size
from playground.ui.runs import PICK_JS
from playground.ui.side import Log, Setup, method_label
from playground.ui.sidebar import require
from playground.ui.wiring import AWAY, QUIET, Dropdown, Stream, Updates, Visit, appear, hidden_slot, listen, slot

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
FORMATS = [
    ("PEFT folder, for anything that reads PEFT", "peft"),
    ("Merged model, for anything that reads safetensors", "merged"),
    ("GGUF file, for llama.cpp and its kin", "gguf"),
]
STOPPED = "Stopped. What has arrived is kept for a day: fetch it again, and it goes on from there."
_listed, switched_html = html.piece("chat", "adapters"), html.piece("chat", "switched")


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

    def __init__(self, *, shared: bool) -> None:
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
                self.held_out = gr.DownloadButton("Download", size="sm", visible=False, elem_classes="fit")
                self._build_hub(shared=shared)
                self._build_blend()
                self.handover = servers.HandoverView(shared=shared)
                self.push = PushView()
            with gr.Column(scale=5, min_width=300, elem_classes="card rail one-pane"):
                self._build_chat()
        self.folds = [self.rename_row, self.delete_row, self.download]

    def _build_acts(self) -> None:
        small, place = partial(gr.Button, size="sm"), partial(gr.Column, visible=False, elem_classes="in-place")
        with gr.Row(elem_classes="acts", visible=False) as self.actions:
            self.use = small("Use as side B", variant="primary")
            self.export, self.rename, self.delete = small("Export"), small("Rename"), small("Delete")
        with place() as self.export_row:
            self.format = gr.Radio(FORMATS, value="peft", label="Export as", **wiring.BARE)
            with gr.Row(elem_classes="acts"):
                self.write = small("Write it", variant="primary")
                self.stop_export = small("Stop", variant="stop", visible=False)
                self.leave_export = small("Leave it")
        self.download = gr.DownloadButton("Download", size="sm", visible=False, elem_classes="fit")
        with gr.Row(visible=False, elem_classes="acts in-place") as self.rename_row:
            self.name = gr.Textbox(label="New name", max_length=64, min_width=180, **wiring.BARE)
            self.save, self.keep_name = small("Save the name"), small("Leave it")
        with place() as self.delete_row:
            self.asked = gr.HTML("")
            with gr.Row(elem_classes="acts"):
                self.yes, self.no = small("Yes, delete", variant="stop"), small("Keep")

    def _build_hub(self, *, shared: bool) -> None:
        label = "Or name an adapter of the hub"
        with gr.Column(elem_classes="card folds", visible=not shared), gr.Accordion(label, open=False):
            hint = "owner/name, or owner/name@revision"
            self.hub_id = gr.Textbox(label="Adapter", max_lines=1, max_length=200, placeholder=hint)
            with gr.Row(elem_classes="acts"):
                self.fetch = gr.Button("Fetch and import it", size="sm", elem_classes="fit")
                self.stop_fetch = gr.Button("Stop", size="sm", variant="stop", visible=False)

    def _build_blend(self) -> None:
        label = "Blend several into one"
        with gr.Column(elem_classes="card folds"), gr.Accordion(label, open=False) as self.blend_fold:
            gr.HTML(html.note(IDEA))
            self.parts = Dropdown([], multiselect=True, max_choices=MOST, label="Adapters to blend")
            share = partial(gr.Slider, -1, 2, value=0.5, step=0.05, label="How much", visible=False)
            self.weights = [share() for _ in range(MOST)]
            self.how = gr.Radio(WAYS, value="linear", label="How", **wiring.BARE)
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
            label, button = "Message to the active adapter", partial(gr.Button, elem_classes="ask", min_width=72)
            lines: dict[str, Any] = {"lines": 1, "max_lines": 4, "max_length": 20_000, "scale": 1, "min_width": 100}
            self.question = gr.Textbox(label=label, placeholder="Write a message", **wiring.BARE, **lines)
            self.send, self.stop = button("Send", variant="primary"), button("Stop", variant="stop", visible=False)
        with gr.Row(elem_classes="acts"):
            self.base = gr.Button("Back to the base", size="sm")


def wire(services: Services, tab: AdaptersTab) -> None:
    on = partial(listen, services, tab, failure=tab.message)
    chat = [tab.log, tab.chat]

    def then_turned(event: Dependency) -> Dependency:
        return listen(services, tab, event.then, turned, [*chat, tab.title])

    picked = [tab.chosen, tab.active, tab.listing, tab.actions, tab.use, *tab.folds]
    then_turned(on(tab.listing.pick, pick, picked))
    on(tab.rename.click, ask_rename, [tab.rename_row, tab.name, tab.delete_row])
    on([tab.save.click, tab.name.submit], rename, [tab.listing, tab.rename_row])
    on(tab.delete.click, ask_remove, [tab.delete_row, tab.asked, tab.rename_row])
    removed = [tab.chosen, tab.active, tab.listing, tab.actions, *tab.folds]
    then_turned(on(tab.yes.click, remove, removed, restored={tab.delete_row: AWAY}))
    on(tab.upload.upload, import_file, [tab.listing, tab.held_out], uploaded=tab.upload)
    busy: Updates = {tab.stop_fetch: AWAY, tab.fetch: gr.update(interactive=True)}
    fetching = on([tab.fetch.click, tab.hub_id.submit], fetch, [tab.listing, tab.held_out], restored=busy)
    on(tab.stop_fetch.click, fetch_stopped, list(busy), cancels=[fetching])
    appear(tab.export.click, tab.export_row)
    for button, row in (tab.keep_name, tab.rename_row), (tab.no, tab.delete_row), (tab.leave_export, tab.export_row):
        appear(button.click, row, visible=False)
    idle = writing(tab, busy=False)
    written = on(tab.write.click, export, restored={tab.download: AWAY, **idle})
    on(tab.stop_export.click, export_stopped, list(idle), cancels=[written])

    sending = [*chat, tab.question, tab.send, tab.stop]
    sent = listen(services, tab, [tab.send.click, tab.question.submit], send, sending, failure=tab.error)
    stopped = tab.stop.click(None, None, None, cancels=[sent], **QUIET)
    listen(services, tab, stopped.then, stop, [*chat, tab.send, tab.stop])
    listen(services, tab, tab.base.click, to_base, [tab.active, tab.listing, *chat, tab.title])

    listen(services, tab, tab.blend_fold.expand, offered, tab.parts)
    listen(services, tab, tab.parts.input, chosen, [*tab.weights, tab.make])
    outputs, moves = [tab.made, tab.chosen, tab.active, tab.listing], [weight.release for weight in tab.weights]
    for events, handler in ((tab.make.click, make), ([*moves, tab.how.input], moved)):
        appear(then_turned(on(events, handler, outputs, **tab.blend)).then, tab.actions)
    servers.wire_handover(services, tab.handover, tab.chosen)
    view = tab.push
    ready = {view.token: "", **_push_button(view, busy=False)}
    listen(services, view, view.send.click, push, list(ready), failure=view.result, restored=ready, chosen=tab.chosen)


# The list, and the chat with the active adapter


def list_html(rows: Sequence[AdapterRow], chosen: str = "", active: str = "") -> str:
    return _listed(rows, chosen, active, method_label) if rows else html.empty(words.ADAPTERS_EMPTY)


def _find(visit: Visit, adapter_id: str) -> AdapterRow:
    row = next((one for one in visit.services.adapters.list(visit.owner) if one.card.id == adapter_id), None)
    if row is None:
        raise InputError(words.PICK_FIRST)
    return row


def show(visit: Visit, tab: AdaptersTab, *, chosen: str, active: str) -> Updates:
    return {tab.listing: list_html(visit.services.adapters.list(visit.owner), chosen, active)}


def pick(visit: Visit, tab: AdaptersTab, *, picked: str, active: str) -> Updates:
    """A row was pressed: make it active. The id comes from the page, so it is looked up among the visitor's own."""
    row = _find(visit, picked)
    message = html.error_card(html.sentence(row.reason) or "This adapter was made for another base.")
    if row.usable:
        try:
            require(visit.services)
            message = switched_html(row.card.name, visit.services.adapters.switch(picked, visit.owner))
            active = picked
        except FAILURES as error:  # the row is chosen all the same, and can be renamed, exported or deleted
            message = card(error)
    return {
        tab.chosen: picked,
        tab.active: active,
        **show(visit, tab, chosen=picked, active=active),
        tab.message: slot(message),
        tab.actions: gr.update(visible=True),
        tab.use: gr.update(interactive=row.usable),
        **dict.fromkeys(tab.folds, AWAY),
    }


def ask_rename(visit: Visit, tab: AdaptersTab, *, chosen: str) -> Updates:
    name = _find(visit, chosen).card.name
    return {tab.rename_row: gr.update(visible=True), tab.name: name, tab.delete_row: AWAY}


def rename(visit: Visit, tab: AdaptersTab, *, chosen: str, active: str, name: str) -> Updates:
    renamed = visit.services.adapters.rename(chosen, name.strip(), visit.owner)
    message, listed = (html.good(f"Renamed to {renamed.name}."), show(visit, tab, chosen=chosen, active=active))
    return {**listed, tab.message: slot(message), tab.rename_row: AWAY}


def ask_remove(visit: Visit, tab: AdaptersTab, *, chosen: str) -> Updates:
    name = _find(visit, chosen).card.name
    question = html.note(f"Delete {name}? Its files go for good; a run can make it again.")
    return {tab.delete_row: gr.update(visible=True), tab.asked: question, tab.rename_row: AWAY}


def remove(visit: Visit, tab: AdaptersTab, *, chosen: str, active: str) -> Updates:
    name = _find(visit, chosen).card.name
    visit.services.adapters.remove(chosen, visit.owner)
    active, gone = "" if active == chosen else active, slot(html.good(f"{name} is deleted."))
    updates: Updates = {tab.chosen: "", tab.active: active, tab.message: gone}
    updates |= dict.fromkeys((tab.actions, *tab.folds), AWAY)
    return updates | show(visit, tab, chosen="", active=active)


def import_file(visit: Visit, tab: AdaptersTab, *, uploaded: list[str] | None, chosen: str, active: str) -> Updates:
    imported = visit.services.adapters.import_uploads([Path(file) for file in uploaded or []], visit.owner)
    return {**show(visit, tab, chosen=chosen, active=active), **_imported(visit, tab, imported)}


def _imported(visit: Visit, tab: AdaptersTab, card: AdapterCard) -> Updates:
    done, offered = html.good(f"{card.name} is imported: {method_label(card)}, {size(card.bytes)}."), AWAY
    back = visit.services.handover.returned(card, visit.owner)
    words = [*card.notes, *(back.words if back is not None else ())]
    if back is not None and back.held_out is not None:
        words.append("Drop the file of those rows on the Verdict tab, with this adapter as a side")
        rows = back.held_out.read_text(encoding="utf-8")
        offered = _offer(visit.services.data.download(back.held_out.name, rows, visit.owner))
    said = Markup().join([done, *(html.note(html.sentence(one)) for one in words)])
    return {tab.message: slot(said), tab.held_out: offered}


def fetch(visit: Visit, tab: AdaptersTab, *, hub_id: str, chosen: str, active: str) -> Stream:
    """An adapter of the hub; closing it stops the fetching, and what has arrived is kept for a day."""
    name, found = (hub_id or "").strip(), list[AdapterCard]()

    def work(job: Job) -> None:
        def tell(phase: str, done: int, of: int) -> None:
            job.check(STOPPED)
            job.report(phase, done, of)

        found.append(visit.services.adapters.import_hub(name, visit.owner, tell))

    job = visit.services.jobs.start(f"import {name}", work, "The import", busy=f"{name} is being fetched already.")
    busy: Updates = {tab.stop_fetch: gr.update(visible=True), tab.fetch: gr.update(interactive=False)}
    with closing(job.follow()) as following:
        for now in following:
            said = f"Fetching {name}, {size(now.done)} of {size(now.of)}" if now.of else f"Asking the hub for {name}"
            bar = html.progress(now.done / now.of if now.of else 0.0, said)
            yield {tab.message: slot(bar + html.note(said + and_left(job.seconds_left if now.of else None))), **busy}
    if job.error:
        raise InputError(job.error)
    listed = show(visit, tab, chosen=chosen, active=active)
    done: Updates = {tab.stop_fetch: AWAY, tab.fetch: gr.update(interactive=True)}
    yield listed | done | _imported(visit, tab, found[0])


def fetch_stopped(visit: Visit, tab: AdaptersTab) -> Updates:
    return {tab.stop_fetch: AWAY, tab.fetch: gr.update(interactive=True), tab.message: slot(html.note(STOPPED))}


def export(visit: Visit, tab: AdaptersTab, *, chosen: str, format: str) -> Stream:
    if format == "peft":
        yield _ready(tab, visit.services.adapters.export_zip(chosen, visit.owner))
        return
    for step in visit.services.exporter.export(chosen, format, visit.owner):
        if step.file is not None:
            yield {**_ready(tab, step.file), **writing(tab, busy=False)}
        else:
            bar = html.progress(step.share, step.phase) + html.note(f"{step.phase}. About a minute for a small base.")
            yield {tab.download: AWAY, tab.message: slot(bar), **writing(tab, busy=True)}


def export_stopped(visit: Visit, tab: AdaptersTab) -> Updates:
    return {tab.message: slot(html.note("Stopped; nothing was written.")), **writing(tab, busy=False)}


def writing(tab: AdaptersTab, *, busy: bool) -> Updates:
    return {tab.write: gr.update(visible=not busy), tab.stop_export: gr.update(visible=busy)}


def _ready(tab: AdaptersTab, file: Path) -> Updates:
    return {tab.download: _offer(file), tab.message: slot("")}


def _offer(file: Path) -> Any:
    label = f"Download {file.name}, {size(file.stat().st_size)}"
    return gr.update(value=str(file), label=label, visible=True)


def _chat(tab: AdaptersTab, log: Log) -> Updates:
    return {tab.log: log, tab.chat: log.messages()}


def _sending(tab: AdaptersTab, *, busy: bool) -> Updates:
    return {tab.send: gr.update(visible=not busy), tab.stop: gr.update(visible=busy)}


def _settled(visit: Visit, log: Log, active: str) -> Log:
    name = side.labels(visit).get(active or "base", words.BASE_LABEL)
    return log.settled(Setup(active or "base"), name)


def turned(visit: Visit, tab: AdaptersTab, *, log: Log, active: str) -> Updates:
    name = side.labels(visit).get(active or "base", words.BASE_LABEL)
    hint = "Press another adapter on the left and go on; the base stays where it is."
    title = html.heading(f"Chat with {name}", hint)
    return {**_chat(tab, _settled(visit, log, active)), tab.title: title}


def send(visit: Visit, tab: AdaptersTab, *, log: Log, question: str, active: str) -> Stream:
    question = (question or "").strip()
    if not question:
        raise InputError("There is nothing to send yet. Write a message first.")
    require(visit.services)
    log = _settled(visit, log, active)
    history, log = log.history(), log.asked(question)
    yield {**_chat(tab, log), tab.question: "", **_sending(tab, busy=True)}
    one, sampling, failed = Side(log.setup.model), Sampling(0.0, 1.0, 256, 7), list[str]()
    replies = visit.services.compare.ask([one], [history], question, sampling, visit.owner, visit.session)
    for reply, *_ in side.streamed(replies, failed.append):
        log = log.answered(reply)
        yield _chat(tab, log)
    log = log.stopped() if failed else log
    yield {**_chat(tab, log), tab.error: slot("".join(failed)), **_sending(tab, busy=False)}


def stop(visit: Visit, tab: AdaptersTab, *, log: Log) -> Updates:
    return {**_chat(tab, log.stopped()), **_sending(tab, busy=False)}


def to_base(visit: Visit, tab: AdaptersTab, *, log: Log, chosen: str) -> Updates:
    listed = show(visit, tab, chosen=chosen, active="")
    return {tab.active: "", **listed, **turned(visit, tab, log=log, active="")}


# A blend of several, and a push to the hub


def offered(visit: Visit, tab: AdaptersTab) -> Updates:
    blendable = [name for name, method in all_methods().items() if method.blendable]
    cards = [row.card for row in visit.services.adapters.list(visit.owner) if row.usable]
    return {tab.parts: gr.update(choices=[(one.name, one.id) for one in cards if one.method in blendable])}


def chosen(visit: Visit, tab: AdaptersTab, *, parts: list[str] | None) -> Updates:
    """One slider for each that is chosen; all weigh the same until they are moved."""
    ids = (parts or [])[:MOST]
    names = {row.card.id: row.card.name for row in visit.services.adapters.list(visit.owner)}
    updates: Updates = {tab.make: gr.update(interactive=len(ids) > 1)}
    for slider, id in zip_longest(tab.weights, ids):
        label = f"How much of {names.get(id, id)}"
        updates[slider] = gr.update(visible=True, label=label, value=round(1 / len(ids), 2)) if id else AWAY
    return updates


def make(
    visit: Visit, tab: AdaptersTab, *, parts: list[str] | None, how: str, name: str, weights: Sequence[float], made: str
) -> Stream:
    """Blend, in the place of the last blend of this tab, and make it active."""
    yield {tab.message: slot(html.note("Blending; the first one takes some seconds."))}
    require(visit.services)
    ids = parts or []
    if len(ids) < 2:
        raise InputError("Choose two adapters or more to blend.")
    shares = dict(zip(ids, map(float, weights), strict=False))
    blended = visit.services.adapters.blend(shares, how, name or "blend", visit.owner)
    if made and made not in ids and any(row.card.id == made for row in visit.services.adapters.list(visit.owner)):
        visit.services.adapters.remove(made, visit.owner)
    visit.services.adapters.switch(blended.id, visit.owner)
    active = html.good(f"{blended.name} is blended and active: the next reply comes from it.")
    updates: Updates = dict.fromkeys((tab.made, tab.chosen, tab.active), blended.id)
    yield updates | show(visit, tab, chosen=blended.id, active=blended.id) | {tab.message: slot(active)}


def moved(visit: Visit, tab: AdaptersTab, *, made: str, **blend: Any) -> Stream:
    if made:
        yield from make(visit, tab, made=made, **blend)
    else:
        yield {}


def push(visit: Visit, view: PushView, *, chosen: str, repo: str, token: str, private: bool) -> Stream:
    """The token's box is emptied at once."""
    says = "Sending the files. A small adapter takes some seconds."
    says = says if chosen else "Choose an adapter in the list above first."
    yield {view.token: "", **_push_button(view, busy=bool(chosen)), view.result: slot(html.note(says))}
    if chosen:
        address = visit.services.pusher.push(chosen, repo or "", token or "", private=bool(private), owner=visit.owner)
        yield {**_push_button(view, busy=False), view.result: slot(html.good(f"It is at {address}"))}


def _push_button(view: PushView, *, busy: bool) -> Updates:
    return {view.send: gr.update(value="Pushing" if busy else "Push it", interactive=not busy)}
