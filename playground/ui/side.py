"""One side of a comparison: its column of widgets, and what those widgets say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from playground.methods import all_methods
from playground.ui import html, words
from playground.ui.failure import card
from playground.ui.readiness import ready
from playground.ui.transcript import Setup
from playground.ui.wiring import Dropdown, Visitor

UPLOAD = "upload"
MAX_SHOTS = 8


@dataclass(frozen=True)
class SideView:
    """The widgets of one column. ``inputs`` is what a handler reads of it, in this order."""

    letter: str
    column: gr.Column
    model: gr.Dropdown
    copy: gr.Button
    line: gr.HTML
    chat: gr.Chatbot
    prompt: gr.Textbox
    shots: gr.Slider
    source: gr.Dropdown
    greyed: gr.HTML
    remove: gr.Button

    @property
    def inputs(self) -> list[Any]:
        return [self.model, self.prompt, self.shots, self.source]


def build_side(letter: str, *, visible: bool) -> SideView:
    """Closed until ``story.opening`` has given the widgets their first values."""
    with gr.Column(visible=visible, min_width=290, elem_classes=["side", f"s{letter}"]) as column:
        with gr.Row(elem_classes="side-head"):
            gr.HTML(html.badge(letter), elem_classes="tag", min_width=26)
            model = Dropdown(
                [(words.BASE_LABEL, "base")], value="base", label=f"Model of side {letter}", show_label=False, container=False,
                filterable=False, min_width=100, interactive=False,
            )  # fmt: skip
            copy = gr.Button("Copy", size="sm", min_width=44, elem_classes="x", elem_id=f"copy-{letter}")
        line = gr.HTML(html.note("No system prompt"), elem_classes="line")
        chat = gr.Chatbot(
            label=f"Side {letter}", show_label=False, layout="panel", render_markdown=False, buttons=[], feedback_options=None,
            height=330, placeholder=words.pane_empty(letter), elem_classes="bot-box", group_consecutive_messages=True,
        )  # fmt: skip
        with gr.Accordion("Prompt and examples", open=False, elem_classes="acc"):
            prompt = gr.Textbox(
                label="System prompt",
                lines=4,
                max_lines=10,
                placeholder="None: the base's own default stands.",
                max_length=20_000,
                interactive=False,
            )
            shots = gr.Slider(
                0, MAX_SHOTS, value=0, step=1, label="Answered examples shown at every call", buttons=[], interactive=False
            )
            source = Dropdown([], label="Taken from", visible=False, filterable=False, interactive=False)
            greyed = gr.HTML("", visible=False, elem_classes="greyed")
            remove = gr.Button("Remove this side", size="sm", elem_classes="plain", interactive=False)
    return SideView(letter, column, model, copy, line, chat, prompt, shots, source, greyed, remove)


def read_setups(services: Any, visitor: Visitor, values: Sequence[Any]) -> dict[str, Setup]:
    """The widgets' values of all six sides, four each, as setups. A run that has ended stands for its adapter."""
    setups = {}
    for letter, start in zip(words.LETTERS, range(0, len(values), 4), strict=True):
        model, prompt, shots, source = values[start : start + 4]
        model = services.adapters.became(str(model or "base"), visitor.owner)
        setups[letter] = Setup(model, str(prompt or ""), int(shots or 0), str(source or ""))
    return setups


def labels(services: Any, visitor: Visitor) -> dict[str, str]:
    """Model id -> what a person calls it, the usable ones only."""
    known = {"base": words.BASE_LABEL}
    for row in services.adapters.list(visitor.owner):
        if row.usable:
            known[row.card.id] = row.card.name
    return known | {card.id: card.name for card in services.adapters.learning(visitor.owner)}


def model_choices(services: Any, visitor: Visitor) -> list[tuple[str, str]]:
    usable = [row.card for row in services.adapters.list(visitor.owner) if row.usable]
    usable += services.adapters.learning(visitor.owner)
    return [(words.BASE_LABEL, "base"), *((f"{c.name} · {method_label(c)}", c.id) for c in usable)]


def method_label(card_: Any) -> str:
    """``LoRA r8``."""
    method = all_methods().get(card_.method)
    name = method.label if method else str(card_.method).capitalize()
    ranked = getattr(card_, "rank", None) and (method is None or method.rank_label == "Rank")
    return f"{name} r{card_.rank}" if ranked else name


def greyed_list(services: Any, visitor: Visitor) -> str:
    """Adapters that cannot be a side, each with its reason."""
    rows = [row for row in services.adapters.list(visitor.owner) if not row.usable]
    if not rows:
        return ""
    items = "".join(f"<li><b>{html.esc(row.card.name)}</b> {html.esc(row.reason)}</li>" for row in rows)
    return f'<p class="note">Not to be chosen here:</p><ul class="plain-list">{items}</ul>'


def source_choices(services: Any, uploaded: Path | None) -> list[tuple[str, str]]:
    choices = [(shipped.title, shipped.id) for shipped in services.data.sets()]
    return [*choices, (f"Your file {uploaded.name}", UPLOAD)] if uploaded else choices


def shots_file(services: Any, source: str, uploaded: Path | None) -> Path | None:
    """The file behind a choice. The choice is an id; no path comes from the page."""
    if source == UPLOAD:
        return uploaded
    return next((shipped.file for shipped in services.data.sets() if shipped.id == source), None)


def name_of(setup: Setup, known: dict[str, str]) -> str:
    """``Base + prompt``, ``hospital_reports``, ``Base + 3 shots``."""
    first = "Base" if setup.model == "base" else known.get(setup.model, "an adapter that is gone")
    extras = ["prompt"] if setup.prompt.strip() else []
    if setup.shots:
        extras.append(f"{setup.shots} shot{'s' if setup.shots > 1 else ''}")
    return " + ".join([first, *extras])


def line_html(services: Any, setup: Setup) -> str:
    """The quiet line under the model: what else goes into every question."""
    prompt = setup.prompt.strip()
    said = "No system prompt"
    if prompt:
        said = f"System prompt, {len(prompt.split())} words"  # until the base is there to count tokens
        if ready(services).yes:
            said = f"System prompt, {services.compare.prompt_tokens(prompt)} tokens"
    if setup.shots:
        said += f", {setup.shots} answered example{'s' if setup.shots > 1 else ''}"
    return html.note(said)


def switch_html(services: Any, visitor: Visitor, setup: Setup) -> str:
    """Make the chosen adapter active and say what that took."""
    if setup.model == "base" or not ready(services).yes:
        return line_html(services, setup)
    try:
        if any(row.card.id == setup.model and row.card.kind == "full" for row in services.adapters.list(visitor.owner)):
            return html.note("A whole model of its own: it is loaded beside the base at the first question.")
        switch = services.adapters.switch(setup.model, visitor.owner)
    except Exception as error:
        return card(error)
    base = "base untouched" if switch.unchanged else f"base {switch.fingerprint[:8]} has CHANGED"
    return html.good(f"Switched in {switch.ms:.1f} ms, {base}") if switch.unchanged else html.error_card(base)


def with_chosen(services: Any, visitor: Visitor, choices: list[tuple[str, str]], chosen: str) -> list[tuple[str, str]]:
    """The choices, and the chosen model among them though it is there no more: named as the adapter that its run has become, or as gone.
    So a widget goes on saying what it holds, and nothing has to write another model into it."""
    named = {value: name for name, value in choices}
    if not chosen or chosen in named:
        return choices
    became = services.adapters.became(chosen, visitor.owner)
    return [*choices, (f"{named[became]}, {words.TRAINED}" if became in named else f"{chosen}, {words.GONE}", chosen)]


def dropdown_updates(services: Any, visitor: Visitor, chosen: Iterable[str]) -> list[Any]:
    """New choices for every side's model."""
    choices = model_choices(services, visitor)
    return [gr.update(choices=with_chosen(services, visitor, choices, model)) for model in chosen]
