"""The Compare tab: up to six sides answer the same question beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.events import Dependency

from playground.services import Services
from playground.ui import asking, html, side, story, transcript, words
from playground.ui.asking import Comparison
from playground.ui.wiring import QUIET, Event, hidden_slot, listen, unasked


@dataclass(frozen=True)
class CompareTab:
    """Every widget of the tab, named once."""

    comparison: gr.State
    sides: dict[str, side.SideView]
    hospital: gr.Button
    board: gr.HTML
    error: gr.HTML
    question: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    add: gr.Button
    again: gr.Button
    clear: gr.Button
    verdict: gr.Button
    kind: gr.Dropdown
    text: gr.Textbox
    check: gr.Accordion
    shared: gr.Accordion
    temperature: gr.Slider
    top_p: gr.Slider
    max_tokens: gr.Number
    seed: gr.Number
    clipboard: gr.Textbox
    demo: story.DemoCard

    @property
    def scored(self) -> dict[str, Any]:
        return {"comparison": self.comparison, "kind": self.kind, "text": self.text}

    @property
    def sampling(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }

    @property
    def setups(self) -> dict[str, Any]:
        return {letter: view.inputs for letter, view in self.sides.items()}

    def of_sides(self, *names: str) -> list[Any]:
        """Every side's widgets of these names."""
        return [getattr(view, name) for view in self.sides.values() for name in names]


def build(services: Services) -> CompareTab:
    parts: dict[str, Any] = {"comparison": gr.State(Comparison())}
    with gr.Row(elem_classes="hero"):
        with gr.Column(scale=5, elem_classes="tell", min_width=280):
            gr.HTML(html.heading(words.HERO_TITLE, words.HERO_TEXT))
            with gr.Row(elem_classes="acts"):
                parts["hospital"] = gr.Button(
                    words.HERO_ASK, variant="primary", elem_classes="main-act", interactive=False
                )
                play = gr.Button(words.STORY_PLAY, elem_classes="plain")
        with gr.Column(scale=6, elem_classes="score", min_width=280):
            parts["board"] = gr.HTML("", elem_classes="score-box")
    parts["demo"] = story.build(play)
    with gr.Row(elem_classes="sides"):
        parts["sides"] = {letter: side.build_side(letter, visible=letter in ("A", "B")) for letter in words.LETTERS}
    parts["error"] = hidden_slot(elem_classes="error-slot")
    with gr.Column(elem_classes="composer"), gr.Row(elem_classes="ask-row"):
        parts["question"] = gr.Textbox(
            label=words.ASK_LABEL,
            show_label=False,
            container=False,
            placeholder=words.ASK_LABEL,
            lines=1,
            max_lines=5,
            scale=1,
            max_length=20_000,
            interactive=False,
        )
        parts["ask"] = gr.Button(words.ASK, variant="primary", elem_classes="ask", min_width=80)
        parts["stop"] = gr.Button("Stop", variant="stop", visible=False, elem_classes="ask", min_width=80)
    with gr.Row(elem_classes="acts"):
        parts["add"] = gr.Button("Add a side", size="sm", interactive=False)
        parts["again"] = gr.Button("Ask again", size="sm", interactive=False)
        parts["clear"] = gr.Button("Clear every side", size="sm", interactive=False)
        parts["verdict"] = gr.Button(words.MAKE_VERDICT, size="sm", interactive=False)
    with gr.Column(elem_classes="card folds"):
        parts |= _sampling() | _check()
        with gr.Accordion("When a prompt is enough, and when it is not", open=False):
            gr.HTML(html.note(words.PROMPT_IDEA) + html.note(words.CHOICE_IDEA))
    parts["clipboard"] = gr.Textbox(visible="hidden", elem_id="clipboard", label="Copied text")
    return CompareTab(**parts)


def _sampling() -> dict[str, Any]:
    with gr.Accordion("Same for every side: greedy, 128 tokens, seed 7", open=False) as shared:
        with gr.Row():
            hint = "0 is greedy: always the likeliest token."
            temperature = gr.Slider(0, 2, value=0, step=0.05, label="Temperature", info=hint)
            hint = "Only the likeliest tokens up to this share."
            top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top-p", info=hint)
        with gr.Row():
            max_tokens = gr.Number(128, label="Longest reply, tokens", precision=0, minimum=1, maximum=2048)
            hint = "The same seed gives the same reply again."
            seed = gr.Number(7, label="Seed", precision=0, minimum=0, info=hint)
    return {"shared": shared, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}


def _check() -> dict[str, Any]:
    with gr.Accordion("Check: no check set", open=False) as check:
        gr.HTML(html.note("Each finished reply is checked as text; upper and lower case matter."))
        with gr.Row():
            kinds = [(label, value) for value, label in transcript.KINDS.items()]
            hint = "A reply passes when it"
            kind = gr.Dropdown(kinds, value="ends-with", label=hint, filterable=False, interactive=False)
            text = gr.Textbox(label="This text", max_length=2000, interactive=False)
    return {"check": check, "kind": kind, "text": text}


def wire(services: Services, tab: CompareTab, uploaded: gr.State) -> None:
    controls = [tab.ask, tab.stop, tab.hospital, tab.again, tab.clear]
    shown = [tab.comparison, tab.board, tab.question, *controls, *tab.of_sides("chat", "line")]
    asked_with: dict[str, Any] = {
        "question": tab.question,
        "uploaded": uploaded,
        **tab.scored,
        "sampling": tab.sampling,
        "sides": tab.setups,
    }
    asks = partial(listen, stream=True, failure=tab.error, **asked_with)

    asked = asks(services, [tab.ask.click, tab.question.submit], asking.ask, tab, shown)
    again = asks(services, tab.again.click, asking.ask_again, tab, shown)
    story_widgets = [tab.comparison, tab.question, tab.kind, tab.text, tab.check, tab.error]
    for view in (tab.sides["A"], tab.sides["B"]):
        story_widgets += [view.column, view.model, view.prompt, view.shots]
    retold = listen(
        services, tab.hospital.click, story.retell, tab, story_widgets, comparison=tab.comparison, sides=tab.setups
    )
    told = asks(services, retold.then, asking.ask, tab, shown)
    # First the stream ends, then what had arrived is drawn: the other way round a last snapshot would draw over it.
    stopped = tab.stop.click(None, None, None, cancels=[asked, again, told], **QUIET)
    drawn = [tab.comparison, tab.board, *controls, *tab.of_sides("chat")]
    listen(services, stopped.then, asking.stop, tab, drawn, **tab.scored)
    drawn = [tab.comparison, tab.board, *tab.of_sides("chat")]
    listen(services, tab.clear.click, asking.clear, tab, drawn, failure=tab.error, **tab.scored)
    drawn = [tab.comparison, tab.board, tab.add, *tab.of_sides("column", "chat")]
    listen(services, tab.add.click, asking.add_side, tab, drawn, **tab.scored)
    rescored = [tab.kind.input, tab.text.blur, tab.text.submit]
    listen(services, rescored, asking.rescored, tab, [tab.board, tab.check, tab.text], **tab.scored)
    changes = [widget.change for widget in tab.sampling.values()]
    listen(services, changes, asking.sampling_label, tab, tab.shared, sampling=tab.sampling)
    for letter, view in tab.sides.items():
        changed = partial(asking.side_changed, letter=letter)
        outputs = [tab.comparison, tab.board, view.line, view.chat, view.source]
        inputs: dict[str, Any] = {**tab.scored, "sides": tab.setups}
        listen(services, view.model.input, partial(changed, switched=True), tab, outputs, **inputs)
        events = [view.prompt.blur, view.shots.release, view.source.input]
        listen(services, events, partial(changed, switched=False), tab, outputs, **inputs)
        removed = partial(asking.remove_side, letter=letter)
        listen(services, view.remove.click, removed, tab, drawn, **tab.scored)
        copied = partial(asking.copy_text, letter=letter)
        listen(services, view.copy.click, copied, tab, tab.clipboard, comparison=tab.comparison).then(
            None, tab.clipboard, None, js=f"text => window.promptOrTune.copy(text, 'copy-{letter}')"
        )


def wire_opening(services: Services, tab: CompareTab, event: Event, uploaded: gr.State) -> Dependency:
    """event: the page's opening."""
    outputs = [tab.comparison, tab.error, tab.board, tab.kind, tab.text, tab.check, tab.question]
    outputs += [tab.add, tab.again, tab.clear, tab.verdict]
    outputs += tab.of_sides("model", "line", "prompt", "shots", "source", "greyed", "remove")
    return unasked(services, event, story.opening, tab, outputs, uploaded=uploaded)


def wire_relined(services: Services, tab: CompareTab, event: Event) -> None:
    """event: another base is ready."""
    unasked(services, event, asking.relined, tab, tab.of_sides("line"), sides=tab.setups)


def wire_use(services: Services, event: Event, tabs: gr.Tabs, tab: CompareTab, adapter: gr.State) -> None:
    """After ``event``, the adapter of this id is put on side B."""
    second = tab.sides["B"]
    outputs = [tabs, tab.comparison, tab.board, second.column, second.chat, second.line, second.prompt, second.shots]
    outputs += tab.of_sides("model")
    use = partial(story.use_as_side, tabs=tabs)
    listen(services, event, use, tab, outputs, adapter=adapter, **tab.scored, sides=tab.setups)
