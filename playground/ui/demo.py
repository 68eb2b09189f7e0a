"""The whole story, live: it trains on the shipped examples and measures what came of it. Nothing is replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.ui import html
from playground.ui.failure import card
from playground.ui.figures import left
from playground.ui.wiring import QUIET, Visitor, bind

_BUSY = ("training", "measuring")
_MARKS = {"done": html.icon("check"), "now": '<span class="pulse"></span>', "todo": ""}


@dataclass(frozen=True)
class DemoCard:
    play: gr.Button
    column: gr.Column
    view: gr.HTML
    cancel: gr.Button
    reset: gr.Button

    @property
    def outputs(self) -> list[Any]:
        return [self.column, self.view, self.play, self.cancel, self.reset]


def build(play: gr.Button) -> DemoCard:
    with gr.Column(visible=False, elem_classes="card story") as column:
        view = gr.HTML("")
        with gr.Row(elem_classes="acts"):
            cancel = gr.Button("Cancel", variant="stop", size="sm", visible=False)
            reset = gr.Button("Reset", size="sm", visible=False)
    return DemoCard(play, column, view, cancel, reset)


def wire(services: Any, demo: DemoCard) -> None:
    demo.play.click(bind(services, start), None, demo.outputs, **QUIET)
    demo.cancel.click(bind(services, cancel), None, demo.outputs, **QUIET)
    demo.reset.click(bind(services, reset), None, demo.outputs, **QUIET)


def start(services: Any, visitor: Visitor) -> list[Any]:
    return _act(services, visitor, services.demo.start)


def cancel(services: Any, visitor: Visitor) -> list[Any]:
    return _act(services, visitor, services.demo.cancel)


def reset(services: Any, visitor: Visitor) -> list[Any]:
    return _act(services, visitor, services.demo.reset)


def _act(services: Any, visitor: Visitor, action: Any) -> list[Any]:
    try:
        action(visitor.owner)
    except Exception as error:
        return [gr.update(visible=True), card(error), gr.skip(), gr.skip(), gr.update(visible=True)]
    return show(services, visitor)


def show(services: Any, visitor: Visitor) -> list[Any]:
    """The card, its text, Play, Cancel, Reset."""
    try:
        state = services.demo.state(visitor.owner)
    except Exception as error:
        return [gr.update(visible=True), card(error), gr.skip(), gr.skip(), gr.update(visible=True)]
    busy = state.phase in _BUSY
    told = state.phase != "idle"
    return [
        gr.update(visible=told),
        view_html(state) if told else "",
        gr.update(visible=not told),
        gr.update(visible=busy),
        gr.update(visible=told and not busy),
    ]


def view_html(state: Any) -> str:
    """Heading, progress, the steps, then the table."""
    titles = {
        "training": ("Training, live", "live"),
        "measuring": ("Measuring, live", "live"),
        "done": ("Measured just now", "ok"),
        "failed": ("Failed", "no"),
        "cancelled": ("Cancelled", "wait"),
    }
    title, kind = titles.get(state.phase, (state.phase, "wait"))
    parts = [f'<div class="run-head"><h2>The whole story</h2>{html.pill(title, kind)}</div>']
    if state.phase in _BUSY:
        parts.append(html.progress(state.progress, "The whole story"))
        parts.append(
            f'<div class="between"><span>{round(100 * state.progress)} %</span><span>{left(state.seconds_left)}</span></div>'
        )
    if state.error:
        parts.append(html.note(state.error) if state.phase == "cancelled" else html.error_card(state.error))
    steps = "".join(
        f'<li class="{html.esc(step.state)}"{" aria-current=step" if step.state == "now" else ""}><i>{_MARKS.get(step.state, "")}</i>'
        f"<span><b>{html.esc(step.label)}</b>{f' <span class=quiet>{html.esc(step.detail)}</span>' if step.detail else ''}</span></li>"
        for step in state.steps
    )
    parts.append(f'<ol class="steps">{steps}</ol>' if steps else "")
    if state.table:
        parts.append(table_html(state.table))
    return "".join(parts)


def table_html(rows: Any) -> str:
    body = "".join(
        f"<tr><th scope=row>{html.esc(row.name)}</th>"
        f"<td>{html.pill(f'{row.passed} of {row.n}', 'ok' if row.passed == row.n else 'no')}</td>"
        f"<td>{row.prompt_tokens:.0f}</td><td class=opt>{row.completion_tokens:.0f}</td><td>{row.seconds:.1f}</td></tr>"
        for row in rows
    )
    head = "<th>Asked on reports neither side has seen</th><th>Format kept</th><th>Tokens in</th><th class=opt>Tokens out</th><th>Seconds</th>"
    return f'<table class="board flat"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
