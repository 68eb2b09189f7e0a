"""The Train tab: examples, time, method on the left; the plan, the run and the runs before it on the right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.data.read import EXTENSIONS
from playground.ui import examples, html, plan, runs, storage, words
from playground.ui.examples import ROLES, Source
from playground.ui.wiring import QUIET, bind, bind_pick, hidden_slot

_TYPICAL_ROWS = 160
"""What the times are shown for until there is a file."""


@dataclass(frozen=True)
class TrainTab:
    """Every widget of the tab, named once."""

    source: gr.State
    uploaded: gr.State
    followed: gr.State
    file: gr.File
    sets: dict[str, gr.Button]
    error: gr.HTML
    heading: gr.HTML
    facts: gr.HTML
    columns: gr.Accordion
    roles: list[gr.Dropdown]
    bad: gr.Accordion
    bad_rows: gr.HTML
    preview: gr.Accordion
    seen: gr.HTML
    place: gr.HTML
    before: gr.Button
    after: gr.Button
    preset: gr.Radio
    method: gr.Radio
    explain: gr.HTML
    fold: gr.Accordion
    settings: list[gr.Number]
    name: gr.Textbox
    plan: gr.HTML
    blocked: gr.HTML
    start: gr.Button
    run: gr.HTML
    run_error: gr.HTML
    cancel: gr.Button
    question: gr.Column
    keep: gr.Button
    discard: gr.Button
    go_on: gr.Button
    compare: gr.Button
    resume: gr.Button
    up: gr.Button
    down: gr.Button
    listing: gr.HTML

    @property
    def max_tokens(self) -> gr.Number:
        return self.settings[4]

    @property
    def read_outputs(self) -> list[Any]:
        return [
            self.source, self.error, self.heading, self.facts, self.columns, *self.roles, self.bad, self.bad_rows, self.preview, self.seen,
            self.place,
        ]  # fmt: skip

    @property
    def plan_inputs(self) -> list[Any]:
        return [self.source, self.name, self.method, *self.settings]

    @property
    def plan_outputs(self) -> list[Any]:
        return [self.plan, self.blocked, self.start, self.fold]

    @property
    def run_outputs(self) -> list[Any]:
        return [
            self.followed, self.run_error, self.run, self.listing, self.cancel, self.question, self.compare, self.resume, self.up, self.down,
        ]  # fmt: skip


def build(services: Any) -> TrainTab:
    methods = sorted(services.training.methods(), key=lambda method: method.order)
    parts: dict[str, Any] = {"source": gr.State(Source()), "uploaded": gr.State(None), "followed": gr.State("")}
    with gr.Row(elem_classes="two"):
        with gr.Column(scale=7, min_width=320, elem_classes="work"):
            parts |= _examples_card(services)
            with gr.Column(elem_classes="card"):
                gr.HTML(html.heading("How much time to give it", words.TIME_TEXT, 2))
                offered = services.training.presets(_TYPICAL_ROWS)
                parts["preset"] = gr.Radio(
                    [(f"{one.label}, {one.steps} steps", one.name) for one in offered],
                    value=offered[0].name,
                    label="How much time to give it",
                    container=False,
                    show_label=False,
                )
            with gr.Column(elem_classes="card"):
                gr.HTML(html.heading("Method", words.METHOD_TEXT, 3))
                parts["method"] = gr.Radio(
                    [(f"{m.label}: {m.cost}" if m.cost else m.label, m.name) for m in methods],
                    value=methods[0].name, label="Method", container=False, show_label=False,
                )  # fmt: skip
                parts["explain"] = gr.HTML(plan.explain_html(methods[0]))
                parts |= _settings(methods[0], offered[0].steps)
        with gr.Column(scale=5, min_width=300, elem_classes="rail"):
            with gr.Column(elem_classes="card plan-card"):
                gr.HTML(html.heading("This run"))
                parts["plan"] = gr.HTML(html.note(words.TRAIN_EMPTY))
                parts["name"] = gr.Textbox(label="Name of the adapter", max_length=64, placeholder="Taken from the file")
                parts["blocked"] = hidden_slot()
                parts["start"] = gr.Button(words.FIRST_EXAMPLES, variant="primary", interactive=False)
                gr.HTML(html.note(words.RUN_APART))
            parts |= _run_card()
    return TrainTab(**parts)


def _examples_card(services: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Column(elem_classes="card"):
        parts["heading"] = gr.HTML(examples.heading(done=False))
        parts["file"] = gr.File(
            label="A file of examples", show_label=False, height=104, elem_classes="drop",
            file_types=list(EXTENSIONS),
        )  # fmt: skip
        if services.settings.shared:
            gr.HTML(html.note(storage.notice(services.settings)))
        gr.HTML(html.note(f"Takes {', '.join(EXTENSIONS)}. Or start with one of ours:"))
        with gr.Row(elem_classes="acts"):
            parts["sets"] = {one.id: gr.Button(one.title, size="sm") for one in services.data.sets()}
        parts["error"] = hidden_slot()
        parts["facts"] = hidden_slot()
        with gr.Column(elem_classes="folds"):
            with gr.Accordion("Columns", open=False, visible=False) as columns:
                gr.HTML(html.note("Which column is which. The file is read again at every change."))
                with gr.Row():
                    parts["roles"] = [gr.Dropdown([], label="Column", visible=False, min_width=140) for _ in range(ROLES)]
            with gr.Accordion(words.BAD_NONE, open=False, visible=False) as bad:
                parts["bad_rows"] = gr.HTML("")
            with gr.Accordion("What the model really sees", open=False, visible=False) as preview:
                parts["seen"] = gr.HTML("")
                with gr.Row(elem_classes="acts"):
                    parts["before"] = gr.Button("Previous", size="sm")
                    parts["after"] = gr.Button("Next", size="sm")
                    parts["place"] = gr.HTML("")
    return parts | {"columns": columns, "bad": bad, "preview": preview}


def _settings(method: Any, steps: int) -> dict[str, Any]:
    """``method`` is the one that is chosen first; choosing another sets its own learning rate and rank."""
    label = plan.settings_label(method.name, steps, method.learning_rate, method.rank)
    with gr.Column(elem_classes="folds"), gr.Accordion(label, open=False) as fold:
        with gr.Row():
            steps_box = gr.Number(steps, label="Steps", info="One step reads one batch.", precision=0, minimum=1, min_width=130)
            lr = gr.Number(
                method.learning_rate, label="Learning rate", info="How far each step moves.", step=0.0001, min_width=130
            )
            rank = gr.Number(
                method.rank or 0, label="Rank", info="Size of the correction; 0: the method's own.", precision=0, minimum=0,
                maximum=256, min_width=130,
            )  # fmt: skip
        with gr.Row():
            batch = gr.Number(8, label="Batch", info="Examples per step.", precision=0, minimum=1, maximum=256, min_width=130)
            tokens = gr.Number(2048, label="Longest example", info="Tokens; a longer prompt is cut at its start.", precision=0,
                               minimum=16, maximum=32768, min_width=130)  # fmt: skip
            seed = gr.Number(7, label="Seed", info="The same seed, the same run.", precision=0, minimum=0, min_width=130)
    return {"fold": fold, "settings": [steps_box, lr, rank, batch, tokens, seed]}


def _run_card() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Column(elem_classes="card run-card"):
        parts["run"] = gr.HTML(runs.card_html(None))
        parts["run_error"] = hidden_slot()
        with gr.Row(elem_classes="acts"):
            parts["compare"] = gr.Button("Compare in chat", variant="primary", size="sm", visible=False)
            parts["resume"] = gr.Button(words.GO_ON, size="sm", visible=False)
            parts["up"] = gr.Button("Move up", size="sm", visible=False)
            parts["down"] = gr.Button("Move down", size="sm", visible=False)
            parts["cancel"] = gr.Button("Cancel the run", variant="stop", size="sm", visible=False)
        with gr.Column(visible=False, elem_classes="ask-first") as question:
            gr.HTML(html.note("Stop this run? What it has learned up to the last checkpoint can be kept as an adapter."))
            with gr.Row(elem_classes="acts"):
                parts["keep"] = gr.Button("Stop and keep", size="sm")
                parts["discard"] = gr.Button("Stop and discard", variant="stop", size="sm")
                parts["go_on"] = gr.Button("Go on training", size="sm")
    with gr.Column(elem_classes="run-list"):
        parts["listing"] = gr.HTML("", visible=False, js_on_load=runs.PICK_JS)
    return parts | {"question": question}


def wire(services: Any, tab: TrainTab) -> None:
    """Read, then the presets, then the plan: each builds on what the one before found."""

    def then_plan(event: Any) -> None:
        event.then(
            bind(services, plan.presets),
            [tab.source, tab.method, tab.max_tokens],
            [tab.preset, tab.settings[0], tab.name],
            **QUIET,
        ).then(bind(services, plan.refresh), tab.plan_inputs, tab.plan_outputs, **QUIET)

    dropped = tab.file.upload(
        bind(services, examples.open_upload), [tab.source, tab.file, tab.max_tokens], [tab.uploaded, *tab.read_outputs], **QUIET
    )
    then_plan(dropped)
    for set_id, button in tab.sets.items():
        opened = button.click(bind(services, examples.open_set, set_id), [tab.source, tab.max_tokens], tab.read_outputs, **QUIET)
        button.click(lambda: None, None, tab.file, **QUIET)  # a file that is not read any more must not seem to be
        then_plan(opened)
    mapped = gr.on(
        [role.input for role in tab.roles], bind(services, examples.remap), [tab.source, tab.max_tokens, *tab.roles], tab.read_outputs,
        **QUIET,
    )  # fmt: skip
    then_plan(mapped)
    for by, button in ((-1, tab.before), (1, tab.after)):
        button.click(
            bind(services, examples.move_preview, by), [tab.source, tab.max_tokens], [tab.source, tab.seen, tab.place], **QUIET
        )
    tab.preset.input(bind(services, plan.steps_of), [tab.source, tab.preset], tab.settings[0], **QUIET).then(
        bind(services, plan.refresh), tab.plan_inputs, tab.plan_outputs, **QUIET
    )
    tab.method.input(bind(services, plan.method_chosen), tab.method, [tab.explain, *tab.settings[1:3]], **QUIET).then(
        bind(services, plan.preset_times), [tab.source, tab.method, tab.max_tokens], tab.preset, **QUIET
    ).then(bind(services, plan.refresh), tab.plan_inputs, tab.plan_outputs, **QUIET)
    gr.on(
        [field.input for field in tab.settings], bind(services, plan.refresh), tab.plan_inputs, tab.plan_outputs,
        **QUIET,
    )  # fmt: skip
    tab.start.click(bind(services, plan.start), tab.plan_inputs, [tab.followed, tab.blocked], trigger_mode="once", **QUIET).then(
        bind(services, runs.show), tab.followed, tab.run_outputs, **QUIET
    )
    tab.listing.pick(bind_pick(services, runs.follow), None, tab.run_outputs, **QUIET)
    asking = [tab.cancel, tab.question]
    tab.cancel.click(lambda: [gr.update(visible=False), gr.update(visible=True)], None, asking, **QUIET)
    tab.go_on.click(lambda: [gr.update(visible=True), gr.update(visible=False)], None, asking, **QUIET)
    tab.keep.click(bind(services, runs.cancel, True), tab.followed, tab.run_outputs, **QUIET)
    tab.discard.click(bind(services, runs.cancel, False), tab.followed, tab.run_outputs, **QUIET)
    tab.resume.click(bind(services, runs.resume), tab.followed, tab.run_outputs, **QUIET)
    tab.up.click(bind(services, runs.move, "up"), tab.followed, tab.run_outputs, **QUIET)
    tab.down.click(bind(services, runs.move, "down"), tab.followed, tab.run_outputs, **QUIET)


def reread_on(event: Any, services: Any, tab: TrainTab) -> None:
    """Another base (or the first one) is ready: tokens are counted and the plan is made anew."""
    event(bind(services, examples.read), [tab.source, tab.max_tokens], tab.read_outputs, **QUIET).then(
        bind(services, plan.preset_times), [tab.source, tab.method, tab.max_tokens], tab.preset, **QUIET
    ).then(bind(services, plan.refresh), tab.plan_inputs, tab.plan_outputs, **QUIET)
