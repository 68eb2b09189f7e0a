"""The Blend fold's handlers."""

from __future__ import annotations

from playground.ui import blend
from playground.ui.wiring import Visitor
from tests.ui.fakes import FakeServices


def test_each_chosen_adapter_has_a_slider(services: FakeServices, me: Visitor) -> None:
    *sliders, button = blend.chosen(services, me, ["hospital_reports", "brand_voice"])
    assert [slider["visible"] for slider in sliders] == [True, True, False, False]
    assert [slider["value"] for slider in sliders[:2]] == [0.5, 0.5]
    assert sliders[0]["label"] == "How much of hospital_reports"
    assert button["interactive"] is True
    assert blend.chosen(services, me, ["hospital_reports"])[-1]["interactive"] is False


def test_one_adapter_alone_is_no_blend(services: FakeServices, me: Visitor) -> None:
    *_, last = blend.make(services, me, ["hospital_reports"], "linear", "both", "", "base", 1.0)
    assert "two adapters or more" in last[-1]["value"]


def test_a_slider_does_nothing_before_there_is_a_blend(services: FakeServices, me: Visitor) -> None:
    ((made, *_),) = blend.moved(services, me, ["a", "b"], "linear", "both", "", "base", 1.0)
    assert made.get("__type__") == "update"
