"""The Device panel: memory, what runs and waits, the base and its proof, another base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.errors import InputError
from playground.ui import html, words
from playground.ui.failure import card
from playground.ui.figures import duration, left, size
from playground.ui.wiring import QUIET, Dropdown, Visitor, bind, hidden_slot, slot


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


def build(services: Any) -> SidebarView:
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


def wire(services: Any, view: SidebarView) -> None:
    view.proof.click(bind(services, prove), None, view.proved, **QUIET)
    view.choices.input(bind(services, inspect), view.choices, [view.found, view.choose, view.spec], **QUIET)
    gr.on(
        [view.inspect.click, view.spec.submit], bind(services, inspect), view.spec, [view.found, view.choose, view.spec], **QUIET
    )
    view.choose.click(bind(services, choose), view.spec, [view.found, view.choose], **QUIET)


def device_html(status: dict[str, Any]) -> str:
    whole, parts = status["budget_bytes"], [part for part in status["parts"] if part["bytes"] > 0]
    free = max(0, whole - status["used_bytes"])
    rows = "".join(
        f'<li><span><i class="dot k-{html.esc(part["kind"])}"></i>{html.esc(part["name"])}</span><span>{size(part["bytes"])}</span></li>'
        for part in parts
    )
    label = ", ".join(f"{part['name']} {size(part['bytes'])}" for part in parts) + f", free {size(free)}"
    return (
        f"<h2>Device</h2><p>{html.esc(status['device'])} · {html.esc(status['precision'])}</p>"
        f"{html.stacked([(part['kind'], part['bytes']) for part in parts], whole, label)}"
        f'<ul>{rows}<li><span><i class="dot"></i>Free</span><span>{size(free)}</span></li></ul>'
    )


def now_html(runs: list[Any], answering: bool = False) -> str:
    lines = []
    for run in runs:
        if run.state in ("RUNNING", "STOPPING"):
            rest = left(run.seconds_left) or run.message
            lines.append(
                f"<b>{html.esc(run.name)}</b>, step {run.step:d} of {run.steps:d}{', ' + html.esc(rest) if rest else ''}"
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
    slow = f"<br>It runs on the {html.esc(path)}: right, but slower." if path.startswith("reference") else ""
    return (
        f'<h3>Base</h3><p>{html.esc(base["message"])}{slow}<br><span class="mono">{html.esc(mark)}</span> · as it was loaded</p>'
    )


def prove(services: Any, visitor: Visitor) -> str:
    """Read the live weights again and compare."""
    try:
        proof = services.bases.fingerprint_check()
    except Exception as error:
        return "<h3>Base</h3>" + card(error)
    said = "unchanged" if proof.unchanged else "CHANGED: restart the app to load it afresh"
    return f'<h3>Base</h3><p role="status"><span class="mono">{html.esc(proof.value[:8])}</span> · {said}, all weights read again in {duration(proof.seconds)}</p>'


def choices(services: Any, visitor: Visitor) -> Any:
    try:
        state = services.bases.state()
        found = [(one.label, one.spec) for one in services.bases.choices()]
        return gr.update(choices=found, value=next((spec for _, spec in found if spec == state.spec), None))
    except Exception:  # the panel's other lines say what is wrong with the base
        return gr.skip()


def inspect(services: Any, visitor: Visitor, spec: str | None) -> list[Any]:
    """Licence, size, and whether it fits, before anything is fetched. Returns the facts, the button, the box."""
    try:
        if not (spec or "").strip():
            raise InputError("No base is named. Choose one above, or write a hub id such as owner/name.")
        found = services.bases.inspect(str(spec).strip())
    except Exception as error:
        return [slot(card(error)), gr.update(visible=False), gr.skip()]
    facts = html.pairs(
        [("Base", found.label), ("Licence", found.licence or "not stated"), ("Size", size(found.bytes) if found.bytes else "not known yet"),
         ("Fits", "yes" if found.fits else "no")]
    )  # fmt: skip
    reason = html.note(found.reason) if found.reason else ""
    return [slot(facts + reason), gr.update(visible=found.fits), found.spec]


def choose(services: Any, visitor: Visitor, spec: str) -> list[Any]:
    try:
        services.bases.choose(spec.strip())
    except Exception as error:
        return [slot(card(error)), gr.update(visible=False)]
    return [slot(html.good("It loads in the background; the old base answers until then.")), gr.update(visible=False)]
