"""Two folds of the Verdict tab that ask one unnamed thing after another, with a model that judges beside the person.
Blind vote: which of two replies is better, and the names once asked for. Label replies: is one reply right, and how far
a judge goes with these labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from playground.errors import InputError, PlaygroundError
from playground.evaluation.votes import LABELS_NEEDED
from playground.services import Services
from playground.ui import html, verdict_shown
from playground.ui.html import card, plural
from playground.ui.sidebar import require
from playground.ui.wiring import AWAY, QUIET, Drawn, Dropdown, Updates, Visit, hidden_slot, listen, slot, unasked
from playground.verdict.judges import ENDPOINT
from playground.verdict.judging import MARKS, VOTES

if TYPE_CHECKING:
    from playground.ui.verdict import VerdictTab

PACE_S = 2.0
UNDO = "undo"
"""What is picked to take the last answer back."""
_LONGEST = 6_000
"""Letters shown of one text."""
STRENGTH = "Strength: the chance to be preferred to an average side (Bradley-Terry), with its 95 % interval."
ALONE = "You have voted on nothing that it judged, so whether it goes with you is not known."
DONE = "You have been asked everything there is. Reveal the names."
_ballot, _judging, _revealed = (html.piece("verdict", name) for name in ("ballot", "judging", "revealed"))
_sheet, _count, _marked = (html.piece("verdict", name) for name in ("sheet", "labelled", "marked"))
_FOCUS_JS = (
    " const take = () => { const there = element.querySelector('.ballot:not(.seen)');"
    " if (there) { there.classList.add('seen'); there.focus({preventScroll: true}); } };"
    " new MutationObserver(take).observe(element, {childList: true, subtree: true}); take()"
)
"""Each new reply gets the focus."""


def _keys_js(keys: str) -> str:
    """While what is asked has the focus, its keys answer. keys: a JavaScript object, key -> what it picks."""
    return (
        "element.addEventListener('keydown', event => {"
        f" const id = {keys}[event.key];"
        " if (id && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) {"
        " event.preventDefault(); trigger('pick', {id}); } });"
    )


class Asked(NamedTuple):
    """number: of what is asked, or how many answers there are. said: how far one is. sheet: "" = nothing is left."""

    number: int
    said: str
    sheet: str


class BlindView:
    """Every widget of such a fold, and as class attributes its words; the methods ask its service. number: of what is
    asked now, -1 = nothing. shown: what shows it. judged: what shows how far a judge is. kind: of what a judge does.
    favourite: id of the judge that is chosen at first where it is there."""

    title: str
    idea: str
    begin_label: str
    keys_js: str
    choice_labels: tuple[tuple[str, str], ...]
    undo_label: str
    end_label: str
    end_variant: Literal["primary", "secondary"] = "secondary"
    nothing: str
    judge_title: str
    judge_idea: str
    judge_label: str
    let_label: str
    kind: str
    favourite = ""

    def __init__(self) -> None:
        self.number, small = gr.State(-1), partial(gr.Button, size="sm")
        with gr.Column(elem_classes="card folds"), gr.Accordion(self.title, open=False) as self.fold:
            gr.HTML(html.note(self.idea))
            self.begin = small(self.begin_label, variant="primary", elem_classes="fit")
            self.count = hidden_slot()
            self.sheet = gr.HTML("", visible=False, js_on_load=self.keys_js)
            with gr.Row(visible=False, elem_classes="acts") as self.answers:
                self.choices = {choice: small(label) for choice, label in self.choice_labels}
            with gr.Row(elem_classes="acts"):
                self.undo = small(self.undo_label, visible=False)
                self.end = small(self.end_label, variant=self.end_variant, visible=False)
            self.error, self.ended = hidden_slot(), hidden_slot()
            with gr.Accordion(self.judge_title, open=False):
                gr.HTML(html.note(self.judge_idea))
                self.judge = Dropdown([], label=self.judge_label, filterable=False)
                with gr.Row(elem_classes="acts"):
                    self.let = small(self.let_label)
                    self.stop = small("Stop and keep", variant="stop", visible=False)
                self.judging = hidden_slot()
                self.timer = gr.Timer(PACE_S, active=False)
        self.shown: list[Block] = [self.number, self.count, self.sheet, self.ended, self.answers, self.undo]
        self.shown += [self.end, self.begin]
        self.judged = [self.judging, self.let, self.stop, self.timer]

    def next(self, services: Services, verdict: str, owner: str) -> Asked:
        """What is asked next; nothing in it names a side. Raises PlaygroundError."""
        raise NotImplementedError

    def answers_of(self, services: Services) -> tuple[Callable[[str, int, str, str], None], Callable[[str, str], None]]:
        """What keeps an answer (verdict, number, choice, owner), and what takes the last one back (verdict, owner)."""
        raise NotImplementedError

    def at_end(self, services: Services, verdict: str, owner: str) -> Drawn:
        """What is shown, besides ``closed``, to a person who has enough."""
        return {}

    def judge_with(self, services: Services) -> Callable[[str, str, str], None]:
        """What lets a judge begin (verdict, judge, owner)."""
        raise NotImplementedError

    def judging_html(self, services: Services, verdict: str, judge: str | None, owner: str) -> tuple[str, bool]:
        """(how far a judge is, whether it judges now)."""
        raise NotImplementedError


class VoteView(BlindView):
    title = "Blind vote"
    idea = (
        "Two replies to one example, without names. Say which one serves you better; after some dozens the sides tell"
        " apart. The answer above is out of sight until you reveal the names or fold this up."
    )
    begin_label = "Vote on the verdict above"
    keys_js = _keys_js("{1: 'left', 2: 'right', 3: 'tie'}")
    choice_labels = ("left", "Left is better"), ("right", "Right is better"), ("tie", "As good"), ("skip", "Skip")
    undo_label = "Take the last vote back"
    end_label, end_variant = "Reveal", "primary"
    nothing = "There is no verdict to vote on yet. Measure one above."
    judge_title = "A model as a judge"
    judge_idea = (
        "Optional: a model votes too, asked in both orders. It counts apart, and how far it goes with your own votes is"
        " shown beside it."
    )
    judge_label, let_label, kind = "Who judges", "Let it judge", VOTES

    def next(self, services: Services, verdict: str, owner: str) -> Asked:
        ballot = services.voting.next(verdict, owner)
        votes, left = services.voting.count(verdict, owner)
        if ballot is None:
            return Asked(votes, html.note(DONE), "")
        question, *replies = (html.cut(text, _LONGEST) for text in (ballot.question, ballot.left, ballot.right))
        sheet = _ballot(ballot.number + 1, question, list(zip(("Left", "Right"), replies, strict=True)))
        count = f"{plural(votes, 'vote')} so far, {plural(left, 'comparison')} left."
        return Asked(ballot.number, html.note(count), sheet)

    def answers_of(self, services: Services) -> tuple[Callable[[str, int, str, str], None], Callable[[str, str], None]]:
        return services.voting.vote, services.voting.undo

    def at_end(self, services: Services, verdict: str, owner: str) -> Drawn:
        found = _revealed(services.voting.reveal(verdict, owner), STRENGTH, ALONE)
        return {self.ended: slot(found), self.begin: gr.update(value="Go on voting", visible=True)}

    def judge_with(self, services: Services) -> Callable[[str, str, str], None]:
        return services.judging.start

    def judging_html(self, services: Services, verdict: str, judge: str | None, owner: str) -> tuple[str, bool]:
        """How far the judge is; its answers stand under Reveal."""
        try:
            found = services.judging.show(verdict, owner) if verdict else None
        except InputError:  # nothing to vote on: shown where one votes
            found = None
        return (_judging(found), found.live) if found is not None else ("", False)


class LabelView(BlindView):
    title = "Label replies"
    idea = (
        "One reply at a time, without the name of its side: is it right? From 50 such labels on (then at 75, 100, 150,"
        " 200 and 300), a model that judges as you do may say what is right in later verdicts (judge:NAME). The answer"
        " above is out of sight meanwhile."
    )
    begin_label = "Label the replies of the verdict above"
    keys_js = _keys_js("{1: 'right', 2: 'wrong', 3: 'unsure', Backspace: 'undo'}") + _FOCUS_JS
    choice_labels = ("right", "Right"), ("wrong", "Wrong"), ("unsure", "Cannot tell")
    undo_label = "Take the last label back"
    end_label = "Done for now"
    nothing = "There is no verdict with replies to label yet. Measure one above."
    judge_title = "A judge beside you"
    judge_idea = (
        "A model marks the replies that you labelled. How far it goes with you decides whether it may judge alone."
    )
    judge_label, let_label, kind = "Which judge", "Let it mark what you labelled", MARKS
    favourite = ENDPOINT

    def next(self, services: Services, verdict: str, owner: str) -> Asked:
        sheet, count = services.labelling.next(verdict, owner), services.labelling.count(verdict, owner)
        said = _count(count, LABELS_NEEDED)
        if sheet is None:
            return Asked(count.right + count.wrong + count.unsure, said, "")
        parts = [html.cut(text, _LONGEST) for text in (sheet.question, sheet.reply, sheet.reference)]
        return Asked(sheet.number, said, _sheet(sheet.number + 1, *parts))

    def answers_of(self, services: Services) -> tuple[Callable[[str, int, str, str], None], Callable[[str, str], None]]:
        return services.labelling.label, services.labelling.undo

    def judge_with(self, services: Services) -> Callable[[str, str, str], None]:
        return services.judging.mark

    def judging_html(self, services: Services, verdict: str, judge: str | None, owner: str) -> tuple[str, bool]:
        """How far the judge is, and how far it goes with the labels."""
        found, trust = None, None
        if verdict and judge:
            found = services.judging.show(verdict, owner, self.kind)
            trust = services.judging.trust(verdict, judge, owner)
        return _marked(found, trust, judge), found is not None and found.live


def wire(services: Services, view: BlindView, tab: VerdictTab) -> None:
    """tab: the Verdict tab, for the verdict that is shown; its answer is taken out of sight while one is asked."""
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
    on(view.begin.click, show, view.shown, **verdict).then(_away, view.number, tab.body, **QUIET)
    for choice, button in (*view.choices.items(), (UNDO, view.undo)):
        on(button.click, partial(pick, picked=choice), view.shown, **verdict)
    on(view.sheet.pick, pick, view.shown, **verdict)
    bring_back(on(view.end.click, end, view.shown, **verdict))
    judged(on(view.let.click, let, **verdict).then)
    judged(on(view.stop.click, stop, **verdict).then)
    judged(view.judge.input)
    judged(view.timer.tick, unasked)


def _away(number: int) -> dict[str, Any]:
    """The verdict's answer leaves the page while something is asked on it."""
    return gr.update(value="", visible=False) if number >= 0 else gr.skip()


def opened(visit: Visit, view: BlindView, *, number: int) -> Updates:
    """The fold was opened: who may judge, and what ``closed`` shows where nothing is asked yet."""
    judges = visit.services.judging.judges(visit.owner)
    there = [id for _, id in judges]
    known = gr.update(choices=judges, value=view.favourite if view.favourite in there else next(iter(there), None))
    return {view.judge: known, **({} if number >= 0 else dict(closed(visit, view).items()))}


def closed(visit: Visit, view: BlindView) -> Drawn:
    """Nothing is asked, and nothing shown: at first, and where another verdict is shown."""
    return {
        view.number: -1,
        **dict.fromkeys((view.count, view.sheet, view.ended), slot("")),
        **dict.fromkeys((view.answers, view.undo, view.end), AWAY),
        view.begin: gr.update(visible=True),
    }


def show(visit: Visit, view: BlindView, *, verdict: str) -> Drawn:
    try:
        if not verdict:
            raise InputError(view.nothing)
        asked = view.next(visit.services, verdict, visit.owner)
    except PlaygroundError as error:
        return {**closed(visit, view), view.error: slot(card(error))}
    return {
        view.number: asked.number,
        view.count: slot(asked.said),
        view.sheet: slot(asked.sheet),
        view.answers: gr.update(visible=bool(asked.sheet)),
        view.undo: gr.update(visible=asked.number > 0),
        view.end: gr.update(visible=True),
        view.ended: slot(""),
        view.begin: gr.update(visible=False),
    }


def pick(visit: Visit, view: BlindView, *, picked: str, number: int, verdict: str) -> Drawn:
    """A button or a key; then what is asked next, or again where an answer was taken back."""
    keep, undo = view.answers_of(visit.services)
    if picked == UNDO:
        undo(verdict, visit.owner)
    else:
        keep(verdict, int(number), picked, visit.owner)
    return show(visit, view, verdict=verdict)


def end(visit: Visit, view: BlindView, *, verdict: str) -> Drawn:
    return {**closed(visit, view), **view.at_end(visit.services, verdict, visit.owner)}


def let(visit: Visit, view: BlindView, *, verdict: str, judge: str | None) -> None:
    require(visit.services)
    view.judge_with(visit.services)(verdict, judge or "", visit.owner)


def stop(visit: Visit, view: BlindView, *, verdict: str) -> None:
    visit.services.judging.stop(verdict, visit.owner, view.kind)


def judging(visit: Visit, view: BlindView, *, verdict: str, judge: str | None) -> Drawn:
    said, live = view.judging_html(visit.services, verdict, judge, visit.owner)
    return {
        view.judging: slot(said),
        view.let: gr.update(visible=not live),
        view.stop: gr.update(visible=live),
        view.timer: gr.update(value=PACE_S, active=live),
    }
