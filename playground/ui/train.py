"""The Train tab: examples, time, method on the left; the plan, the run and the runs before it on the right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.ui import curves, edit, examples, examples_card, form, html, plan, race, recipe, rows, runs, seen, words
from playground.ui.source import Source
from playground.ui.wiring import QUIET, Offers, Radio, bind, bind_pick, bind_stream, hidden_slot

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
    pasted: gr.Textbox
    paste: gr.Button
    error: gr.HTML
    heading: gr.HTML
    facts: gr.HTML
    advice: gr.HTML
    columns: gr.Accordion
    columns_note: gr.HTML
    read_as: gr.Dropdown
    roles: list[gr.Dropdown]
    bad: gr.Accordion
    bad_rows: gr.HTML
    kinds: gr.CheckboxGroup
    takes: gr.Row
    take_bad: gr.Button
    take_good: gr.Button
    bad_file: gr.DownloadButton
    good_file: gr.DownloadButton
    lengths: gr.Accordion
    lengths_shown: gr.HTML
    preview: gr.Accordion
    turns: gr.Radio
    seen: gr.HTML
    place: gr.HTML
    before: gr.Button
    after: gr.Button
    edit: gr.Accordion
    edit_which: gr.Radio
    table: gr.Dataframe
    edit_place: gr.HTML
    edit_error: gr.HTML
    edit_before: gr.Button
    edit_after: gr.Button
    edit_save: gr.Button
    preset: gr.Radio
    method: gr.Radio
    explain: gr.HTML
    fold: gr.Accordion
    settings: list[gr.Number]
    options: list[Any]
    aims: list[Any]
    race: race.RaceFold
    recipe: gr.Accordion
    form: gr.Radio
    code: gr.Code
    code_file: gr.DownloadButton
    bring: gr.UploadButton
    code_error: gr.HTML
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
    curves: curves.CurvesView

    @property
    def max_tokens(self) -> gr.Number:
        return self.settings[4]

    @property
    def pissa(self) -> gr.Checkbox:
        return self.options[1]

    @property
    def read_outputs(self) -> list[Any]:
        return [
            self.source, self.error, self.heading, self.facts, self.advice, self.columns, self.columns_note, self.read_as, *self.roles,
            self.bad, self.bad_rows, self.kinds, self.takes, self.take_bad, self.bad_file, self.good_file, self.lengths,
            self.lengths_shown, self.preview, self.turns, self.seen, self.place, self.edit, self.table, self.edit_place, self.edit_error,
        ]  # fmt: skip

    @property
    def plan_inputs(self) -> list[Any]:
        return [self.source, self.name, self.method, *self.settings, *self.options, *self.aims]

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
            parts |= examples_card.build(services)
            with gr.Column(elem_classes="card"):
                gr.HTML(html.heading("How much time to give it", words.TIME_TEXT, 2))
                offered = services.training.presets(_TYPICAL_ROWS)
                parts["preset"] = Radio(
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
                parts["options"] = form.options(methods[0])
                aims = form.aims()
                parts |= form.settings(methods[0], offered[0].steps)
                parts["aims"] = [*aims, parts.pop("early_stop")]
                parts |= form.take_away()
            parts["race"] = race.build()
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


def _run_card() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Column(elem_classes="card run-card"):
        parts["run"] = gr.HTML(runs.card_html(None))
        parts["run_error"] = hidden_slot()
        parts["curves"] = curves.build()
        with gr.Row(elem_classes="acts"):
            parts["compare"] = gr.Button(words.COMPARE_IT, variant="primary", size="sm", visible=False)
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

    offers = Offers(
        [
            tab.file.upload, tab.paste.click, *(button.click for button in tab.sets.values()), *(role.input for role in tab.roles),
            tab.read_as.input, tab.edit_save.click,
        ],
        [tab.preset, tab.settings[0], tab.name, tab.settings[7]],
    )  # fmt: skip

    def then_plan(event: Any) -> None:
        """A person may set the steps as soon as the rows are there, and this comes later."""
        offers.then(event, bind(services, plan.presets), [tab.source, tab.method, tab.max_tokens], tab.aims[:2]).then(
            bind(services, plan.refresh), tab.plan_inputs, tab.plan_outputs, **QUIET
        )

    opened = [tab.uploaded, *tab.read_outputs]
    then_plan(
        tab.file.upload(bind_stream(services, examples.open_upload), [tab.source, tab.file, tab.max_tokens], opened, **QUIET)
    )
    pasted = [tab.pasted, tab.source, tab.max_tokens]
    then_plan(tab.paste.click(bind_stream(services, examples.paste), pasted, opened, **QUIET))
    for set_id, button in tab.sets.items():
        shown = button.click(
            bind_stream(services, examples.open_set, set_id), [tab.source, tab.max_tokens], tab.read_outputs, **QUIET
        )
        button.click(lambda: None, None, tab.file, **QUIET)  # a file that is not read any more must not seem to be
        then_plan(shown)
    mapped = gr.on(
        [role.input for role in tab.roles], bind_stream(services, examples.remap), [tab.source, tab.max_tokens, *tab.roles],
        tab.read_outputs, **QUIET,
    )  # fmt: skip
    then_plan(mapped)
    as_other = [tab.read_as, tab.source, tab.max_tokens]
    then_plan(tab.read_as.input(bind_stream(services, examples.read_as), as_other, tab.read_outputs, **QUIET))
    tab.kinds.input(bind(services, examples.leave_out), [tab.kinds, tab.source], tab.source, **QUIET).then(
        bind(services, plan.refresh), tab.plan_inputs, tab.plan_outputs, **QUIET
    )
    for which, button, file in (("bad", tab.take_bad, tab.bad_file), ("good", tab.take_good, tab.good_file)):
        button.click(bind(services, rows.download, which), [tab.source, tab.max_tokens], [file, tab.error], **QUIET)
    _wire_preview(services, tab)
    _wire_edit(services, tab, then_plan)
    tab.preset.input(
        bind(services, plan.steps_of), [tab.source, tab.preset, tab.method, tab.max_tokens], tab.settings[0], **QUIET
    ).then(bind(services, plan.refresh), tab.plan_inputs, tab.plan_outputs, **QUIET)
    tab.method.input(
        bind(services, plan.method_chosen), tab.method, [tab.explain, *tab.settings[1:3], *tab.options], **QUIET
    ).then(bind(services, plan.preset_times), [tab.source, tab.method, tab.max_tokens], tab.preset, **QUIET).then(
        bind(services, plan.refresh), tab.plan_inputs, tab.plan_outputs, **QUIET
    )
    gr.on(
        [*(field.input for field in tab.settings), *(_changed(one) for one in (*tab.options, *tab.aims) if one is not tab.pissa)], bind(services, plan.refresh), tab.plan_inputs, tab.plan_outputs,
        trigger_mode="always_last", **QUIET,
    )  # fmt: skip
    tab.pissa.input(bind(services, plan.rate_of), [tab.method, tab.pissa], tab.settings[1], **QUIET).then(
        bind(services, plan.refresh), tab.plan_inputs, tab.plan_outputs, **QUIET
    )
    tab.aims[0].input(bind(services, plan.aim_chosen), tab.aims[0], tab.aims[1], **QUIET)
    gr.on(
        [tab.recipe.expand, tab.form.input], bind(services, recipe.show), [tab.form, *tab.plan_inputs],
        [tab.code, tab.code_file, tab.code_error], trigger_mode="always_last", **QUIET,
    )  # fmt: skip
    tab.bring.upload(
        bind(services, recipe.bring), [tab.bring, tab.source],
        [tab.source, tab.method, *tab.settings, *tab.options, *tab.aims, tab.code_error], **QUIET,
    ).then(bind(services, plan.refresh), tab.plan_inputs, tab.plan_outputs, **QUIET)  # fmt: skip
    tab.start.click(bind(services, plan.start), tab.plan_inputs, [tab.followed, tab.blocked], trigger_mode="once", **QUIET).then(
        bind(services, runs.show), tab.followed, tab.run_outputs, **QUIET
    )
    curves.wire(services, tab.curves, tab.followed)
    race.wire(services, tab.race, tab.source, tab.settings[3:6])
    tab.listing.pick(bind_pick(services, runs.follow), None, tab.run_outputs, **QUIET)
    asking = [tab.cancel, tab.question]
    tab.cancel.click(lambda: [gr.update(visible=False), gr.update(visible=True)], None, asking, **QUIET)
    tab.go_on.click(lambda: [gr.update(visible=True), gr.update(visible=False)], None, asking, **QUIET)
    tab.keep.click(bind(services, runs.cancel, True), tab.followed, tab.run_outputs, **QUIET)
    tab.discard.click(bind(services, runs.cancel, False), tab.followed, tab.run_outputs, **QUIET)
    tab.resume.click(bind(services, runs.resume), tab.followed, tab.run_outputs, **QUIET)
    tab.up.click(bind(services, runs.move, "up"), tab.followed, tab.run_outputs, **QUIET)
    tab.down.click(bind(services, runs.move, "down"), tab.followed, tab.run_outputs, **QUIET)


def _changed(option: Any) -> Any:
    """A text counts when it is finished, not with every letter."""
    return option.blur if isinstance(option, gr.Textbox) else option.input


def _wire_preview(services: Any, tab: TrainTab) -> None:
    shown = [tab.source, tab.seen, tab.place]
    for by, button in ((-1, tab.before), (1, tab.after)):
        button.click(bind(services, seen.move, by), [tab.source, tab.max_tokens], shown, **QUIET)
    tab.turns.input(bind(services, seen.turns_chosen), [tab.turns, tab.source, tab.max_tokens], shown, **QUIET).then(
        bind(services, plan.refresh), tab.plan_inputs, tab.plan_outputs, **QUIET
    )


def _wire_edit(services: Any, tab: TrainTab, then_plan: Any) -> None:
    shown = [tab.source, tab.table, tab.edit_place, tab.edit_error]

    def look(event: Any, by: int) -> None:
        event(_bind_edit(services, by), [tab.edit_which, tab.source, tab.max_tokens], shown, **QUIET)

    look(tab.edit.expand, 0)
    look(tab.edit_which.input, 0)
    look(tab.edit_before.click, -1)
    look(tab.edit_after.click, 1)
    saved = [tab.edit_error, tab.uploaded, *(one for one in tab.read_outputs if one is not tab.edit_error)]
    then_plan(
        tab.edit_save.click(bind_stream(services, examples.save_edit), [tab.source, tab.max_tokens, tab.table], saved, **QUIET)
    )


def _bind_edit(services: Any, by: int) -> Any:
    def look(services: Any, visitor: Any, which: str, source: Source, max_tokens: float) -> list[Any]:
        return edit.show(services, visitor, which, by, source, max_tokens)

    return bind(services, look)


def reread_on(event: Any, services: Any, tab: TrainTab) -> None:
    """Another base (or the first one) is ready: tokens are counted and the plan is made anew."""
    event(bind_stream(services, examples.read), [tab.source, tab.max_tokens], tab.read_outputs, **QUIET).then(
        bind(services, plan.preset_times), [tab.source, tab.method, tab.max_tokens], tab.preset, **QUIET
    ).then(bind(services, plan.refresh), tab.plan_inputs, tab.plan_outputs, **QUIET)
