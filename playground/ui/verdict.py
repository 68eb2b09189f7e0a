"""The Verdict tab: which examples, which sides, then the answer with everything it rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.events import Dependency

from playground.data.read import EXTENSIONS
from playground.evaluation.checks import kinds
from playground.evaluation.cost import NOTE, Prices, prices_to_json
from playground.services import Services
from playground.ui import bench, html, verdict_form, verdict_shown, vote, words
from playground.ui.runs import PICK_JS
from playground.ui.verdict_form import Kept
from playground.ui.verdict_shown import FORMATS
from playground.ui.wiring import PICKED, QUIET, CheckboxGroup, Dropdown, Event, hidden_slot, listen, unasked

if TYPE_CHECKING:
    from playground.ui.compare import CompareTab
    from playground.ui.train import TrainTab

DOWNLOAD_JS = (
    "file => { if (!file || !file.url) return; const link = document.createElement('a'); link.href = file.url;"
    " link.download = file.orig_name || ''; document.body.append(link); link.click(); link.remove(); }"
)
"""One press makes the file and takes it."""
BODY_JS = (
    PICK_JS
    + "; element.addEventListener('click', event => { const link = event.target.closest('a[href^=\"#\"]'); if (!link)"
    " return; event.preventDefault(); const there = element.querySelector('#' +"
    " CSS.escape(link.getAttribute('href').slice(1))); if (!there) return; for (let fold = there.closest('details');"
    " fold; fold = fold.parentElement.closest('details')) fold.open = true; for (const old of"
    " element.querySelectorAll('.v-here')) old.classList.remove('v-here'); there.classList.add('v-here');"
    " there.tabIndex = -1; there.focus({preventScroll: true}); there.scrollIntoView({block: 'center'}); })"
)
"""Replay buttons become events; a reason's link jumps to its figure. The page has a base address, so a plain link would
load it anew."""
ADDRESS_JS = "() => [new URLSearchParams(window.location.search).get('verdict') || '']"


@dataclass(frozen=True)
class VerdictTab:
    """Every widget of the tab, named once. followed: the verdict that is shown. offered: the sides that were shown
    last, key -> name."""

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
    def settings(self) -> dict[str, Any]:
        names = ("limit", "repeats", "max_tokens", "temperature", "seed", "losses", "forgetting")
        return {name: getattr(self, name) for name in names}

    @property
    def situation(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("volume", "changes", "latency", "budget", "prices")}

    @property
    def line(self) -> dict[str, Any]:
        return {"adapter": self.adapter, "prompt": self.prompt, "chosen": self.sides, "offered": self.offered}

    @property
    def shown(self) -> list[Any]:
        """Where a verdict is shown."""
        controls = [self.stop, self.files, self.delete, self.question, self.again]
        return [self.followed, self.shown_error, self.head, self.body, self.listing, *controls]


def examples_of(tab: VerdictTab, training: TrainTab) -> dict[str, Any]:
    """The widgets behind ``verdict_form.ExampleValues``."""
    return {
        "source": tab.source,
        "kept": tab.kept,
        "uploaded": training.uploaded,
        "training": training.source,
        "seed": training.fields["seed"],
        "test": training.fields["test"],
    }


def build() -> VerdictTab:
    parts: dict[str, Any] = {"kept": gr.State(Kept()), "followed": gr.State(""), "offered": gr.State({})}
    with gr.Column(elem_classes="card folds verdict-form"), gr.Accordion(words.VERDICT_TITLE, open=True) as fold:
        gr.HTML(html.note(words.VERDICT_TEXT))
        with gr.Row(elem_classes="two"):
            with gr.Column(min_width=300):
                parts |= _examples()
            with gr.Column(min_width=300):
                parts |= _sides()
        with gr.Column(elem_classes="folds"):
            parts |= _more()
        parts["error"] = hidden_slot()
        parts["measure"] = gr.Button(
            words.VERDICT_EXAMPLES, variant="primary", interactive=False, elem_classes="measure"
        )
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


def _examples() -> dict[str, Any]:
    """These and the sides are closed until ``verdict_form.first`` has given them their first values."""
    hint = "Best are rows that no side was trained on; the others are counted and told."
    source = Dropdown([], label="Examples to judge by", info=hint, filterable=False, interactive=False)
    gr.HTML(html.note("Or drop a file; every row of it is judged by:"))
    drop = _file("Or drop a file: every row of it is judged by", list(EXTENSIONS))
    facts = hidden_slot()
    adapter = Dropdown([("No adapter", "")], value="", label="Adapter", filterable=False, interactive=False)
    hint = "Each answers every example."
    sides = CheckboxGroup([], label="Sides", info=hint, elem_classes="side-list", interactive=False)
    return {"source": source, "drop": drop, "facts": facts, "adapter": adapter, "sides": sides}


def _file(label: str, types: list[str]) -> gr.File:
    return gr.File(label=label, show_label=False, height=96, elem_classes="drop", file_count="single", file_types=types)


def _sides() -> dict[str, Any]:
    prompt = gr.Textbox(
        label="System prompt of the prompted sides",
        lines=6,
        max_lines=12,
        max_length=20_000,
        placeholder="Write the best prompt you have: the fairer to it, the better the answer.",
        interactive=False,
    )
    checks = gr.Textbox(
        label="Checks, one a line; the first one decides",
        lines=3,
        max_lines=8,
        max_length=4000,
        placeholder=kinds().replace(", ", "\n"),
        info="Likeness to the references is always measured.",
        interactive=False,
    )
    gr.HTML(html.note("Documents to look things up in; an example set brings its own, drop others here:"))
    docs = _file("Documents to look things up in", [".txt", ".md", ".rst"])
    return {"prompt": prompt, "checks": checks, "docs": docs}


def _more() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    # No bounds on the numbers: Gradio answers what lies outside with an exception, also while a person is still typing.
    # The request names faults.
    with gr.Accordion("Everything else: greedy, at most 96 tokens, seed 7", open=False) as fold:
        with gr.Row():
            parts["limit"] = gr.Number(
                None, label="At most so many rows", info="Empty or 0: all.", precision=0, min_width=130
            )
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
        table = prices_to_json(Prices())
        parts["prices"] = gr.Textbox(
            table, label="Prices", info=NOTE, lines=6, max_lines=14, max_length=4000, elem_classes="code"
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


def wire(
    services: Services, page: gr.Blocks, tabs: gr.Tabs, tab: VerdictTab, training: TrainTab, mark: gr.State
) -> None:
    """training: the Train tab, for its upload, its columns, its seed and test share. mark: changes when a base is
    ready."""
    where = examples_of(tab, training)
    fits = [tab.facts, tab.error, tab.prompt, tab.checks, tab.adapter]
    asked: dict[str, Any] = {"where": where, "sides": tab.sides, "settings": tab.settings}
    lined: dict[str, Any] = {"source": tab.source, "kept": tab.kept, "line": tab.line}

    def refresh(event: Event | Sequence[Event], wired: Callable[..., Dependency] = listen) -> None:
        wired(services, event, verdict_form.refresh, tab, [tab.measure, tab.more], **asked)

    def line_up(event: Event | Sequence[Event]) -> None:
        refresh(listen(services, event, verdict_form.lined_up, tab, [tab.sides, tab.offered], **lined).then)

    def follow(event: Event) -> Dependency:
        fitted = listen(services, event, verdict_form.source_chosen, tab, fits, failure=tab.error, where=where)
        line_up(fitted.then)
        return fitted

    def first(event: Event, wired: Callable[..., Dependency]) -> Dependency:
        outputs = [tab.source, *fits, tab.sides, tab.offered]
        filled = wired(services, event, verdict_form.first, tab, outputs, failure=tab.error, where=where, line=tab.line)
        refresh(filled.then, wired)
        return filled

    first(page.load, unasked)
    uploaded = first(training.uploaded.change, listen)
    follow(tab.source.input)
    kept = listen(
        services,
        tab.drop.upload,
        verdict_form.drop,
        tab,
        [tab.kept, tab.source],
        failure=tab.error,
        file=tab.drop,
        kept=tab.kept,
        uploaded=training.uploaded,
    )
    dropped = follow(kept.then)
    events = [tab.docs.upload, tab.docs.clear]
    documents = listen(
        services, events, verdict_form.documents, tab, tab.kept, failure=tab.error, file=tab.docs, kept=tab.kept
    )
    line_up(documents.then)
    line_up([tab.adapter.input, tab.prompt.blur])
    refresh([tab.sides.change, *(one.change for one in tab.settings.values())])
    refresh(mark.change, unasked)
    started = listen(
        services,
        tab.measure.click,
        verdict_form.start,
        tab,
        [tab.followed, tab.fold],
        failure=tab.error,
        where=where,
        line=tab.line,
        checks=tab.checks,
        settings=tab.settings,
        situation=tab.situation,
    )
    listen(services, started.then, verdict_shown.shown, tab, tab.shown, failure=tab.shown_error, followed=tab.followed)
    _wire_shown(services, tab)
    bench.wire(services, tab.bench, tab, where)
    for event in (uploaded, dropped):
        bench.follow(services, tab.bench, where, event.then)
    vote.wire(services, tab.vote, tab)
    opened = partial(verdict_shown.opened, tabs=tabs)
    outputs = [tabs, *tab.shown, tab.fold]
    unasked(services, page.load, opened, tab, outputs, failure=tab.shown_error, js=ADDRESS_JS, asked=tab.address)


def _wire_shown(services: Services, tab: VerdictTab) -> None:
    """What can be done with the verdict that is shown."""
    on = partial(listen, services, failure=tab.shown_error)
    on(tab.stop.click, verdict_shown.stop, tab, [], followed=tab.followed)
    on(tab.listing.pick, verdict_shown.follow, tab, tab.shown, picked=PICKED)
    asked = [tab.question, tab.asked, tab.delete]
    listen(services, tab.delete.click, verdict_shown.ask_remove, tab, asked, followed=tab.followed)
    tab.no.click(lambda: [gr.update(visible=False), gr.update(visible=True)], None, [tab.question, tab.delete], **QUIET)
    on(tab.yes.click, verdict_shown.remove, tab, tab.shown, followed=tab.followed)
    for how, button in tab.takes.items():
        export = partial(verdict_shown.export, how=how)
        written = on(button.click, export, tab, tab.file, followed=tab.followed)
        written.success(None, tab.file, None, js=DOWNLOAD_JS)
    judged: dict[str, Any] = {"followed": tab.followed, "situation": tab.situation}
    listen(services, tab.again.click, verdict_shown.again, tab, tab.body, failure=tab.said, **judged)
    replayed: dict[str, Any] = {"picked": PICKED, "followed": tab.followed}
    listen(services, tab.body.pick, verdict_shown.replay, tab, tab.replayed, failure=tab.replayed, **replayed)


def wire_carry(services: Services, tabs: gr.Tabs, tab: VerdictTab, sides: CompareTab, training: TrainTab) -> None:
    """The Compare tab's button brings its sides here."""
    carried = listen(
        services,
        sides.verdict.click,
        partial(verdict_form.carry, tabs=tabs),
        tab,
        [tabs, tab.kept, tab.source, tab.checks, tab.sides, tab.offered, tab.fold],
        kept=tab.kept,
        uploaded=training.uploaded,
        source=tab.source,
        line=tab.line,
        sides=sides.setups,
        **sides.scored,
    )
    bench.follow(services, tab.bench, examples_of(tab, training), carried.then)
