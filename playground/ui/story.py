"""The shipped story on the Compare tab: a side that is told against a side that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from playground.errors import NotFoundError
from playground.ui import asking, html, scoreboard, side, words
from playground.ui.asking import Comparison
from playground.ui.failure import card
from playground.ui.transcript import Setup
from playground.ui.wiring import Visitor, slot


def hospital(services: Any) -> Any:
    """The set that tells the story; the first one where it is not there."""
    sets = services.data.sets()
    if not sets:
        raise NotFoundError("No example set ships with this copy. Drop a file of your own on the Train tab.")
    return next((shipped for shipped in sets if shipped.id.startswith("hospital")), sets[0])


def setups(services: Any, visitor: Visitor) -> tuple[Setup, Setup]:
    """Side A is the base with the careful prompt, side B the adapter without one."""
    shipped = hospital(services)
    known = side.labels(services, visitor)
    return (
        Setup("base", shipped.system_prompt, 0, shipped.id),
        Setup(shipped.adapter if shipped.adapter in known else "base", "", 0, shipped.id),
    )


def opening(services: Any, visitor: Visitor, uploaded: Path | None) -> list[Any]:
    """Everything the Compare tab shows first.

    Returns comparison, error, board, check kind, check text, check label, then for each side its model, line, prompt, shots, source and
    greyed list, then the question and what can be pressed now.
    """
    opened = [gr.skip(), *[gr.update(interactive=True)] * (4 + len(words.LETTERS))]
    try:
        shipped = hospital(services)
        first, second = setups(services, visitor)
        kind, text = scoreboard.parts_of(shipped.check)
        choices = side.model_choices(services, visitor)
        sources = side.source_choices(services, uploaded)
        greyed = side.greyed_list(services, visitor)
        known = side.labels(services, visitor)
    except Exception as error:
        return [gr.skip(), slot(card(error)), *[gr.skip()] * (4 + 6 * len(words.LETTERS)), *opened]
    by_letter = {letter: Setup(source=shipped.id) for letter in words.LETTERS} | {"A": first, "B": second}
    comparison = asking.settled(Comparison(), by_letter, known)
    widgets: list[Any] = []
    for setup in by_letter.values():
        widgets += [
            gr.update(choices=choices, value=setup.model),
            side.line_html(services, setup),
            setup.prompt,
            setup.shots,
            gr.update(choices=sources, value=setup.source, visible=setup.shots > 0),
            slot(greyed),
        ]
    board = asking.board_html(services, comparison, known, kind, text)
    label = gr.update(label=f"Check: {scoreboard.title(kind, text)}")
    return [comparison, slot(missing_html(services, visitor)), board, kind, text, label, *widgets, *opened]


def missing_html(services: Any, visitor: Visitor) -> str:
    """The story needs its adapter; without it, side B is the plain base, and the page says so."""
    shipped = hospital(services)
    if shipped.adapter in side.labels(services, visitor):
        return ""
    return html.error_card(
        f"The adapter {shipped.adapter} is not here, so side B is the plain base. Play the whole story trains one, and so does the Train tab."
    )


def retell(services: Any, visitor: Visitor, comparison: Comparison, *values: Any) -> list[Any]:
    """Put sides A and B back to the story and its question in the box; the asking follows.

    Returns comparison, error, question, check kind, check text, check label, columns A and B, then model, prompt and shots of both.
    """
    try:
        shipped = hospital(services)
        first, second = setups(services, visitor)
        known = side.labels(services, visitor)
    except Exception as error:
        return [comparison, slot(card(error)), *[gr.skip()] * 12]
    kind, text = scoreboard.parts_of(shipped.check)
    shown = tuple(sorted({"A", "B", *comparison.shown}))
    comparison = Comparison(shown, comparison.logs)
    comparison = asking.settled(comparison, {**side.read_setups(services, visitor, values), "A": first, "B": second}, known)
    there = gr.update(visible=True)
    widgets = [value for setup in (first, second) for value in (setup.model, setup.prompt, setup.shots)]
    label = gr.update(label=f"Check: {scoreboard.title(kind, text)}")
    return [comparison, slot(missing_html(services, visitor)), shipped.ask, kind, text, label, there, there, *widgets]


def use_as_side(
    services: Any, visitor: Visitor, adapter: str, comparison: Comparison, kind: str, text: str, *values: Any
) -> list[Any]:
    """Put an adapter on side B, without a prompt, and show the tab.

    Returns tabs, comparison, board, column B, chat B, line B, B's prompt and shots, then every side's model.
    """
    known = side.labels(services, visitor)
    setups_now = side.read_setups(services, visitor, values)
    setups_now["B"] = Setup(adapter if adapter in known else "base", "", 0, setups_now["B"].source)
    shown = tuple(sorted({"B", *comparison.shown}))
    comparison = asking.settled(Comparison(shown, comparison.logs), setups_now, known)
    line = side.switch_html(services, visitor, setups_now["B"])
    models = side.dropdown_updates(services, visitor, values[::4])
    models[words.LETTERS.index("B")]["value"] = setups_now["B"].model
    board = asking.board_html(services, comparison, known, kind, text)
    chat = asking.transcript.messages(comparison.logs["B"])
    return [gr.update(selected="compare"), comparison, board, gr.update(visible=True), chat, line, "", 0, *models]


def sources(services: Any, visitor: Visitor, uploaded: Path | None) -> list[Any]:
    """A file was uploaded: every side may take its shots from it."""
    choices = side.source_choices(services, uploaded)
    return [gr.update(choices=choices) for _ in words.LETTERS]
