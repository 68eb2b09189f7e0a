"""A side's choice of models."""

from __future__ import annotations

from playground.ui import side, words
from playground.ui.wiring import Visitor
from tests.ui.fakes import FakeServices, card


def test_a_side_that_learned_becomes_its_adapter_when_the_run_ends(services: FakeServices, me: Visitor) -> None:
    def offered(chosen: str) -> list[tuple[str, str]]:
        return side.with_chosen(services, me, side.model_choices(side.usable(services, me)), chosen)

    services.adapters.learns = (card("live-r1"),)
    assert ("live-r1 · LoRA r8", "live-r1") in offered("live-r1")
    services.adapters.learns, services.adapters.became_ = (), {"live-r1": "hospital_reports"}
    ended, gone, base = (offered(model) for model in ("live-r1", "gone", "base"))
    assert ended[-1] == (f"hospital_reports · LoRA r8, {words.TRAINED}", "live-r1")
    assert gone[-1] == (f"gone, {words.GONE}", "gone")
    assert base == ended[:-1] == gone[:-1]
    plain: side.SideValues = {"model": "live-r1", "prompt": "", "shots": 0, "source": ""}
    asked = side.read_setups(services, me, {"A": plain, "B": {**plain, "model": "gone"}})
    assert (asked["A"].model, asked["B"].model) == ("hospital_reports", "gone")
