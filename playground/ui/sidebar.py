"""The Device panel (memory, what runs and waits, the base and its proof, another base), the line at the top of the
page, and whether the
base can answer yet: asking a service for tokens earlier would make the page wait for the whole download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from playground.errors import BaseUnavailableError, InputError, PlaygroundError
from playground.runs.progress import RunView
from playground.services import Services
from playground.ui import html, words
from playground.ui.html import card, duration, left, size
from playground.ui.wiring import Dropdown, Initial, Updates, Visitor, hidden_slot, listen, slot, unasked


@dataclass(frozen=True)
class SidebarView:
    panel: gr.Sidebar
    device: gr.HTML
    now: gr.HTML
    cancel: gr.Button
    waiting: gr.HTML
    proof: gr.Button
    proved: gr.HTML
    choices: gr.Dropdown
    spec: gr.Textbox
    inspect: gr.Button
    found: gr.HTML
    choose: gr.Button


def build(services: Services) -> SidebarView:
    with gr.Sidebar(position="right", width=288, open=False, elem_classes="device") as panel:
        device = gr.HTML("")
        now = gr.HTML("")
        cancel = gr.Button("Cancel the run", variant="stop", size="sm", visible=False, elem_classes="fit")
        waiting = gr.HTML("")
        proved = gr.HTML("")
        proof = gr.Button("Check the base again", size="sm", elem_classes="fit")
        with gr.Accordion("Another base", open=False, elem_classes="picker", visible=not services.settings.shared):
            choices = Dropdown([], label="On this machine", filterable=False, interactive=False)
            spec = gr.Textbox(label="Or a hub id, or a local folder", placeholder="owner/name", max_length=300)
            inspect = gr.Button("Look at it", size="sm", elem_classes="fit")
            found = hidden_slot()
            choose = gr.Button("Use this base", variant="primary", size="sm", visible=False, elem_classes="fit")
    return SidebarView(panel, device, now, cancel, waiting, proof, proved, choices, spec, inspect, found, choose)


def wire(services: Services, view: SidebarView, page: gr.Blocks) -> None:
    listen(services, view.proof.click, prove, view, view.proved)
    outputs = [view.choose, view.spec]
    on = partial(listen, services, failure=view.found)
    on(view.choices.input, inspect, view, outputs, spec=view.choices)
    on([view.inspect.click, view.spec.submit], inspect, view, outputs, spec=view.spec)
    on(view.choose.click, choose, view, view.choose, spec=view.spec)
    unasked(services, page.load, choices, view, view.choices)


def device_html(status: dict[str, Any]) -> str:
    whole, parts = status["budget_bytes"], [part for part in status["parts"] if part["bytes"] > 0]
    free = max(0, whole - status["used_bytes"])
    rows = "".join(
        '<li><span><i class="dot'
        f' k-{html.esc(part["kind"])}"></i>{html.esc(part["name"])}</span><span>{size(part["bytes"])}</span></li>'
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
            lines.append(
                f"<b>{html.esc(run.name)}</b>, step {run.step:d} of"
                f" {run.steps:d}{', ' + html.esc(rest) if rest else ''}"
            )
    if answering:
        lines.append("Answering.")
    body = "".join(f"<p>{line}</p>" for line in lines) or f"<p>{words.NOW_EMPTY}</p>"
    return f"<h3>Now</h3>{body}"


def waiting_html(queue: list[dict[str, Any]]) -> str:
    if not queue:
        return f"<h3>Waiting</h3><p>{words.WAITING_EMPTY}</p>{html.note(words.SHARING)}"
    rows = "".join(
        f"<li><span>{html.esc(one['position'])}. {html.esc(one['label'])}</span>"
        f"<span>{'about ' + duration(one['wait_s']) if one.get('wait_s') is not None else ''}</span></li>"
        for one in queue
    )
    return f"<h3>Waiting</h3><ul>{rows}</ul>{html.note(words.SHARING)}"


def base_html(base: dict[str, Any]) -> str:
    mark = str(base["fingerprint"])[:8]
    if base["phase"] == "failed":
        return "<h3>Base</h3>" + html.error_card(base["message"])
    if not mark:
        return f"<h3>Base</h3><p>{html.esc(base['message'])}</p>"
    path = str(base.get("path", ""))
    slow = f"<br>It runs on the {html.esc(path)}: right, but slower." if path.startswith("Hugging Face") else ""
    return (
        f'<h3>Base</h3><p>{html.esc(base["message"])}{slow}<br><span class="mono">{html.esc(mark)}</span> · as it was'
        " loaded</p>"
    )


def prove(services: Services, visitor: Visitor, view: SidebarView) -> Updates:
    """Read the live weights again and compare."""
    try:
        proof = services.bases.fingerprint_check()
    except Exception as error:  # whatever failed is said in the place of the proof
        return {view.proved: "<h3>Base</h3>" + card(error)}
    said = "unchanged" if proof.unchanged else "CHANGED: restart the app to load it afresh"
    took = f"{said}, all weights read again in {duration(proof.seconds)}"
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
    try:
        if not (spec or "").strip():
            raise InputError("No base is named. Choose one above, or write a hub id such as owner/name.")
        found = services.bases.inspect(str(spec).strip())
    except PlaygroundError as error:
        return {view.found: slot(card(error)), view.choose: gr.update(visible=False)}
    facts = [
        ("Base", found.label),
        ("Licence", found.licence or "not stated"),
        ("Size", size(found.bytes) if found.bytes else "not known yet"),
        ("Fits", "yes" if found.fits else "no"),
    ]
    reason = html.note(found.reason) if found.reason else ""
    return {
        view.found: slot(html.pairs(facts) + reason),
        view.choose: gr.update(visible=found.fits),
        view.spec: found.spec,
    }


def choose(services: Services, visitor: Visitor, view: SidebarView, *, spec: str) -> Updates:
    away: Updates = {view.choose: gr.update(visible=False)}
    try:
        services.bases.choose(spec.strip())
    except PlaygroundError as error:
        return {**away, view.found: slot(card(error))}
    return {**away, view.found: slot(html.good("It loads in the background; the old base answers until then."))}


LOGO = (
    '<svg viewBox="0 0 34 34" fill="none" aria-hidden="true"><rect x="2" y="8" width="20" height="23" rx="3.5"'
    ' stroke="currentColor" stroke-width="2"/><path d="M7 15h10M7 20h10M7 25h6" stroke="currentColor" stroke-width="2"'
    ' stroke-linecap="round"/><rect x="12" y="3" width="20" height="22" rx="3.5" fill="var(--b)" fill-opacity=".28"'
    ' stroke="var(--b)" stroke-width="2"/></svg>'
)
"""A page, and a clear sheet laid over it."""

OPEN_SIDEBAR = "() => window.promptOrTune.toggleSidebar()"


def build_header() -> gr.Button:
    """The pill; it opens the sidebar in the browser, without asking the server."""
    with gr.Row(elem_classes="tophead"):
        gr.HTML(f'<div id="top">{LOGO}<div><h1>{html.esc(words.NAME)}</h1><p>{html.esc(words.LINE)}</p></div></div>')
        pill = gr.Button("Device: idle", size="sm", elem_id="pill")
    pill.click(None, None, None, js=OPEN_SIDEBAR)
    return pill


@dataclass(frozen=True)
class Ready:
    """yes: it can. words: else why not. mark: changes whenever another base answers."""

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
