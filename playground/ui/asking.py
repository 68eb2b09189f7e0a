"""Handlers of the Compare tab: from the sides' widgets to the comparison service, and back to what each pane shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import gradio as gr

from playground.chat.compare import Sampling, Side, Turn
from playground.errors import InputError, PlaygroundError
from playground.services import Services
from playground.ui import html, side, transcript, words
from playground.ui.html import card
from playground.ui.side import SideValues
from playground.ui.sidebar import ready, require
from playground.ui.transcript import Log, Setup
from playground.ui.wiring import Drawn, Updates, Visitor, slot

if TYPE_CHECKING:
    from playground.ui.compare import CompareTab


@dataclass(frozen=True)
class Comparison:
    """One tab's comparison: which sides are there, and what each was asked."""

    shown: tuple[str, ...] = ("A", "B")
    logs: dict[str, Log] = field(default_factory=lambda: {letter: Log() for letter in words.LETTERS})

    def of_shown(self, change: Callable[[Log], Log]) -> Comparison:
        """Every shown side's transcript, changed."""
        return self.with_logs({letter: change(self.logs[letter]) for letter in self.shown})

    def with_logs(self, changed: dict[str, Log]) -> Comparison:
        return replace(self, logs={**self.logs, **changed})


class SamplingValues(TypedDict):
    temperature: float
    top_p: float
    max_tokens: float
    seed: float


def settled(comparison: Comparison, setups: dict[str, Setup], known: dict[str, str]) -> Comparison:
    """Let every side take on what its widgets say now."""
    return comparison.with_logs(
        {
            letter: transcript.settle(log, setups[letter], side.name_of(setups[letter], known))
            for letter, log in comparison.logs.items()
        }
    )


def board_html(services: Services, comparison: Comparison, known: dict[str, str], kind: str, text: str) -> str:
    sides = [
        (letter, side.name_of(comparison.logs[letter].setup, known), comparison.logs[letter])
        for letter in comparison.shown
    ]
    try:
        return transcript.board(sides, kind, text, services.compare.passes)
    except PlaygroundError as error:  # a pattern that cannot be read, for one
        return card(error) + transcript.board(sides, "ends-with", "", lambda *_: False)


def board(
    services: Services, visitor: Visitor, tab: CompareTab, comparison: Comparison, kind: str, text: str
) -> Updates:
    return {tab.board: board_html(services, comparison, side.labels(services, visitor), kind, text)}


def _chats(tab: CompareTab, comparison: Comparison) -> Updates:
    return {tab.sides[letter].chat: transcript.messages(comparison.logs[letter]) for letter in comparison.shown}


def _lines(services: Services, tab: CompareTab, comparison: Comparison) -> Updates:
    """Quiet lines after a reply: an adapter that does nothing is said where its name stands."""
    lines: Updates = {}
    for letter in comparison.shown:
        log = comparison.logs[letter]
        newest = log.current[-1].reply if log.current else None
        if newest is not None and newest.done and newest.no_effect:
            said = f'<p class="note warned">{html.icon("warn")}{html.esc(words.NO_EFFECT)}</p>'
        else:
            said = side.line_html(services, log.setup)
        lines[tab.sides[letter].line] = said
    return lines


def _controls(services: Services, tab: CompareTab, *, busy: bool) -> Updates:
    free = gr.update(interactive=not busy and ready(services).yes)
    shown = {tab.ask: gr.update(visible=not busy), tab.stop: gr.update(visible=busy)}
    return shown | dict.fromkeys((tab.hospital, tab.again, tab.clear), free)


def ask(
    services: Services,
    visitor: Visitor,
    tab: CompareTab,
    *,
    comparison: Comparison,
    question: str,
    uploaded: Path | None,
    kind: str,
    text: str,
    sampling: SamplingValues,
    sides: Mapping[str, SideValues],
) -> Iterator[Updates]:
    """Ask every shown side and stream all replies."""
    question = (question or "").strip()
    if not question:
        raise InputError(words.EMPTY_QUESTION)
    require(services)
    known = side.labels(services, visitor)
    comparison = settled(comparison, side.read_setups(services, visitor, sides), known)
    asked, histories = _sides(services, comparison, known, uploaded)
    how = Sampling(
        float(sampling["temperature"]), float(sampling["top_p"]), int(sampling["max_tokens"]), int(sampling["seed"])
    )
    comparison = comparison.of_shown(lambda log: transcript.asked(log, question))
    yield {
        tab.comparison: comparison,
        tab.question: "",
        **_controls(services, tab, busy=True),
        **_chats(tab, comparison),
    }
    failed = ""
    try:
        for replies in services.compare.ask(asked, histories, question, how, visitor.owner, visitor.session):
            answered = zip(comparison.shown, replies, strict=True)
            comparison = comparison.with_logs(
                {letter: transcript.answered(comparison.logs[letter], reply) for letter, reply in answered}
            )
            yield {tab.comparison: comparison, **_chats(tab, comparison)}
    except Exception as error:  # whatever failed, what had arrived is kept and the buttons come back
        failed = card(error)
        comparison = comparison.of_shown(transcript.stopped)
    yield {
        tab.comparison: comparison,
        tab.error: slot(failed),
        tab.board: board_html(services, comparison, known, kind, text),
        **_controls(services, tab, busy=False),
        **_chats(tab, comparison),
        **_lines(services, tab, comparison),
    }


def _sides(
    services: Services, comparison: Comparison, known: dict[str, str], uploaded: Path | None
) -> tuple[list[Side], list[list[Turn]]]:
    sides, histories = [], []
    for letter in comparison.shown:
        log = comparison.logs[letter]
        setup = log.setup
        source = side.shots_file(services, setup.source, uploaded) if setup.shots else None
        sides.append(Side(setup.model, setup.prompt.strip(), setup.shots, source, side.name_of(setup, known)))
        histories.append([Turn(question, reply) for question, reply in transcript.history(log)])
    return sides, histories


def ask_again(
    services: Services,
    visitor: Visitor,
    tab: CompareTab,
    *,
    comparison: Comparison,
    question: str,
    uploaded: Path | None,
    kind: str,
    text: str,
    sampling: SamplingValues,
    sides: Mapping[str, SideValues],
) -> Iterator[Updates]:
    """The last question once more, with the seed that is set: an unchanged side answers the same."""
    said = [comparison.logs[letter].current for letter in comparison.shown]
    last = next((turns[-1].question for turns in said if turns), "")
    known = side.labels(services, visitor)
    comparison = settled(comparison, side.read_setups(services, visitor, sides), known)
    yield from ask(
        services,
        visitor,
        tab,
        comparison=comparison.of_shown(transcript.without_last),
        question=last or question,
        uploaded=uploaded,
        kind=kind,
        text=text,
        sampling=sampling,
        sides=sides,
    )


def stop(
    services: Services, visitor: Visitor, tab: CompareTab, *, comparison: Comparison, kind: str, text: str
) -> Updates:
    """After the stream was cut: keep what had arrived, and say so."""
    comparison = comparison.of_shown(transcript.stopped)
    return {
        tab.comparison: comparison,
        **board(services, visitor, tab, comparison, kind, text),
        **_controls(services, tab, busy=False),
        **_chats(tab, comparison),
    }


def clear(
    services: Services, visitor: Visitor, tab: CompareTab, *, comparison: Comparison, kind: str, text: str
) -> Updates:
    comparison = comparison.with_logs({letter: Log(log.setup) for letter, log in comparison.logs.items()})
    emptied: Updates = {view.chat: [] for view in tab.sides.values()}
    return {tab.comparison: comparison, **board(services, visitor, tab, comparison, kind, text), **emptied}


def side_changed(
    services: Services,
    visitor: Visitor,
    tab: CompareTab,
    *,
    letter: str,
    switched: bool,
    comparison: Comparison,
    kind: str,
    text: str,
    sides: Mapping[str, SideValues],
) -> Updates:
    """A widget of one side was set: new score, a divider in its transcript, its quiet line. switched: it was the
    model."""
    known = side.labels(services, visitor)
    comparison = settled(comparison, side.read_setups(services, visitor, sides), known)
    log, view = comparison.logs[letter], tab.sides[letter]
    return {
        tab.comparison: comparison,
        tab.board: board_html(services, comparison, known, kind, text),
        view.line: side.switch_html(services, visitor, log.setup) if switched else side.line_html(services, log.setup),
        view.chat: transcript.messages(log),
        view.source: gr.update(visible=log.setup.shots > 0),
    }


def rescored(
    services: Services, visitor: Visitor, tab: CompareTab, *, comparison: Comparison, kind: str, text: str
) -> Updates:
    """Another check: every reply already there is checked again."""
    return {
        **board(services, visitor, tab, comparison, kind, text),
        tab.check: gr.update(label=f"Check: {transcript.title(kind, text)}"),
        tab.text: gr.update(visible=kind != "json"),
    }


def add_side(
    services: Services, visitor: Visitor, tab: CompareTab, *, comparison: Comparison, kind: str, text: str
) -> Updates:
    free = [letter for letter in words.LETTERS if letter not in comparison.shown]
    shown = tuple(sorted((*comparison.shown, *free[:1])))
    return _shown(services, visitor, tab, replace(comparison, shown=shown), kind, text)


def remove_side(
    services: Services, visitor: Visitor, tab: CompareTab, *, letter: str, comparison: Comparison, kind: str, text: str
) -> Updates:
    left = tuple(other for other in comparison.shown if other != letter)
    if left:
        comparison = replace(comparison, shown=left).with_logs({letter: Log(comparison.logs[letter].setup)})
    return _shown(services, visitor, tab, comparison, kind, text)


def _shown(
    services: Services, visitor: Visitor, tab: CompareTab, comparison: Comparison, kind: str, text: str
) -> Updates:
    columns: Updates = {
        view.column: gr.update(visible=letter in comparison.shown) for letter, view in tab.sides.items()
    }
    return {
        tab.comparison: comparison,
        **board(services, visitor, tab, comparison, kind, text),
        tab.add: gr.update(interactive=len(comparison.shown) < len(words.LETTERS)),
        **columns,
        **{tab.sides[letter].chat: transcript.messages(log) for letter, log in comparison.logs.items()},
    }


def copy_text(services: Services, visitor: Visitor, tab: CompareTab, *, letter: str, comparison: Comparison) -> Updates:
    """The newest reply as the model wrote it, not as the page shows it."""
    return {tab.clipboard: transcript.newest_text(comparison.logs[letter])}


def sampling_label(services: Services, visitor: Visitor, tab: CompareTab, *, sampling: SamplingValues) -> Updates:
    warm, longest, seed = sampling["temperature"], int(sampling["max_tokens"] or 0), int(sampling["seed"] or 0)
    how = "greedy" if not warm else f"temperature {warm:g}, top-p {sampling['top_p']:g}"
    label = f"Same for every side: {how}, {longest} tokens, seed {seed}"
    return {tab.shared: gr.update(label=label)}


def relined(services: Services, visitor: Visitor, tab: CompareTab, sides: Mapping[str, SideValues]) -> Drawn:
    """Another base is ready: every prompt's tokens are counted again."""
    setups = side.read_setups(services, visitor, sides)
    return {tab.sides[letter].line: side.line_html(services, setup) for letter, setup in setups.items()}
