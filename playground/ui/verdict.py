"""The Verdict tab: which examples, which sides, then the answer with its figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from playground.chat.compare import Side
from playground.data.files import TAKEN
from playground.errors import PlaygroundError
from playground.evaluation.checks import kinds
from playground.evaluation.cost import NOTE, Prices, prices_to_json
from playground.evaluation.criterion import kinds as criteria
from playground.report.report import FAULTS
from playground.services import Services
from playground.ui import bench, blind, html, judged, rows, side, verdict_form, verdict_shown, words
from playground.ui.asking import CheckValues, Comparison, Setups
from playground.ui.bench import BenchView
from playground.ui.blind import LabelView, VoteView
from playground.ui.judged import Kept
from playground.ui.runs import PICK_JS
from playground.ui.side import RecordedView
from playground.ui.verdict_shown import FORMATS
from playground.ui.wiring import (
    PICKED,
    CheckboxGroup,
    Dropdown,
    Event,
    Events,
    Radio,
    Updates,
    Visit,
    hidden_slot,
    listen,
    unasked,
)

if TYPE_CHECKING:
    from playground.ui.compare import CompareTab
    from playground.ui.train import TrainTab

ADDRESS_JS = "() => [new URLSearchParams(window.location.search).get('verdict') || '']"


class VerdictTab:
    """Every widget of the tab. followed: the verdict that is shown. offered: the sides that were shown last, key ->
    name. line, settings, situation: what the values of these names in ``verdict_form`` hold. shown: where a verdict is
    shown. The form is closed until ``verdict_form.first`` has given it its first values."""

    def __init__(self) -> None:
        self.kept, self.followed, self.offered = gr.State(Kept()), gr.State(""), gr.State({})
        with gr.Column(elem_classes="card folds verdict-form"):
            self.fold = gr.Accordion(words.VERDICT_TITLE, open=True)
            with self.fold:
                gr.HTML(html.note(words.VERDICT_TEXT))
                with gr.Row(elem_classes="two"):
                    with gr.Column(min_width=300):
                        self._build_examples()
                    with gr.Column(min_width=300):
                        self._build_sides()
                self._build_terms()
                with gr.Column(elem_classes="folds"):
                    self._build_more()
                self.error = hidden_slot()
                look: dict[str, Any] = {"variant": "primary", "elem_classes": "measure"}
                self.measure = gr.Button(words.VERDICT_EXAMPLES, interactive=False, **look)
                self.sending = gr.Column(visible=False, elem_classes="in-place")
                with self.sending:
                    self.leaves, self.leaving = gr.HTML(""), gr.State("")
                    with gr.Row(elem_classes="acts"):
                        self.send = gr.Button("Send them and measure", variant="primary", size="sm")
                        self.not_sent = gr.Button("Send nothing", size="sm")
        self.bench = BenchView()
        self.head = gr.HTML(verdict_shown.live_html(None), elem_classes="verdict-card")
        self.shown_error = hidden_slot()
        self._build_acts()
        self.replayed = hidden_slot(elem_classes="verdict-said")
        self.body = gr.HTML("", visible=False, js_on_load=PICK_JS, elem_classes="verdict-body")
        self.vote, self.label = VoteView(), LabelView()
        with gr.Column(elem_classes="card folds"), gr.Accordion("Your situation and prices", open=False):
            self._build_situation()
        with gr.Column(elem_classes="run-list"):
            self.listing = gr.HTML("", visible=False, js_on_load=PICK_JS)
        self.asked = gr.Textbox(visible="hidden", label="Verdict in the address")
        self.line: dict[str, Any] = {"adapter": self.adapter, "prompt": self.prompt, "chosen": self.sides}
        self.line |= {"offered": self.offered, "recorded": self.recorded.values}
        self.shown: list[Block] = [self.followed, self.shown_error, self.head, self.body, self.listing]
        self.shown += [self.stop, self.files, self.delete, self.question]
        self.shown += [self.again, self.fault, self.extend, self.rejoin]

    def _build_examples(self) -> None:
        choice: dict[str, Any] = {"filterable": False, "interactive": False}
        hint = "Best are rows that no side was trained on; the others are counted and said."
        self.source = Dropdown([], label="Examples to judge by", info=hint, **choice)
        gr.HTML(html.note("Or drop a file; every row of it is judged by:"))
        self.drop = _file("Or drop a file: every row of it is judged by", list(TAKEN))
        with gr.Row():
            self.reading = rows.choose_reading()
        self.facts, self.repairs = hidden_slot(), hidden_slot()
        self.repair = gr.Button("Repair", size="sm", visible=False, elem_classes="fit")
        self.adapter = Dropdown([("No adapter", "")], value="", label="Adapter", **choice)
        look: dict[str, Any] = {"elem_classes": "side-list", "interactive": False}
        self.sides = CheckboxGroup([], label="Sides", info="Each answers every example.", **look)

    def _build_sides(self) -> None:
        look: dict[str, Any] = {"max_length": 20_000, "interactive": False}
        hint = "Write the best prompt you have: the fairer to it, the better the answer."
        label = "System prompt of the prompted sides"
        self.prompt = gr.Textbox(label=label, lines=6, max_lines=12, placeholder=hint, **look)
        look = {"max_length": 4000, "interactive": False, "info": "Likeness to the references is always measured."}
        hint, label = kinds().replace(", ", "\n"), "The form: checks, one a line, all of which hold"
        self.checks = gr.Textbox(label=label, lines=3, max_lines=8, placeholder=hint, **look)
        gr.HTML(html.note("Documents to look things up in; an example set brings its own, drop others here:"))
        self.docs = _file("Documents to look things up in", [".txt", ".md", ".rst", ".pdf", ".docx"])
        self.recorded = RecordedView()

    def _build_terms(self) -> None:
        """What is right, and how sure the answer has to be: stated before anything is measured."""
        number = partial(gr.Number, min_width=110)
        hint = f"One criterion a line, all of which hold: {criteria()}. Suggested from the answers; correct it."
        look: dict[str, Any] = {"lines": 2, "max_lines": 5, "max_length": 2000, "elem_classes": "terms-right"}
        self.right = gr.Textbox(label="What is right", info=hint, interactive=False, **look)
        with gr.Row(elem_classes="terms-row"):
            self.terms: dict[str, gr.Textbox | gr.Number | gr.Checkbox] = {
                "right": self.right,
                "bar": number(90, label="Bar, % of rows", info="Good enough from here."),
                "margin": number(5, label="Margin, points", info="Smaller does not matter."),
                "maximum": number(None, label="Most rows, later", info="Empty or 0: one look.", precision=0),
                "form_only": gr.Checkbox(False, label="Only the form matters", min_width=160),
            }
        self.stated = hidden_slot()

    def _build_more(self) -> None:
        # No bounds on the numbers: Gradio answers what lies outside with an exception, also while a person is still
        # typing. The request names faults.
        whole, number = partial(gr.Number, precision=0, min_width=130), partial(gr.Number, min_width=130)
        self.more = gr.Accordion("Everything else: greedy, at most 96 tokens, seed 7", open=False)
        with self.more:
            with gr.Row():
                self.settings: dict[str, gr.Number | gr.Checkbox] = {
                    "limit": whole(None, label="At most so many rows", info="Empty or 0: all."),
                    "repeats": whole(1, label="Repeats", info="For consistency."),
                    "draws": whole(1, label="Draws of the shots", info="From 5 on they count."),
                    "max_tokens": whole(None, label="Longest reply", info="Tokens; empty: as answers are."),
                    "temperature": number(0, label="Temperature", info="0 is greedy.", step=0.1),
                    "seed": whole(7, label="Seed", info="Same seed, same replies."),
                    "spend_cap": number(None, label="Endpoints may cost", info="At most; empty or 0: no limit."),
                }
            with gr.Row():
                self.settings["unseen"] = gr.Checkbox(
                    True, label="Leave out rows a tuned side was trained on, or nearly", min_width=200
                )
                self.settings["losses"] = gr.Checkbox(True, label="Loss of the references", min_width=200)
                self.settings["forgetting"] = gr.Checkbox(True, label="What the adapter forgot", min_width=200)

    def _build_situation(self) -> None:
        gr.HTML(html.note(words.SITUATION_TEXT))
        with gr.Row():
            volume = gr.Number(None, label="Requests a month", precision=0, minimum=0, min_width=150)
            latency = gr.Number(None, label="Longest wait for an answer, seconds", minimum=0, min_width=150)
            budget = gr.Number(None, label="Most that training may cost", minimum=0, min_width=150)
            label, info = (
                "Points of general questions that may be lost",
                "At the worst. 40 questions tell 5 to 7 points from none.",
            )
            forgets = gr.Number(None, label=label, info=info, minimum=0, min_width=150)
        often = [("never", "never"), ("about every month", "monthly"), ("about every week", "weekly")]
        changes = gr.Radio(often, value="never", label="The task changes")
        look: dict[str, Any] = {"lines": 6, "max_lines": 20, "max_length": 4000, "elem_classes": "code"}
        prices = gr.Textbox(prices_to_json(Prices()), label="Prices", info=NOTE, **look)
        self.again = gr.Button("Judge anew by these", size="sm", visible=False, elem_classes="fit")
        self.judged = hidden_slot()
        self.situation = {"volume": volume, "changes": changes, "latency": latency, "budget": budget}
        self.situation |= {"forgets": forgets, "prices": prices}

    def _build_acts(self) -> None:
        with gr.Row(elem_classes="acts"):
            self.stop = gr.Button(words.STOP_AND_KEEP, variant="stop", size="sm", visible=False)
            self.rejoin = gr.Button("Ask again what failed", size="sm", visible=False)
            self.extend = gr.Button("Measure more rows", size="sm", visible=False)
            self.files = gr.Row(visible=False, elem_classes="acts")
            with self.files:
                self.takes = {how: gr.Button(label, size="sm") for how, label in FORMATS.items()}
            self.delete = gr.Button("Delete", size="sm", visible=False)
        every = [("every example", ""), *((f"a {name}", name) for name in FAULTS)]
        self.fault = Radio(every, value="", label="Show where some side has", visible=False, elem_classes="fault")
        self.file = gr.DownloadButton("Download", visible="hidden", elem_id="verdict-file")
        self.question = gr.Column(visible=False, elem_classes="in-place")
        with self.question:
            self.ask = gr.HTML("")
            with gr.Row(elem_classes="acts"):
                self.yes = gr.Button("Yes, delete", variant="stop", size="sm")
                self.no = gr.Button("Keep", size="sm")


def _file(label: str, types: list[str]) -> gr.File:
    return gr.File(label=label, show_label=False, height=96, elem_classes="drop", file_count="single", file_types=types)


def examples_of(tab: VerdictTab, training: TrainTab) -> dict[str, Block]:
    """The widgets behind ``judged.ExampleValues``."""
    opened: dict[str, Block] = {"uploaded": training.uploaded, "training": training.source}
    parts: dict[str, Block] = {"seed": training.fields["seed"], "test": training.fields["test"]}
    return {"source": tab.source, "kept": tab.kept, **opened, **parts}


def wire(
    services: Services, page: gr.Blocks, tabs: gr.Tabs, tab: VerdictTab, training: TrainTab, mark: gr.State
) -> None:
    """training: for its upload, columns, seed and test share. mark: changes when a base is ready."""
    where, uploaded = examples_of(tab, training), training.uploaded
    on = partial(listen, services, tab, failure=tab.error)
    choices = [*tab.reading.values(), tab.repairs, tab.repair]
    fits = [tab.facts, tab.error, tab.prompt, tab.checks, tab.adapter, tab.right, tab.recorded.column]

    def refresh(events: Events, wired: Callable[..., Dependency] = listen) -> None:
        outputs = [tab.measure, tab.more, tab.stated]
        wired(services, tab, events, verdict_form.refresh, outputs, where=where)

    def line_up(events: Events) -> None:
        offered = listen(services, tab, events, verdict_form.lined_up, [tab.sides, tab.offered], where=where)
        refresh(on(offered.then, verdict_form.joined, tab.recorded.said, where=where).then)

    def follow(event: Event) -> Dependency:
        fitted = on(event, verdict_form.source_chosen, fits, where=where)
        line_up(fitted.then)
        listen(services, tab, fitted.then, verdict_form.readings, choices)
        return fitted

    def first(event: Event, wired: Callable[..., Dependency]) -> Dependency:
        outputs = [tab.source, *fits, tab.sides, tab.offered]
        filled = wired(services, tab, event, verdict_form.first, outputs, failure=tab.error, where=where)
        refresh(filled.then, wired)
        return filled

    first(page.load, unasked)
    refilled = first(uploaded.change, listen)
    listen(services, tab, refilled.then, verdict_form.readings, choices)
    follow(tab.source.input)
    dropped = follow(
        on(tab.drop.upload, verdict_form.drop, [tab.kept, tab.source], file=tab.drop, uploaded=uploaded).then
    )
    chosen = [one.input for one in tab.reading.values()]
    follow(on(chosen, verdict_form.read_otherwise, tab.kept, reading=tab.reading).then)
    follow(on(tab.repair.click, verdict_form.repair, tab.kept).then)
    line_up(on([tab.docs.upload, tab.docs.clear], verdict_form.documents, tab.kept, file=tab.docs).then)
    today = tab.recorded
    line_up(on([today.file.upload, today.file.clear], verdict_form.replies, tab.kept, file=today.file).then)
    line_up([tab.adapter.input, tab.prompt.blur, today.column.input, today.name.blur])
    stated = [one.change for name, one in tab.terms.items() if name != "right"]
    refresh([tab.sides.change, tab.right.blur, *stated, *(one.change for one in tab.settings.values())])
    refresh(mark.change, unasked)
    outputs = [tab.followed, tab.fold, tab.sending, tab.leaves, tab.leaving]
    for button, begin in ((tab.measure, verdict_form.start), (tab.send, partial(verdict_form.start, send=True))):
        started = on(button.click, begin, outputs, where=where, leaving=tab.leaving)
        listen(services, tab, started.then, verdict_shown.shown, tab.shown, failure=tab.shown_error)
    on(tab.not_sent.click, verdict_form.not_sent, tab.sending)
    _wire_shown(services, tab)
    bench.wire(services, tab.bench, tab, where)
    for event in (refilled, dropped):
        bench.follow(services, tab.bench, where, event.then)
    for asked in (tab.vote, tab.label):
        blind.wire(services, asked, tab)
    opened, outputs = partial(verdict_shown.opened, tabs=tabs), [tabs, *tab.shown, tab.fold]
    unasked(services, tab, page.load, opened, outputs, failure=tab.shown_error, js=ADDRESS_JS)


def _wire_shown(services: Services, tab: VerdictTab) -> None:
    on = partial(listen, services, tab, failure=tab.shown_error)
    on(tab.stop.click, verdict_shown.stop)
    on(tab.listing.pick, verdict_shown.shown, tab.shown, followed=PICKED)
    on(tab.fault.input, verdict_shown.filtered, tab.body)
    for button, more in ((tab.extend, None), (tab.rejoin, 0)):
        extended = on(button.click, partial(verdict_shown.extend, rows=more), tab.followed)
        listen(services, tab, extended.then, verdict_shown.shown, tab.shown, failure=tab.shown_error)
    listen(services, tab, tab.delete.click, verdict_shown.ask_remove, [tab.question, tab.ask, tab.delete])
    listen(services, tab, tab.no.click, verdict_shown.keep, [tab.question, tab.delete])
    on(tab.yes.click, verdict_shown.remove, tab.shown)
    for how, button in tab.takes.items():
        written = on(button.click, partial(verdict_shown.export, how=how), restored={tab.file: gr.update(value=None)})
        written.success(None, tab.file, None, js="file => window.promptOrTune.take(file)")
    listen(services, tab, tab.again.click, verdict_shown.again, tab.body, failure=tab.judged)
    listen(services, tab, tab.body.pick, verdict_shown.replay, failure=tab.replayed)


def wire_carry(services: Services, tabs: gr.Tabs, tab: VerdictTab, sides: CompareTab, training: TrainTab) -> None:
    outputs = [tabs, tab.kept, tab.source, tab.checks, tab.sides, tab.offered, tab.fold]
    given: dict[str, Any] = {"where": examples_of(tab, training), "comparison": sides.comparison}
    given |= {"check": sides.check, "setups": sides.setups}
    carried = listen(services, tab, sides.verdict.click, partial(carry, tabs=tabs), outputs, **given)
    bench.follow(services, tab.bench, examples_of(tab, training), carried.then)


def carry(
    visit: Visit,
    tab: VerdictTab,
    *,
    tabs: gr.Tabs,
    where: judged.ExampleValues,
    line: verdict_form.LineUpValues,
    comparison: Comparison,
    check: CheckValues,
    setups: Setups,
) -> Updates:
    """The Compare tab's sides become this verdict's."""
    known, read, uploaded = side.labels(visit), side.read_setups(visit, setups), where["uploaded"]
    made: list[Side] = []
    for letter in comparison.shown:
        setup = read[letter]
        file = side.shots_file(visit.services, setup.source, uploaded) if setup.shots else None
        setup = setup if file else replace(setup, shots=0)  # so the side's name does not speak of shots
        name = side.name_of(setup, known)
        name = f"{name} ({letter})" if name in [one.label for one in made] else name
        # a model that is gone stays, so that the request refuses it: the base is not measured under its name
        formed: Any = {"format": setup.format, "think": setup.think}
        made.append(Side(setup.model, setup.prompt.strip(), setup.shots, file, name, **formed))
    kept = replace(where["kept"], carried=tuple(made))
    first = read[comparison.shown[0]].source if comparison.shown else ""
    from_there = judged.UPLOAD if first == side.UPLOAD else judged.SET + first
    choices = judged.sources(visit.services, uploaded, kept)
    chosen = from_there if from_there in [value for _, value in choices] else where["source"]
    there: Updates = {tabs: gr.update(selected="verdict")}
    try:
        offered = verdict_form.line_up(visit, line, {**where, "kept": kept, "source": chosen})
    except PlaygroundError:  # shown when they are measured
        return there
    return {
        **there,
        tab.kept: kept,
        tab.source: gr.update(choices=choices, value=chosen),
        tab.checks: side.check_of(**check),
        **verdict_form.offer(tab, offered, [key for key in offered if key.startswith(verdict_form.CARRIED)]),
        tab.fold: gr.update(open=True),
    }
