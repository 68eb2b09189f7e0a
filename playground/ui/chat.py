"""The one-pane chat beside the adapter list: the next message uses whichever adapter is active."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from playground.errors import InputError
from playground.services.compare import Sampling, Side, Turn
from playground.ui import html, side, transcript, words
from playground.ui.failure import card
from playground.ui.readiness import require
from playground.ui.transcript import Log, Setup
from playground.ui.wiring import Visitor, slot


def title_html(services: Any, visitor: Visitor, active: str) -> str:
    known = side.labels(services, visitor)
    name = known.get(active, words.BASE_LABEL) if active else words.BASE_LABEL
    return html.heading(f"Chat with {name}", "Press another adapter on the left and go on; the base stays where it is.")


def turned(services: Any, visitor: Visitor, log: Log, active: str) -> list[Any]:
    """The active adapter changed: a divider, and the chat's title. Returns log, chat, title."""
    known = side.labels(services, visitor)
    setup = Setup(active or "base")
    log = transcript.settle(log, setup, known.get(setup.model, words.BASE_LABEL))
    return [log, transcript.messages(log), title_html(services, visitor, active)]


def send(services: Any, visitor: Visitor, log: Log, question: str, active: str) -> Iterator[list[Any]]:
    """Stream one reply, greedy. Yields log, chat, question, error, Send, Stop."""
    question = (question or "").strip()
    idle = [gr.update(visible=True), gr.update(visible=False)]
    try:
        if not question:
            raise InputError("There is nothing to send yet. Write a message first.")
        require(services)
        log, _, _ = turned(services, visitor, log, active)
    except Exception as error:
        yield [log, gr.skip(), gr.skip(), slot(card(error)), *idle]
        return
    history = [Turn(asked, reply) for asked, reply in transcript.history(log)]
    log = transcript.asked(log, question)
    yield [log, transcript.messages(log), "", slot(""), gr.update(visible=False), gr.update(visible=True)]
    one = Side(log.setup.model, "", 0, None, "")
    failed = ""
    try:
        for replies in services.compare.ask(
            [one], [history], question, Sampling(0.0, 1.0, 256, 7), visitor.owner, visitor.session
        ):
            log = transcript.answered(log, replies[0])
            yield [log, transcript.messages(log), gr.skip(), gr.skip(), gr.skip(), gr.skip()]
    except Exception as error:
        failed = card(error)
        log = transcript.stopped(log)
    yield [log, transcript.messages(log), gr.skip(), slot(failed), *idle]


def stop(services: Any, visitor: Visitor, log: Log) -> list[Any]:
    """Returns log, chat, Send, Stop."""
    log = transcript.stopped(log)
    return [log, transcript.messages(log), gr.update(visible=True), gr.update(visible=False)]


def to_base(services: Any, visitor: Visitor, log: Log) -> list[Any]:
    """Talk to the base itself again. Returns active, log, chat, title."""
    return ["", *turned(services, visitor, log, "")]
