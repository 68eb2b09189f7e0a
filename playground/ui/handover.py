"""An adapter for another server, on the Adapters tab: its files, and whether that server answers as the adapter does
here."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from pathlib import Path

import gradio as gr

from playground.errors import InputError
from playground.jobs import Job
from playground.library.exporting import LABELS, OLLAMA
from playground.services import Services
from playground.ui import html
from playground.ui.wiring import AWAY, Stream, Updates, Visit, hidden_slot, listen, slot
from playground.verdict.handover import Compared, Handover

IDEA = (
    "Write what Ollama, llama.cpp or vLLM need to serve the chosen adapter, start it there, and ask it the held-out"
    " rows: it is told whether it answers the same, or what differs, row by row."
)
PICK = "Choose an adapter in the list above first."
SHOWN = 20
"""Rows that differ, at most."""
_compared = html.piece("chat", "handed_over")


class HandoverView:
    def __init__(self, *, shared: bool) -> None:
        with gr.Column(elem_classes="card folds"), gr.Accordion("Hand it over to another server", open=False):
            gr.HTML(html.note(IDEA))
            small = partial(gr.Button, size="sm", elem_classes="fit")
            targets = [(label, name) for name, label in LABELS.items()]
            self.to = gr.Radio(targets, value=OLLAMA, label="Which server")
            self.write = small("Write the files", variant="primary")
            self.download = gr.DownloadButton("Download", size="sm", visible=False, elem_classes="fit")
            hint = "the name of an endpoint" if shared else "http://127.0.0.1:11434/v1#MODEL, or an endpoint's name"
            self.url = gr.Textbox(label="Then: where it serves", placeholder=hint, max_lines=1, max_length=300)
            gr.HTML(html.note("Held-out rows; without a file, those of its run are asked:"))
            self.rows = gr.File(label="Held-out rows", show_label=False, height=96, elem_classes="drop")
            self.agree = gr.Checkbox(False, label="The rows may leave this machine for that server")
            with gr.Row(elem_classes="acts"):
                self.ask = small("Ask it and compare", variant="primary")
                self.stop = gr.Button("Stop", size="sm", variant="stop", visible=False)
            self.result = hidden_slot()


def wire(services: Services, view: HandoverView, chosen: gr.State) -> None:
    idle = _busy(view, busy=False)
    on = partial(listen, services, view, failure=view.result, restored=idle)
    writing = on(view.write.click, write, [*idle, view.download], chosen=chosen)
    asking = on(view.ask.click, ask, list(idle), chosen=chosen)
    listen(services, view, view.stop.click, stopped, [*idle, view.result], cancels=[writing, asking])


def _busy(view: HandoverView, *, busy: bool) -> Updates:
    able = gr.update(interactive=not busy)
    return {view.write: able, view.ask: able, view.stop: gr.update(visible=busy)}


def write(visit: Visit, view: HandoverView, *, chosen: str, to: str) -> Stream:
    """The files as one zip. Closing it stops the writing."""
    if not chosen:
        raise InputError(PICK)
    began_s = time.monotonic()
    for step in visit.services.exporter.export(chosen, to, visit.owner):
        if step.file is not None:
            label = f"Download {step.file.name}, {html.size(step.file.stat().st_size)}"
            said = slot(html.good("Written; its README.md says what to run. Start it, then ask it below."))
            ready = gr.update(value=str(step.file), label=label, visible=True)
            yield {view.download: ready, view.result: said, **_busy(view, busy=False)}
        else:
            left_s = (time.monotonic() - began_s) * (1 - step.share) / step.share if step.share else None
            note = html.note(f"{step.phase}{f', {html.about(left_s)} left' if left_s else ''}")
            bar = slot(html.progress(step.share, step.phase) + note)
            yield {view.download: AWAY, view.result: bar, **_busy(view, busy=True)}


def ask(visit: Visit, view: HandoverView, *, chosen: str, url: str, rows: str | None, agree: bool) -> Stream:
    """The held-out rows, here and there. Closing it stops the asking."""
    if not chosen:
        raise InputError(PICK)
    if not (url or "").strip():
        raise InputError("Say where it serves: an address with /v1, or the name of an endpoint that is set up.")
    file = visit.services.data.keep_uploads([Path(rows)], visit.owner) if rows else None
    asked, found = Handover(chosen, url.strip(), file, owner=visit.owner, send=bool(agree)), list[Compared]()

    def work(job: Job) -> None:
        with closing(visit.services.handover.compare(asked, visit.session)) as steps:
            for step in steps:
                job.check()
                job.report(step.phase, step.done, step.of, step.waiting)
                found.extend([step.result] if step.result is not None else [])

    busy = "You compare a server already. Wait for its end, or stop it."
    job = visit.services.jobs.start(f"handover {visit.owner}", work, "The comparison", busy=busy)
    with closing(job.follow()) as following:
        for now in following:
            said = f"{now.phase}, {now.done} of {now.of}" if now.of else now.phase or "Starting"
            rest = now.waiting or (f"{said}, {html.about(job.seconds_left)} left" if job.seconds_left else said)
            bar = html.progress(now.done / now.of if now.of else 0.0, said) + html.note(rest)
            yield {view.result: slot(bar), **_busy(view, busy=True)}
    if job.error:
        raise InputError(job.error)
    yield {view.result: slot(_compared(found[0], SHOWN)), **_busy(view, busy=False)}


def stopped(visit: Visit, view: HandoverView) -> Updates:
    return {**_busy(view, busy=False), view.result: slot(html.note("Stopped."))}
