"""Blind vote: a fold of the Verdict tab. Two unnamed replies, which is better, and the names once a person asks for
them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.events import Dependency

from playground.errors import InputError, PlaygroundError
from playground.evaluation.statistics import Interval
from playground.evaluation.votes import Agreement, Standing
from playground.services import Services
from playground.ui import html, verdict_shown
from playground.ui.html import card, plural
from playground.ui.sidebar import require
from playground.ui.wiring import (
    PICKED,
    QUIET,
    Drawn,
    Dropdown,
    Event,
    Updates,
    Visitor,
    hidden_slot,
    listen,
    slot,
    unasked,
)
from playground.verdict.judging import JudgingView
from playground.verdict.votes import Ballot, Revealed

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
ASKED = {"left": "Left is better", "right": "Right is better", "tie": "As good", "skip": "Skip"}
DONE = "You have been asked everything there is. Reveal the names."
PACE_S = 2.0
KEYS_JS = (
    "element.addEventListener('keydown', event => {"
    " const id = {1: 'left', 2: 'right', 3: 'tie'}[event.key];"
    " if (id && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) trigger('pick', {id}); })"
)
"""Where the ballot has the focus, the keys 1, 2 and 3 vote."""
_LONGEST = 6_000


@dataclass(frozen=True)
class VoteView:
    """Every widget of the fold, named once. number: of the ballot that is shown, -1 = none."""

    number: gr.State
    fold: gr.Accordion
    begin: gr.Button
    count: gr.HTML
    ballot: gr.HTML
    votes: gr.Row
    choices: dict[str, gr.Button]
    undo: gr.Button
    reveal: gr.Button
    error: gr.HTML
    revealed: gr.HTML
    judge: gr.Dropdown
    let: gr.Button
    stop: gr.Button
    judging: gr.HTML
    timer: gr.Timer

    @property
    def shown(self) -> list[Any]:
        votes = [self.votes, self.undo, self.reveal, self.begin]
        return [self.number, self.count, self.ballot, self.revealed, *votes]

    @property
    def judged(self) -> list[Any]:
        return [self.judging, self.let, self.stop, self.timer]


def build() -> VoteView:
    parts: dict[str, Any] = {"number": gr.State(-1)}
    with gr.Column(elem_classes="card folds"), gr.Accordion("Blind vote", open=False) as fold:
        gr.HTML(html.note(IDEA))
        parts["begin"] = gr.Button("Vote on the verdict above", variant="primary", size="sm", elem_classes="fit")
        parts["count"] = hidden_slot()
        parts["ballot"] = gr.HTML("", visible=False, js_on_load=KEYS_JS)
        with gr.Row(visible=False, elem_classes="acts") as votes:
            parts["choices"] = {choice: gr.Button(label, size="sm") for choice, label in ASKED.items()}
        with gr.Row(elem_classes="acts"):
            parts["undo"] = gr.Button("Take the last vote back", size="sm", visible=False)
            parts["reveal"] = gr.Button("Reveal", variant="primary", size="sm", visible=False)
        parts["error"] = hidden_slot()
        parts["revealed"] = hidden_slot()
        with gr.Accordion("A model as a judge", open=False):
            gr.HTML(html.note(JUDGE_IDEA))
            parts["judge"] = Dropdown([], label="Who judges", filterable=False)
            with gr.Row(elem_classes="acts"):
                parts["let"] = gr.Button("Let it judge", size="sm")
                parts["stop"] = gr.Button("Stop and keep", variant="stop", size="sm", visible=False)
            parts["judging"] = hidden_slot()
            parts["timer"] = gr.Timer(PACE_S, active=False)
    return VoteView(**parts, votes=votes, fold=fold)


def wire(services: Services, view: VoteView, tab: VerdictTab) -> None:
    """tab: the Verdict tab, for the verdict that is shown; its answer is taken out of sight while one votes."""
    verdict: dict[str, Any] = {"verdict": tab.followed}
    on = partial(listen, services, failure=view.error)

    def bring_back(event: Dependency) -> None:
        listen(
            services, event.then, verdict_shown.shown, tab, tab.shown, failure=tab.shown_error, followed=tab.followed
        )

    def judged(event: Event, wired: Callable[..., Dependency] = listen) -> None:
        wired(services, event, judging, view, view.judged, failure=view.judging, **verdict)

    expanded = on(view.fold.expand, opened, view, [*view.shown, view.judge], number=view.number)
    judged(expanded.then)
    bring_back(on(view.fold.collapse, closed, view, view.shown))
    on(tab.followed.change, closed, view, view.shown)
    on(view.begin.click, show, view, view.shown, **verdict).then(_away, view.number, tab.body, **QUIET)
    voted: dict[str, Any] = {"number": view.number, **verdict}
    for choice, button in view.choices.items():
        on(button.click, partial(cast, picked=choice), view, view.shown, **voted)
    on(view.ballot.pick, cast, view, view.shown, picked=PICKED, **voted)
    on(view.undo.click, undo, view, view.shown, **verdict)
    bring_back(on(view.reveal.click, reveal, view, view.shown, **verdict))
    judged(on(view.let.click, let, view, [], judge=view.judge, **verdict).then)
    judged(on(view.stop.click, stop, view, [], **verdict).then)
    judged(view.timer.tick, unasked)


def _away(number: int) -> Any:
    """The verdict's answer leaves the page while a ballot is on it."""
    return gr.update(value="", visible=False) if number >= 0 else gr.skip()


# -- handlers ----------------------------------------------------------------------------------------------------------


def opened(services: Services, visitor: Visitor, view: VoteView, *, number: int) -> Updates:
    """The fold was opened: who may judge, and what ``closed`` shows where nothing is asked yet."""
    judges = services.judging.judges(visitor.owner)
    known = gr.update(choices=judges, value=judges[0][1] if judges else None)
    updates: Updates = {} if number >= 0 else dict(closed(services, visitor, view).items())
    return {**updates, view.judge: known}


def closed(services: Services, visitor: Visitor, view: VoteView) -> Drawn:
    """Nothing is asked, and nothing shown: at first, and where another verdict is shown."""
    return {
        view.number: -1,
        **dict.fromkeys((view.count, view.ballot, view.revealed), slot("")),
        **dict.fromkeys((view.votes, view.undo, view.reveal), gr.update(visible=False)),
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
    said = f"{plural(votes, 'vote')} so far, {plural(left, 'comparison')} left." if ballot is not None else DONE
    number = ballot.number if ballot is not None else votes
    return {
        view.number: number,
        view.count: slot(html.note(said)),
        view.ballot: slot(ballot_html(ballot)),
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
    """The visitor's newest vote is taken back, and asked again."""
    services.voting.undo(verdict, visitor.owner)
    return show(services, visitor, view, verdict=verdict)


def reveal(services: Services, visitor: Visitor, view: VoteView, *, verdict: str) -> Drawn:
    """Names and strengths; the ballot leaves the page."""
    found = services.voting.reveal(verdict, visitor.owner)
    return {
        **closed(services, visitor, view),
        view.revealed: slot(revealed_html(found)),
        view.begin: gr.update(value="Go on voting", visible=True),
    }


def let(services: Services, visitor: Visitor, view: VoteView, *, verdict: str, judge: str | None) -> None:
    """A model begins to judge."""
    require(services)
    services.judging.start(verdict, judge or "", visitor.owner)


def stop(services: Services, visitor: Visitor, view: VoteView, *, verdict: str) -> None:
    """End the judging and keep what it said."""
    services.judging.stop(verdict, visitor.owner)


def judging(services: Services, visitor: Visitor, view: VoteView, *, verdict: str) -> Drawn:
    """How far the judge is; what it said stands under Reveal."""
    try:
        found = services.judging.show(verdict, visitor.owner) if verdict else None
    except InputError:  # nothing to vote on: said where one votes
        found = None
    except Exception as error:  # whatever failed, the timer stops
        return {view.judging: slot(card(error)), view.timer: gr.update(value=PACE_S, active=False)}
    live = found is not None and found.live
    return {
        view.judging: slot(judging_html(found)),
        view.let: gr.update(visible=not live),
        view.stop: gr.update(visible=live),
        view.timer: gr.update(value=PACE_S, active=live),
    }


# -- what the page shows
# -------------------------------------------------------------------------------------------------


def ballot_html(ballot: Ballot | None) -> str:
    """The question and two replies; every text is escaped, and nothing here depends on which side wrote what."""
    if ballot is None:
        return ""
    sides = "".join(
        f"<section><h4>{html.esc(name)}</h4><div"
        f' class="reply">{html.esc(_cut(text)) or "(an empty reply)"}</div></section>'
        for name, text in (("Left", ballot.left), ("Right", ballot.right))
    )
    return (
        f'<div class="ballot" tabindex="0" role="group" aria-label="Ballot {ballot.number + 1:d}: keys 1, 2 and 3'
        f' vote"><h4>Asked</h4><div class="reply">{html.esc(_cut(ballot.question))}</div><div'
        f' class="halves">{sides}</div></div>'
    )


def revealed_html(found: Revealed) -> str:
    """Strengths with their intervals, and how far votes, metric and judge agree."""
    said = []
    if found.standings:
        said.append(f"<h4>People's votes: {found.votes:d}</h4>{_standings(found.standings, 'Strength by votes')}")
        said.append(
            html.note(
                "Strength: the chance to be preferred to an average side (Bradley-Terry), with its 95 % interval."
            )
        )
    if found.agreement is not None:
        said.append(html.note(f"{_agreement(found.agreement)} go with the main metric, {found.metric}."))
    if found.judge is not None:
        judge = found.judge
        said.append(
            f"<h4>{html.esc(judge.name)} as a judge,"
            f" {html.esc(plural(judge.votes, 'vote'))}</h4>{_standings(judge.standings, 'Strength by the judge')}"
        )
        if judge.agreement is not None:
            said.append(html.note(f"{_agreement(judge.agreement)} of the judge are as your own."))
        else:
            said.append(
                html.note("You have voted on nothing that it judged, so whether it goes with you is not known.")
            )
    return f'<div class="revealed">{"".join(said)}</div>'


def judging_html(view: JudgingView | None) -> str:
    if view is None:
        return ""
    done = f"{view.done} of {plural(view.of, 'comparison')}"
    if view.live:
        return html.progress(view.done / view.of if view.of else 0, "Judging") + html.note(
            view.waiting or f"Judging: {done}"
        )
    unread = f" {plural(view.unread, 'answer')} named neither reply." if view.unread else ""
    return (html.error_card(view.error) if view.error else "") + html.note(
        f"Judged: {done}.{unread} Reveal shows what it says."
    )


def _standings(standings: Sequence[Standing], caption: str) -> str:
    rows = [[one.side, _strength(one.strength), one.won, one.lost, one.tied] for one in standings]
    table = html.table(
        ["Side", "Strength", "Won", "Lost", "As good"], rows, figures=frozenset({1, 2, 3, 4}), caption=caption
    )
    return f'<div class="race">{table}</div>'


def _strength(found: Interval) -> str:
    """One vote has no interval."""
    value = f"{100 * found.value:.0f} %"
    return (
        f"{value} (too few votes)"
        if found.method == "point"
        else f"{value} ({100 * found.low:.0f} to {100 * found.high:.0f})"
    )


def _agreement(found: Agreement) -> str:
    """``83 % of 24 votes (64 to 93, kappa 0.61)``."""
    share = found.share
    kappa = f", kappa {found.kappa:.2f}" if found.kappa is not None else ""
    return (
        f"{100 * share.value:.0f} % of {plural(share.n, 'vote')} ({100 * share.low:.0f} to"
        f" {100 * share.high:.0f}{kappa})"
    )


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rstrip()} …"
