"""The Compare tab: up to six sides answer the same question beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.ui import asking, demo, html, scoreboard, side, story, words
from playground.ui.asking import Comparison
from playground.ui.wiring import QUIET, bind, bind_stream, hidden_slot


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
    demo: demo.DemoCard

    @property
    def side_inputs(self) -> list[Any]:
        return [widget for view in self.sides.values() for widget in view.inputs]

    @property
    def sampling(self) -> list[Any]:
        return [self.temperature, self.top_p, self.max_tokens, self.seed]

    @property
    def chats(self) -> list[Any]:
        return [view.chat for view in self.sides.values()]

    @property
    def lines(self) -> list[Any]:
        return [view.line for view in self.sides.values()]

    @property
    def opened(self) -> list[Any]:
        """Where ``story.opening`` puts what it returns: first values, and what can be pressed from then on."""
        widgets = [
            widget
            for view in self.sides.values()
            for widget in (view.model, view.line, view.prompt, view.shots, view.source, view.greyed)
        ]
        pressed = [self.add, self.again, self.clear, self.verdict, *(view.remove for view in self.sides.values())]
        return [self.comparison, self.error, self.board, self.kind, self.text, self.check, *widgets, self.question, *pressed]

    @property
    def columns(self) -> list[Any]:
        return [view.column for view in self.sides.values()]

    @property
    def controls(self) -> list[Any]:
        return [self.ask, self.stop, self.hospital, self.again, self.clear]


def build(services: Any) -> CompareTab:
    comparison = gr.State(Comparison())
    with gr.Row(elem_classes="hero"):
        with gr.Column(scale=5, elem_classes="tell", min_width=280):
            gr.HTML(html.heading(words.HERO_TITLE, words.HERO_TEXT))
            with gr.Row(elem_classes="acts"):
                hospital = gr.Button(words.HERO_ASK, variant="primary", elem_classes="main-act", interactive=False)
                play = gr.Button(words.STORY_PLAY, elem_classes="plain")
        with gr.Column(scale=6, elem_classes="score", min_width=280):
            board = gr.HTML("", elem_classes="score-box")
    story_card = demo.build(play)
    with gr.Row(elem_classes="sides"):
        sides = {letter: side.build_side(letter, visible=letter in ("A", "B")) for letter in words.LETTERS}
    error = hidden_slot(elem_classes="error-slot")
    with gr.Column(elem_classes="composer"), gr.Row(elem_classes="ask-row"):
        question = gr.Textbox(
            label=words.ASK_LABEL, show_label=False, container=False, placeholder=words.ASK_LABEL, lines=1, max_lines=5, scale=1,
            max_length=20_000, interactive=False,
        )  # fmt: skip
        ask = gr.Button(words.ASK, variant="primary", elem_classes="ask", min_width=80)
        stop = gr.Button("Stop", variant="stop", visible=False, elem_classes="ask", min_width=80)
    with gr.Row(elem_classes="acts"):
        add = gr.Button("Add a side", size="sm", interactive=False)
        again = gr.Button("Ask again", size="sm", interactive=False)
        clear = gr.Button("Clear every side", size="sm", interactive=False)
        verdict = gr.Button(words.MAKE_VERDICT, size="sm", interactive=False)
    with gr.Column(elem_classes="card folds"):
        with gr.Accordion("Same for every side: greedy, 128 tokens, seed 7", open=False) as shared:
            with gr.Row():
                temperature = gr.Slider(
                    0, 2, value=0, step=0.05, label="Temperature", info="0 is greedy: always the likeliest token."
                )
                top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top-p", info="Only the likeliest tokens up to this share.")
            with gr.Row():
                max_tokens = gr.Number(128, label="Longest reply, tokens", precision=0, minimum=1, maximum=2048)
                seed = gr.Number(7, label="Seed", precision=0, minimum=0, info="The same seed gives the same reply again.")
        with gr.Accordion("Check: no check set", open=False) as check:
            gr.HTML(html.note("Each finished reply is checked as text; upper and lower case matter."))
            with gr.Row():
                kind = gr.Dropdown(
                    [(label, value) for value, label in scoreboard.KINDS.items()], value="ends-with", label="A reply passes when it",
                    filterable=False, interactive=False,
                )  # fmt: skip
                text = gr.Textbox(label="This text", max_length=2000, interactive=False)
        with gr.Accordion("When a prompt is enough, and when it is not", open=False):
            gr.HTML(html.note(words.PROMPT_IDEA) + html.note(words.CHOICE_IDEA))
    clipboard = gr.Textbox(visible="hidden", elem_id="clipboard", label="Copied text")
    return CompareTab(
        comparison, sides, hospital, board, error, question, ask, stop, add, again, clear, verdict, kind, text, check, shared, temperature,
        top_p, max_tokens, seed, clipboard, story_card,
    )  # fmt: skip


def wire(services: Any, tab: CompareTab, uploaded: gr.State) -> None:
    asked_with = [tab.comparison, tab.question, uploaded, tab.kind, tab.text, *tab.sampling, *tab.side_inputs]
    shown = [tab.comparison, tab.error, tab.board, tab.question, *tab.controls, *tab.chats, *tab.lines]
    story_widgets = [w for letter in "AB" for view in [tab.sides[letter]] for w in (view.model, view.prompt, view.shots)]

    asked = gr.on(
        [tab.ask.click, tab.question.submit], bind_stream(services, asking.ask), asked_with, shown, trigger_mode="once", **QUIET
    )
    again = tab.again.click(bind_stream(services, asking.ask_again), asked_with, shown, trigger_mode="once", **QUIET)
    told = tab.hospital.click(
        bind(services, story.retell),
        [tab.comparison, *tab.side_inputs],
        [tab.comparison, tab.error, tab.question, tab.kind, tab.text, tab.check, tab.sides["A"].column, tab.sides["B"].column,
         *story_widgets],
        trigger_mode="once",
        **QUIET,
    ).then(bind_stream(services, asking.ask), asked_with, shown, **QUIET)  # fmt: skip
    # First the stream ends, then what had arrived is drawn: the other way round a last snapshot would draw over it.
    tab.stop.click(None, None, None, cancels=[asked, again, told], **QUIET).then(
        bind(services, asking.stop),
        [tab.comparison, tab.kind, tab.text],
        [tab.comparison, tab.board, *tab.controls, *tab.chats],
        **QUIET,
    )
    scored = [tab.comparison, tab.kind, tab.text]
    tab.clear.click(bind(services, asking.clear), scored, [tab.comparison, tab.error, tab.board, *tab.chats], **QUIET)
    sides_shown = [tab.comparison, tab.board, tab.add, *tab.columns, *tab.chats]
    tab.add.click(bind(services, asking.add_side), scored, sides_shown, **QUIET)
    gr.on(
        [tab.kind.input, tab.text.blur, tab.text.submit], bind(services, asking.rescored), scored, [tab.board, tab.check, tab.text],
        **QUIET,
    )  # fmt: skip
    gr.on([widget.change for widget in tab.sampling], bind(services, asking.sampling_label), tab.sampling, tab.shared, **QUIET)
    for letter, view in tab.sides.items():
        inputs = [*scored, *tab.side_inputs]
        outputs = [tab.comparison, tab.board, view.line, view.chat, view.source]
        view.model.input(bind(services, asking.side_changed, letter, True), inputs, outputs, **QUIET)
        gr.on(
            [view.prompt.blur, view.shots.release, view.source.input], bind(services, asking.side_changed, letter, False), inputs, outputs,
            **QUIET,
        )  # fmt: skip
        view.remove.click(bind(services, asking.remove_side, letter), scored, sides_shown, **QUIET)
        view.copy.click(bind(services, asking.copy_text, letter), tab.comparison, tab.clipboard, **QUIET).then(
            None, tab.clipboard, None, js=f"text => window.promptOrTune.copy(text, 'copy-{letter}')"
        )
