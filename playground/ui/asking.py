"""Handlers of the Compare tab: from the sides' widgets to the comparison service, and back to what each pane shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import gradio as gr

from playground.chat.compare import Side
from playground.engine.request import Sampling
from playground.errors import InputError, NotFoundError, PlaygroundError
from playground.evaluation.form import shared_form
from playground.services import Services
from playground.ui import html, side, words
from playground.ui.html import card
from playground.ui.side import Log, Setup, SideValues
from playground.ui.sidebar import ready, require
from playground.ui.wiring import AWAY, Choices, Drawn, Initial, Stream, Updates, Visit, slot
from playground.workspace.examples import ShippedSet

if TYPE_CHECKING:
    from playground.ui.compare import CompareTab as Tab


@dataclass(frozen=True)
class Comparison:
    """One tab's comparison: which sides are there, and the transcript of each."""

    shown: tuple[str, ...] = ("A", "B")
    logs: dict[str, Log] = field(default_factory=lambda: {letter: Log() for letter in words.LETTERS})

    def of_shown(self, change: Callable[[Log], Log]) -> Comparison:
        return self.with_logs({letter: change(self.logs[letter]) for letter in self.shown})

    def with_logs(self, changed: dict[str, Log]) -> Comparison:
        return replace(self, logs={**self.logs, **changed})

    def also(self, *letters: str) -> Comparison:
        return replace(self, shown=tuple(sorted({*letters, *self.shown})))

    def settled(self, setups: Mapping[str, Setup], known: dict[str, str]) -> Comparison:
        """Every side takes on what its widgets hold now. known: names of the models."""
        now = {letter: (setup, side.name_of(setup, known)) for letter, setup in setups.items()}
        return self.with_logs({letter: log.settled(*now[letter]) for letter, log in self.logs.items()})


class SamplingValues(TypedDict):
    temperature: float
    top_p: float
    max_tokens: float
    seed: float


class CheckValues(TypedDict):
    kind: str
    text: str


@dataclass(frozen=True)
class Leaving:
    """What the person is asked to agree to before it leaves this machine. again: it is the last question once more."""

    words: str = ""
    again: bool = False


Setups: TypeAlias = Mapping[str, SideValues]
"""What the widgets of the sides hold, by letter."""


def board_html(services: Services, comparison: Comparison, known: dict[str, str], check: CheckValues) -> str:
    logs = [(letter, comparison.logs[letter]) for letter in comparison.shown]
    sides = [(letter, side.name_of(log.setup, known), log) for letter, log in logs]
    try:
        return side.board(sides, check["kind"], check["text"], services.compare.passes)
    except PlaygroundError as error:  # a pattern that cannot be read, for one
        return card(error) + side.board(sides, side.DEFAULT_KIND, "", lambda *_: False)


def _shown(visit: Visit, tab: Tab, comparison: Comparison, check: CheckValues) -> Updates:
    board = board_html(visit.services, comparison, side.labels(visit), check)
    return {tab.comparison: comparison, tab.board: board, **_chats(tab, comparison, words.LETTERS)}


def _chats(tab: Tab, comparison: Comparison, letters: Sequence[str]) -> Updates:
    return {tab.sides[letter].chat: comparison.logs[letter].messages() for letter in letters}


def _settled(visit: Visit, comparison: Comparison, setups: Setups) -> tuple[Comparison, dict[str, str]]:
    """The comparison with what the sides' widgets hold, and the names of the models."""
    known = side.labels(visit)
    return comparison.settled(side.read_setups(visit, setups), known), known


def _lines(services: Services, tab: Tab, comparison: Comparison) -> Updates:
    """Quiet lines after a reply: that an adapter does nothing stands below its name."""

    def line(log: Log) -> str:
        newest = log.current[-1].reply if log.current else None
        idle = newest is not None and newest.done and newest.no_effect
        return html.warned(words.NO_EFFECT) if idle else side.line_html(services, log.setup)

    return {tab.sides[letter].line: line(comparison.logs[letter]) for letter in comparison.shown}


def _controls(services: Services, tab: Tab, *, busy: bool) -> Updates:
    free = gr.update(interactive=not busy and ready(services).yes)
    shown = {tab.ask: gr.update(visible=not busy), tab.stop: gr.update(visible=busy)}
    return shown | dict.fromkeys((tab.hospital, tab.again, tab.clear), free)


def ask(
    visit: Visit,
    tab: Tab,
    *,
    comparison: Comparison,
    question: str,
    uploaded: Path | None,
    check: CheckValues,
    sampling: SamplingValues,
    setups: Setups,
    leaving: Leaving = Leaving(),
) -> Stream:
    """Ask every side, or first ask the person whether it may go to the other machines among them. leaving: what they
    have agreed to."""
    question = (question or "").strip()
    if not question:
        raise InputError(words.EMPTY_QUESTION)
    require(visit.services)
    comparison, known = _settled(visit, comparison, setups)

    def made(setup: Setup) -> Side:
        source = side.shots_file(visit.services, setup.source, uploaded) if setup.shots else None
        name, form = side.name_of(setup, known), setup.format
        return Side(setup.model, setup.prompt.strip(), setup.shots, source, name, format=form, think=setup.think)

    logs = [comparison.logs[letter] for letter in comparison.shown]
    asked, histories = [made(log.setup) for log in logs], [log.history() for log in logs]
    warm, top_p = float(sampling["temperature"]), float(sampling["top_p"])
    how = Sampling(warm, top_p, int(sampling["max_tokens"]), int(sampling["seed"]))
    if leaves := visit.services.compare.leaving(asked, visit.session):
        if leaves != leaving.words:
            said = replace(leaving, words=leaves)
            yield {tab.sending: gr.update(visible=True), tab.leaves: html.note(leaves), tab.leaving: said}
            return
        visit.services.compare.agree(asked, visit.session)
    comparison, shown = comparison.of_shown(lambda log: log.asked(question)), comparison.shown
    busy = _controls(visit.services, tab, busy=True)
    yield {tab.comparison: comparison, tab.question: "", tab.sending: AWAY, **busy, **_chats(tab, comparison, shown)}
    failed: list[str] = []
    replies = visit.services.compare.ask(asked, histories, question, how, visit.owner, visit.session)
    for step in side.streamed(replies, failed.append):
        answers = zip(shown, step, strict=True)
        comparison = comparison.with_logs({one: comparison.logs[one].answered(reply) for one, reply in answers})
        yield {tab.comparison: comparison, **_chats(tab, comparison, shown)}
    comparison = comparison.of_shown(Log.stopped) if failed else comparison
    yield {
        **_shown(visit, tab, comparison, check),
        **_controls(visit.services, tab, busy=False),
        **_lines(visit.services, tab, comparison),
        tab.error: slot("".join(failed)),
    }


def ask_again(
    visit: Visit,
    tab: Tab,
    *,
    comparison: Comparison,
    question: str,
    leaving: Leaving = Leaving(again=True),
    **given: Any,
) -> Stream:
    """The last question once more, with the seed that is set: an unchanged side answers the same. given: the other
    values of ``ask``."""
    turns = [comparison.logs[letter].current for letter in comparison.shown]
    last = next((one[-1].question for one in turns if one), question)
    before = _settled(visit, comparison, given["setups"])[0].of_shown(Log.without_last)
    yield from ask(visit, tab, comparison=before, question=last, leaving=leaving, **given)


def send(visit: Visit, tab: Tab, *, comparison: Comparison, question: str, leaving: Leaving, **given: Any) -> Stream:
    asks = ask_again if leaving.again else ask
    yield from asks(visit, tab, comparison=comparison, question=question, leaving=leaving, **given)


def not_sent(visit: Visit, tab: Tab) -> Updates:
    return {tab.sending: AWAY}


def stop(visit: Visit, tab: Tab, *, comparison: Comparison, check: CheckValues) -> Updates:
    """After the stream was cut: what had arrived is kept and marked as stopped."""
    stopped = _shown(visit, tab, comparison.of_shown(Log.stopped), check)
    return stopped | _controls(visit.services, tab, busy=False)


def clear(visit: Visit, tab: Tab, *, comparison: Comparison, check: CheckValues) -> Updates:
    comparison = comparison.with_logs({letter: Log(log.setup) for letter, log in comparison.logs.items()})
    return _shown(visit, tab, comparison, check)


def side_changed(
    visit: Visit, tab: Tab, *, letter: str, switched: bool, comparison: Comparison, check: CheckValues, setups: Setups
) -> Updates:
    """A widget of one side was set: new score, a divider, its quiet line. switched: it was the model."""
    comparison, known = _settled(visit, comparison, setups)
    log, view = comparison.logs[letter], tab.sides[letter]
    return {
        tab.comparison: comparison,
        tab.board: board_html(visit.services, comparison, known, check),
        view.line: side.switch_html(visit, log.setup) if switched else side.line_html(visit.services, log.setup),
        view.chat: log.messages(),
        view.source: gr.update(visible=log.setup.shots > 0),
        view.form_text: _form_text(visit, setups[letter]),
        view.think: gr.update(visible=side.may_think(visit.services, log.setup.model)),
    }


def _form_text(visit: Visit, one: SideValues) -> dict[str, Any]:
    """Shown where the form needs a text; where none is written, what the answers of the side's examples share."""
    kind, text = one["form"] or "json", one["form_text"] or ""
    file = side.shots_file(visit.services, one["source"], None)
    if not side.needs_text(kind) or text.strip() or file is None:
        return gr.update(visible=side.needs_text(kind))
    there = visit.services.data.check_as_before(file, visit.owner).examples
    name, _, shared = shared_form([each.completion for each in there]).partition(":")
    return gr.update(visible=True, value=shared if name == kind else "")


def rescored(visit: Visit, tab: Tab, *, comparison: Comparison, check: CheckValues) -> Updates:
    return {
        tab.board: board_html(visit.services, comparison, side.labels(visit), check),
        tab.check_fold: gr.update(label=f"Check: {side.title(**check)}"),
        tab.text: gr.update(visible=side.needs_text(check["kind"])),
    }


def add_side(visit: Visit, tab: Tab, *, comparison: Comparison, check: CheckValues) -> Updates:
    free = [letter for letter in words.LETTERS if letter not in comparison.shown]
    return _columns(visit, tab, comparison.also(*free[:1]), check)


def remove_side(visit: Visit, tab: Tab, *, letter: str, comparison: Comparison, check: CheckValues) -> Updates:
    if left := tuple(other for other in comparison.shown if other != letter):
        comparison = replace(comparison, shown=left).with_logs({letter: Log(comparison.logs[letter].setup)})
    return _columns(visit, tab, comparison, check)


def _columns(visit: Visit, tab: Tab, comparison: Comparison, check: CheckValues) -> Updates:
    updates = _shown(visit, tab, comparison, check)
    updates |= {one.column: gr.update(visible=letter in comparison.shown) for letter, one in tab.sides.items()}
    return updates | {tab.add: gr.update(interactive=len(comparison.shown) < len(words.LETTERS))}


def copy_text(visit: Visit, tab: Tab, *, letter: str, comparison: Comparison) -> Updates:
    """The newest reply as the model wrote it, not as the page shows it."""
    return {tab.clipboard: comparison.logs[letter].newest_text()}


def sampling_label(visit: Visit, tab: Tab, *, sampling: SamplingValues) -> Updates:
    warm, longest, seed = sampling["temperature"], int(sampling["max_tokens"] or 0), int(sampling["seed"] or 0)
    how = "greedy" if not warm else f"temperature {warm:g}, top-p {sampling['top_p']:g}"
    return {tab.shared: gr.update(label=f"Same for every side: {how}, {longest} tokens, seed {seed}")}


def relined(visit: Visit, tab: Tab, *, setups: Setups) -> Drawn:
    """Another base is ready: every prompt's tokens are counted again, and it may think or not."""
    read = side.read_setups(visit, setups)
    lines: Drawn = {tab.sides[letter].line: side.line_html(visit.services, setup) for letter, setup in read.items()}
    may = {letter: Choices(visible=side.may_think(visit.services, setup.model)) for letter, setup in read.items()}
    return lines | {tab.sides[letter].think: visible for letter, visible in may.items()}


# The shipped story: a side with a careful prompt against a side that was trained.


def hospital(services: Services) -> ShippedSet:
    """The set of the story; the first one where it is not there."""
    sets = services.data.sets()
    if not sets:
        raise NotFoundError("No example set ships with this copy. Drop a file of your own on the Train tab.")
    return next((shipped for shipped in sets if shipped.id.startswith("hospital")), sets[0])


def story_setups(shipped: ShippedSet, known: dict[str, str]) -> dict[str, Setup]:
    """Side A is the base with the careful prompt, side B the adapter without one. known: the models there are."""
    trained = shipped.adapter if shipped.adapter in known else "base"
    return {"A": Setup("base", shipped.system_prompt, 0, shipped.id), "B": Setup(trained, "", 0, shipped.id)}


def _missing_html(shipped: ShippedSet, known: dict[str, str]) -> str:
    """Without the story's adapter side B is the plain base, and the page says so."""
    text = f"The adapter {shipped.adapter} is not here, so side B is the plain base. Play the whole story trains one,"
    return "" if shipped.adapter in known else html.error_card(f"{text} and so does the Train tab.")


def opening(visit: Visit, tab: Tab, *, uploaded: Path | None) -> Updates:
    """First values of the Compare tab, and what can be pressed from then on."""
    shipped, known = hospital(visit.services), side.labels(visit)
    choices = side.model_choices(visit.services, side.usable(visit))
    sources = side.source_choices(visit.services, uploaded)
    greyed = side.greyed_html(visit.services.adapters.list(visit.owner))
    kind, text = side.parts_of(shipped.check)
    by_letter = {letter: Setup(source=shipped.id) for letter in words.LETTERS} | story_setups(shipped, known)
    comparison = Comparison().settled(by_letter, known)
    drawn: Updates = tab.pressable | {
        tab.comparison: comparison,
        tab.error: slot(_missing_html(shipped, known)),
        tab.board: board_html(visit.services, comparison, known, {"kind": kind, "text": text}),
        tab.kind: Initial(value=kind),
        tab.text: Initial(value=text),
        tab.check_fold: gr.update(label=f"Check: {side.title(kind, text)}"),
    }
    for letter, setup in by_letter.items():
        view = tab.sides[letter]
        drawn |= {
            view.model: Initial(choices, value=setup.model),
            view.line: side.line_html(visit.services, setup),
            view.prompt: Initial(value=setup.prompt),
            view.shots: Initial(value=setup.shots),
            view.source: Initial(sources, visible=setup.shots > 0, value=setup.source),
            view.form: Initial(value=""),
            view.form_text: Initial(value="", visible=False),
            view.think: Initial(value="", visible=side.may_think(visit.services, setup.model)),
            view.greyed: slot(greyed),
        }
    return drawn


def set_up_story(visit: Visit, tab: Tab, *, comparison: Comparison, setups: Setups) -> Updates:
    """Put sides A and B back to the story and its question in the box; the asking follows."""
    shipped, known = hospital(visit.services), side.labels(visit)
    kind, text = side.parts_of(shipped.check)
    both = story_setups(shipped, known)
    now = side.read_setups(visit, setups) | both
    updates: Updates = {
        tab.comparison: comparison.also("A", "B").settled(now, known),
        tab.error: slot(_missing_html(shipped, known)),
        tab.question: shipped.ask,
        tab.kind: kind,
        tab.text: text,
        tab.check_fold: gr.update(label=f"Check: {side.title(kind, text)}"),
    }
    for letter, setup in both.items():
        view = tab.sides[letter]
        updates |= {view.column: gr.update(visible=True), view.model: setup.model}
        updates |= {view.prompt: setup.prompt, view.shots: setup.shots, view.form: "", view.think: ""}
    return updates


def use_as_side(
    visit: Visit, tab: Tab, *, tabs: gr.Tabs, adapter: str, comparison: Comparison, check: CheckValues, setups: Setups
) -> Updates:
    """Put an adapter on side B, without a prompt, and show the tab; nothing where ``adapter`` is ""."""
    if not adapter:
        return {}
    known, now = side.labels(visit), side.read_setups(visit, setups)
    now["B"] = Setup(adapter if adapter in known else "base", "", 0, now["B"].source)
    comparison = comparison.also("B").settled(now, known)
    view, choices = tab.sides["B"], side.model_choices(visit.services, side.usable(visit))
    updates: Updates = {
        other.model: gr.update(choices=side.with_chosen(visit, choices, setups[letter]["model"]))
        for letter, other in tab.sides.items()
    }
    return updates | {
        tabs: gr.update(selected="compare"),
        tab.comparison: comparison,
        tab.board: board_html(visit.services, comparison, known, check),
        view.column: gr.update(visible=True),
        view.chat: comparison.logs["B"].messages(),
        view.line: side.switch_html(visit, now["B"]),
        view.model: gr.update(choices=choices, value=now["B"].model),
        view.prompt: "",
        view.shots: 0,
        view.form: "",
        view.think: "",
    }


def sources(visit: Visit, tab: Tab, *, uploaded: Path | None) -> Updates:
    choices = side.source_choices(visit.services, uploaded)
    return {view.source: gr.update(choices=choices) for view in tab.sides.values()}
