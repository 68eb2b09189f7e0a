"""Handlers of the Compare tab: from the sides' widgets to the comparison service, and back to what each pane shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr

from playground.errors import InputError, PlaygroundError
from playground.services.compare import Sampling, Side, Turn
from playground.ui import html, scoreboard, side, transcript, words
from playground.ui.failure import card, sentence
from playground.ui.readiness import ready, require
from playground.ui.transcript import Log, Setup
from playground.ui.wiring import Visitor, slot


@dataclass(frozen=True)
class Comparison:
    """One tab's comparison: which sides are there, and what each was asked."""

    shown: tuple[str, ...] = ("A", "B")
    logs: dict[str, Log] = field(default_factory=lambda: {letter: Log() for letter in words.LETTERS})

    def with_logs(self, changed: dict[str, Log]) -> Comparison:
        return replace(self, logs={**self.logs, **changed})


def settled(comparison: Comparison, setups: dict[str, Setup], known: dict[str, str]) -> Comparison:
    """Let every side take on what its widgets say now."""
    return comparison.with_logs(
        {
            letter: transcript.settle(log, setups[letter], side.name_of(setups[letter], known))
            for letter, log in comparison.logs.items()
        }
    )


def board_html(services: Any, comparison: Comparison, known: dict[str, str], kind: str, text: str) -> str:
    sides = [(letter, side.name_of(comparison.logs[letter].setup, known), comparison.logs[letter]) for letter in comparison.shown]
    try:
        return scoreboard.board(sides, kind, text, lambda check, reply: services.compare.passes(check, reply))
    except PlaygroundError as error:  # a pattern that cannot be read, for one
        return html.error_card(sentence(error)) + scoreboard.board(sides, "ends-with", "", lambda *_: False)


def _chats(comparison: Comparison) -> list[Any]:
    return [
        transcript.messages(comparison.logs[letter]) if letter in comparison.shown else gr.skip() for letter in words.LETTERS
    ]  # fmt: skip


def _lines(services: Any, comparison: Comparison) -> list[Any]:
    """Quiet lines after a reply: an adapter that does nothing is said where its name stands."""
    lines: list[Any] = []
    for letter in words.LETTERS:
        log = comparison.logs[letter]
        newest = log.current[-1].reply if log.current else None
        if letter not in comparison.shown:
            lines.append(gr.skip())
        elif newest is not None and newest.done and newest.no_effect:
            lines.append(f'<p class="note warned">{html.icon("warn")}{html.esc(words.NO_EFFECT)}</p>')
        else:
            lines.append(side.line_html(services, log.setup))
    return lines


def _controls(services: Any, *, busy: bool) -> list[Any]:
    """Ask, Stop, the hospital example, Ask again, Clear."""
    free = gr.update(interactive=not busy and ready(services).yes)
    return [gr.update(visible=not busy), gr.update(visible=busy), free, free, free]


def ask(
    services: Any, visitor: Visitor, comparison: Comparison, question: str, uploaded: Path | None, kind: str, text: str,
    temperature: float, top_p: float, max_tokens: float, seed: float, *values: Any,
) -> Iterator[list[Any]]:  # fmt: skip
    """Ask every shown side and stream all replies. Yields comparison, error, board, question, five controls, chats, lines."""
    nothing = [gr.skip()] * len(words.LETTERS)
    question = (question or "").strip()
    try:
        if not question:
            raise InputError(words.EMPTY_QUESTION)
        require(services)
        known = side.labels(services, visitor)
        comparison = settled(comparison, side.read_setups(services, visitor, values), known)
        sides, histories = _sides(services, comparison, known, uploaded)
        sampling = Sampling(float(temperature), float(top_p), int(max_tokens), int(seed))
    except Exception as error:
        yield [comparison, slot(card(error)), gr.skip(), gr.skip(), *_controls(services, busy=False), *nothing, *nothing]
        return
    comparison = comparison.with_logs(
        {letter: transcript.asked(comparison.logs[letter], question) for letter in comparison.shown}
    )
    yield [comparison, slot(""), gr.skip(), "", *_controls(services, busy=True), *_chats(comparison), *nothing]
    failed = ""
    try:
        for replies in services.compare.ask(sides, histories, question, sampling, visitor.owner, visitor.session):
            answered = zip(comparison.shown, replies, strict=True)
            comparison = comparison.with_logs(
                {letter: transcript.answered(comparison.logs[letter], reply) for letter, reply in answered}
            )
            yield [comparison, gr.skip(), gr.skip(), gr.skip(), *[gr.skip()] * 5, *_chats(comparison), *nothing]
    except Exception as error:
        failed = card(error)
        comparison = comparison.with_logs({letter: transcript.stopped(comparison.logs[letter]) for letter in comparison.shown})
    board = board_html(services, comparison, known, kind, text)
    yield [
        comparison, slot(failed), board, gr.skip(), *_controls(services, busy=False), *_chats(comparison), *_lines(services, comparison)
    ]  # fmt: skip


def _sides(
    services: Any, comparison: Comparison, known: dict[str, str], uploaded: Path | None
) -> tuple[list[Side], list[list[Turn]]]:
    sides, histories = [], []
    for letter in comparison.shown:
        log = comparison.logs[letter]
        setup = log.setup
        source = side.shots_file(services, setup.source, uploaded) if setup.shots else None
        sides.append(Side(setup.model, setup.prompt.strip(), setup.shots, source, side.name_of(setup, known)))
        histories.append([Turn(question, reply) for question, reply in transcript.history(log)])
    return sides, histories


def ask_again(services: Any, visitor: Visitor, comparison: Comparison, question: str, *rest: Any) -> Iterator[list[Any]]:
    """The last question once more, with the seed that is set: an unchanged side answers the same."""
    said = [comparison.logs[letter].current for letter in comparison.shown]
    last = next((turns[-1].question for turns in said if turns), "")
    known = side.labels(services, visitor)
    comparison = settled(comparison, side.read_setups(services, visitor, rest[-24:]), known)
    comparison = comparison.with_logs({letter: transcript.without_last(comparison.logs[letter]) for letter in comparison.shown})
    yield from ask(services, visitor, comparison, last or question, *rest)


def stop(services: Any, visitor: Visitor, comparison: Comparison, kind: str, text: str) -> list[Any]:
    """After the stream was cut: keep what had arrived, and say so."""
    comparison = comparison.with_logs({letter: transcript.stopped(comparison.logs[letter]) for letter in comparison.shown})
    board = board_html(services, comparison, side.labels(services, visitor), kind, text)
    return [comparison, board, *_controls(services, busy=False), *_chats(comparison)]


def clear(services: Any, visitor: Visitor, comparison: Comparison, kind: str, text: str) -> list[Any]:
    comparison = comparison.with_logs({letter: Log(log.setup) for letter, log in comparison.logs.items()})
    board = board_html(services, comparison, side.labels(services, visitor), kind, text)
    return [comparison, slot(""), board, *[[] for _ in words.LETTERS]]


def side_changed(
    services: Any, visitor: Visitor, letter: str, switched: bool, comparison: Comparison, kind: str, text: str, *values: Any
) -> list[Any]:
    """A widget of one side was touched: new score, a divider in its transcript, its quiet line."""
    known = side.labels(services, visitor)
    comparison = settled(comparison, side.read_setups(services, visitor, values), known)
    log = comparison.logs[letter]
    line = side.switch_html(services, visitor, log.setup) if switched else side.line_html(services, log.setup)
    board = board_html(services, comparison, known, kind, text)
    return [comparison, board, line, transcript.messages(log), gr.update(visible=log.setup.shots > 0)]


def rescored(services: Any, visitor: Visitor, comparison: Comparison, kind: str, text: str) -> list[Any]:
    """Another check: every reply already there is checked again."""
    board = board_html(services, comparison, side.labels(services, visitor), kind, text)
    return [board, gr.update(label=f"Check: {scoreboard.title(kind, text)}"), gr.update(visible=kind != "json")]


def add_side(services: Any, visitor: Visitor, comparison: Comparison, kind: str, text: str) -> list[Any]:
    free = [letter for letter in words.LETTERS if letter not in comparison.shown]
    if free:
        comparison = replace(comparison, shown=tuple(sorted((*comparison.shown, free[0]))))
    return _shown(services, visitor, comparison, kind, text)


def remove_side(services: Any, visitor: Visitor, letter: str, comparison: Comparison, kind: str, text: str) -> list[Any]:
    left = tuple(other for other in comparison.shown if other != letter)
    if left:
        comparison = replace(comparison, shown=left).with_logs({letter: Log(comparison.logs[letter].setup)})
    return _shown(services, visitor, comparison, kind, text)


def _shown(services: Any, visitor: Visitor, comparison: Comparison, kind: str, text: str) -> list[Any]:
    board = board_html(services, comparison, side.labels(services, visitor), kind, text)
    columns = [gr.update(visible=letter in comparison.shown) for letter in words.LETTERS]
    full = len(comparison.shown) == len(words.LETTERS)
    return [
        comparison,
        board,
        gr.update(interactive=not full),
        *columns,
        *[transcript.messages(log) for log in comparison.logs.values()],
    ]


def copy_text(services: Any, visitor: Visitor, letter: str, comparison: Comparison) -> str:
    """The newest reply as the model wrote it, not as the page shows it."""
    return transcript.newest_text(comparison.logs[letter])


def sampling_label(services: Any, visitor: Visitor, temperature: float, top_p: float, max_tokens: float, seed: float) -> Any:
    how = "greedy" if not temperature else f"temperature {temperature:g}, top-p {top_p:g}"
    return gr.update(label=f"Same for every side: {how}, {int(max_tokens or 0)} tokens, seed {int(seed or 0)}")


def relined(services: Any, visitor: Visitor, comparison: Comparison, *values: Any) -> list[Any]:
    """Another base is ready: every prompt's tokens are counted again."""
    return [side.line_html(services, setup) for setup in side.read_setups(services, visitor, values).values()]
