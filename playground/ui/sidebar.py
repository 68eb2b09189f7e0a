"""The page's head and the Device panel: memory, what runs and waits, the base and its proof, another base, storage; and
whether the base can answer yet (asking a service for tokens earlier would wait for the whole download)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from playground.errors import BaseUnavailableError, InputError, NotFoundError, PlaygroundError
from playground.runs.progress import RunView
from playground.services import Services
from playground.settings import Settings
from playground.ui import html, words
from playground.ui.html import FAILURES, card, duration, left, plural, size
from playground.ui.runs import PICK_JS
from playground.ui.wiring import AWAY, Dropdown, Initial, Updates, Visitor, hidden_slot, listen, slot, unasked
from playground.workspace.storage import ADAPTER, BASE, CHECKPOINTS, PASSING, PROMPTS, RUN, UPLOAD, VERDICT, Freed, Item

LOGO = (
    '<svg viewBox="0 0 34 34" fill="none" aria-hidden="true"><rect x="2" y="8" width="20" height="23" rx="3.5"'
    ' stroke="currentColor" stroke-width="2"/><path d="M7 15h10M7 20h10M7 25h6" stroke="currentColor" stroke-width="2"'
    ' stroke-linecap="round"/><rect x="12" y="3" width="20" height="22" rx="3.5" fill="var(--b)" fill-opacity=".28"'
    ' stroke="var(--b)" stroke-width="2"/></svg>'
)
OPEN_SIDEBAR = "() => window.promptOrTune.toggleSidebar()"


def build_header() -> gr.Button:
    """The pill; it opens the sidebar in the browser, without asking the server."""
    with gr.Row(elem_classes="tophead"):
        gr.HTML(f'<div id="top">{LOGO}<div><h1>{html.esc(words.NAME)}</h1><p>{html.esc(words.LINE)}</p></div></div>')
        pill = gr.Button("Device: idle", size="sm", elem_id="pill")
    pill.click(None, None, None, js=OPEN_SIDEBAR)
    return pill


class SidebarView:
    """Every widget of the panel but for its storage."""

    def __init__(self, services: Services) -> None:
        small = partial(gr.Button, size="sm", elem_classes="fit")
        self.panel = gr.Sidebar(position="right", width=288, open=False, elem_classes="device")
        with self.panel:
            self.device = gr.HTML("")
            self.now = gr.HTML("")
            self.cancel = small("Cancel the run", variant="stop", visible=False)
            self.waiting = gr.HTML("")
            self.proved = gr.HTML("")
            self.proof = small("Check the base again")
            with gr.Accordion("Another base", open=False, elem_classes="picker", visible=not services.settings.shared):
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
    looked(view.choose.click, choose)
    unasked(services, view, page.load, choices, view.choices)


def device_html(status: dict[str, Any]) -> str:
    whole, parts = status["budget_bytes"], [part for part in status["parts"] if part["bytes"] > 0]
    free = max(0, whole - status["used_bytes"])
    rows = "".join(
        f'<li><span><i class="dot k-{html.esc(part["kind"])}"></i>{html.esc(part["name"])}</span>'
        f"<span>{size(part['bytes'])}</span></li>"
        for part in parts
    )
    label = ", ".join(f"{part['name']} {size(part['bytes'])}" for part in parts) + f", free {size(free)}"
    return (
        f"<h2>Device</h2><p>{html.esc(status['device'])} · {html.esc(status['precision'])}</p>"
        f"{html.stacked([(part['kind'], part['bytes']) for part in parts], whole, label)}"
        f'<ul>{rows}<li><span><i class="dot"></i>Free</span><span>{size(free)}</span></li></ul>'
    )


def now_html(runs: Sequence[RunView], answering: bool = False) -> str:
    lines = []
    for run in runs:
        if run.state in ("RUNNING", "STOPPING"):
            rest = left(run.seconds_left) or run.message
            step = f"step {run.step:d} of {run.steps:d}{', ' + html.esc(rest) if rest else ''}"
            lines.append(f"<b>{html.esc(run.name)}</b>, {step}")
    if answering:
        lines.append("Answering.")
    return f"<h3>Now</h3>{''.join(f'<p>{line}</p>' for line in lines or [words.NOW_EMPTY])}"


def waiting_html(queue: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<li><span>{html.esc(one['position'])}. {html.esc(one['label'])}</span>"
        f"<span>{'about ' + duration(one['wait_s']) if one.get('wait_s') is not None else ''}</span></li>"
        for one in queue
    )
    listed = f"<ul>{rows}</ul>" if queue else f"<p>{words.WAITING_EMPTY}</p>"
    return f"<h3>Waiting</h3>{listed}{html.note(words.SHARING)}"


def base_html(base: dict[str, Any]) -> str:
    mark, path = str(base["fingerprint"])[:8], str(base.get("path", ""))
    if base["phase"] == "failed":
        return "<h3>Base</h3>" + html.error_card(base["message"])
    slow = f"<br>It runs on the {html.esc(path)}: right, but slower." if path.startswith("Hugging Face") else ""
    loaded = f'{slow}<br><span class="mono">{html.esc(mark)}</span> · as it was loaded' if mark else ""
    return f"<h3>Base</h3><p>{html.esc(base['message'])}{loaded}</p>"


def prove(services: Services, visitor: Visitor, view: SidebarView) -> Updates:
    """Read the live weights again and compare."""
    try:
        proof = services.bases.fingerprint_check()
    except FAILURES as error:
        return {view.proved: "<h3>Base</h3>" + card(error)}
    text = "unchanged" if proof.unchanged else "CHANGED: restart the app to load it afresh"
    took = f"{text}, all weights read again in {duration(proof.seconds)}"
    mark = f'<span class="mono">{html.esc(proof.value[:8])}</span>'
    return {view.proved: f'<h3>Base</h3><p role="status">{mark} · {took}</p>'}


def choices(services: Services, visitor: Visitor, view: SidebarView) -> Updates:
    try:
        state = services.bases.state()
        found = [(one.label, one.spec) for one in services.bases.choices()]
    except PlaygroundError:  # the panel's other lines say what is wrong with the base
        return {}
    spec = next((spec for _, spec in found if spec == state.spec), None)
    return {view.choices: Initial(found, value=spec)}


def inspect(services: Services, visitor: Visitor, view: SidebarView, *, spec: str | None) -> Updates:
    """Licence, size, and whether it fits, before anything is fetched."""
    if not (spec or "").strip():
        raise InputError("No base is named. Choose one above, or write a hub id such as owner/name.")
    found = services.bases.inspect(str(spec).strip())
    facts = [
        ("Base", found.label),
        ("Licence", found.licence or "not stated"),
        ("Size", size(found.bytes) if found.bytes else "not known yet"),
        ("Fits", "yes" if found.fits else "no"),
    ]
    reason = html.note(found.reason) if found.reason else ""
    shown: Updates = {view.found: slot(html.pairs(facts) + reason), view.choose: gr.update(visible=found.fits)}
    return {**shown, view.spec: found.spec}


def choose(services: Services, visitor: Visitor, view: SidebarView, *, spec: str) -> Updates:
    services.bases.choose(spec.strip())
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


@dataclass(frozen=True)
class Kind:
    """How a kind of item is named, what the button for all of it says, and what is lost with it."""

    title: str
    noun: str
    all_of: str
    consequence: str
    nouns: str = ""


_BASES = Kind(
    "Bases", "base", "Remove those not in use", "A base is fetched and converted anew when it is next chosen."
)
_ADAPTERS = Kind("Adapters", "adapter", "Delete all adapters", "Its files go for good; a run can make it again.")
_RUNS = Kind("Runs", "run", "Remove ended runs", "The curve and the log go for good; the adapter it made stays.")
_CHECKPOINTS = Kind(
    "Checkpoints of ended runs",
    "checkpoint folder",
    "Free checkpoints of ended runs",
    "A failed or cancelled run can then not go on from where it stopped.",
)
_VERDICTS = Kind(
    "Verdicts", "verdict", "Delete all verdicts", "Its figures and replies go for good; it can be measured anew."
)
_PROMPTS = Kind(
    "Prompts",
    "list of prompts",
    "Delete all prompts",
    "Every version that was kept goes for good, with its scores.",
    "lists of prompts",
)
_UPLOADS = Kind("Uploads", "upload", "Remove uploads", "Runs keep the copy they train on.")
_PASSING = Kind(
    "Passing through",
    "folder of passing files",
    "Remove them now",
    "A download that has not begun has to be packed again.",
    "folders of passing files",
)
KINDS = {
    **{BASE: _BASES, ADAPTER: _ADAPTERS, RUN: _RUNS, CHECKPOINTS: _CHECKPOINTS},
    **{VERDICT: _VERDICTS, PROMPTS: _PROMPTS, UPLOAD: _UPLOADS, PASSING: _PASSING},
}
EVERYTHING = "everything"
_LISTED = 40


class StorageView:
    """asked: what the open question is about, as a button names it."""

    def __init__(self, services: Services) -> None:
        shared = services.settings.shared
        self.asked = gr.State("")
        if shared:
            gr.HTML(f"<h3>What is kept</h3>{html.note(notice(services.settings, 'with the button below'))}")
        self.everything = gr.Button("Delete my data", size="sm", variant="stop", visible=shared, elem_classes="fit")
        self.question = gr.Column(visible=False, elem_classes="in-place in-sight")
        with self.question:
            self.words = gr.HTML("")
            with gr.Row(elem_classes="acts"):
                self.yes = gr.Button("Yes, remove", variant="stop", size="sm", min_width=90)
                self.no = gr.Button("Keep", size="sm", min_width=60)
        self.message = hidden_slot(elem_classes="in-sight")
        self.fold = gr.Accordion("Storage", open=False, elem_classes="picker")
        with self.fold:
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
    """What is kept of a visitor, and for how long. where: to delete it earlier."""
    return (
        "What you upload, train and import is seen by nobody else here. It stays until"
        f" {plural(settings.keep_hours, 'hour')} after your last visit from this browser, at most"
        f" {size(settings.session_disk_bytes)} of it; then it is deleted. Delete it yourself at any time {where}."
    )


def show_storage(services: Services, visitor: Visitor, view: StorageView) -> Updates:
    """The fold's label, and the list."""
    items, free = services.storage.items(visitor.owner), services.storage.free_bytes()
    whole = size(sum(item.bytes for item in items)) if items else "empty"
    listing = storage_html(items, free, services.settings.shared)
    return {view.fold: gr.update(label=f"Storage: {whole}"), view.listing: listing}


def storage_html(items: Sequence[Item], free: int, shared: bool) -> str:
    if not items:
        return html.note("You have nothing stored here." if shared else "Nothing is stored yet.")
    parts = [] if shared else [html.note(f"{size(free)} of the disk are free.")]
    for kind, named in KINDS.items():
        mine = sorted((item for item in items if item.kind == kind), key=lambda item: -item.bytes)
        if not mine:
            continue
        held = size(sum(item.bytes for item in mine))
        parts.append(f"<h3>{html.esc(named.title)}<span>{held}</span></h3>")
        parts.append(f"<ul>{''.join(_row(item) for item in mine[:_LISTED])}</ul>")
        if len(mine) > _LISTED:
            parts.append(html.note(f"The largest {_LISTED} of {len(mine):,}."))
        if sum(not item.stays for item in mine) > 1 or kind in (CHECKPOINTS, UPLOAD):
            parts.append(html.button(f"{kind}:", named.all_of, kind="whole"))
    return f'<div class="storage">{"".join(parts)}</div>'


def _row(item: Item) -> str:
    why = item.stays.removeprefix("it is ").removeprefix("it ")
    act = f'<span class="q">{html.esc(why)}</span>'
    if not why:
        act = html.button(f"{item.kind}:{item.id}", "Remove", name=f"Remove {item.name}")
    return f'<li><span class="what">{html.esc(item.name)}<span class="q">{size(item.bytes)}</span></span>{act}</li>'


def ask(services: Services, visitor: Visitor, view: StorageView, *, picked: str) -> Updates:
    """The question before anything is removed. ``picked`` comes from the page: ``KIND:ID``, ``KIND:`` for all of a
    kind, or ``everything``. Raises NotFoundError."""
    question = question_of(services, visitor, picked)
    yes = "Yes, delete it all" if picked == EVERYTHING else "Yes, remove"
    return {view.asked: picked, view.words: html.note(question), view.question: gr.update(visible=True), view.yes: yes}


def keep(services: Services, visitor: Visitor, view: StorageView) -> Updates:
    """The question is taken back."""
    return {view.asked: "", view.question: AWAY}


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
    """After Yes. Where it fails the question closes too, and the list shows what is left."""
    kind, _, id = asked.partition(":")
    try:
        if asked == EVERYTHING:
            done = services.storage.remove_everything(visitor.owner)
        elif id:
            done = services.storage.remove(kind, id, visitor.owner)
        else:
            done = services.storage.remove_kind(kind, visitor.owner)
        text = done_html(done)
    except FAILURES as error:
        text = card(error)
    return {**keep(services, visitor, view), view.message: slot(text), **show_storage(services, visitor, view)}


def done_html(done: Freed) -> str:
    """What was removed, what is still stopping, and what stays."""
    text = html.note("There was nothing to remove.")
    if done.items:
        text = html.good(f"Removed: {counted(done.items)}, {size(done.bytes)}.")
    if done.stopping:
        one = "is still stopping and goes as soon as it has"
        verb = one if done.stopping == 1 else "are still stopping and go as soon as they have"
        text += html.note(f"{plural(done.stopping, 'run')} {verb}.")
    for item in [item for item in done.stayed if item.kind != RUN or not done.stopping][:5]:
        text += html.note(f"{item.name} stays: {item.stays}.")
    return text


def counted(items: Sequence[Item]) -> str:
    """``2 uploads, 1 run and 1 adapter``."""
    counts = [(sum(item.kind == kind for item in items), kind) for kind in KINDS]
    parts = [plural(count, KINDS[kind].noun, KINDS[kind].nouns) for count, kind in counts if count]
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)
