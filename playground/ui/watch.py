"""What the page's one timer reads, and the little of it that has to be drawn again.

``Memo`` remembers what this browser tab was sent last. A widget whose value reads the same is left out: no flicker, no
closed fold, and a
button that a person has just pressed is not put back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gradio as gr

from playground.library.card import AdapterCard
from playground.models.adapters import AdapterRow
from playground.runs.progress import RunView
from playground.services import Services
from playground.ui import library, runs, side, sidebar, story, verdict_form, verdict_shown, words
from playground.ui.adapters import AdaptersTab
from playground.ui.compare import CompareTab
from playground.ui.html import sentence_failure
from playground.ui.sidebar import Ready, SidebarView, ready
from playground.ui.train import TrainTab
from playground.ui.verdict import VerdictTab
from playground.ui.wiring import Choices, Drawn, Visitor, slot

PACE_S = 2.0
HURRIED_S = 0.5
"""Between two ticks, and while the base is loading: nobody should wait for a button that could be pressed."""


@dataclass(frozen=True)
class Watched:
    """The widgets that the timer draws. memo: what was sent last. mark: changes when another base is ready."""

    memo: gr.State
    mark: gr.State
    timer: gr.Timer
    pill: gr.Button
    device: SidebarView
    training: TrainTab
    library: AdaptersTab
    compare: CompareTab
    verdict: VerdictTab

    @property
    def inputs(self) -> dict[str, Any]:
        return {
            "memo": self.memo,
            "followed": self.training.followed,
            "laid": self.training.curves.others,
            "chosen": self.library.chosen,
            "active": self.library.active,
            "judged": self.verdict.followed,
            "tuned": self.verdict.adapter,
            "models": {letter: view.model for letter, view in self.compare.sides.items()},
        }

    @property
    def outputs(self) -> list[Any]:
        device, verdict = self.device, self.verdict
        return [
            *(self.memo, self.mark, self.timer, self.pill),
            *(device.device, device.now, device.cancel, device.waiting, device.proved),
            *(self.compare.ask, self.compare.hospital, self.library.send, self.library.listing),
            *self.training.run_outputs,
            *self.training.curves.outputs,
            *self.compare.demo.outputs,
            *self.compare.of_sides("model", "greyed"),
            *(one for one in verdict.shown if one not in (verdict.followed, verdict.shown_error)),
            verdict.adapter,
        ]


class Memo(dict[str, Any]):
    """Name of a part -> what was sent last."""

    def changed(self, name: str, value: Hashable | Drawn) -> bool:
        """Whether it is another value than the last one; from now on it is the last one."""
        if name in self and self[name] == value:
            return False
        self[name] = value
        return True

    def fresh(self, part: str, drawn: Drawn) -> Drawn:
        """The widgets of a part whose values have changed. A part names the same widgets in the same order each
        time."""
        return {
            widget: value
            for place, (widget, value) in enumerate(drawn.items())
            if self.changed(f"{part}-{place}", value)
        }


@dataclass(frozen=True)
class _Reading:
    """What one tick reads; each service is asked once."""

    services: Services
    visitor: Visitor

    @cached_property
    def runs(self) -> Sequence[RunView]:
        return self.services.training.runs(self.visitor.owner)

    @cached_property
    def adapters(self) -> Sequence[AdapterRow]:
        return self.services.adapters.list(self.visitor.owner)

    @cached_property
    def usable(self) -> Sequence[AdapterCard]:
        learning = self.services.adapters.learning(self.visitor.owner)
        return [*(row.card for row in self.adapters if row.usable), *learning]


def tick(
    services: Services,
    visitor: Visitor,
    tab: Watched,
    *,
    memo: Memo,
    followed: str,
    laid: list[str] | None,
    chosen: str,
    active: str,
    judged: str,
    tuned: str,
    models: dict[str, str],
) -> Drawn:
    """followed, laid: the run that is shown and those beside it. chosen, active: adapters of the library. judged: the
    verdict that is
    shown. tuned: the adapter in its form. models: of the sides, by letter."""
    memo, reading, now = Memo(memo), _Reading(services, visitor), ready(services)
    pace = PACE_S if now.yes else HURRIED_S
    drawn = memo.fresh("base", {tab.mark: now.mark, tab.timer: gr.update(value=pace, active=True)})
    parts: dict[str, Callable[[], Drawn]] = {
        "device": lambda: memo.fresh("device", _device(reading, tab)),
        "ready": lambda: memo.fresh("ready", _readiness(now, tab)),
        "run": lambda: _run(reading, tab.training, memo, followed),
        "curves": lambda: memo.fresh("curves", _curves(reading, tab.training, followed, laid or [])),
        "demo": lambda: memo.fresh("demo", story.show(services, visitor, tab.compare.demo)),
        "adapters": lambda: memo.fresh("adapters", _adapters(reading, tab, chosen, active, models)),
        "verdict": lambda: _verdict(reading, tab.verdict, memo, judged, tuned),
    }
    for name, part in parts.items():
        try:
            drawn |= part()
        except (
            Exception
        ) as error:  # a part that fails leaves its place as it was and the other parts alone; it is logged once
            if f"{name}-error" not in memo:
                memo[f"{name}-error"] = sentence_failure(error)
    return {**drawn, tab.memo: memo}


def _device(reading: _Reading, tab: Watched) -> Drawn:
    device, status = reading.services.device, reading.services.device.status()
    live = [run for run in reading.runs if run.state in words.LIVE]
    answering = any(lease["lane"] != "train" for lease in status["leases"])
    return {
        tab.pill: device.line(reading.visitor.owner),
        tab.device.device: sidebar.device_html(status),
        tab.device.now: sidebar.now_html(live, answering),
        tab.device.cancel: gr.update(visible=bool(live)),
        tab.device.waiting: sidebar.waiting_html(status["queue"]),
        tab.device.proved: sidebar.base_html(status["base"]),
    }


def _readiness(now: Ready, tab: Watched) -> Drawn:
    """Ask and the hospital example say why while they cannot be pressed; Play and Send are only greyed."""
    why = now.words if len(now.words) <= words.SHORT else words.BASE_MISSING
    said = {
        tab.compare.ask: words.ASK if now.yes else why,
        tab.compare.hospital: words.HERO_ASK if now.yes else why,
        tab.compare.demo.play: words.STORY_PLAY,
        tab.library.send: "Send",
    }
    return {button: gr.update(value=text, interactive=now.yes) for button, text in said.items()}


def _run(reading: _Reading, tab: TrainTab, memo: Memo, followed: str) -> Drawn:
    """The card, the list, and the buttons: those only when the run or its state is another."""
    run = runs.pick(reading.runs, followed)
    rows = runs.list_html(reading.runs, run.run if run else "")
    drawn = memo.fresh("run", {tab.run: runs.card_html(run), tab.listing: slot(rows)})
    if memo.changed("run-buttons", runs.buttons_key(run, reading.runs)):
        drawn |= runs.buttons(tab, run, reading.runs)
    return drawn


def _curves(reading: _Reading, tab: TrainTab, followed: str, laid: list[str]) -> Drawn:
    run = runs.pick(reading.runs, followed)
    return {
        tab.curves.shown: runs.small_html(run),
        tab.curves.others: Choices(runs.choices(reading.runs, run, laid)),
        tab.curves.laid: runs.laid_html(reading.runs, run, laid),
    }


def _adapters(reading: _Reading, tab: Watched, chosen: str, active: str, models: dict[str, str]) -> Drawn:
    """The library, and every side's choice of models with what cannot be chosen."""
    choices, greyed = side.model_choices(reading.usable), slot(side.greyed_html(reading.adapters))
    drawn: Drawn = {tab.library.listing: library.list_html(reading.adapters, chosen, active)}
    for letter, view in tab.compare.sides.items():
        drawn[view.model] = Choices(side.with_chosen(reading.services, reading.visitor, choices, models[letter]))
        drawn[view.greyed] = greyed
    return drawn


def _verdict(reading: _Reading, tab: VerdictTab, memo: Memo, followed: str, tuned: str) -> Drawn:
    """The shown verdict's head, the list and the adapters to choose from; the body and buttons only when the verdict or
    its state is
    another, since the body holds every reply."""
    services, visitor = reading.services, reading.visitor
    views = services.verdicts.views(visitor.owner)
    view = verdict_shown.pick(views, followed)
    drawn: Drawn = {}
    if memo.get("verdict-key", ()) != (key := verdict_shown.key_of(view)):
        made = verdict_shown.body(services, visitor, view) if view and not view.live else ""
        memo["verdict-key"] = key
        drawn = {tab.body: slot(made), **verdict_shown.controls(tab, view, made)}
    rows = verdict_shown.list_html(views, view.id if view else "")
    choices = side.with_chosen(services, visitor, verdict_form.adapters(reading.adapters), tuned)
    shown: Drawn = {tab.head: verdict_shown.live_html(view), tab.listing: slot(rows), tab.adapter: Choices(choices)}
    return drawn | memo.fresh("verdict", shown)
