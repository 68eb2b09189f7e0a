"""Prompt bench, a fold of the Verdict tab: versions of a prompt, scored on the validation part, or a search for
the best within a budget; the best goes over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from playground.errors import InputError
from playground.services import Services
from playground.ui import html, verdict_form, verdict_shown
from playground.ui.form import lines_of
from playground.ui.html import FAILURES, card
from playground.ui.judged import ExampleValues, shipped_set, tried_on
from playground.ui.runs import PICK_JS
from playground.ui.sidebar import require
from playground.ui.wiring import (
    Choices,
    Drawn,
    Dropdown,
    Events,
    Memo,
    Updates,
    Visit,
    hidden_slot,
    listen,
    slot,
    unasked,
)
from playground.verdict.bench import Score, Version
from playground.verdict.search import Rival
from playground.verdict.service import SHOTS, VerdictView

if TYPE_CHECKING:
    from playground.ui.verdict import VerdictTab

IDEA = (
    "A fair verdict asks the best prompt there is. Let it be searched for as long as training takes: your versions, the"
    " set's prompt and one written from what is right compete, with answered examples in several ways, on rows that the"
    " verdict does not ask. The report says of how many it was the best."
)
COUNTS = (0, 2, SHOTS, 8)
NONE = "No version yet. Write one above and keep it."
TAKEN = "Base + best prompt"
NO_SERVER = ("none", "")
PACE_S = 2.0
_SHOWN_LETTERS = 240
_versions, _candidates = (html.piece("verdict", name) for name in ("versions", "candidates"))


class BenchView:
    """Every widget of the fold. sent: what the page shows already. shown: what shows a bench."""

    def __init__(self) -> None:
        self.sent = gr.State({})
        with gr.Column(elem_classes="card folds"), gr.Accordion("Prompt bench", open=False) as self.fold:
            gr.HTML(html.note(IDEA))
            self.text = gr.Textbox(label="A version of the prompt", lines=4, max_lines=12, max_length=20_000)
            small = partial(gr.Button, size="sm")
            self.keep = small("Keep this version", elem_classes="fit")
            self.listing = gr.HTML(html.note(NONE), js_on_load=PICK_JS)
            counts = [("none" if count == 0 else str(count), count) for count in COUNTS]
            self.counts = gr.CheckboxGroup(counts, value=[0, SHOTS], label="Answered examples before the question")
            hint = "Empty or 0: as long as the training took, or 5."
            self.minutes = gr.Number(None, label="Minutes of a search", info=hint, min_width=150)
            self.rival = hidden_slot()
            self.servers = gr.Row(visible=False)
            with self.servers:
                look: dict[str, Any] = {"filterable": False, "info": "It reads how training rows were answered."}
                self.server = Dropdown([NO_SERVER], value="", label="A server rewrites the best prompt", **look)
                self.send = gr.Checkbox(False, label="Training rows may leave this machine for it", min_width=200)
            with gr.Row(elem_classes="acts"):
                self.find = small("Find the best prompt", variant="primary")
                self.resume = small("Search on", visible=False)
                self.score = small("Score all versions")
                self.stop = small("Stop and keep", variant="stop", visible=False)
                self.use = small("Take it into the verdict", visible=False)
            self.error, self.head = hidden_slot(), hidden_slot()
            self.timer = gr.Timer(PACE_S, active=False)
        self.shown: list[Block] = [self.sent, self.listing, self.head, self.score, self.stop, self.use, self.timer]
        self.shown += [self.find, self.resume, self.rival, self.servers, self.server]


def wire(services: Services, view: BenchView, tab: VerdictTab, where: dict[str, Block]) -> None:
    """tab: the Verdict tab, for its checks and prompt. where: the widgets behind ``verdict_form.ExampleValues``."""
    on = partial(listen, services, view, failure=view.error, where=where)

    def then_show(event: Dependency) -> None:
        listen(services, view, event.then, show, view.shown, where=where)

    follow(services, view, where, [view.fold.expand, tab.source.input])
    # Also when the page's opening chose, so the text stays as it is: see ``follow``.
    unasked(services, view, tab.source.change, reopened, view.shown, failure=view.error, where=where)
    unasked(services, view, view.timer.tick, show, view.shown, where=where)
    then_show(on(view.keep.click, keep))
    then_show(listen(services, view, view.listing.pick, remove, failure=view.error))
    numbers: dict[str, Any] = {"max_tokens": tab.settings["max_tokens"], "draw": tab.settings["seed"]}
    then_show(on(view.score.click, score, checks=tab.checks, **numbers))
    stated: dict[str, Any] = {"right": tab.right, "form_only": tab.terms["form_only"]}
    then_show(on(view.find.click, find, checks=tab.checks, **numbers, **stated))
    then_show(on(view.resume.click, resume))
    then_show(on(view.stop.click, stop))
    used = on(view.use.click, partial(use, tab=tab), [tab.prompt, tab.kept, tab.fold])
    listen(services, tab, used.then, verdict_form.lined_up, [tab.sides, tab.offered], where=where)


def follow(services: Services, view: BenchView, where: dict[str, Block], events: Events) -> None:
    listen(services, view, events, opened, [view.text, *view.shown], failure=view.error, where=where)


def opened(visit: Visit, view: BenchView, *, text: str, where: ExampleValues) -> Updates:
    """The fold was opened, or other examples were chosen: the text becomes a set's prompt, unless it was edited."""
    updates: Updates = dict(reopened(visit, view, where=where).items())
    if (text or "").strip() in {"", *(one.system_prompt for one in visit.services.data.sets())}:
        shipped = shipped_set(visit.services, where["source"])
        updates[view.text] = shipped.system_prompt if shipped else ""
    return updates


def reopened(visit: Visit, view: BenchView, *, where: ExampleValues) -> Drawn:
    """As ``opened``, without the text."""
    drawn = show(visit, view, sent={}, where=where)
    try:
        tried_on(visit, where)
    except InputError as error:
        drawn[view.error] = slot(card(error))
    return drawn


def show(visit: Visit, view: BenchView, *, sent: dict[str, Any], where: ExampleValues) -> Drawn:
    """Versions, the newest bench on these examples, and what can be done; what equals what was ``sent`` is left out."""
    try:
        place = tried_on(visit, where)
        versions = visit.services.bench.versions(place.file, visit.owner)
        bench = visit.services.bench.newest(place.file, visit.owner)
        listing, (head, best) = list_html(versions, place.file.name), _head(visit, bench)
        rival, there = _rival(visit.services.search.rival(place.file, visit.owner, place.mapping)), True
    except InputError:  # shown where it was asked
        versions, bench, listing, head, best, rival, there = [], None, list_html([], ""), "", False, "", False
    except FAILURES as error:  # a timer reads this: what failed stands where the figures would, and the timer ends
        return {view.head: slot(card(error)), view.timer: gr.update(active=False)}
    live, servers = bench is not None and bench.live, [NO_SERVER]
    servers += [(one.label, one.name) for one in visit.services.endpoints.usable()]
    memo = Memo(sent or {})
    drawn: Drawn = {
        view.listing: listing,
        view.head: slot(head),
        view.score: gr.update(visible=not live, interactive=bool(versions)),
        view.stop: gr.update(visible=live),
        view.timer: gr.update(value=PACE_S, active=live),
        view.use: gr.update(visible=best),
        view.find: gr.update(visible=not live, interactive=there),
        view.resume: gr.update(visible=bench is not None and "search" in (bench.record or {})),
        view.rival: slot(rival),
        view.servers: gr.update(visible=len(servers) > 1),
        view.server: Choices(servers),
    }
    return {**memo.fresh("bench", drawn), view.sent: memo}


def keep(visit: Visit, view: BenchView, *, text: str, where: ExampleValues) -> None:
    visit.services.bench.keep(text or "", tried_on(visit, where).file, visit.owner)


def remove(visit: Visit, view: BenchView, *, picked: str) -> None:
    """A version's button was pressed; the id is looked up among the visitor's own."""
    visit.services.bench.forget(picked, visit.owner)


def score(
    visit: Visit,
    view: BenchView,
    *,
    counts: Sequence[int],
    checks: str,
    max_tokens: float | None,
    draw: float | None,
    where: ExampleValues,
) -> None:
    require(visit.services)
    place = tried_on(visit, where)
    visit.services.bench.score(
        place.file,
        [one.id for one in visit.services.bench.versions(place.file, visit.owner)],
        [int(count) for count in counts or ()],
        list(lines_of(checks)),
        owner=visit.owner,
        rows=place.parts(visit).validation,
        mapping=place.mapping,
        max_tokens=int(max_tokens or 96),
        seed=int(draw or 0),
    )


def find(
    visit: Visit,
    view: BenchView,
    *,
    text: str,
    counts: Sequence[int],
    minutes: float | None,
    checks: str,
    right: str,
    form_only: bool,
    max_tokens: float | None,
    draw: float | None,
    server: str,
    send: bool,
    where: ExampleValues,
) -> None:
    """Begin a search among the kept versions, what stands in the box, and what the search itself proposes."""
    require(visit.services)
    place = tried_on(visit, where)
    kept = {one.id: one.text for one in visit.services.bench.versions(place.file, visit.owner)}
    request = visit.services.search.request(
        place.file,
        {**kept, "yours": text or ""},
        [int(count) for count in counts or ()],
        lines_of(checks),
        60 * minutes if minutes else None,
        parts=place.parts(visit),
        owner=visit.owner,
        mapping=place.mapping,
        right=() if form_only else lines_of(right),
        form_only=bool(form_only),
        proposer=visit.services.endpoints.get(server).name if server else "",
        send=bool(send),
        max_tokens=int(max_tokens or 0),
        seed=int(draw or 0),
    )
    visit.services.verdicts.start(request)


def resume(visit: Visit, view: BenchView, *, minutes: float | None, send: bool, where: ExampleValues) -> None:
    """Go on with the newest search on these examples; what it was asked stays."""
    require(visit.services)
    id, before = visit.services.search.newest(tried_on(visit, where).file, visit.owner)
    budget_s = 60 * minutes if minutes else before.budget_s or 0.0
    visit.services.verdicts.start(visit.services.search.resume(id, budget_s, visit.owner, bool(send)))


def stop(visit: Visit, view: BenchView, *, where: ExampleValues) -> None:
    """End it and keep what is measured."""
    if bench := visit.services.bench.newest(tried_on(visit, where).file, visit.owner):
        visit.services.bench.stop(bench.id, visit.owner)


def use(visit: Visit, view: BenchView, *, tab: VerdictTab, where: ExampleValues) -> Updates:
    """The best prompt goes to the form; with shots that the form does not offer, as a side of its own."""
    place = tried_on(visit, where)
    bench = visit.services.bench.newest(place.file, visit.owner)
    if bench is None:
        raise InputError("Nothing has been scored yet. Score the versions first.")
    best = visit.services.bench.best(bench.id, visit.owner)
    kept = where["kept"]
    carried = tuple(one for one in kept.carried if not one.name.startswith(TAKEN))
    if best.shots and (best.shots != SHOTS or best.picked or best.nearest):
        carried = (*carried, best.as_side(place.file, f"{TAKEN} + {html.plural(best.shots, 'shot')}"))
    taken = html.good(f"{best.side} is in the verdict's form; the report will say how it was found.")
    updates: Updates = {tab.prompt: best.text, tab.kept: replace(kept, carried=carried)}
    return {**updates, view.error: slot(taken), tab.fold: gr.update(open=True)}


def list_html(versions: Sequence[Version], file: str) -> str:
    """Every version, the newest first, with its last scores on this file."""

    def scores(version: Version) -> list[str]:
        here = (score for score in version.scores if score.file == file)
        return [_score_words(score) for score in sorted(here, key=lambda score: score.shots)]

    rows = [(one.id, html.cut(one.text, _SHOWN_LETTERS), scores(one)) for one in reversed(versions)]
    return _versions(rows) if rows else html.note(NONE)


def _score_words(score: Score) -> str:
    """``21 of 24 with 4 shots, 310 tokens``."""
    figure = f"{score.passed} of {score.n}" if score.passed is not None else f"{score.metric} {score.value:.3f}"
    shots = f"with {html.plural(score.shots, 'shot')}" if score.shots else "without shots"
    return f"{figure} {shots}, {score.tokens:.0f} tokens"


def _head(visit: Visit, bench: VerdictView | None) -> tuple[str, bool]:
    """(how far the newest bench is or what it found, whether there is a best)."""
    if bench is None or bench.live:
        return verdict_shown.live_html(bench) if bench else "", False
    early = html.note(bench.error) if bench.error else ""
    if bench.record is None:
        return html.error_card(bench.error or "Nothing was measured."), False
    try:
        best = visit.services.bench.best(bench.id, visit.owner)
    except InputError as error:
        return early + card(error), False
    search = bench.record.get("search")
    table = _candidates(search["candidates"], best.text) if search else ""
    return early + html.good(f"{best.side}. {best.sentence}") + table, True


def _rival(rival: Rival | None) -> str:
    """The training that a search competes with, "" = none is known."""
    if rival is None:
        return ""
    read = f", over {rival.tokens:,} tokens" if rival.tokens else ""
    return html.note(f"{rival.name} was trained for {rival.seconds / 60:.1f} minutes{read}: as long is fair.")
