"""Blind vote, a fold of the Verdict tab: two unnamed replies, which is better, and the names once asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from playground.errors import InputError, PlaygroundError
from playground.services import Services
from playground.ui import html, verdict_shown
from playground.ui.html import card, plural
from playground.ui.sidebar import require
from playground.ui.wiring import AWAY, QUIET, Drawn, Dropdown, Updates, Visitor, hidden_slot, listen, slot, unasked
from playground.verdict.votes import Ballot

if TYPE_CHECKING:
    from playground.ui.verdict import VerdictTab

IDEA = (
    "Two replies to one example, without names. Say which one serves you better; after some dozens the sides tell"
    " apart. The answer above is out of sight until you reveal the names or fold this up."
)
JUDGE_IDEA = (
    "Optional: a model votes too, asked in both orders. It counts apart, and how far it goes with your own votes is"
    " shown beside it."
)
STRENGTH = "Strength: the chance to be preferred to an average side (Bradley-Terry), with its 95 % interval."
ALONE = "You have voted on nothing that it judged, so whether it goes with you is not known."
ASKED = {"left": "Left is better", "right": "Right is better", "tie": "As good", "skip": "Skip"}
DONE = "You have been asked everything there is. Reveal the names."
PACE_S = 2.0
KEYS_JS = (
    "element.addEventListener('keydown', event => {"
    " const id = {1: 'left', 2: 'right', 3: 'tie'}[event.key];"
    " if (id && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) trigger('pick', {id}); })"
)
"""Where the ballot has the focus, the keys 1, 2 and 3 vote."""
_ballot, _judging, _revealed = (html.piece("verdict", name) for name in ("ballot", "judging", "revealed"))
_LONGEST = 6_000


class VoteView:
    """Every widget of the fold. number: of the ballot that is shown, -1 = none. shown: what shows a ballot. judged:
    what shows how far a judge is."""

    def __init__(self) -> None:
        self.number, small = gr.State(-1), partial(gr.Button, size="sm")
        with gr.Column(elem_classes="card folds"), gr.Accordion("Blind vote", open=False) as self.fold:
            gr.HTML(html.note(IDEA))
            self.begin = small("Vote on the verdict above", variant="primary", elem_classes="fit")
            self.count = hidden_slot()
            self.ballot = gr.HTML("", visible=False, js_on_load=KEYS_JS)
            with gr.Row(visible=False, elem_classes="acts") as self.votes:
                self.choices = {choice: small(label) for choice, label in ASKED.items()}
            with gr.Row(elem_classes="acts"):
                self.undo = small("Take the last vote back", visible=False)
                self.reveal = small("Reveal", variant="primary", visible=False)
            self.error, self.revealed = hidden_slot(), hidden_slot()
            with gr.Accordion("A model as a judge", open=False):
                gr.HTML(html.note(JUDGE_IDEA))
                self.judge = Dropdown([], label="Who judges", filterable=False)
                with gr.Row(elem_classes="acts"):
                    self.let = small("Let it judge")
                    self.stop = small("Stop and keep", variant="stop", visible=False)
                self.judging = hidden_slot()
                self.timer = gr.Timer(PACE_S, active=False)
        self.shown: list[Block] = [self.number, self.count, self.ballot, self.revealed, self.votes, self.undo]
        self.shown += [self.reveal, self.begin]
        self.judged = [self.judging, self.let, self.stop, self.timer]


def wire(services: Services, view: VoteView, tab: VerdictTab) -> None:
    """tab: the Verdict tab, for the verdict that is shown; its answer is taken out of sight while one votes."""
    verdict: dict[str, Any] = {"verdict": tab.followed}
    on = partial(listen, services, view, failure=view.error)

    def bring_back(event: Dependency) -> None:
        listen(services, tab, event.then, verdict_shown.shown, tab.shown, failure=tab.shown_error)

    def judged(event: Callable[..., Any], wired: Callable[..., Dependency] = listen) -> None:
        ended = {view.timer: gr.update(active=False)}
        wired(services, view, event, judging, view.judged, failure=view.judging, restored=ended, **verdict)

    judged(on(view.fold.expand, opened, [*view.shown, view.judge]).then)
    bring_back(on(view.fold.collapse, closed, view.shown))
    on(tab.followed.change, closed, view.shown)
    on(view.begin.click, show, view.shown, **verdict).then(away, view.number, tab.body, **QUIET)
    for choice, button in view.choices.items():
        on(button.click, partial(cast, picked=choice), view.shown, **verdict)
    on(view.ballot.pick, cast, view.shown, **verdict)
    on(view.undo.click, undo, view.shown, **verdict)
    bring_back(on(view.reveal.click, reveal, view.shown, **verdict))
    judged(on(view.let.click, let, **verdict).then)
    judged(on(view.stop.click, stop, **verdict).then)
    judged(view.timer.tick, unasked)


def away(number: int) -> dict[str, Any]:
    """The verdict's answer leaves the page while a ballot is on it."""
    return gr.update(value="", visible=False) if number >= 0 else gr.skip()


def opened(services: Services, visitor: Visitor, view: VoteView, *, number: int) -> Updates:
    """The fold was opened: who may judge, and what ``closed`` shows where nothing is asked yet."""
    judges = services.judging.judges(visitor.owner)
    known = gr.update(choices=judges, value=judges[0][1] if judges else None)
    return {view.judge: known, **({} if number >= 0 else dict(closed(services, visitor, view).items()))}


def closed(services: Services, visitor: Visitor, view: VoteView) -> Drawn:
    """Nothing is asked, and nothing shown: at first, and where another verdict is shown."""
    return {
        view.number: -1,
        **dict.fromkeys((view.count, view.ballot, view.revealed), slot("")),
        **dict.fromkeys((view.votes, view.undo, view.reveal), AWAY),
        view.begin: gr.update(visible=True),
    }


def show(services: Services, visitor: Visitor, view: VoteView, *, verdict: str) -> Drawn:
    """The next ballot of the shown verdict; no name is in it."""
    try:
        if not verdict:
            raise InputError("There is no verdict to vote on yet. Measure one above.")
        ballot = services.voting.next(verdict, visitor.owner)
        votes, left = services.voting.count(verdict, visitor.owner)
    except PlaygroundError as error:
        return {**closed(services, visitor, view), view.error: slot(card(error))}
    count = f"{plural(votes, 'vote')} so far, {plural(left, 'comparison')} left." if ballot is not None else DONE
    number = ballot.number if ballot is not None else votes
    return {
        view.number: number,
        view.count: slot(html.note(count)),
        view.ballot: slot(_ballot_html(ballot) if ballot else ""),
        view.votes: gr.update(visible=ballot is not None),
        view.undo: gr.update(visible=number > 0),
        view.reveal: gr.update(visible=True),
        view.revealed: slot(""),
        view.begin: gr.update(visible=False),
    }


def cast(services: Services, visitor: Visitor, view: VoteView, *, picked: str, number: int, verdict: str) -> Drawn:
    """A button or a key; then the next ballot."""
    services.voting.vote(verdict, int(number), picked, visitor.owner)
    return show(services, visitor, view, verdict=verdict)


def undo(services: Services, visitor: Visitor, view: VoteView, *, verdict: str) -> Drawn:
    services.voting.undo(verdict, visitor.owner)
    return show(services, visitor, view, verdict=verdict)


def reveal(services: Services, visitor: Visitor, view: VoteView, *, verdict: str) -> Drawn:
    found = services.voting.reveal(verdict, visitor.owner)
    return {
        **closed(services, visitor, view),
        view.revealed: slot(_revealed(found, STRENGTH, ALONE)),
        view.begin: gr.update(value="Go on voting", visible=True),
    }


def let(services: Services, visitor: Visitor, view: VoteView, *, verdict: str, judge: str | None) -> None:
    require(services)
    services.judging.start(verdict, judge or "", visitor.owner)


def stop(services: Services, visitor: Visitor, view: VoteView, *, verdict: str) -> None:
    services.judging.stop(verdict, visitor.owner)


def judging(services: Services, visitor: Visitor, view: VoteView, *, verdict: str) -> Drawn:
    """How far the judge is; its answers stand under Reveal."""
    try:
        found = services.judging.show(verdict, visitor.owner) if verdict else None
    except InputError:  # nothing to vote on: shown where one votes
        found = None
    live = found is not None and found.live
    return {
        view.judging: slot(_judging(found) if found else ""),
        view.let: gr.update(visible=not live),
        view.stop: gr.update(visible=live),
        view.timer: gr.update(value=PACE_S, active=live),
    }


def _ballot_html(ballot: Ballot) -> str:
    """The question and two replies; nothing here depends on which side wrote what."""
    question, left, right = (html.cut(text, _LONGEST) for text in (ballot.question, ballot.left, ballot.right))
    return _ballot(ballot.number + 1, question, [("Left", left), ("Right", right)])
