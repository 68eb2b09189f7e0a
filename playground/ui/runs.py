"""The run card of the Train tab: the run's progress, how to stop it, the runs before it, and curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from playground.errors import InputError
from playground.report import charts
from playground.runs.progress import RunView, ordinal
from playground.services import Services
from playground.ui import html, words
from playground.ui.html import size
from playground.ui.wiring import AWAY, PICKED, Drawn, Dropdown, Updates, Visit, hidden_slot, listen, slot

PICK_JS = (
    "element.addEventListener('click', event => {"
    " const row = event.target.closest('button[data-id]');"
    " if (row) trigger('pick', {id: row.dataset.id}); })"
)
"""A click (or Enter, or Space) on a row's button becomes the event ``pick``."""
NO_CURVES = "Curves come with the first steps of a run."
_STOP = "Stop this run? What it has learned up to the last checkpoint can be kept as an adapter."
_piece = partial(html.piece, "train")
_run, _no_run, _runs, _small_charts = map(_piece, ("run", "no_run", "runs", "small_charts"))
_TAKES = {"csv": "Take them as CSV", "tensorboard": "As TensorBoard events"}


class CurvesView:
    """shown: the small pictures. others: runs to lay over this one. laid: the picture of that."""

    def __init__(self, followed: gr.State) -> None:
        self.followed = followed
        with gr.Accordion("More curves, and other runs beside it", open=False, elem_classes="acc"):
            self.shown = gr.HTML(html.note(NO_CURVES))
            most = charts.COLOURS - 1
            self.others = Dropdown([], value=[], label="Lay over this run", multiselect=True, max_choices=most)
            self.laid = gr.HTML("")
            with gr.Row(elem_classes="acts"):
                self.take = {how: gr.Button(label, size="sm") for how, label in _TAKES.items()}
                self.file = gr.DownloadButton("Download", size="sm", visible=False)
            self.error = hidden_slot()
        self.outputs: list[Block] = [self.shown, self.others, self.laid]


class RunCard:
    """Every widget of the card. followed: id of the run that was picked or started here. made: the adapter to compare.
    run_outputs: what shows another run, or another state of it."""

    followed: gr.State

    def build_run(self) -> None:
        self.made, small = gr.State(""), partial(gr.Button, size="sm")
        with gr.Column(elem_classes="card run-card"):
            self.run = gr.HTML(card_html(None))
            self.run_error = hidden_slot()
            self.curves = CurvesView(self.followed)
            with gr.Row(elem_classes="acts"):
                self.compare = small(words.COMPARE_IT, variant="primary", visible=False)
                self.resume = small(words.GO_ON, visible=False)
                self.up, self.down = small("Move up", visible=False), small("Move down", visible=False)
                self.cancel = small("Cancel the run", variant="stop", visible=False)
            with gr.Column(visible=False, elem_classes="ask-first") as self.question:
                gr.HTML(html.note(_STOP))
                with gr.Row(elem_classes="acts"):
                    self.keep = small("Stop and keep")
                    self.discard = small("Stop and discard", variant="stop")
                    self.go_on = small("Go on training")
        with gr.Column(elem_classes="run-list"):
            self.listing = gr.HTML("", visible=False, js_on_load=PICK_JS)
        self.run_outputs: list[Block] = [self.followed, self.run_error, self.run, self.listing, self.cancel]
        self.run_outputs += [self.question, self.compare, self.resume, self.up, self.down]


def wire(services: Services, tab: RunCard, started: Dependency) -> None:
    """started: the listener that starts a run."""
    on = partial(listen, services, tab, failure=tab.run_error)
    acts: list[tuple[gr.Button, dict[str, Any]]] = [
        (tab.keep, {"does": "cancel", "keep": True}),
        (tab.discard, {"does": "cancel", "keep": False}),
        (tab.resume, {"does": "resume"}),
        (tab.up, {"does": "move", "to": "up"}),
        (tab.down, {"does": "move", "to": "down"}),
    ]
    for button, what in acts:
        on(button.click, partial(act, **what), tab.run_outputs)
    on(started.then, show, tab.run_outputs)
    on(tab.listing.pick, show, tab.run_outputs, followed=PICKED)
    for button, asks in ((tab.cancel, True), (tab.go_on, False)):
        listen(services, tab, button.click, partial(ask, asks=asks), [tab.cancel, tab.question])
    curves = tab.curves
    listen(services, curves, curves.others.change, lay, curves.laid)
    for how, button in curves.take.items():
        listen(services, curves, button.click, partial(write, how=how), curves.file, failure=curves.error)


def pick(runs: Sequence[RunView], followed: str) -> RunView | None:
    """The run to show: the followed one, else one that lives, else the newest."""
    return min(runs, key=lambda run: (run.run != followed, run.state not in words.LIVE), default=None)


def card_html(run: RunView | None) -> str:
    if run is None:
        return _no_run()
    own = [f"{name.removeprefix('rewards/').removesuffix('/mean')} {value:.2f}" for name, value in run.figures.items()]
    replies = [one for one in run.replies or [("", run.samples)] if one[1]]
    curve = charts.loss(run.loss, run.eval_loss, run.steps)
    return _run(run, run.state in words.LIVE, own[:4], curve, replies)


def list_html(runs: Sequence[RunView], shown: str) -> str:
    """Every run, newest first, each a button that brings it into the card above."""
    return _runs(runs[:20], shown, ordinal)


def buttons(tab: RunCard, run: RunView | None, runs: Sequence[RunView] = ()) -> Drawn:
    """Each button only while it can do something. runs: all that are listed, the waiting ones among them."""
    state = run.state if run else ""
    places = [other.place for other in runs if other.state == "QUEUED"]
    place = run.place if run and state == "QUEUED" else 0
    made = bool(run and (run.adapter or run.live))
    again = words.GO_ON if run and run.resume_step else words.START_AGAIN
    return {
        tab.cancel: gr.update(visible=state in ("QUEUED", "RUNNING")),
        tab.question: AWAY,
        tab.compare: gr.update(value=words.HEAR_IT if run and run.live else words.COMPARE_IT, visible=made),
        tab.resume: gr.update(value=again, visible=state in ("FAILED", "CANCELLED")),
        tab.up: gr.update(visible=bool(place) and place > min(places, default=place)),
        tab.down: gr.update(visible=bool(place) and place < max(places, default=place)),
    }


def buttons_key(run: RunView | None, runs: Sequence[RunView]) -> dict[str, object]:
    if run is None:
        return {}
    waiting = sorted(other.place for other in runs if other.state == "QUEUED")
    made = run.adapter, run.live, bool(run.resume_step)
    return {"run": (run.run, run.state), "made": made, "place": (run.place, waiting)}


def show(visit: Visit, tab: RunCard, *, followed: str) -> Drawn:
    """The followed run's card and buttons, and the list of all runs. followed: also a text that the page made up."""
    runs = visit.services.training.runs(visit.owner)
    run = pick(runs, followed)
    listing = slot(list_html(runs, run.run if run else ""))
    return {tab.followed: followed, tab.run: card_html(run), tab.listing: listing, **buttons(tab, run, runs)}


def _shown(visit: Visit, followed: str) -> RunView | None:
    return pick(visit.services.training.runs(visit.owner), followed)


def ask(visit: Visit, tab: RunCard, *, asks: bool) -> Drawn:
    """The question what to do with the run takes the place of the button, or gives it back."""
    return {tab.cancel: gr.update(visible=not asks), tab.question: gr.update(visible=asks)}


def act(visit: Visit, tab: RunCard, *, does: str, followed: str, **how: Any) -> Drawn:
    """Cancels, resumes or moves the shown run, as ``does`` and ``how`` say."""
    if run := _shown(visit, followed):
        getattr(visit.services.training, does)(run.run, owner=visit.owner, **how)
    return show(visit, tab, followed=followed)


def ask_to_cancel(
    visit: Visit, tab: RunCard, *, memo: Mapping[str, Any], followed: str
) -> tuple[dict[str, Any], Drawn]:
    """Bring the run that trains into the card, with the question what to do with it; another may be shown, or wait
    behind it. Returns the memo with the buttons' key too: the next tick must not take the question away."""
    runs = visit.services.training.runs(visit.owner)
    run = next((run for run in runs if run.state in ("RUNNING", "STOPPING")), None) or pick(runs, followed)
    drawn = show(visit, tab, followed=run.run if run else followed)
    if run and run.state in ("QUEUED", "RUNNING"):
        drawn |= ask(visit, tab, asks=True)
    return {**memo, "run-buttons": buttons_key(run, runs)}, drawn


def adapter_of(visit: Visit, tab: RunCard, *, followed: str) -> Updates:
    """The adapter the shown run made, or while it trains what it has learned so far, for Compare."""
    run = _shown(visit, followed)
    return {tab.made: (run.adapter or run.live) if run else ""}


_CURVES: dict[str, tuple[str, Callable[[float], str]]] = {
    "lr": ("Learning rate", "{:.1e}".format),
    "grad_norm": ("Gradient norm", "{:.2f}".format),
    "tokens_per_s": ("Tokens a second", "{:.0f}".format),
    "memory_bytes": ("Memory, peak", size),
}


def small_html(run: RunView | None) -> str:
    kinds = [(name, *kind) for name, kind in _CURVES.items() if run]
    curves = [charts.small(label, run.curves.get(name, []), run.steps, show) for name, label, show in kinds if run]
    return _small_charts(curves) if any(curves) else html.note(NO_CURVES)


def choices(listed: Sequence[RunView], shown: RunView | None, chosen: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Runs that have a curve, but for the one that is shown; and what is chosen, though it is gone, or shown."""
    others = [run for run in listed if run.loss and (shown is None or run.run != shown.run)]
    offered = {run.run: f"{run.name}, {run.method}" for run in others}
    named = {run.run: run.name for run in listed}
    offered |= {run: named.get(run, f"{run}, {words.GONE}") for run in chosen if run not in offered}
    return [(label, run) for run, label in offered.items()]


def laid_html(listed: Sequence[RunView], shown: RunView | None, others: Sequence[str]) -> str:
    """The shown run's loss and that of the chosen ones; "" while none is chosen."""
    chosen = [run for run in listed if run.run in others and (shown is None or run.run != shown.run)]
    if shown is None or not chosen:
        return ""
    return charts.overlay([(f"{run.name}, {run.method}", run.eval_loss or run.loss) for run in [shown, *chosen]])


def lay(visit: Visit, tab: CurvesView, *, followed: str, others: Sequence[str] | None) -> Drawn:
    """Other runs were chosen; ids are looked up among the visitor's own."""
    listed = visit.services.training.runs(visit.owner)
    return {tab.laid: laid_html(listed, pick(listed, followed), others or [])}


def write(visit: Visit, tab: CurvesView, *, how: str, followed: str) -> Updates:
    """The shown run's curves as a file, and the button that hands it over."""
    run = _shown(visit, followed)
    if run is None:
        raise InputError(NO_CURVES)
    file = visit.services.training.curves(run.run, how, visit.owner)
    return {tab.file: gr.update(value=str(file), label=f"Download {file.name[:40]}", visible=True)}
