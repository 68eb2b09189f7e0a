"""The Train tab: examples, time, method on the left; the plan of the run, which is shown again whenever a setting
changes, its start, the run and the runs before it on the right."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

import gradio as gr
from gradio.blocks import Block
from gradio.events import Dependency

from playground.errors import InputError, PlaygroundError
from playground.methods import all_methods
from playground.methods.method import Method
from playground.runs.request import Preset, goes_on_by, within_reach
from playground.services import Services
from playground.ui import examples, form, html, race, runs, wiring, words
from playground.ui.examples import ExamplesCard
from playground.ui.html import about, plural
from playground.ui.race import RaceFold
from playground.ui.rows import Source
from playground.ui.runs import RunCard
from playground.ui.sidebar import ready
from playground.ui.wiring import AWAY, BARE, Choices, Drawn, Event, Updates, Visit, hidden_slot, listen, slot, unasked

_plan = html.piece("train", "plan")
_TYPICAL_ROWS = 160
"""What the times are shown for until there is a file."""


class RunForm:
    """Every widget of the form. source: of the Examples card. fields: one widget a setting, by the names of
    ``form.FIELDS``. request: all that makes a request, by the names that handlers take. planned: what shows it."""

    source: gr.State
    followed: gr.State

    def build_form(self, services: Services) -> None:
        method, *_ = methods = sorted(services.training.methods(), key=lambda method: method.order)
        offered = services.training.presets(_TYPICAL_ROWS)
        title, steps = "How much time to give it", offered[0].steps
        with gr.Column(elem_classes="card"):
            gr.HTML(html.heading(title, words.TIME_TEXT, 2))
            choices = [(f"{one.label}, {one.steps} steps", one.name) for one in offered]
            self.preset = wiring.Radio(choices, value=offered[0].name, label=title, **BARE)
        with gr.Column(elem_classes="card"):
            gr.HTML(html.heading("Method", words.METHOD_TEXT, 3))
            choices = [(f"{one.label}: {one.cost}" if one.cost else one.label, one.name) for one in methods]
            self.method = gr.Radio(choices, value=method.name, label="Method", **BARE)
            self.explain = gr.HTML(_explain_html(method))
            self.fields = form.build(("option", "aim"), method, steps)
            label = form.settings_label(method.name, {"steps": steps, "lr": method.learning_rate, "rank": method.rank})
            with gr.Column(elem_classes="folds"), gr.Accordion(label, open=False) as self.fold:
                for place in ("size", "batch", "held"):
                    with gr.Row():
                        self.fields |= form.build((place,), method, steps)
            self._build_recipe()
        self.max_tokens: Block = self.fields["max_tokens"]

    def _build_recipe(self) -> None:
        label = "Take these settings elsewhere, or bring some"
        with gr.Column(elem_classes="folds"), gr.Accordion(label, open=False) as self.recipe:
            forms = [(label, kind) for kind, label in form.FORMS.items()]
            self.form = gr.Radio(forms, value="command", label="Form", **BARE)
            look: dict[str, Any] = {"visible": False, "interactive": False, "wrap_lines": True, "max_lines": 24}
            self.code = gr.Code(label="Settings", **look)
            with gr.Row(elem_classes="acts"):
                self.code_file = gr.DownloadButton("Download", size="sm", visible=False)
                self.bring = gr.UploadButton("Bring a settings file", size="sm", file_types=[".json"])
            said = "Axolotl's file, the TRL script and the three that launch it are packed with the rows they train on."
            gr.HTML(html.note(f"{said} {words.HELD_BACK}"))
            self.code_error = hidden_slot()
        self.no_recipe: Updates = {self.code: AWAY, self.code_file: AWAY}

    def build_plan(self) -> None:
        with gr.Column(elem_classes="card plan-card"):
            gr.HTML(html.heading("This run"))
            self.plan = gr.HTML(html.note(words.TRAIN_EMPTY))
            self.name = gr.Textbox(label="Name of the adapter", max_length=64, placeholder="Taken from the file")
            self.blocked = hidden_slot()
            self.start = gr.Button(words.FIRST_EXAMPLES, variant="primary", interactive=False)
            gr.HTML(html.note(words.RUN_APART))
        self.request: dict[str, Any] = {"source": self.source, "name": self.name, "method": self.method, **self.fields}
        self.planned: list[Block] = [self.plan, self.blocked, self.start, self.fold]


class TrainTab(ExamplesCard, RunForm, RunCard):
    def __init__(self, services: Services) -> None:
        self.followed = gr.State("")
        with gr.Row(elem_classes="two"):
            with gr.Column(scale=7, min_width=320, elem_classes="work"):
                self.build_examples(services)
                self.build_form(services)
                self.race = RaceFold()
            with gr.Column(scale=5, min_width=300, elem_classes="rail"):
                self.build_plan()
                self.build_run()


def wire(services: Services, tab: TrainTab) -> None:
    """What reads rows fills the form for them, and what changes the form shows its plan."""
    fields = tab.fields
    offers = Offers(tab.openings, [tab.preset, fields["steps"], tab.name, fields["test"]])
    others = [fields["objective"], fields["rewards"]]
    then = partial(then_plan, services, tab)

    def then_form(event: Dependency) -> None:
        """A person may set the steps as soon as the rows are shown, and this comes later."""
        then(offers.then(services, tab, event, presets, others))

    examples.wire(services, tab, then_form, then)
    runs.wire(services, tab, wire_form(services, tab))
    race.wire(services, tab.race, source=tab.source, form={name: fields[name] for name in race.SETTINGS})


def then_plan(services: Services, tab: RunForm, event: Dependency) -> None:
    listen(services, tab, event.then, refresh, tab.planned, failure=tab.blocked, **tab.request)


def wire_form(services: Services, tab: RunForm) -> Dependency:
    """Returns the listener that starts a run."""
    on, then = partial(listen, services, tab), partial(then_plan, services, tab)
    fields, steps = tab.fields, tab.fields["steps"]
    latest: dict[str, Any] = {"trigger_mode": "always_last", **tab.request}
    then(on(tab.preset.input, steps_of, steps))
    of_method = [tab.explain, fields["lr"], fields["rank"], *(fields[name] for name in form.OPTIONS)]
    then(on(on(tab.method.input, method_chosen, of_method).then, preset_times, tab.preset))
    on(tab.fold.expand, starts, fields["start"])
    then(
        on(
            on(fields["start"].input, begun, [tab.method, *of_method], start=fields["start"]).then,
            preset_times,
            tab.preset,
        )
    )
    edits = [
        one.blur if isinstance(one, gr.Textbox) else one.input for one in fields.values() if one is not fields["start"]
    ]
    on(edits, refresh, tab.planned, failure=tab.blocked, **latest)
    on(fields["objective"].input, aim_chosen, fields["rewards"], objective=fields["objective"])
    asked: dict[str, Any] = {"failure": tab.code_error, "restored": tab.no_recipe, "kind": tab.form, **latest}
    on([tab.recipe.expand, tab.form.input], form.show_recipe, **asked)
    filled = [tab.source, tab.method, *fields.values()]
    then(on(tab.bring.upload, form.bring, filled, failure=tab.code_error, uploaded=tab.bring))
    once: dict[str, Any] = {"failure": tab.blocked, "trigger_mode": "once"}
    return on(tab.start.click, start, tab.followed, **once, **tab.request)


def reread_on(event: Event, services: Services, tab: TrainTab) -> None:
    """Another base (or the first one) is ready: tokens are counted and the plan is made anew."""
    again = partial(unasked, services, tab)
    read = again(event, examples.reread, tab.drawn)
    timed = again(read.then, preset_times, tab.preset)
    again(timed.then, refresh, tab.planned, **tab.request)


class Offers:
    """Values that come some time after a person asked for them, for widgets that the person may be setting meanwhile.
    What the widgets held when ``triggers`` went off is noted in the browser. An answer's values reach only those that
    hold the same still, or what an earlier answer put there; a widget that a person has set since keeps its value."""

    def __init__(self, triggers: Sequence[Event], widgets: Sequence[Block]) -> None:
        self._widgets = list(widgets)
        self._before = gr.Textbox(visible="hidden", label="Held when asked")
        self._offer = gr.Textbox(visible="hidden", label="Offered")
        noted = "(...now) => JSON.stringify(now.map(value => value ?? ''))"
        gr.on(list(triggers), None, self._widgets, self._before, js=noted, trigger_mode="multiple", **wiring.QUIET)

    def then(
        self, services: Services, tab: object, event: Dependency, handler: wiring.Handler, others: Sequence[Block]
    ) -> Dependency:
        """After ``event``, as ``listen``: values for the widgets are offered; ``others`` are always written."""

        def offered(visit: Visit, tab: object, **values: object) -> Updates:
            answers = handler(visit, tab, **values)
            updates = {one: dict(wiring.update_of(answers[one])) for one in self._widgets if one in answers}
            places = {place: updates.get(one, {}) for place, one in enumerate(self._widgets)}
            offer = {place: update.pop("value") for place, update in places.items() if "value" in update}
            return {**answers, **updates, self._offer: json.dumps(offer)}

        offered.__name__ = handler.__name__
        outputs = [self._offer, *self._widgets, *others]
        answered = listen(services, tab, event.then, offered, outputs, **wiring.needed(handler, tab, {}))
        held, offers = [self._before, *self._widgets], [self._before, self._offer, *self._widgets]
        js = "(before, offer, ...now) => window.promptOrTune.offered(before, offer, now)"
        return cast(Dependency, answered.then(None, offers, held, js=js, **wiring.QUIET))


def refresh(visit: Visit, tab: RunForm, *, source: Source, name: str, method: str, **settings: Any) -> Drawn:
    """The plan, what is in its way, the Start button, and what the closed settings say."""
    waits = "" if source.path is not None and source.good else words.TRAIN_EMPTY
    if not waits and not (base := ready(visit.services)).yes:
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
        plan = visit.services.training.plan(form.request_of(source, visit.owner, name, method, settings))
    except PlaygroundError as error:
        return shown | {tab.blocked: slot(html.card(error))}
    decided = {**settings, "steps": plan.steps, "lr": plan.lr, "rank": plan.rank}
    return {
        tab.plan: _plan(plan, visit.services.device.free_bytes, visit.services.bases.state().label),
        tab.blocked: slot(html.error_card(plan.blocked) if plan.blocked else ""),
        tab.start: gr.update(value=words.START, interactive=not plan.blocked),
        tab.fold: gr.update(label=form.settings_label(method, decided)),
    }


def presets(visit: Visit, tab: RunForm, *, source: Source, method: str, max_tokens: float) -> Updates:
    """Other rows are open: times to choose from, a free name, the share for the verdict, and what they can train."""
    if not source.good or source.path is None:
        return {}
    offered, aims = _offered(visit, source, method, max_tokens), form.aims_of(source.kind)
    first, *_ = offered.values()
    rewarded = aims[0][1] == "grpo"  # prompts alone
    return {
        tab.preset: gr.update(choices=_choices(offered), value=first.name),
        tab.fields["steps"]: first.steps,
        tab.name: free_name(source.slug, {row.card.name for row in visit.services.adapters.list(visit.owner)}),
        tab.fields["test"]: round(100 * visit.services.data.test_share(source.path, source.good)),
        tab.fields["objective"]: gr.update(choices=aims, value=aims[0][1], visible=len(aims) > 1 or rewarded),
        tab.fields["rewards"]: gr.update(visible=rewarded),
    }


def preset_times(visit: Visit, tab: RunForm, *, source: Source, method: str, max_tokens: float) -> Drawn:
    """Another method takes another time: new labels, the choice stays."""
    offered = _offered(visit, source, method, max_tokens)
    return {tab.preset: Choices(_choices(offered))} if offered else {}


def steps_of(visit: Visit, tab: RunForm, *, preset: str, source: Source, method: str, max_tokens: float) -> Updates:
    offered = _offered(visit, source, method, max_tokens).values()
    steps = next((one.steps for one in offered if one.name == preset), None)
    return {tab.fields["steps"]: steps} if steps else {}


def _offered(visit: Visit, source: Source, method: str, max_tokens: float) -> dict[str, Preset]:
    """Label -> preset for this file, with the plan's estimate of its time, by which the first is short enough; none
    without rows."""
    settings = {"max_tokens": max_tokens, "validation": None, "test": None}

    def seconds(steps: int) -> float:
        request = form.request_of(source, visit.owner, "", method, {"steps": steps, **settings})
        return visit.services.training.plan(request).seconds

    if not source.good or source.path is None:
        return {}
    offered, times = visit.services.training.presets(source.good), dict[str, str]()
    if ready(visit.services).yes:
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


def method_chosen(visit: Visit, tab: RunForm, *, method: str) -> Updates:
    """The method's explanation, its own rank, a learning rate by itself, and which options are shown."""
    chosen = all_methods()[method]
    return {
        tab.explain: _explain_html(chosen),
        tab.fields["lr"]: None,
        tab.fields["rank"]: gr.update(**form.rank_of(chosen)),
        **{tab.fields[option]: gr.update(visible=option in chosen.options) for option in form.OPTIONS},
    }


def starts(visit: Visit, tab: RunForm) -> Updates:
    """The adapters of the base in use that a run may go on from."""
    cards = [row.card for row in visit.services.adapters.list(visit.owner) if row.usable]
    return {tab.fields["start"]: gr.update(choices=[*form.NEW, *((card.name, card.id) for card in cards)])}


def begun(visit: Visit, tab: RunForm, *, start: str, method: str) -> Updates:
    """An adapter was chosen to go on from: it brings its method."""
    cards = [row.card for row in visit.services.adapters.list(visit.owner) if row.card.id == start]
    method = next(map(goes_on_by, cards), method)
    return {tab.method: method, **method_chosen(visit, tab, method=method)}


def _explain_html(method: Method) -> str:
    return html.note(f"{method.explain} {html.sentence(method.paper)}".strip())


def aim_chosen(visit: Visit, tab: RunForm, *, objective: str) -> Updates:
    """Rewards are asked for where they are what is learned from."""
    return {tab.fields["rewards"]: gr.update(visible=objective == "grpo")}


def start(visit: Visit, tab: RunForm, *, source: Source, name: str, method: str, **settings: Any) -> Drawn:
    if source.path is None:
        raise InputError(words.TRAIN_EMPTY)
    return {tab.followed: visit.services.training.start(form.request_of(source, visit.owner, name, method, settings))}
