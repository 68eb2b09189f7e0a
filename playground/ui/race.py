"""The fold "Race several methods" of the Train tab: choose, start, watch, and take a row over as a side."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import gradio as gr
from gradio.blocks import Block

from playground.errors import InputError
from playground.evaluation import checks
from playground.methods import all_methods
from playground.services import Services
from playground.ui import html, words
from playground.ui.rows import Source
from playground.ui.runs import PICK_JS
from playground.ui.wiring import AWAY, BARE, Drawn, Memo, Visit, hidden_slot, listen, slot, unasked
from playground.verdict.race import RaceRequest, RaceView
from playground.verdict.race_store import HEAD, NOTES, cells, label, picture, status

IDEA = (
    "The same examples and the same budget for each method. They run one after another, are measured alike, and end as"
    " one table: what they learned, what they cost and what they forgot. Learning rate and size are each method's own."
)
BUDGETS = [("Steps each", "steps"), ("Minutes each", "minutes")]
PICTURES = [("Held-out loss against trained weights", "score"), ("Loss curves", "loss")]
PACE_S = 2.0
head_html, _table = html.piece("train", "race_head"), html.piece("train", "race")
SETTINGS = ("batch_size", "max_tokens", "seed")
"""Settings of the form that a race takes over."""


class RaceFold:
    """Every widget of the fold. race: id of the one that is shown. chosen: an adapter that was picked as a side. sent:
    what the fold shows already. shown: what shows a race."""

    def __init__(self) -> None:
        self.race, self.chosen, self.sent = gr.State(""), gr.State(""), gr.State({})
        names = [(method.label, name) for name, method in all_methods().items()]
        with gr.Column(elem_classes="card folds"), gr.Accordion("Race several methods", open=False) as self.fold:
            gr.HTML(html.note(IDEA))
            self.methods = gr.CheckboxGroup(names, value=[name for _, name in names], label="Methods")
            with gr.Row():
                self.kind = gr.Radio(BUDGETS, value="steps", label="Budget", min_width=160)
                hint = "Each method gets as much."
                self.amount = gr.Number(20, label="How much", info=hint, minimum=0.1, min_width=130)
            hint = "Empty: the check of an example set; without one, held-out loss alone."
            label, kinds = "How replies are judged", checks.kinds()
            self.check = gr.Textbox(label=label, max_length=500, placeholder=kinds, info=hint)
            with gr.Row(elem_classes="acts"):
                self.start = gr.Button("Start race", variant="primary", size="sm")
                self.cancel = gr.Button("Cancel the race", variant="stop", size="sm", visible=False)
            self.error, self.head = hidden_slot(), hidden_slot()
            self.table = gr.HTML("", visible=False, js_on_load=PICK_JS)
            with gr.Row(visible=False) as self.pictures:
                self.which = gr.Radio(PICTURES, value="score", label="Picture", **BARE)
            self.plot = hidden_slot()
            self.timer = gr.Timer(PACE_S, active=False)
        self.shown: list[Block] = [self.race, self.sent, self.fold, self.head, self.table, self.pictures, self.plot]
        self.shown += [self.start, self.cancel, self.timer]


def wire(services: Services, tab: RaceFold, *, source: gr.State, form: dict[str, Block]) -> None:
    """source: what is open on the Train tab. form: the SETTINGS of its form."""
    on = partial(listen, services, tab, failure=tab.error)
    started = on(tab.start.click, start, tab.race, trigger_mode="once", source=source, form=form)
    cancelled = on(tab.cancel.click, cancel)
    for event in (started.then, cancelled.then, tab.which.input):
        on(event, show, tab.shown)
    unasked(services, tab, tab.timer.tick, show, tab.shown)


def opened(visit: Visit, tab: RaceFold, *, race: str, which: str) -> Drawn:
    """The page was opened or reloaded: a race that lives is taken up again, and its fold opened."""
    view = _shown(visit, race)
    shown = show(visit, tab, race=race, sent={}, which=which)
    return {**shown, tab.fold: gr.update(open=True)} if view is not None and view.live else shown


def start(
    visit: Visit,
    tab: RaceFold,
    *,
    source: Source,
    methods: list[str],
    kind: str,
    amount: float | None,
    check: str,
    form: Mapping[str, float],
) -> Drawn:
    """Queue the race. amount: steps or minutes for each method. form: the SETTINGS of the form."""
    if source.path is None:
        raise InputError(words.TRAIN_EMPTY)
    budget = float(amount or 0)
    request = RaceRequest(
        source.path,
        methods=tuple(methods or ("",)),
        steps=int(budget) if kind == "steps" else None,
        minutes=budget if kind == "minutes" else None,
        check=check or "",
        name=source.slug,
        mapping=source.asked,
        owner=visit.owner,
        turns=source.turns,
        leave_out=source.leave_out,
        batch_size=int(form["batch_size"]),
        max_tokens=int(form["max_tokens"]),
        seed=int(form["seed"]),
    )
    return {tab.race: visit.services.race.start(request)}


def cancel(visit: Visit, tab: RaceFold, *, race: str) -> Drawn:
    if view := _shown(visit, race):
        visit.services.race.cancel(view.race.race, visit.owner)
    return {}


def side_of(visit: Visit, tab: RaceFold, *, picked: str, race: str) -> Drawn:
    """A row was picked; its id is looked up in the visitor's race and library. Chooses the adapter, "" = none."""
    view = _shown(visit, race)
    made = {entry.adapter for entry in view.race.entries if entry.adapter} if view is not None else set()
    known = {row.card.id for row in visit.services.adapters.list(visit.owner) if row.usable}
    if picked in made & known:
        return {tab.chosen: picked}
    gone = "This adapter is not here any more. Train the method again."
    return {tab.chosen: "", tab.error: slot(html.error_card(gone))}


def show(visit: Visit, tab: RaceFold, *, race: str, sent: dict[str, Any], which: str) -> Drawn:
    """The race that is shown; what reads the same as what was ``sent`` is left alone."""
    view = _shown(visit, race)
    if view is None:
        shown: Drawn = dict.fromkeys((tab.head, tab.table, tab.pictures, tab.plot, tab.cancel), AWAY)
        shown |= {tab.start: gr.update(visible=True), tab.timer: gr.update(active=False)}
        return shown | {tab.race: "", tab.sent: {}}
    memo, live, entries = Memo(sent), view.live, view.race.entries
    drawn: Drawn = {
        tab.head: slot(head_html(view)),
        tab.table: slot(table_html(view)),
        tab.plot: slot(picture(entries, view.race.base, which == "loss")),
        tab.pictures: gr.update(visible=any(len(entry.loss) > 1 for entry in entries)),
        tab.start: gr.update(visible=not live),
        tab.cancel: gr.update(visible=live),
        tab.timer: gr.update(value=PACE_S, active=live),
    }
    return {tab.race: view.race.race, **memo.fresh("race", drawn), tab.sent: memo}


def table_html(view: RaceView) -> str:
    entries = [*([view.race.base] if view.race.base.eval_loss else []), *view.race.entries]
    return _table(HEAD, [(cells(one), status(one), one.adapter, label(one.method)) for one in entries], NOTES)


def _shown(visit: Visit, race: str) -> RaceView | None:
    """The race that is followed, else one that lives, else the newest; None where there is none."""
    views = visit.services.race.races(visit.owner)
    return min(views, key=lambda one: (one.race.race != race, not one.live), default=None)
