"""The Verdict tab: which examples, which sides, then the answer with everything it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.data.read import EXTENSIONS
from playground.evaluation.checks import KINDS
from playground.evaluation.cost import NOTE, Prices, prices_to_json
from playground.ui import bench, html, verdict_form, verdict_shown, vote, words
from playground.ui.runs import PICK_JS
from playground.ui.verdict_form import Kept
from playground.ui.verdict_shown import FORMATS
from playground.ui.wiring import QUIET, CheckboxGroup, Dropdown, bind, bind_pick, hidden_slot

DOWNLOAD_JS = (
    "file => { if (!file || !file.url) return; const link = document.createElement('a'); link.href = file.url;"
    " link.download = file.orig_name || ''; document.body.append(link); link.click(); link.remove(); }"
)
"""One press makes the file and takes it."""
BODY_JS = PICK_JS + (
    "; element.addEventListener('click', event => {"
    " const link = event.target.closest('a[href^=\"#\"]'); if (!link) return; event.preventDefault();"
    " const there = element.querySelector('#' + CSS.escape(link.getAttribute('href').slice(1))); if (!there) return;"
    " for (let fold = there.closest('details'); fold; fold = fold.parentElement.closest('details')) fold.open = true;"
    " for (const old of element.querySelectorAll('.v-here')) old.classList.remove('v-here');"
    " there.classList.add('v-here'); there.tabIndex = -1; there.focus({preventScroll: true}); there.scrollIntoView({block: 'center'}); })"
)
"""Replay buttons become events; a reason's link jumps to its figure. The page has a base address, so a plain link would load it anew."""
ADDRESS_JS = "() => [new URLSearchParams(window.location.search).get('verdict') || '']"


@dataclass(frozen=True)
class VerdictTab:
    """Every widget of the tab, named once. followed: the verdict that is shown. offered: the sides that were shown last, key -> name."""

    kept: gr.State
    followed: gr.State
    offered: gr.State
    fold: gr.Accordion
    source: gr.Dropdown
    drop: gr.File
    facts: gr.HTML
    adapter: gr.Dropdown
    prompt: gr.Textbox
    docs: gr.File
    sides: gr.CheckboxGroup
    checks: gr.Textbox
    more: gr.Accordion
    limit: gr.Number
    repeats: gr.Number
    max_tokens: gr.Number
    temperature: gr.Number
    seed: gr.Number
    losses: gr.Checkbox
    forgetting: gr.Checkbox
    error: gr.HTML
    measure: gr.Button
    volume: gr.Number
    changes: gr.Radio
    latency: gr.Number
    budget: gr.Number
    prices: gr.Textbox
    again: gr.Button
    said: gr.HTML
    head: gr.HTML
    stop: gr.Button
    files: gr.Row
    takes: dict[str, gr.Button]
    file: gr.DownloadButton
    delete: gr.Button
    question: gr.Column
    asked: gr.HTML
    yes: gr.Button
    no: gr.Button
    shown_error: gr.HTML
    replayed: gr.HTML
    body: gr.HTML
    listing: gr.HTML
    address: gr.Textbox
    bench: bench.BenchView
    vote: vote.VoteView

    @property
    def settings(self) -> list[Any]:
        return [self.limit, self.repeats, self.max_tokens, self.temperature, self.seed, self.losses, self.forgetting]

    @property
    def situation(self) -> list[Any]:
        return [self.volume, self.changes, self.latency, self.budget, self.prices]

    @property
    def controls(self) -> list[Any]:
        return [self.stop, self.files, self.delete, self.question, self.again]

    @property
    def shown(self) -> list[Any]:
        return [self.followed, self.shown_error, self.head, self.body, self.listing, *self.controls]


def build(services: Any) -> VerdictTab:
    parts: dict[str, Any] = {"kept": gr.State(Kept()), "followed": gr.State(""), "offered": gr.State({})}
    with gr.Column(elem_classes="card folds verdict-form"), gr.Accordion(words.VERDICT_TITLE, open=True) as fold:
        gr.HTML(html.note(words.VERDICT_TEXT))
        with gr.Row(elem_classes="two"):
            with gr.Column(min_width=300):
                parts |= _examples(services)
            with gr.Column(min_width=300):
                parts |= _sides()
        with gr.Column(elem_classes="folds"):
            parts |= _more()
        parts["error"] = hidden_slot()
        parts["measure"] = gr.Button(words.VERDICT_EXAMPLES, variant="primary", interactive=False, elem_classes="measure")
    parts["bench"] = bench.build()
    parts["head"] = gr.HTML(verdict_shown.live_html(None), elem_classes="verdict-card")
    parts["shown_error"] = hidden_slot()
    parts |= _acts()
    parts["replayed"] = hidden_slot(elem_classes="verdict-said")
    parts["body"] = gr.HTML("", visible=False, js_on_load=BODY_JS, elem_classes="verdict-body")
    parts["vote"] = vote.build()
    with gr.Column(elem_classes="card folds"):
        parts |= _situation()
    with gr.Column(elem_classes="run-list"):
        parts["listing"] = gr.HTML("", visible=False, js_on_load=PICK_JS)
    parts["address"] = gr.Textbox(visible="hidden", label="Verdict in the address")
    return VerdictTab(**parts, fold=fold)


def _examples(services: Any) -> dict[str, Any]:
    """These and the sides are closed until ``verdict_form.first`` has given them their first values."""
    source = Dropdown(
        [],
        label="Examples to judge by",
        info="Best are rows that no side was trained on; the others are counted and told.",
        filterable=False,
        interactive=False,
    )
    gr.HTML(html.note("Or drop a file; every row of it is judged by:"))
    drop = gr.File(
        label="Or drop a file: every row of it is judged by",
        show_label=False,
        height=96,
        elem_classes="drop",
        file_count="single",
        file_types=list(EXTENSIONS),
    )
    facts = hidden_slot()
    adapter = Dropdown([("No adapter", "")], value="", label="Adapter", filterable=False, interactive=False)
    sides = CheckboxGroup([], label="Sides", info="Each answers every example.", elem_classes="side-list", interactive=False)
    return {"source": source, "drop": drop, "facts": facts, "adapter": adapter, "sides": sides}


def _sides() -> dict[str, Any]:
    prompt = gr.Textbox(
        label="System prompt of the prompted sides", lines=6, max_lines=12, max_length=20_000,
        placeholder="Write the best prompt you have: the fairer to it, the better the answer.", interactive=False,
    )  # fmt: skip
    checks = gr.Textbox(
        label="Checks, one a line; the first one decides", lines=3, max_lines=8, max_length=4000, placeholder=KINDS.replace(", ", "\n"),
        info="Likeness to the references is always measured.", interactive=False,
    )  # fmt: skip
    gr.HTML(html.note("Documents to look things up in; an example set brings its own, drop others here:"))
    docs = gr.File(
        label="Documents to look things up in", show_label=False, height=96, elem_classes="drop", file_count="single",
        file_types=[".txt", ".md", ".rst"],
    )  # fmt: skip
    return {"prompt": prompt, "checks": checks, "docs": docs}


def _more() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    # No bounds on the numbers: Gradio answers what lies outside with an exception, also while a person is still typing. The request names faults.
    with gr.Accordion("Everything else: greedy, at most 96 tokens, seed 7", open=False) as fold:
        with gr.Row():
            parts["limit"] = gr.Number(None, label="At most so many rows", info="Empty or 0: all.", precision=0, min_width=130)
            parts["repeats"] = gr.Number(1, label="Repeats", info="For consistency.", precision=0, min_width=130)
            parts["max_tokens"] = gr.Number(96, label="Longest reply", info="Tokens.", precision=0, min_width=130)
            parts["temperature"] = gr.Number(0, label="Temperature", info="0 is greedy.", step=0.1, min_width=130)
            parts["seed"] = gr.Number(7, label="Seed", info="Same seed, same replies.", precision=0, min_width=130)
        with gr.Row():
            parts["losses"] = gr.Checkbox(True, label="Loss of the references", min_width=200)
            parts["forgetting"] = gr.Checkbox(True, label="What the adapter forgot", min_width=200)
    return parts | {"more": fold}


def _situation() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Accordion("Your situation and prices", open=False):
        gr.HTML(html.note(words.SITUATION_TEXT))
        with gr.Row():
            parts["volume"] = gr.Number(None, label="Requests a month", precision=0, minimum=0, min_width=150)
            parts["latency"] = gr.Number(None, label="Longest wait for an answer, seconds", minimum=0, min_width=150)
            parts["budget"] = gr.Number(None, label="Most that training may cost", minimum=0, min_width=150)
        changes = [("never", "never"), ("about every month", "monthly"), ("about every week", "weekly")]
        parts["changes"] = gr.Radio(changes, value="never", label="The task changes")
        parts["prices"] = gr.Textbox(
            prices_to_json(Prices()), label="Prices", info=NOTE, lines=6, max_lines=14, max_length=4000, elem_classes="code"
        )
        parts["again"] = gr.Button("Judge anew by these", size="sm", visible=False, elem_classes="fit")
        parts["said"] = hidden_slot()
    return parts


def _acts() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Row(elem_classes="acts"):
        parts["stop"] = gr.Button(words.STOP_AND_KEEP, variant="stop", size="sm", visible=False)
        with gr.Row(visible=False, elem_classes="acts") as files:
            parts["takes"] = {how: gr.Button(label, size="sm") for how, label in FORMATS.items()}
        parts["delete"] = gr.Button("Delete", size="sm", visible=False)
    parts["file"] = gr.DownloadButton("Download", visible="hidden", elem_id="verdict-file")
    with gr.Column(visible=False, elem_classes="in-place") as question:
        parts["asked"] = gr.HTML("")
        with gr.Row(elem_classes="acts"):
            parts["yes"] = gr.Button("Yes, delete", variant="stop", size="sm")
            parts["no"] = gr.Button("Keep", size="sm")
    return parts | {"files": files, "question": question}


def wire(services: Any, page: gr.Blocks, tabs: gr.Tabs, tab: VerdictTab, training: Any, mark: gr.State) -> None:
    """training: the Train tab, for its upload, its columns, its seed and test share. mark: changes when a base is ready."""
    examples = [tab.source, tab.kept, training.uploaded, training.source, training.settings[5], training.settings[7]]
    lined = [tab.adapter, tab.prompt, tab.kept, tab.sides, tab.offered, tab.source]
    fits = [tab.facts, tab.error, tab.prompt, tab.checks, tab.adapter]
    asked = [*examples, tab.sides, *tab.settings]

    def then_sides(event: Any) -> None:
        event.then(bind(services, verdict_form.lined_up), lined, [tab.sides, tab.offered], **QUIET).then(*told, **QUIET)

    told = (bind(services, verdict_form.refresh), asked, [tab.measure, tab.more])
    first = (
        bind(services, verdict_form.first),
        [*examples, tab.prompt, tab.sides, tab.offered],
        [tab.source, *fits, tab.sides, tab.offered],
    )
    page.load(*first, **QUIET).then(*told, **QUIET)
    uploaded = training.uploaded.change(*first, **QUIET)
    uploaded.then(*told, **QUIET)
    then_sides(tab.source.input(bind(services, verdict_form.source_chosen), examples, fits, **QUIET))
    dropped = tab.drop.upload(
        bind(services, verdict_form.drop), [tab.drop, tab.kept, training.uploaded], [tab.kept, tab.source, tab.error], **QUIET
    ).then(bind(services, verdict_form.source_chosen), examples, fits, **QUIET)
    then_sides(dropped)
    then_sides(
        gr.on(
            [tab.docs.upload, tab.docs.clear],
            bind(services, verdict_form.documents),
            [tab.docs, tab.kept],
            [tab.kept, tab.error],
            **QUIET,
        )
    )
    then_sides(
        gr.on(
            [tab.adapter.input, tab.prompt.blur], bind(services, verdict_form.lined_up), lined, [tab.sides, tab.offered], **QUIET
        )
    )
    gr.on([tab.sides.change, *(one.change for one in tab.settings), mark.change], *told, **QUIET)
    tab.measure.click(
        bind(services, verdict_form.start), [*asked, tab.adapter, tab.prompt, tab.checks, *tab.situation],
        [tab.followed, tab.error, tab.fold], trigger_mode="once", **QUIET,
    ).then(bind(services, verdict_shown.shown), tab.followed, tab.shown, **QUIET)  # fmt: skip
    _wire_shown(services, tab)
    bench.wire(services, tab.bench, tab, training)
    for event in (uploaded, dropped):
        bench.follow(services, tab.bench, tab, training, event)
    vote.wire(services, tab.vote, tab)
    page.load(bind(services, verdict_shown.opened), tab.address, [tabs, *tab.shown, tab.fold], js=ADDRESS_JS, **QUIET)


def _wire_shown(services: Any, tab: VerdictTab) -> None:
    tab.stop.click(bind(services, verdict_shown.stop), tab.followed, tab.shown_error, **QUIET)
    tab.listing.pick(bind_pick(services, verdict_shown.follow), None, tab.shown, **QUIET)
    tab.delete.click(bind(services, verdict_shown.ask_remove), tab.followed, [tab.question, tab.asked, tab.delete], **QUIET)
    tab.no.click(lambda: [gr.update(visible=False), gr.update(visible=True)], None, [tab.question, tab.delete], **QUIET)
    tab.yes.click(bind(services, verdict_shown.remove), tab.followed, tab.shown, **QUIET)
    for how, button in tab.takes.items():
        button.click(bind(services, verdict_shown.export, how), tab.followed, [tab.file, tab.shown_error], **QUIET).success(
            None, tab.file, None, js=DOWNLOAD_JS
        )
    tab.again.click(bind(services, verdict_shown.again), [tab.followed, *tab.situation], [tab.body, tab.said], **QUIET)
    tab.body.pick(bind_pick(services, verdict_shown.replay), tab.followed, tab.replayed, **QUIET)


def wire_carry(services: Any, tabs: gr.Tabs, tab: VerdictTab, sides: Any, training: Any) -> None:
    """The Compare tab's button brings its sides here."""
    carried = sides.verdict.click(
        bind(services, verdict_form.carry),
        [
            tab.kept,
            training.uploaded,
            tab.source,
            tab.adapter,
            tab.prompt,
            sides.comparison,
            sides.kind,
            sides.text,
            *sides.side_inputs,
        ],
        [tabs, tab.kept, tab.source, tab.checks, tab.sides, tab.offered, tab.fold],
        **QUIET,
    )
    bench.follow(services, tab.bench, tab, training, carried)
