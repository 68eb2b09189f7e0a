"""The page's head and the Device panel: memory, what runs and waits, the base and its proof, another base, storage; and
whether the base can answer yet (asking a service for tokens earlier would wait for the whole download)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from playground.errors import BaseUnavailableError, InputError, NotFoundError, PlaygroundError
from playground.runs.progress import RunView
from playground.services import Services
from playground.settings import Settings
from playground.storage import ADAPTER, BASE, CHECKPOINTS, PASSING, PROMPTS, RUN, UPLOAD, VERDICT, Item
from playground.ui import html
from playground.ui.html import FAILURES, card, plural, size
from playground.ui.runs import PICK_JS
from playground.ui.wiring import AWAY, SIGNED, Dropdown, Initial, Updates, Visit, hidden_slot, listen, slot, unasked

_piece = partial(html.piece, "device")
_header, _device, _now, waiting_html, base_html = map(_piece, ("header", "device", "now", "waiting", "base"))
_proved, _unproved, _looked, _known, _kept = map(_piece, ("proved", "unproved", "looked", "known", "kept"))
_storage, _removed = map(_piece, ("storage", "removed"))
OPEN_SIDEBAR = "() => window.promptOrTune.toggleSidebar()"


def build_header() -> gr.Button:
    """The pill; it opens the sidebar in the browser, without asking the server."""
    with gr.Row(elem_classes="tophead"):
        gr.HTML(_header())
        pill = gr.Button("Device: idle", size="sm", elem_id="pill")
    pill.click(None, None, None, js=OPEN_SIDEBAR)
    return pill


class SidebarView:
    def __init__(self, services: Services) -> None:
        small = partial(gr.Button, size="sm", elem_classes="fit")
        with gr.Sidebar(position="right", width=288, open=False, elem_classes="device") as self.panel:
            self.device = gr.HTML("")
            self.now = gr.HTML("")
            self.cancel = small("Cancel the run", variant="stop", visible=False)
            self.waiting = gr.HTML("")
            self.proved = gr.HTML("")
            self.proof = small("Check the base again")
            self.stop = small("Stop fetching", variant="stop", visible=False)
            alone = not services.settings.shared
            with gr.Accordion("Another base", open=False, elem_classes="picker", visible=alone) as self.fold:
                if services.settings.sign_in:
                    gr.LoginButton("Sign in, for gated bases", size="sm", elem_classes="fit")
                self.known = gr.HTML("", js_on_load=PICK_JS)
                self.choices = Dropdown([], label="On this machine", filterable=False, interactive=False)
                self.spec = gr.Textbox(label="Or a hub id, or a local folder", placeholder="owner/name", max_length=300)
                self.inspect = small("Look at it")
                self.found = hidden_slot()
                self.choose = small("Use this base", variant="primary", visible=False)


def wire(services: Services, view: SidebarView, page: gr.Blocks) -> None:
    on = partial(listen, services, view)
    on(view.proof.click, prove, view.proved)
    looked = partial(on, failure=view.found, restored={view.choose: AWAY})
    looked(view.choices.input, inspect, view.spec, spec=view.choices)
    looked([view.inspect.click, view.spec.submit], inspect, view.spec)
    looked(view.known.pick, look, [view.found, view.choose, view.spec])
    looked(view.choose.click, choose, token=SIGNED)
    on(view.stop.click, stop, view.stop)
    on(view.fold.expand, known, view.known)
    unasked(services, view, page.load, choices, view.choices)


def device_html(status: dict[str, Any]) -> str:
    parts = [part for part in status["parts"] if part["bytes"] > 0]
    return _device(status, parts, max(0, status["budget_bytes"] - status["used_bytes"]))


def now_html(runs: Sequence[RunView], answering: bool = False) -> str:
    return _now([run for run in runs if run.state in ("RUNNING", "STOPPING")], answering)


def prove(visit: Visit, view: SidebarView) -> Updates:
    try:
        return {view.proved: _proved(visit.services.bases.fingerprint_check())}
    except FAILURES as error:
        return {view.proved: _unproved(card(error))}


def choices(visit: Visit, view: SidebarView) -> Updates:
    try:
        state = visit.services.bases.state()
        found = [(one.label, one.spec) for one in visit.services.bases.choices()]
    except PlaygroundError:  # the panel's other lines say what is wrong with the base
        return {}
    spec = next((spec for _, spec in found if spec == state.spec), None)
    return {view.choices: Initial(found, value=spec)}


def inspect(visit: Visit, view: SidebarView, *, spec: str | None) -> Updates:
    """Licence, size, and whether it fits, before anything is fetched."""
    if not (spec or "").strip():
        raise InputError("No base is named. Choose one above, or write a hub id such as owner/name.")
    found = visit.services.bases.inspect(str(spec).strip())
    return {view.found: slot(_looked(found)), view.choose: gr.update(visible=found.fits), view.spec: found.spec}


def known(visit: Visit, view: SidebarView) -> Updates:
    """The bases that are offered by name, with what each takes here."""
    there = {visit.services.bases.spec, *(card.base for card in visit.services.bases.others())}
    return {view.known: _known(visit.services.bases.offers(), there)}


def look(visit: Visit, view: SidebarView, *, picked: str) -> Updates:
    """One of them was picked: as if its name had been written."""
    return inspect(visit, view, spec=picked)


def stop(visit: Visit, view: SidebarView) -> Updates:
    visit.services.bases.stop()
    return {view.stop: AWAY}


def choose(visit: Visit, view: SidebarView, *, spec: str, token: str) -> Updates:
    """token: of the hub, of who signed in."""
    visit.services.bases.choose(spec.strip(), token)
    loads = html.good("It loads in the background; the old base answers until then.")
    return {view.choose: AWAY, view.found: slot(loads)}


@dataclass(frozen=True)
class Ready:
    """yes: it can answer. words: else why not. mark: changes whenever another base answers."""

    yes: bool
    words: str
    mark: str


def ready(services: Services) -> Ready:
    state = services.bases.state()
    yes = state.phase == "ready"
    return Ready(yes, state.message, state.fingerprint if yes else "")


def require(services: Services) -> None:
    """Raises BaseUnavailableError with the state in words."""
    now = ready(services)
    if not now.yes:
        raise BaseUnavailableError(f"The base is not ready yet: {now.words}. The buttons wake up as soon as it is.")


# Storage: what lies on disk, item by item. Nothing is removed before a question is answered.


class Kind(NamedTuple):
    """How a kind of item is named, what the button for all of it says, and what is lost with it."""

    title: str
    noun: str
    all_of: str
    consequence: str
    nouns: str = ""


_ANEW = "A base is fetched and converted anew when it is next chosen."
_NO_RESUME = "A failed or cancelled run can then not go on from where it stopped."
_FIGURES = "Its figures and replies go for good; it can be measured anew."
_VERSIONS = "Every version that was kept goes for good, with its scores."
_PACKED = "A download that has not begun has to be packed again."
KINDS = {
    BASE: Kind("Bases", "base", "Remove those not in use", _ANEW),
    ADAPTER: Kind("Adapters", "adapter", "Delete all adapters", "Its files go for good; a run can make it again."),
    RUN: Kind("Runs", "run", "Remove ended runs", "The curve and the log go for good; the adapter it made stays."),
    CHECKPOINTS: Kind("Checkpoints of ended runs", "checkpoint folder", "Free checkpoints of ended runs", _NO_RESUME),
    VERDICT: Kind("Verdicts", "verdict", "Delete all verdicts", _FIGURES),
    PROMPTS: Kind("Prompts", "list of prompts", "Delete all prompts", _VERSIONS, "lists of prompts"),
    UPLOAD: Kind("Uploads", "upload", "Remove uploads", "Runs keep the copy they train on."),
    PASSING: Kind("Passing through", "folder of passing files", "Remove them now", _PACKED, "folders of passing files"),
}
EVERYTHING = "everything"
_LISTED = 40


class StorageView:
    """asked: what the open question is about, as a button names it."""

    def __init__(self, services: Services) -> None:
        shared = services.settings.shared
        self.asked = gr.State("")
        if said := notice(services.settings, "with the button below"):
            gr.HTML(_kept(said))
        self.everything = gr.Button("Delete my data", size="sm", variant="stop", visible=shared, elem_classes="fit")
        with gr.Column(visible=False, elem_classes="in-place in-sight") as self.question:
            self.words = gr.HTML("")
            with gr.Row(elem_classes="acts"):
                self.yes = gr.Button("Yes, remove", variant="stop", size="sm", min_width=90)
                self.no = gr.Button("Keep", size="sm", min_width=60)
        self.message = hidden_slot(elem_classes="in-sight")
        with gr.Accordion("Storage", open=False, elem_classes="picker") as self.fold:
            self.listing = gr.HTML("", js_on_load=PICK_JS)
        self.shown = [self.fold, self.listing]
        self.asking = [self.asked, self.words, self.question, self.yes]


def wire_storage(services: Services, view: StorageView) -> None:
    on = partial(listen, services, view, failure=view.message)
    on(view.fold.expand, show_storage, view.shown)
    asks = partial(on, restored={view.asked: "", view.question: AWAY})
    asks(view.listing.pick, ask, view.asking)
    asks(view.everything.click, partial(ask, picked=EVERYTHING), view.asking)
    on(view.no.click, keep, view.asking)
    on(view.yes.click, remove, [*view.asking, *view.shown])


def notice(settings: Settings, where: str = "in the Device panel") -> str:
    """What is kept of a visitor, and for how long, and what a Space without a lasting disk loses; "" = nothing to say.
    where: to delete it earlier."""
    said = []
    if not settings.lasting:
        what = "a restart or a pause of it loses everything in it"
        keep = "Download what you want to keep: adapters on the Adapters tab, reports and rows on the Verdict tab."
        said.append(f"This Space has no lasting disk: {what}. {keep}")
    if settings.shared:
        said.append(
            "What you upload, train and import is seen by nobody else here. It stays until"
            f" {plural(settings.keep_hours, 'hour')} after your last visit from this browser, at most"
            f" {size(settings.session_disk_bytes)} of it; then it is deleted. Delete it yourself at any time {where}."
        )
    return " ".join(said)


def show_storage(visit: Visit, view: StorageView) -> Updates:
    items, free = visit.services.storage.items(visit.owner), visit.services.storage.free_bytes()
    whole = size(sum(item.bytes for item in items)) if items else "empty"
    kinds = [(kind, named, kind in (CHECKPOINTS, UPLOAD)) for kind, named in KINDS.items()]
    listing = _storage(items, free, visit.services.settings.shared, kinds, _LISTED)
    return {view.fold: gr.update(label=f"Storage: {whole}"), view.listing: listing}


def ask(visit: Visit, view: StorageView, *, picked: str) -> Updates:
    """The question before anything is removed. ``picked`` comes from the page: ``KIND:ID``, ``KIND:`` for all of a
    kind, or ``everything``. Raises NotFoundError."""
    yes, question = ("Yes, delete it all" if picked == EVERYTHING else "Yes, remove"), gr.update(visible=True)
    words = html.note(_question(visit, picked))
    return {view.asked: picked, view.words: words, view.question: question, view.yes: yes}


def keep(visit: Visit, view: StorageView) -> Updates:
    return {view.asked: "", view.question: AWAY}


def _question(visit: Visit, wanted: str) -> str:
    kind, _, id = wanted.partition(":")
    if wanted == EVERYTHING:
        items = visit.services.storage.items(visit.owner)
        what = f"{counted(items)}, {size(sum(item.bytes for item in items))}" if items else "nothing is stored yet"
        return f"Delete everything of yours here ({what})? A run that waits or trains is cancelled. It goes for good."
    if id:
        item = visit.services.storage.find(kind, id, visit.owner)
        return f"Remove “{item.name}”, {size(item.bytes)}? {KINDS[item.kind].consequence}"
    if kind not in KINDS:
        raise NotFoundError("There is nothing of this kind.")
    items = [item for item in visit.services.storage.items(visit.owner) if item.kind == kind and not item.stays]
    held = size(sum(item.bytes for item in items))
    return f"{KINDS[kind].all_of} ({counted(items) or 'none'}, {held})? {KINDS[kind].consequence}"


def remove(visit: Visit, view: StorageView, *, asked: str) -> Updates:
    """After Yes. Where it fails the question closes too, and the list shows what is left."""
    kind, _, id = asked.partition(":")
    storage, owner = visit.services.storage, visit.owner
    try:
        if asked == EVERYTHING:
            done = storage.remove_everything(owner)
        else:
            done = storage.remove(kind, id, owner) if id else storage.remove_kind(kind, owner)
        text = _removed(done, counted(done.items), RUN)
    except FAILURES as error:
        text = card(error)
    return {**keep(visit, view), view.message: slot(text), **show_storage(visit, view)}


def counted(items: Sequence[Item]) -> str:
    """``2 uploads, 1 run and 1 adapter``."""
    counts = [(sum(item.kind == kind for item in items), kind) for kind in KINDS]
    parts = [plural(count, KINDS[kind].noun, KINDS[kind].nouns) for count, kind in counts if count]
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
