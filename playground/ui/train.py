"""The Train tab: examples, time, method on the left; the plan, the run and the runs before it on the right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from playground.services import Services
from playground.ui import examples, plan, race, runs
from playground.ui.examples import ExamplesCard
from playground.ui.plan import RunForm
from playground.ui.race import RaceFold
from playground.ui.runs import RunCard
from playground.ui.wiring import Offers, unasked


@dataclass(frozen=True)
class TrainTab(ExamplesCard, RunForm, RunCard):
    """Every widget of the tab, named once."""

    race: RaceFold


def build(services: Services) -> TrainTab:
    with gr.Row(elem_classes="two"):
        with gr.Column(scale=7, min_width=320, elem_classes="work"):
            parts = examples.build(services) | plan.build(services)
            parts["race"] = race.build()
        with gr.Column(scale=5, min_width=300, elem_classes="rail"):
            parts |= plan.build_card() | runs.build()
    return TrainTab(**parts)


def wire(services: Services, tab: TrainTab) -> None:
    """What reads rows fills the form for them, and what changes the form shows its plan."""
    fields = tab.fields
    offers = Offers(examples.openings(tab), [tab.preset, fields["steps"], tab.name, fields["test"]])
    others = [fields["objective"], fields["rewards"]]

    def then_plan(event: Any) -> None:
        plan.then_plan(services, tab, event)

    def then_form(event: Any) -> None:
        """A person may set the steps as soon as the rows are shown, and this comes later."""
        then_plan(offers.then(services, event, plan.presets, tab, others, **tab.timing))

    examples.wire(services, tab, fields["max_tokens"], then_form, then_plan)
    runs.wire(services, tab, plan.wire(services, tab))
    race.wire(services, tab.race, source=tab.source, **{name: fields[name] for name in race.SETTINGS})


def reread_on(event: Any, services: Services, tab: TrainTab) -> None:
    """Another base (or the first one) is ready: tokens are counted and the plan is made anew."""
    read = unasked(
        services, event, examples.reread, tab, tab.drawn, source=tab.source, max_tokens=tab.fields["max_tokens"]
    )
    timed = unasked(services, read.then, plan.preset_times, tab, tab.preset, **tab.timing)
    unasked(services, timed.then, plan.refresh, tab, tab.planned, **tab.request)
