"""How much time to give a run: the Quick look keeps its word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.services.presets import FEWEST_STEPS, QUICK_S, Preset, within_reach
from playground.services.training import Plan
from playground.ui import plan
from playground.ui.source import Source
from playground.ui.wiring import Visitor
from tests.ui.fakes import FakeServices, FakeTraining

OFFERED = [Preset("quick", "Quick look", 20), Preset("good", "Good", 48)]
SOURCE = Source(Path("rows.jsonl"), "rows", "rows", {"prompt": "patient"}, good=2)


@pytest.mark.parametrize(
    ("step_s", "steps"), [(1.0, 20), (8.4, 20), (8.5, 19), (12.0, 14), (40.0, FEWEST_STEPS), (900.0, FEWEST_STEPS)]
)
def test_a_quick_look_has_as_many_steps_as_three_minutes_hold(step_s: float, steps: int) -> None:
    quick, good = within_reach(OFFERED, lambda steps: 12 + step_s * steps)
    assert (quick.steps, good) == (steps, OFFERED[1])
    assert 12 + step_s * quick.steps <= QUICK_S or quick.steps == FEWEST_STEPS


class Slow(FakeTraining):
    """Seconds by the method: full takes 30 a step."""

    def plan(self, request: Any) -> Plan:
        return replace(super().plan(request), seconds=12 + request.steps * (30 if request.method == "full" else 10))


def test_the_form_offers_what_its_own_plan_says(services: FakeServices, me: Visitor) -> None:
    services.training = Slow()
    radio, steps, *_ = plan.presets(services, me, SOURCE, "lora", 2048)
    assert steps == 16
    assert [label for label, _ in radio["choices"]] == ["Quick look, about 3 min", "Good, about 8 min"]
    assert plan.steps_of(services, me, SOURCE, "quick") == 16
    assert plan.steps_of(services, me, SOURCE, "quick", "full", 512) == 5
    assert plan.steps_of(services, me, SOURCE, "good") == 48
