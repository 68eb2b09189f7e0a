"""The cards for time and method, and This run: what a run would cost, shown again whenever a setting changes, and its
start."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block

from playground.errors import InputError, PlaygroundError
from playground.methods.method import Method, Options
from playground.runs.request import Preset, within_reach
from playground.runs.service import Plan
from playground.services import Services
from playground.ui import form, html, words
from playground.ui.form import Widget
from playground.ui.html import about, count, plural, share, size
from playground.ui.rows import Source
from playground.ui.sidebar import ready
from playground.ui.wiring import Choices, Drawn, Radio, Updates, Visitor, hidden_slot, listen, slot

_TYPICAL_ROWS = 160
"""What the times are shown for until there is a file."""


@dataclass(frozen=True)
class RunForm:
    """Every widget of the form. source: of the Examples card. fields: one widget a setting, by the names of
    ``form.FIELDS``."""

    source: gr.State
    followed: gr.State
    preset: gr.Radio
    method: gr.Radio
    explain: gr.HTML
    fold: gr.Accordion
    fields: dict[str, Widget]
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

    @property
    def request(self) -> dict[str, Any]:
        """Everything that makes a request, by the names that handlers take."""
        return {"source": self.source, "name": self.name, "method": self.method, **self.fields}

    @property
    def planned(self) -> list[Block]:
        """What shows the plan."""
        return [self.plan, self.blocked, self.start, self.fold]

    @property
    def timing(self) -> dict[str, Any]:
        """What the time of a run depends on, but for its steps."""
        return {"source": self.source, "method": self.method, "max_tokens": self.fields["max_tokens"]}


def build(services: Services) -> dict[str, Any]:
    """The cards for time and method."""
    method, *_ = methods = sorted(services.training.methods(), key=lambda method: method.order)
    offered = services.training.presets(_TYPICAL_ROWS)
    parts: dict[str, Any] = {}
    title, steps = "How much time to give it", offered[0].steps
    with gr.Column(elem_classes="card"):
        gr.HTML(html.heading(title, words.TIME_TEXT, 2))
        choices = [(f"{one.label}, {one.steps} steps", one.name) for one in offered]
        parts["preset"] = Radio(choices, value=offered[0].name, label=title, container=False, show_label=False)
    with gr.Column(elem_classes="card"):
        gr.HTML(html.heading("Method", words.METHOD_TEXT, 3))
        choices = [(f"{one.label}: {one.cost}" if one.cost else one.label, one.name) for one in methods]
        parts["method"] = gr.Radio(choices, value=method.name, label="Method", container=False, show_label=False)
        parts["explain"] = gr.HTML(_explain_html(method))
        fields = form.build(("option", "aim"), method, steps)
        label = form.settings_label(method.name, {"steps": steps, "lr": method.learning_rate, "rank": method.rank})
        with gr.Column(elem_classes="folds"), gr.Accordion(label, open=False) as parts["fold"]:
            for place in ("size", "batch", "held"):
                with gr.Row():
                    fields |= form.build((place,), method, steps)
        parts |= form.build_recipe()
    return parts | {"fields": fields}


def build_card() -> dict[str, Any]:
    """The card This run."""
    parts: dict[str, Any] = {}
    with gr.Column(elem_classes="card plan-card"):
        gr.HTML(html.heading("This run"))
        parts["plan"] = gr.HTML(html.note(words.TRAIN_EMPTY))
        parts["name"] = gr.Textbox(label="Name of the adapter", max_length=64, placeholder="Taken from the file")
        parts["blocked"] = hidden_slot()
        parts["start"] = gr.Button(words.FIRST_EXAMPLES, variant="primary", interactive=False)
        gr.HTML(html.note(words.RUN_APART))
    return parts


def then_plan(services: Services, tab: RunForm, event: Any) -> Any:
    return listen(services, event.then, refresh, tab, tab.planned, failure=tab.blocked, **tab.request)


def wire(services: Services, tab: RunForm) -> Any:
    """Returns the listener that starts a run."""
    fields, steps, pissa = tab.fields, tab.fields["steps"], tab.fields["pissa"]

    def changes(event: Any, handler: Callable[..., Any], outputs: Sequence[Block], **inputs: Any) -> Any:
        return listen(services, event, handler, tab, outputs, **inputs)

    then_plan(services, tab, changes(tab.preset.input, steps_of, [steps], preset=tab.preset, **tab.timing))
    of_method = [tab.explain, fields["lr"], fields["rank"], *(fields[name] for name in form.OPTIONS)]
    chosen = changes(tab.method.input, method_chosen, of_method, name=tab.method)
    then_plan(services, tab, changes(chosen.then, preset_times, [tab.preset], **tab.timing))
    then_plan(services, tab, changes(pissa.input, rate_of, [fields["lr"]], name=tab.method, pissa=pissa))
    edits = [one.blur if isinstance(one, gr.Textbox) else one.input for one in fields.values() if one is not pissa]
    latest: dict[str, Any] = {"trigger_mode": "always_last"}
    listen(services, edits, refresh, tab, tab.planned, failure=tab.blocked, **latest, **tab.request)
    changes(fields["objective"].input, aim_chosen, [fields["rewards"]], objective=fields["objective"])
    events, shown = [tab.recipe.expand, tab.form.input], [tab.code, tab.code_file]
    asked = {"failure": tab.code_error, "kind": tab.form, **latest, **tab.request}
    listen(services, events, form.show_recipe, tab, shown, **asked)
    filled = [tab.source, tab.method, *fields.values()]
    brought: dict[str, Any] = {"uploaded": tab.bring, "source": tab.source}
    then_plan(
        services, tab, listen(services, tab.bring.upload, form.bring, tab, filled, failure=tab.code_error, **brought)
    )
    return listen(
        services, tab.start.click, start, tab, tab.followed, failure=tab.blocked, trigger_mode="once", **tab.request
    )


def refresh(
    services: Services, visitor: Visitor, tab: RunForm, *, source: Source, name: str, method: str, **settings: Any
) -> Drawn:
    """The plan, what is in its way, the Start button, and what the closed settings say."""
    waits = "" if source.path is not None and source.good else words.TRAIN_EMPTY
    if not waits and not (base := ready(services)).yes:
        waits = f"{base.words}. The plan follows."
    label = words.FIRST_EXAMPLES if waits == words.TRAIN_EMPTY else words.START
    shown: Drawn = {
        tab.plan: html.note(waits) if waits else "",
        tab.blocked: slot(""),
        tab.start: gr.update(value=label, interactive=False),
        tab.fold: gr.update(label=form.settings_label(method, settings)),
    }
    if waits:
        return shown
    try:
        plan = services.training.plan(form.request_of(source, visitor.owner, name, method, settings))
    except PlaygroundError as error:
        return shown | {tab.blocked: slot(html.card(error))}
    decided = {**settings, "steps": plan.steps, "lr": plan.lr, "rank": plan.rank}
    return shown | {
        tab.plan: _plan_html(plan, services.bases.state().label),
        tab.blocked: slot(html.error_card(plan.blocked) if plan.blocked else ""),
        tab.start: gr.update(value=words.START, interactive=not plan.blocked),
        tab.fold: gr.update(label=form.settings_label(method, decided)),
    }


def _plan_html(plan: Plan, base: str) -> str:
    trained, whole = plan.trainable_params, plan.total_params
    held = [f"{plan.validation_rows:,} to choose by"] if plan.validation_rows else []
    held += [f"{plan.test_rows:,} for the verdict"] if plan.test_rows else []
    return html.pairs(
        [
            ("Base", base),
            ("Trains", f"{count(trained)} of {count(whole)} weights ({share(trained, whole)})"),
            ("Learns from", f"{plural(plan.rows, 'row')}, {plural(plan.steps, 'step')}"),
            ("Held back", ", ".join(held) or "no row"),
            ("Time", about(plan.seconds) or "not known yet"),
            ("Memory", f"{size(plan.memory_bytes)}, {size(plan.free_bytes)} free"),
            ("On disk after", size(plan.disk_bytes)),
        ]
    )


def presets(
    services: Services, visitor: Visitor, tab: RunForm, *, source: Source, method: str, max_tokens: float
) -> Updates:
    """Other rows are open: how much time to give them, a free name, the share for the verdict, and what they can
    train."""
    if not source.good or source.path is None:
        return {}
    offered = _offered(services, visitor, source, method, max_tokens)
    first, *_ = offered.values()
    aims = form.aims_of(source.kind)
    return {
        tab.preset: gr.update(choices=_choices(offered), value=first.name),
        tab.fields["steps"]: first.steps,
        tab.name: free_name(source.slug, {row.card.name for row in services.adapters.list(visitor.owner)}),
        tab.fields["test"]: round(100 * services.data.test_share(source.path)),
        tab.fields["objective"]: gr.update(choices=aims, value=aims[0][1], visible=len(aims) > 1),
        tab.fields["rewards"]: gr.update(visible=False),
    }


def preset_times(
    services: Services, visitor: Visitor, tab: RunForm, *, source: Source, method: str, max_tokens: float
) -> Drawn:
    """Another method takes another time: new labels, the choice stays."""
    if not source.good or source.path is None:
        return {}
    return {tab.preset: Choices(_choices(_offered(services, visitor, source, method, max_tokens)))}


def steps_of(
    services: Services, visitor: Visitor, tab: RunForm, *, preset: str, source: Source, method: str, max_tokens: float
) -> Updates:
    """A preset was chosen."""
    if not source.good or source.path is None:
        return {}
    offered = _offered(services, visitor, source, method, max_tokens).values()
    steps = next((one.steps for one in offered if one.name == preset), None)
    return {tab.fields["steps"]: steps} if steps else {}


def _offered(services: Services, visitor: Visitor, source: Source, method: str, max_tokens: float) -> dict[str, Preset]:
    """Label -> preset for this file: with the plan's estimate of its time, where there is one, and the first of them
    short enough by it."""

    def seconds(steps: int) -> float:
        settings = {"steps": steps, "max_tokens": max_tokens, "validation": None, "test": None}
        return services.training.plan(form.request_of(source, visitor.owner, "", method, settings)).seconds

    offered = services.training.presets(source.good)
    times = {}
    if ready(services).yes:
        with suppress(PlaygroundError):  # the plan itself says what is wrong
            offered = within_reach(offered, seconds)
            times = {one.name: about(seconds(one.steps)) for one in offered}
    return {f"{one.label}, {times.get(one.name) or plural(one.steps, 'step')}": one for one in offered}


def _choices(offered: Mapping[str, Preset]) -> list[tuple[str, str]]:
    return [(label, preset.name) for label, preset in offered.items()]


def free_name(slug: str, taken: set[str]) -> str:
    """``hospital_reports``, or ``hospital_reports-2`` where that is taken."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", slug).strip("_")[:40] or "adapter"
    return next(name for n in range(1, 10_000) if (name := stem if n == 1 else f"{stem}-{n}") not in taken)


def method_chosen(services: Services, visitor: Visitor, tab: RunForm, *, name: str) -> Updates:
    """The method's explanation, its own learning rate and rank, and which options are shown."""
    method = _method(services, name)
    return {
        tab.explain: _explain_html(method),
        tab.fields["lr"]: method.learning_rate,
        tab.fields["rank"]: gr.update(**form.rank_of(method)),
        **{tab.fields[option]: gr.update(visible=option in method.options) for option in form.OPTIONS},
    }


def _method(services: Services, name: str) -> Method:
    return next(one for one in services.training.methods() if one.name == name)


def _explain_html(method: Method) -> str:
    """Two sentences on a method, and its paper."""
    return html.note(f"{method.explain} {html.sentence(method.paper)}".strip())


def rate_of(services: Services, visitor: Visitor, tab: RunForm, *, name: str, pissa: bool) -> Updates:
    """The method's own learning rate, which PiSSA changes."""
    method = _method(services, name)
    rate = method.default_rate(Options(pissa=bool(pissa) and "pissa" in method.options))
    return {tab.fields["lr"]: rate}


def aim_chosen(services: Services, visitor: Visitor, tab: RunForm, *, objective: str) -> Updates:
    """Rewards are asked for where they are what is learned from."""
    return {tab.fields["rewards"]: gr.update(visible=objective == "grpo")}


def start(
    services: Services, visitor: Visitor, tab: RunForm, *, source: Source, name: str, method: str, **settings: Any
) -> Drawn:
    """Queue the run and follow it."""
    if source.path is None:
        raise InputError(words.TRAIN_EMPTY)
    return {tab.followed: services.training.start(form.request_of(source, visitor.owner, name, method, settings))}
