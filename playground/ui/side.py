"""One side of a comparison: its column of widgets, and what those widgets say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import gradio as gr

from playground.library.card import AdapterCard
from playground.methods import all_methods
from playground.models.adapters import AdapterRow
from playground.services import Services
from playground.ui import html, words
from playground.ui.html import card
from playground.ui.sidebar import ready
from playground.ui.transcript import Setup
from playground.ui.wiring import Dropdown, Visitor

UPLOAD = "upload"
MAX_SHOTS = 8


@dataclass(frozen=True)
class SideView:
    """The widgets of one column."""

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
    def inputs(self) -> dict[str, Any]:
        return {"model": self.model, "prompt": self.prompt, "shots": self.shots, "source": self.source}


class SideValues(TypedDict):
    """What the widgets of one side say."""

    model: str
    prompt: str
    shots: float
    source: str


def chat_pane(label: str, *, height: int, placeholder: str) -> gr.Chatbot:
    return gr.Chatbot(
        label=label,
        show_label=False,
        layout="panel",
        render_markdown=False,
        buttons=[],
        feedback_options=None,
        height=height,
        placeholder=placeholder,
        elem_classes="bot-box",
        group_consecutive_messages=True,
    )


def build_side(letter: str, *, visible: bool) -> SideView:
    """Closed until ``story.opening`` has given the widgets their first values."""
    with gr.Column(visible=visible, min_width=290, elem_classes=["side", f"s{letter}"]) as column:
        with gr.Row(elem_classes="side-head"):
            gr.HTML(html.badge(letter), elem_classes="tag", min_width=26)
            model = Dropdown(
                [(words.BASE_LABEL, "base")],
                value="base",
                label=f"Model of side {letter}",
                show_label=False,
                container=False,
                filterable=False,
                min_width=100,
                interactive=False,
            )
            copy = gr.Button("Copy", size="sm", min_width=44, elem_classes="x", elem_id=f"copy-{letter}")
        line = gr.HTML(html.note("No system prompt"), elem_classes="line")
        chat = chat_pane(f"Side {letter}", height=330, placeholder=words.pane_empty(letter))
        with gr.Accordion("Prompt and examples", open=False, elem_classes="acc"):
            hint = "None: the base's own default stands."
            prompt = gr.Textbox(
                label="System prompt", lines=4, max_lines=10, placeholder=hint, max_length=20_000, interactive=False
            )
            label = "Answered examples shown at every call"
            shots = gr.Slider(0, MAX_SHOTS, value=0, step=1, label=label, buttons=[], interactive=False)
            source = Dropdown([], label="Taken from", visible=False, filterable=False, interactive=False)
            greyed = gr.HTML("", visible=False, elem_classes="greyed")
            remove = gr.Button("Remove this side", size="sm", elem_classes="plain", interactive=False)
    return SideView(letter, column, model, copy, line, chat, prompt, shots, source, greyed, remove)


def read_setups(services: Services, visitor: Visitor, sides: Mapping[str, SideValues]) -> dict[str, Setup]:
    """The values of all sides as setups. A run that has ended stands for its adapter."""
    return {
        letter: Setup(
            services.adapters.became(str(said["model"] or "base"), visitor.owner),
            str(said["prompt"] or ""),
            int(said["shots"] or 0),
            str(said["source"] or ""),
        )
        for letter, said in sides.items()
    }


def usable(services: Services, visitor: Visitor) -> list[AdapterCard]:
    """The adapters that can answer now, those that are still training among them."""
    rows = services.adapters.list(visitor.owner)
    return [*(row.card for row in rows if row.usable), *services.adapters.learning(visitor.owner)]


def labels(services: Services, visitor: Visitor) -> dict[str, str]:
    """Model id -> what a person calls it, the usable ones only."""
    return {"base": words.BASE_LABEL} | {card.id: card.name for card in usable(services, visitor)}


def model_choices(cards: Sequence[AdapterCard]) -> list[tuple[str, str]]:
    return [(words.BASE_LABEL, "base"), *((f"{c.name} · {method_label(c)}", c.id) for c in cards)]


def method_label(card_: AdapterCard) -> str:
    """``LoRA r8``."""
    method = all_methods().get(card_.method)
    name = method.label if method else str(card_.method).capitalize()
    ranked = card_.rank and (method is None or method.rank_label == "Rank")
    return f"{name} r{card_.rank}" if ranked else name


def greyed_html(rows: Sequence[AdapterRow]) -> str:
    """Adapters that cannot be a side, each with its reason."""
    unusable = [row for row in rows if not row.usable]
    if not unusable:
        return ""
    items = "".join(f"<li><b>{html.esc(row.card.name)}</b> {html.esc(row.reason)}</li>" for row in unusable)
    return f'<p class="note">Not to be chosen here:</p><ul class="plain-list">{items}</ul>'


def source_choices(services: Services, uploaded: Path | None) -> list[tuple[str, str]]:
    choices = [(shipped.title, shipped.id) for shipped in services.data.sets()]
    return [*choices, (f"Your file {uploaded.name}", UPLOAD)] if uploaded else choices


def shots_file(services: Services, source: str, uploaded: Path | None) -> Path | None:
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


def line_html(services: Services, setup: Setup) -> str:
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


def switch_html(services: Services, visitor: Visitor, setup: Setup) -> str:
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


def with_chosen(
    services: Services, visitor: Visitor, choices: list[tuple[str, str]], chosen: str
) -> list[tuple[str, str]]:
    """The choices, and the chosen model among them even when it is gone: named as the adapter that its run has become,
    or as gone. So the
    widget keeps its value and nothing has to write another one."""
    named = {value: name for name, value in choices}
    if not chosen or chosen in named:
        return choices
    became = services.adapters.became(chosen, visitor.owner)
    return [*choices, (f"{named[became]}, {words.TRAINED}" if became in named else f"{chosen}, {words.GONE}", chosen)]
