"""The fold "Race several methods" under the method card: choose, start, watch, and take a row over as a side of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.methods import all_methods
from playground.services.race import RaceRequest, RaceView
from playground.services.race_table import HEAD, NOTES, cells, label, status
from playground.ui import html, story, words
from playground.ui.failure import card
from playground.ui.figures import left
from playground.ui.race_chart import picture
from playground.ui.runs import PICK_JS
from playground.ui.source import Source
from playground.ui.wiring import QUIET, Visitor, bind, bind_pick, hidden_slot, slot

IDEA = (
    "The same examples and the same budget for each method. They run one after another, are measured alike, and end as one table: "
    "what they learned, what they cost and what they forgot. Learning rate and size are each method's own."
)
BUDGETS = [("Steps each", "steps"), ("Minutes each", "minutes")]
PICTURES = [("Held-out loss against trained weights", "score"), ("Loss curves", "loss")]
PACE_S = 2.0
_STATES = {
    "RUNNING": ("Training", "live"),
    "MEASURING": ("Measuring", "live"),
    "DONE": ("Done", "ok"),
    "CANCELLED": ("Cancelled", "wait"),
}


@dataclass(frozen=True)
class RaceFold:
    """Every widget of the fold, named once. race: the one that is shown. chosen: an adapter that was picked as a side."""

    race: gr.State
    chosen: gr.State
    sent: gr.State
    fold: gr.Accordion
    methods: gr.CheckboxGroup
    kind: gr.Radio
    amount: gr.Number
    check: gr.Textbox
    start: gr.Button
    cancel: gr.Button
    error: gr.HTML
    head: gr.HTML
    table: gr.HTML
    which: gr.Radio
    plot: gr.HTML
    timer: gr.Timer

    @property
    def shown(self) -> list[Any]:
        return [self.race, self.sent, self.head, self.table, self.which, self.plot, self.start, self.cancel, self.timer]


def build() -> RaceFold:
    parts: dict[str, Any] = {"race": gr.State(""), "chosen": gr.State(""), "sent": gr.State({})}
    names = [(method.label, name) for name, method in all_methods().items()]
    with gr.Column(elem_classes="card folds"), gr.Accordion("Race several methods", open=False) as fold:
        gr.HTML(html.note(IDEA))
        parts["methods"] = gr.CheckboxGroup(names, value=[name for _, name in names], label="Methods")
        with gr.Row():
            parts["kind"] = gr.Radio(BUDGETS, value="steps", label="Budget", min_width=160)
            parts["amount"] = gr.Number(20, label="How much", info="Each method gets as much.", minimum=0.1, min_width=130)
        parts["check"] = gr.Textbox(
            label="How replies are judged", max_length=500, placeholder="json, ends-with:…, contains:…, regex:…, max-words:60",
            info="Empty: the check of an example set; without one, held-out loss alone.",
        )  # fmt: skip
        with gr.Row(elem_classes="acts"):
            parts["start"] = gr.Button("Start race", variant="primary", size="sm")
            parts["cancel"] = gr.Button("Cancel the race", variant="stop", size="sm", visible=False)
        parts["error"] = hidden_slot()
        parts["head"] = hidden_slot()
        parts["table"] = gr.HTML("", visible=False, js_on_load=PICK_JS)
        parts["which"] = gr.Radio(PICTURES, value="score", label="Picture", container=False, show_label=False, visible=False)
        parts["plot"] = hidden_slot()
        parts["timer"] = gr.Timer(PACE_S, active=False)
    return RaceFold(**parts, fold=fold)


def wire(services: Any, tab: RaceFold, source: gr.State, settings: list[Any]) -> None:
    """source: what is open on the Train tab. settings: batch, longest example and seed of the form."""
    look = [tab.race, tab.sent, tab.which]
    tab.start.click(
        bind(services, start), [source, tab.methods, tab.kind, tab.amount, tab.check, *settings], [tab.race, tab.error],
        trigger_mode="once", **QUIET,
    ).then(bind(services, show), look, tab.shown, **QUIET)  # fmt: skip
    tab.cancel.click(bind(services, cancel), tab.race, tab.error, **QUIET).then(bind(services, show), look, tab.shown, **QUIET)
    tab.which.input(bind(services, show), look, tab.shown, **QUIET)
    tab.timer.tick(bind(services, show), look, tab.shown, **QUIET)


def wire_side(services: Any, tab: RaceFold, used_with: list[Any], used: list[Any]) -> None:
    """A row's button puts its adapter on a side. used_with, used: what ``story.use_as_side`` takes and gives."""
    tab.table.pick(bind_pick(services, side_of), tab.race, [tab.chosen, tab.error], **QUIET).then(
        bind(services, use), [tab.chosen, *used_with], used, **QUIET
    )


def opened(services: Any, visitor: Visitor, race: str, sent: dict[str, Any], which: str) -> list[Any]:
    """The page was opened or refreshed: a race that lives is taken up again, and its fold opened. Returns the fold, then ``show``."""
    view = _shown(services, visitor, race)
    return [gr.update(open=True) if view is not None and view.live else gr.skip(), *show(services, visitor, race, {}, which)]


def start(
    services: Any, visitor: Visitor, source: Source, methods: list[str], kind: str, amount: float | None, check: str,
    batch: float, tokens: float, seed: float,
) -> list[Any]:  # fmt: skip
    """Queue the race. Returns its id and an error."""
    if source.path is None:
        return [gr.skip(), slot(html.error_card(words.TRAIN_EMPTY))]
    try:
        budget = float(amount or 0)
        race = services.race.start(
            RaceRequest(
                source.path, tuple(methods or ("",)), steps=int(budget) if kind == "steps" else None,
                minutes=budget if kind == "minutes" else None, check=check or "", name=source.slug, batch_size=int(batch),
                max_tokens=int(tokens), seed=int(seed), mapping=source.mapping, owner=visitor.owner, turns=source.turns,
                leave_out=source.leave_out,
            )
        )  # fmt: skip
    except Exception as error:
        return [gr.skip(), slot(card(error))]
    return [race, slot("")]


def cancel(services: Any, visitor: Visitor, race: str) -> Any:
    """Stop what has not ended. Returns an error."""
    try:
        view = _shown(services, visitor, race)
        if view is not None:
            services.race.cancel(view.race.race, visitor.owner)
    except Exception as error:
        return slot(card(error))
    return slot("")


def side_of(services: Any, visitor: Visitor, adapter: str, race: str) -> list[Any]:
    """A row was picked; its id is looked up among the adapters of the visitor's race, and in the library. Returns the adapter to put
    on a side, "" = none, and an error."""
    try:
        view = _shown(services, visitor, race)
        made = {entry.adapter for entry in view.race.entries if entry.adapter} if view is not None else set()
        known = {row.card.id for row in services.adapters.list(visitor.owner) if row.usable}
        if adapter not in made or adapter not in known:
            return ["", slot(html.error_card("This adapter is not here any more. Train the method again."))]
    except Exception as error:
        return ["", slot(card(error))]
    return [adapter, slot("")]


def use(services: Any, visitor: Visitor, adapter: str, *values: Any) -> list[Any]:
    """``story.use_as_side`` for an adapter that ``side_of`` has found; nothing where it found none."""
    return story.use_as_side(services, visitor, adapter, *values) if adapter else [gr.skip()] * (8 + len(words.LETTERS))


def show(services: Any, visitor: Visitor, race: str, sent: dict[str, Any], which: str) -> list[Any]:
    """The race, as ``RaceFold.shown`` takes it; what reads the same as what was ``sent`` is left alone."""
    try:
        view = _shown(services, visitor, race)
    except Exception as error:
        return [gr.skip(), gr.skip(), slot(card(error)), *[gr.skip()] * 6]
    if view is None:
        return ["", {}, slot(""), slot(""), gr.update(visible=False), slot(""), gr.update(visible=True), gr.update(visible=False), gr.Timer(PACE_S, active=False)]  # fmt: skip
    drawn: dict[str, Any] = {
        "race": view.race.race, "head": head_html(view), "table": table_html(view),
        "plot": picture(view.race.entries, view.race.base, which == "loss"), "live": view.live,
    }  # fmt: skip
    kept = dict(sent or {})

    def fresh(name: str, update: Any) -> Any:
        return gr.skip() if kept.get(name) == drawn[name] else update

    return [
        view.race.race,
        drawn,
        fresh("head", slot(drawn["head"])),
        fresh("table", slot(drawn["table"])),
        gr.update(visible=any(len(entry.loss) > 1 for entry in view.race.entries)),
        fresh("plot", slot(drawn["plot"])),
        fresh("live", gr.update(visible=not view.live)),
        fresh("live", gr.update(visible=view.live)),
        fresh("live", gr.Timer(PACE_S, active=view.live)),
    ]


def head_html(view: RaceView) -> str:
    """Which race, how far, and how long it still takes."""
    state, kind = _STATES.get(view.race.state, (view.race.state.capitalize(), "wait"))
    budget = f"{view.race.minutes:g} minutes each" if view.race.minutes else f"{view.race.steps or 20} steps each"
    said = [view.race.message, f"{view.measured} of {view.of} methods measured", left(view.seconds_left)]
    check = f" Judged by {view.race.check}." if view.race.check else ""
    return (
        f'<div class="run-head"><h2>{html.esc(view.race.name)}</h2>{html.pill(state, kind)}</div>'
        + (html.progress(view.measured / max(1, view.of), "Race") if view.live else "")
        + html.note(", ".join(part for part in said if part) + f". {budget[0].upper()}{budget[1:]}.{check}")
    )


def table_html(view: RaceView) -> str:
    """One line a method; what has an adapter has a button. Every text is escaped."""
    head = "".join(f"<th{' class=figure' if place else ''}>{html.esc(name)}</th>" for place, name in enumerate(HEAD))
    entries = [*([view.race.base] if view.race.base.eval_loss else []), *view.race.entries]
    lines = []
    for entry in entries:
        first, *rest = cells(entry)
        under = f"<br><small>{html.esc(status(entry))}</small>" if status(entry) else ""
        use = (
            f'<button type="button" data-id="{html.esc(entry.adapter)}" aria-label="Use {html.esc(label(entry.method))} as a side">'
            "Use as a side</button>"
            if entry.adapter
            else ""
        )
        figures = "".join(f"<td class=figure>{html.esc(cell)}</td>" for cell in rest)
        lines.append(f"<tr><td>{html.esc(first)}{under}{use}</td>{figures}</tr>")
    return (
        f'<div class="race"><table class="rows" aria-label="The race"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        f"</div>{html.note(NOTES)}"
    )


def _shown(services: Any, visitor: Visitor, race: str) -> RaceView | None:
    """The race that is followed, else one that lives, else the newest; None where there is none."""
    views: list[RaceView] = services.race.races(visitor.owner)
    return (
        next((v for v in views if v.race.race == race), None)
        or next((v for v in views if v.live), None)
        or next(iter(views), None)
    )
