"""Blind vote: a fold of the Verdict tab. Two unnamed replies, which is better, and the names once a person asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.errors import InputError
from playground.ui import html, verdict_shown
from playground.ui.failure import card
from playground.ui.figures import plural
from playground.ui.readiness import require
from playground.ui.wiring import QUIET, Dropdown, Visitor, bind, bind_pick, hidden_slot, slot

IDEA = (
    "Two replies to one example, without names. Say which one serves you better; after some dozens the sides tell apart. The answer "
    "above is out of sight until you reveal the names or fold this up."
)
JUDGE_IDEA = "Optional: a model votes too, asked in both orders. It counts apart, and how far it goes with your own votes is shown beside it."
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
        return [self.number, self.count, self.ballot, self.votes, self.undo, self.reveal, self.revealed, self.begin, self.error]

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


def wire(services: Any, view: VoteView, tab: Any) -> None:
    """tab: the Verdict tab, for the verdict that is shown; its answer is taken out of sight while one votes."""
    view.fold.expand(bind(services, opened), [view.number, tab.followed], [*view.shown, view.judge, *view.judged], **QUIET)
    again = bind(services, verdict_shown.shown), tab.followed, tab.shown
    view.fold.collapse(bind(services, closed), None, view.shown, **QUIET).then(*again, **QUIET)
    tab.followed.change(bind(services, closed), None, view.shown, **QUIET)
    view.begin.click(bind(services, show), tab.followed, view.shown, **QUIET).then(_away, view.number, tab.body, **QUIET)
    for choice, button in view.choices.items():
        button.click(bind(services, cast, choice), [view.number, tab.followed], view.shown, **QUIET)
    view.ballot.pick(bind_pick(services, cast), [view.number, tab.followed], view.shown, **QUIET)
    view.undo.click(bind(services, undo), tab.followed, view.shown, **QUIET)
    view.reveal.click(bind(services, reveal), tab.followed, view.shown, **QUIET).then(*again, **QUIET)
    looked = bind(services, judging), tab.followed, view.judged
    view.let.click(bind(services, let), [tab.followed, view.judge], view.error, trigger_mode="once", **QUIET).then(
        *looked, **QUIET
    )
    view.stop.click(bind(services, stop), tab.followed, view.error, **QUIET).then(*looked, **QUIET)
    view.timer.tick(*looked, **QUIET)


def _away(number: int) -> Any:
    """The verdict's answer leaves the page while a ballot is on it."""
    return gr.update(value="", visible=False) if number >= 0 else gr.skip()


# -- handlers ----------------------------------------------------------------------------------------------------------


def opened(services: Any, visitor: Visitor, number: int, verdict: str) -> list[Any]:
    """The fold was opened. Returns what ``closed`` does where nothing is asked yet, then who may judge, then ``judging``."""
    try:
        judges = services.judging.judges(visitor.owner)
        known = gr.update(choices=judges, value=judges[0][1] if judges else None)
    except Exception:
        known = gr.skip()
    now = [gr.skip()] * 9 if number >= 0 else closed(services, visitor)
    return [*now, known, *judging(services, visitor, verdict)]


def closed(services: Any, visitor: Visitor) -> list[Any]:
    """Nothing is asked, and nothing told: at first, and where another verdict is shown. As ``VoteView.shown`` takes it."""
    away = gr.update(visible=False)
    return [-1, slot(""), slot(""), away, away, away, slot(""), gr.update(visible=True), slot("")]


def show(services: Any, visitor: Visitor, verdict: str) -> list[Any]:
    """The next ballot of the shown verdict; no name is in it. As ``VoteView.shown`` takes it."""
    try:
        if not verdict:
            raise InputError("There is no verdict to vote on yet. Measure one above.")
        ballot = services.voting.next(verdict, visitor.owner)
        votes, left = services.voting.count(verdict, visitor.owner)
    except Exception as error:
        return [*closed(services, visitor)[:-1], slot(card(error))]
    said = f"{plural(votes, 'vote')} so far, {plural(left, 'comparison')} left." if ballot is not None else DONE
    number = ballot.number if ballot is not None else votes
    return [
        number, slot(html.note(said)), slot(ballot_html(ballot)), gr.update(visible=ballot is not None), gr.update(visible=number > 0),
        gr.update(visible=True), slot(""), gr.update(visible=False), slot(""),
    ]  # fmt: skip


def cast(services: Any, visitor: Visitor, choice: str, number: int, verdict: str) -> list[Any]:
    """A button or a key. Returns what ``show`` does: the next ballot."""
    try:
        services.voting.vote(verdict, int(number), choice, visitor.owner)
    except Exception as error:
        return [*[gr.skip()] * 8, slot(card(error))]
    return show(services, visitor, verdict)


def undo(services: Any, visitor: Visitor, verdict: str) -> list[Any]:
    """The last own vote is taken back, and asked again."""
    try:
        services.voting.undo(verdict, visitor.owner)
    except Exception as error:
        return [*[gr.skip()] * 8, slot(card(error))]
    return show(services, visitor, verdict)


def reveal(services: Any, visitor: Visitor, verdict: str) -> list[Any]:
    """Names and strengths; the ballot leaves the page. As ``VoteView.shown`` takes it."""
    try:
        found = services.voting.reveal(verdict, visitor.owner)
    except Exception as error:
        return [*[gr.skip()] * 8, slot(card(error))]
    away = gr.update(visible=False)
    return [
        -1,
        slot(""),
        slot(""),
        away,
        away,
        away,
        slot(revealed_html(found)),
        gr.update(value="Go on voting", visible=True),
        slot(""),
    ]


def let(services: Any, visitor: Visitor, verdict: str, judge: str | None) -> Any:
    """A model begins to judge. Returns an error."""
    try:
        require(services)
        services.judging.start(verdict, judge or "", visitor.owner)
    except Exception as error:
        return slot(card(error))
    return slot("")


def stop(services: Any, visitor: Visitor, verdict: str) -> Any:
    """End the judging and keep what it said. Returns an error."""
    try:
        services.judging.stop(verdict, visitor.owner)
    except Exception as error:
        return slot(card(error))
    return slot("")


def judging(services: Any, visitor: Visitor, verdict: str) -> list[Any]:
    """How far the judge is; what it said stands under Reveal. As ``VoteView.judged`` takes it."""
    try:
        view = services.judging.show(verdict, visitor.owner) if verdict else None
    except InputError:  # nothing to vote on: said where one votes
        view = None
    except Exception as error:
        return [slot(card(error)), gr.skip(), gr.skip(), gr.Timer(PACE_S, active=False)]
    live = view is not None and view.live
    return [
        slot(judging_html(view)), gr.update(visible=not live), gr.update(visible=live), gr.Timer(PACE_S, active=live)
    ]  # fmt: skip


# -- what the page shows -------------------------------------------------------------------------------------------------


def ballot_html(ballot: Any) -> str:
    """The question and two replies; every text is escaped, and nothing here depends on which side wrote what."""
    if ballot is None:
        return ""
    sides = "".join(
        f'<section><h4>{html.esc(name)}</h4><div class="reply">{html.esc(_cut(text)) or "(an empty reply)"}</div></section>'
        for name, text in (("Left", ballot.left), ("Right", ballot.right))
    )
    return (
        f'<div class="ballot" tabindex="0" role="group" aria-label="Ballot {ballot.number + 1:d}: keys 1, 2 and 3 vote">'
        f'<h4>Asked</h4><div class="reply">{html.esc(_cut(ballot.question))}</div><div class="halves">{sides}</div></div>'
    )


def revealed_html(found: Any) -> str:
    """Strengths with their intervals, and how far votes, metric and judge agree."""
    said = []
    if found.standings:
        said.append(f"<h4>People's votes: {found.votes:d}</h4>{_standings(found.standings, 'Strength by votes')}")
        said.append(html.note("Strength: the chance to be preferred to an average side (Bradley-Terry), with its 95 % interval."))
    if found.agreement is not None:
        said.append(html.note(f"{_agreement(found.agreement)} go with the main metric, {found.metric}."))
    if found.judge is not None:
        judge = found.judge
        said.append(
            f"<h4>{html.esc(judge.name)} as a judge, {html.esc(plural(judge.votes, 'vote'))}</h4>{_standings(judge.standings, 'Strength by the judge')}"
        )
        if judge.agreement is not None:
            said.append(html.note(f"{_agreement(judge.agreement)} of the judge are as your own."))
        else:
            said.append(html.note("You have voted on nothing that it judged, so whether it goes with you is not known."))
    return f'<div class="revealed">{"".join(said)}</div>'


def judging_html(view: Any) -> str:
    if view is None:
        return ""
    done = f"{view.done} of {plural(view.of, 'comparison')}"
    if view.live:
        return html.progress(view.done / view.of if view.of else 0, "Judging") + html.note(view.waiting or f"Judging: {done}")
    unread = f" {plural(view.unread, 'answer')} named neither reply." if view.unread else ""
    return (html.error_card(view.error) if view.error else "") + html.note(f"Judged: {done}.{unread} Reveal shows what it says.")


def _standings(standings: Sequence[Any], caption: str) -> str:
    rows = [[one.side, _strength(one.strength), one.won, one.lost, one.tied] for one in standings]
    table = html.table(["Side", "Strength", "Won", "Lost", "As good"], rows, figures=frozenset({1, 2, 3, 4}), caption=caption)
    return f'<div class="race">{table}</div>'


def _strength(found: Any) -> str:
    """One vote has no interval."""
    value = f"{100 * found.value:.0f} %"
    return f"{value} (too few votes)" if found.method == "point" else f"{value} ({100 * found.low:.0f} to {100 * found.high:.0f})"


def _agreement(found: Any) -> str:
    """``83 % of 24 votes (64 to 93, kappa 0.61)``."""
    share = found.share
    kappa = f", kappa {found.kappa:.2f}" if found.kappa is not None else ""
    return f"{100 * share.value:.0f} % of {plural(share.n, 'vote')} ({100 * share.low:.0f} to {100 * share.high:.0f}{kappa})"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rstrip()} …"
