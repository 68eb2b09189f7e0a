"""The shipped story on the Compare tab: a side that is told against a side that was trained.

The whole story, live: it trains on the shipped examples and measures what came of it. Nothing is replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from playground.chat.demo import DemoRow, DemoState
from playground.errors import NotFoundError, PlaygroundError
from playground.services import Services
from playground.ui import asking, html, side, transcript, words
from playground.ui.asking import Comparison
from playground.ui.html import card, left
from playground.ui.side import SideValues
from playground.ui.transcript import Setup
from playground.ui.wiring import Drawn, Initial, Updates, Visitor, listen, slot
from playground.workspace.examples import ShippedSet

if TYPE_CHECKING:
    from playground.ui.compare import CompareTab


def hospital(services: Services) -> ShippedSet:
    """The set that tells the story; the first one where it is not there."""
    sets = services.data.sets()
    if not sets:
        raise NotFoundError("No example set ships with this copy. Drop a file of your own on the Train tab.")
    return next((shipped for shipped in sets if shipped.id.startswith("hospital")), sets[0])


def setups(services: Services, visitor: Visitor) -> tuple[Setup, Setup]:
    """Side A is the base with the careful prompt, side B the adapter without one."""
    shipped = hospital(services)
    known = side.labels(services, visitor)
    return (
        Setup("base", shipped.system_prompt, 0, shipped.id),
        Setup(shipped.adapter if shipped.adapter in known else "base", "", 0, shipped.id),
    )


def opening(services: Services, visitor: Visitor, tab: CompareTab, *, uploaded: Path | None) -> Updates:
    """First values of the Compare tab, and what can be pressed from then on."""
    pressed = [tab.add, tab.again, tab.clear, tab.verdict, *tab.of_sides("remove")]
    drawn: Updates = dict.fromkeys(pressed, gr.update(interactive=True))
    try:
        shipped = hospital(services)
        first, second = setups(services, visitor)
        kind, text = transcript.parts_of(shipped.check)
        choices = side.model_choices(side.usable(services, visitor))
        sources = side.source_choices(services, uploaded)
        greyed = side.greyed_html(services.adapters.list(visitor.owner))
        known = side.labels(services, visitor)
    except Exception as error:  # whatever is missing, the page opens with what there is
        return {**drawn, tab.error: slot(card(error))}
    by_letter = {letter: Setup(source=shipped.id) for letter in words.LETTERS} | {"A": first, "B": second}
    comparison = asking.settled(Comparison(), by_letter, known)
    drawn |= {
        tab.comparison: comparison,
        tab.error: slot(missing_html(services, visitor)),
        tab.board: asking.board_html(services, comparison, known, kind, text),
        tab.kind: Initial(value=kind),
        tab.text: Initial(value=text),
        tab.check: gr.update(label=f"Check: {transcript.title(kind, text)}"),
    }
    for letter, setup in by_letter.items():
        view = tab.sides[letter]
        drawn |= {
            view.model: Initial(choices, value=setup.model),
            view.line: side.line_html(services, setup),
            view.prompt: Initial(value=setup.prompt),
            view.shots: Initial(value=setup.shots),
            view.source: Initial(sources, visible=setup.shots > 0, value=setup.source),
            view.greyed: slot(greyed),
        }
    return drawn


def missing_html(services: Services, visitor: Visitor) -> str:
    """The story needs its adapter; without it, side B is the plain base, and the page says so."""
    shipped = hospital(services)
    if shipped.adapter in side.labels(services, visitor):
        return ""
    return html.error_card(
        f"The adapter {shipped.adapter} is not here, so side B is the plain base. Play the whole story trains one, and"
        " so does the Train tab."
    )


def retell(
    services: Services, visitor: Visitor, tab: CompareTab, *, comparison: Comparison, sides: Mapping[str, SideValues]
) -> Updates:
    """Put sides A and B back to the story and its question in the box; the asking follows."""
    try:
        shipped = hospital(services)
        first, second = setups(services, visitor)
        known = side.labels(services, visitor)
    except PlaygroundError as error:
        return {tab.error: slot(card(error))}
    kind, text = transcript.parts_of(shipped.check)
    shown = tuple(sorted({"A", "B", *comparison.shown}))
    now = {**side.read_setups(services, visitor, sides), "A": first, "B": second}
    updates: Updates = {
        tab.comparison: asking.settled(replace(comparison, shown=shown), now, known),
        tab.error: slot(missing_html(services, visitor)),
        tab.question: shipped.ask,
        tab.kind: kind,
        tab.text: text,
        tab.check: gr.update(label=f"Check: {transcript.title(kind, text)}"),
    }
    for letter, setup in (("A", first), ("B", second)):
        view = tab.sides[letter]
        updates[view.column] = gr.update(visible=True)
        updates |= {view.model: setup.model, view.prompt: setup.prompt, view.shots: setup.shots}
    return updates


def use_as_side(
    services: Services,
    visitor: Visitor,
    tab: CompareTab,
    *,
    tabs: gr.Tabs,
    adapter: str,
    comparison: Comparison,
    kind: str,
    text: str,
    sides: Mapping[str, SideValues],
) -> Updates:
    """Put an adapter on side B, without a prompt, and show the tab; nothing where ``adapter`` is ""."""
    if not adapter:
        return {}
    cards = side.usable(services, visitor)
    known = side.labels(services, visitor)
    now = side.read_setups(services, visitor, sides)
    now["B"] = Setup(adapter if adapter in known else "base", "", 0, now["B"].source)
    shown = tuple(sorted({"B", *comparison.shown}))
    comparison = asking.settled(replace(comparison, shown=shown), now, known)
    view, choices = tab.sides["B"], side.model_choices(cards)
    updates: Updates = {
        other.model: gr.update(choices=side.with_chosen(services, visitor, choices, sides[letter]["model"]))
        for letter, other in tab.sides.items()
    }
    return updates | {
        tabs: gr.update(selected="compare"),
        tab.comparison: comparison,
        tab.board: asking.board_html(services, comparison, known, kind, text),
        view.column: gr.update(visible=True),
        view.chat: transcript.messages(comparison.logs["B"]),
        view.line: side.switch_html(services, visitor, now["B"]),
        view.model: gr.update(choices=choices, value=now["B"].model),
        view.prompt: "",
        view.shots: 0,
    }


def sources(services: Services, visitor: Visitor, tab: CompareTab, *, uploaded: Path | None) -> Updates:
    """A file was uploaded: every side may take its shots from it."""
    choices = side.source_choices(services, uploaded)
    return dict.fromkeys(tab.of_sides("source"), gr.update(choices=choices))


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


def wire(services: Services, demo: DemoCard) -> None:
    for button, handler in ((demo.play, start), (demo.cancel, cancel), (demo.reset, reset)):
        listen(services, button.click, handler, demo, demo.outputs)


def start(services: Services, visitor: Visitor, demo: DemoCard) -> Updates:
    return _act(services, visitor, demo, services.demo.start)


def cancel(services: Services, visitor: Visitor, demo: DemoCard) -> Updates:
    return _act(services, visitor, demo, services.demo.cancel)


def reset(services: Services, visitor: Visitor, demo: DemoCard) -> Updates:
    return _act(services, visitor, demo, services.demo.reset)


def _act(services: Services, visitor: Visitor, demo: DemoCard, action: Callable[[str], Any]) -> Updates:
    try:
        action(visitor.owner)
        return dict(show(services, visitor, demo).items())
    except Exception as error:  # whatever failed is said in the card, which can then be put away
        there = gr.update(visible=True)
        return {demo.column: there, demo.view: card(error), demo.reset: there}


def show(services: Services, visitor: Visitor, demo: DemoCard) -> Drawn:
    state = services.demo.state(visitor.owner)
    busy, idle = state.phase in _BUSY, state.phase == "idle"
    return {
        demo.column: gr.update(visible=not idle),
        demo.view: "" if idle else view_html(state),
        demo.play: gr.update(visible=idle),
        demo.cancel: gr.update(visible=busy),
        demo.reset: gr.update(visible=not idle and not busy),
    }


def view_html(state: DemoState) -> str:
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
            f'<div class="between"><span>{round(100 * state.progress)}'
            f" %</span><span>{left(state.seconds_left)}</span></div>"
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


def table_html(rows: Sequence[DemoRow]) -> str:
    body = "".join(
        f"<tr><th scope=row>{html.esc(row.name)}</th>"
        f"<td>{html.pill(f'{row.passed} of {row.n}', 'ok' if row.passed == row.n else 'no')}</td>"
        f"<td>{row.prompt_tokens:.0f}</td><td class=opt>{row.completion_tokens:.0f}</td><td>{row.seconds:.1f}</td></tr>"
        for row in rows
    )
    head = (
        "<th>Asked on reports neither side has seen</th><th>Format kept</th><th>Tokens in</th><th class=opt>Tokens"
        " out</th><th>Seconds</th>"
    )
    return f'<table class="board flat"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
