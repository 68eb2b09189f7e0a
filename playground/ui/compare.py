"""The Compare tab: up to six sides answer the same question beside each other; and the card that plays the whole story,
live: it trains on the shipped examples and measures the result."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from playground.services import Services
from playground.ui import asking, html, side, words
from playground.ui.asking import Comparison, Leaving
from playground.ui.side import SideView
from playground.ui.wiring import AWAY, BARE, QUIET, Drawn, Event, Updates, Visit, hidden_slot, listen, unasked


class CompareTab:
    """Every widget of the tab. check, sampling, setups: what the values of these names in ``asking`` hold. pressable:
    what the page's opening wakes up."""

    def __init__(self) -> None:
        self.comparison = gr.State(Comparison())
        closed: dict[str, Any] = {"interactive": False}
        with gr.Row(elem_classes="hero"):
            with gr.Column(scale=5, elem_classes="tell", min_width=280):
                gr.HTML(html.heading(words.HERO_TITLE, words.HERO_TEXT))
                with gr.Row(elem_classes="acts"):
                    look: dict[str, Any] = {"variant": "primary", "elem_classes": "main-act"}
                    self.hospital = gr.Button(words.HERO_ASK, **look, **closed)
                    play = gr.Button(words.STORY_PLAY, elem_classes="plain")
            with gr.Column(scale=6, elem_classes="score", min_width=280):
                self.board = gr.HTML("", elem_classes="score-box")
        self.demo = DemoCard(play)
        with gr.Row(elem_classes="sides"):
            self.sides = {letter: SideView(letter) for letter in words.LETTERS}
        self.error = hidden_slot(elem_classes="error-slot")
        with gr.Column(elem_classes="composer"):
            with gr.Column(visible=False, elem_classes="in-place") as self.sending:
                self.leaves, self.leaving = gr.HTML(""), gr.State(Leaving())
                with gr.Row(elem_classes="acts"):
                    self.send = gr.Button("Send and ask", variant="primary", size="sm")
                    self.not_sent = gr.Button("Send nothing", size="sm")
            with gr.Row(elem_classes="ask-row"):
                label, button = words.ASK_LABEL, partial(gr.Button, elem_classes="ask", min_width=80)
                lines: dict[str, Any] = {"lines": 1, "max_lines": 5, "max_length": 20_000, "scale": 1}
                self.question = gr.Textbox(label=label, placeholder=label, **BARE, **lines, **closed)
                self.ask = button(words.ASK, variant="primary")
                self.stop = button("Stop", variant="stop", visible=False)
        with gr.Row(elem_classes="acts"):
            small = partial(gr.Button, size="sm", interactive=False)
            self.add, self.again, self.clear = small("Add a side"), small("Ask again"), small("Clear every side")
            self.verdict = small(words.MAKE_VERDICT)
        with gr.Column(elem_classes="card folds"):
            self._build_sampling()
            self._build_check()
            with gr.Accordion("When a prompt is enough, and when it is not", open=False):
                gr.HTML(html.note(words.PROMPT_IDEA) + html.note(words.CHOICE_IDEA))
        self.clipboard = gr.Textbox(visible="hidden", elem_id="clipboard", label="Copied text")
        self.setups = {letter: view.setup for letter, view in self.sides.items()}
        pressed = [self.add, self.again, self.clear, self.verdict, *self.of_sides("remove")]
        self.pressable: Updates = dict.fromkeys(pressed, gr.update(interactive=True))

    def _build_sampling(self) -> None:
        with gr.Accordion("Same for every side: greedy, 128 tokens, seed 7", open=False) as self.shared:
            with gr.Row():
                hint = "0 is greedy: always the likeliest token."
                temperature = gr.Slider(0, 2, value=0, step=0.05, label="Temperature", info=hint)
                hint = "Only the likeliest tokens up to this share."
                top_p = gr.Slider(0.05, 1, value=1, step=0.05, label="Top-p", info=hint)
            with gr.Row():
                max_tokens = gr.Number(128, label="Longest reply, tokens", precision=0, minimum=1, maximum=2048)
                hint = "The same seed gives the same reply again."
                seed = gr.Number(7, label="Seed", precision=0, minimum=0, info=hint)
        self.sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p}
        self.sampling |= {"max_tokens": max_tokens, "seed": seed}

    def _build_check(self) -> None:
        with gr.Accordion("Check: no check set", open=False) as self.check_fold:
            gr.HTML(html.note("Each finished reply is checked as text; upper and lower case matter."))
            with gr.Row():
                kinds = [(label, value) for value, label in side.KINDS.items()]
                closed: dict[str, Any] = {"value": side.DEFAULT_KIND, "filterable": False, "interactive": False}
                self.kind = gr.Dropdown(kinds, label="A reply passes when it", **closed)
                self.text = gr.Textbox(label="This text", max_length=2000, interactive=False)
        self.check = {"kind": self.kind, "text": self.text}

    def of_sides(self, *names: str) -> list[Any]:
        return [getattr(view, name) for view in self.sides.values() for name in names]


def wire(services: Services, tab: CompareTab, uploaded: gr.State) -> None:
    on = partial(listen, services, tab)
    controls = [tab.ask, tab.stop, tab.hospital, tab.again, tab.clear]
    scored = [tab.comparison, tab.board, *tab.of_sides("chat")]
    asks = partial(on, failure=tab.error, uploaded=uploaded)
    shown = [*scored, tab.question, *controls, *tab.of_sides("line"), tab.sending, tab.leaves, tab.leaving]
    asked = asks([tab.ask.click, tab.question.submit], asking.ask, shown)
    given: dict[str, Any] = {"check": tab.check, "sampling": tab.sampling, "setups": tab.setups}
    again = asks(tab.again.click, asking.ask_again, shown, **given)
    sent = asks(tab.send.click, asking.send, shown, **given)
    on(tab.not_sent.click, asking.not_sent, tab.sending)
    story: list[Block] = [tab.comparison, tab.question, tab.kind, tab.text, tab.check_fold]
    for view in (tab.sides["A"], tab.sides["B"]):
        story += [view.column, view.model, view.prompt, view.shots, view.form, view.think]
    set_up = on(tab.hospital.click, asking.set_up_story, story, failure=tab.error)
    played = asks(set_up.then, asking.ask, shown)
    # First the stream ends, then what had arrived is drawn: the other way round a last snapshot would draw over it.
    stopped = tab.stop.click(None, None, None, cancels=[asked, again, sent, played], **QUIET)
    on(stopped.then, asking.stop, [*scored, *controls])
    on(tab.clear.click, asking.clear, scored, failure=tab.error)
    columns = [*scored, tab.add, *tab.of_sides("column")]
    on(tab.add.click, asking.add_side, columns)
    on([tab.kind.input, tab.text.blur, tab.text.submit], asking.rescored, [tab.board, tab.check_fold, tab.text])
    on([widget.change for widget in tab.sampling.values()], asking.sampling_label, tab.shared)
    for letter, view in tab.sides.items():
        changed = partial(asking.side_changed, letter=letter)
        outputs = [tab.comparison, tab.board, view.line, view.chat, view.source, view.form_text, view.think]
        on(view.model.input, partial(changed, switched=True), outputs, failure=tab.error)
        set_by = [
            view.prompt.blur,
            view.shots.release,
            view.source.input,
            view.form.input,
            view.form_text.blur,
            view.think.input,
        ]
        on(set_by, partial(changed, switched=False), outputs, failure=tab.error)
        on(view.remove.click, partial(asking.remove_side, letter=letter), columns)
        copied = on(view.copy.click, partial(asking.copy_text, letter=letter), tab.clipboard)
        copied.then(None, tab.clipboard, None, js=f"text => window.promptOrTune.copy(text, 'copy-{letter}')")
    on(uploaded.change, asking.sources, tab.of_sides("source"), uploaded=uploaded)
    act = partial(listen, services, tab.demo, failure=tab.demo.view, restored=tab.demo.failed)
    for does, button in (("start", tab.demo.play), ("cancel", tab.demo.cancel), ("reset", tab.demo.reset)):
        act(button.click, partial(play, does=does), tab.demo.outputs)


def wire_opening(services: Services, tab: CompareTab, event: Event, uploaded: gr.State) -> Dependency:
    outputs = [tab.comparison, tab.board, tab.kind, tab.text, tab.check_fold, tab.question]
    outputs += tab.of_sides("model", "line", "prompt", "shots", "source", "form", "form_text", "think", "greyed")
    failing: dict[str, Any] = {"failure": tab.error, "restored": tab.pressable}
    return unasked(services, tab, event, asking.opening, outputs, uploaded=uploaded, **failing)


def wire_use(services: Services, event: Event, tabs: gr.Tabs, tab: CompareTab, adapter: gr.State) -> None:
    """After ``event``, the adapter of this id is put on side B."""
    second = tab.sides["B"]
    outputs = [tabs, tab.comparison, tab.board, second.column, second.chat, second.line, second.prompt, second.shots]
    outputs += [second.form, second.think]
    use = partial(asking.use_as_side, tabs=tabs)
    listen(services, tab, event, use, [*outputs, *tab.of_sides("model")], adapter=adapter)


# The whole story, live

story_html = html.piece("chat", "story")


class DemoCard:
    """failed: what is shown with an error, so that the card can be put away."""

    def __init__(self, play: gr.Button) -> None:
        self.play = play
        with gr.Column(visible=False, elem_classes="card story") as self.column:
            self.view = gr.HTML("")
            with gr.Row(elem_classes="acts"):
                self.cancel = gr.Button("Cancel", variant="stop", size="sm", visible=False)
                self.reset = gr.Button("Reset", size="sm", visible=False)
        self.outputs: list[Block] = [self.column, self.view, self.play, self.cancel, self.reset]
        self.failed: Updates = dict.fromkeys((self.column, self.reset), gr.update(visible=True))


def play(visit: Visit, demo: DemoCard, *, does: str) -> Drawn:
    getattr(visit.services.demo, does)(visit.owner)
    return show(visit, demo)


def show(visit: Visit, demo: DemoCard) -> Drawn:
    state = visit.services.demo.state(visit.owner)
    busy, idle = state.phase in ("training", "measuring"), state.phase == "idle"
    return {
        demo.column: AWAY if idle else gr.update(visible=True),
        demo.view: "" if idle else story_html(state, busy),
        demo.play: gr.update(visible=idle),
        demo.cancel: gr.update(visible=busy),
        demo.reset: gr.update(visible=not idle and not busy),
    }
