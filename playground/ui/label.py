"""Label replies, a fold of the Verdict tab: is one unnamed reply right; and how far a judge goes with these labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from playground.errors import InputError, PlaygroundError
from playground.evaluation.votes import LABELS_NEEDED
from playground.services import Services
from playground.ui import html, verdict_shown
from playground.ui.html import card
from playground.ui.sidebar import require
from playground.ui.vote import PACE_S, away
from playground.ui.wiring import AWAY, QUIET, Drawn, Dropdown, Updates, Visitor, hidden_slot, listen, slot, unasked
from playground.verdict.judges import ENDPOINT
from playground.verdict.judging import LABELS

if TYPE_CHECKING:
    from playground.ui.verdict import VerdictTab

IDEA = (
    "One reply at a time, without the name of its side: is it right? From 50 such labels on, a model that judges as you"
    " do may say what is right in later verdicts (judge:NAME). The answer above is out of sight meanwhile."
)
JUDGE_IDEA = "A model marks the replies that you labelled. How far it goes with you decides whether it may judge alone."
CHOICES = {"right": "Right", "wrong": "Wrong", "unsure": "Cannot tell"}
KEYS_JS = (
    "element.addEventListener('keydown', event => {"
    " const id = {1: 'right', 2: 'wrong', 3: 'unsure', Backspace: 'undo'}[event.key];"
    " if (id && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) {"
    " event.preventDefault(); trigger('pick', {id}); } });"
    " const take = () => { const there = element.querySelector('.ballot:not(.seen)');"
    " if (there) { there.classList.add('seen'); there.focus({preventScroll: true}); } };"
    " new MutationObserver(take).observe(element, {childList: true, subtree: true}); take()"
)
"""Where the reply has the focus, the keys 1, 2 and 3 label it and Backspace takes the last label back; each new reply
gets the focus."""
_LONGEST = 6_000
_sheet, _count, _marked = (html.piece("verdict", name) for name in ("sheet", "labelled", "marked"))


class LabelView:
    """Every widget of the fold. number: of the reply that is shown, -1 = none. shown: what shows a reply. judged: what
    shows how far a judge goes with the labels."""

    def __init__(self) -> None:
        self.number, small = gr.State(-1), partial(gr.Button, size="sm")
        with gr.Column(elem_classes="card folds"), gr.Accordion("Label replies", open=False) as self.fold:
            gr.HTML(html.note(IDEA))
            self.begin = small("Label the replies of the verdict above", variant="primary", elem_classes="fit")
            self.count = hidden_slot()
            self.sheet = gr.HTML("", visible=False, js_on_load=KEYS_JS)
            with gr.Row(visible=False, elem_classes="acts") as self.labels:
                self.choices = {choice: small(label) for choice, label in CHOICES.items()}
            with gr.Row(elem_classes="acts"):
                self.undo = small("Take the last label back", visible=False)
                self.done = small("Done for now", visible=False)
            self.error = hidden_slot()
            with gr.Accordion("A judge beside you", open=False):
                gr.HTML(html.note(JUDGE_IDEA))
                self.judge = Dropdown([], label="Which judge", filterable=False)
                with gr.Row(elem_classes="acts"):
                    self.let = small("Let it mark what you labelled")
                    self.stop = small("Stop and keep", variant="stop", visible=False)
                self.marked = hidden_slot()
                self.timer = gr.Timer(PACE_S, active=False)
        self.shown: list[Block] = [self.number, self.count, self.sheet, self.labels, self.undo, self.done, self.begin]
        self.judged = [self.marked, self.let, self.stop, self.timer]


def wire(services: Services, view: LabelView, tab: VerdictTab) -> None:
    """tab: the Verdict tab, for the verdict that is shown; its answer is taken out of sight while one labels."""
    verdict: dict[str, Any] = {"verdict": tab.followed}
    on = partial(listen, services, view, failure=view.error)

    def bring_back(event: Dependency) -> None:
        listen(services, tab, event.then, verdict_shown.shown, tab.shown, failure=tab.shown_error)

    def judged(event: Callable[..., Any], wired: Callable[..., Dependency] = listen) -> None:
        ended = {view.timer: gr.update(active=False)}
        wired(services, view, event, marked, view.judged, failure=view.marked, restored=ended, **verdict)

    judged(on(view.fold.expand, opened, [*view.shown, view.judge]).then)
    bring_back(on(view.fold.collapse, closed, view.shown))
    on(tab.followed.change, closed, view.shown)
    on(view.begin.click, show, view.shown, **verdict).then(away, view.number, tab.body, **QUIET)
    for choice, button in view.choices.items():
        on(button.click, partial(label, picked=choice), view.shown, **verdict)
    on(view.sheet.pick, label, view.shown, **verdict)
    on(view.undo.click, partial(label, picked="undo"), view.shown, **verdict)
    bring_back(on(view.done.click, closed, view.shown))
    judged(on(view.let.click, let, **verdict).then)
    judged(on(view.stop.click, stop, **verdict).then)
    judged(view.judge.input)
    judged(view.timer.tick, unasked)


def opened(services: Services, visitor: Visitor, view: LabelView, *, number: int) -> Updates:
    """The fold was opened: who may judge, and what ``closed`` shows where nothing is asked yet."""
    judges = services.judging.judges(visitor.owner)
    there = [id for _, id in judges]
    known = gr.update(choices=judges, value=ENDPOINT if ENDPOINT in there else next(iter(there), None))
    return {view.judge: known, **({} if number >= 0 else dict(closed(services, visitor, view).items()))}


def closed(services: Services, visitor: Visitor, view: LabelView) -> Drawn:
    """Nothing is asked: at first, and where another verdict is shown."""
    return {
        view.number: -1,
        **dict.fromkeys((view.count, view.sheet), slot("")),
        **dict.fromkeys((view.labels, view.undo, view.done), AWAY),
        view.begin: gr.update(visible=True),
    }


def show(services: Services, visitor: Visitor, view: LabelView, *, verdict: str) -> Drawn:
    """The next reply of the shown verdict; no side is named."""
    try:
        if not verdict:
            raise InputError("There is no verdict with replies to label yet. Measure one above.")
        sheet = services.labelling.next(verdict, visitor.owner)
        count = services.labelling.count(verdict, visitor.owner)
    except PlaygroundError as error:
        return {**closed(services, visitor, view), view.error: slot(card(error))}
    number, shown = count.right + count.wrong + count.unsure, ""
    if sheet is not None:
        parts = [html.cut(text, _LONGEST) for text in (sheet.question, sheet.reply, sheet.reference)]
        number, shown = sheet.number, _sheet(sheet.number + 1, *parts)
    return {
        view.number: number,
        view.count: slot(_count(count, LABELS_NEEDED)),
        view.sheet: slot(shown),
        view.labels: gr.update(visible=sheet is not None),
        view.undo: gr.update(visible=number > 0),
        view.done: gr.update(visible=True),
        view.begin: gr.update(visible=False),
    }


def label(services: Services, visitor: Visitor, view: LabelView, *, picked: str, number: int, verdict: str) -> Drawn:
    """A button or a key; then the next reply, or the one whose label is taken back."""
    if picked == "undo":
        services.labelling.undo(verdict, visitor.owner)
    else:
        services.labelling.label(verdict, int(number), picked, visitor.owner)
    return show(services, visitor, view, verdict=verdict)


def let(services: Services, visitor: Visitor, view: LabelView, *, verdict: str, judge: str | None) -> None:
    require(services)
    services.judging.mark(verdict, judge or "", visitor.owner)


def stop(services: Services, visitor: Visitor, view: LabelView, *, verdict: str) -> None:
    services.judging.stop(verdict, visitor.owner, LABELS)


def marked(services: Services, visitor: Visitor, view: LabelView, *, verdict: str, judge: str | None) -> Drawn:
    """How far the judge is, and how far it goes with the labels."""
    found, trust = None, None
    if verdict and judge:
        found = services.judging.show(verdict, visitor.owner, LABELS)
        trust = services.judging.trust(verdict, judge, visitor.owner)
    live = found is not None and found.live
    return {
        view.marked: slot(_marked(found, trust, judge)),
        view.let: gr.update(visible=not live),
        view.stop: gr.update(visible=live),
        view.timer: gr.update(value=PACE_S, active=live),
    }
