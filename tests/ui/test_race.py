"""The race fold's handlers, called as plain functions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from playground.errors import InputError
from playground.services.race import RaceView
from playground.services.race_store import Entry, Race
from playground.ui import race, race_chart
from playground.ui.source import Source
from playground.ui.wiring import Visitor
from tests.ui.fakes import EVIL, FakeServices, row

FORGOT = {
    "loss_before": 3.0,
    "loss_after": 3.2,
    "tokens": 90,
    "right_before": 20,
    "right_after": 18,
    "questions": 40,
    "divergence": 0.11,
}
GOOD = Entry(
    "lora", "r1", 20, state="DONE", adapter="mine", passed=15, asked=16, forgot=FORGOT, measured_s=9.0,
    loss=[[1, 3.0], [2, 2.5]], figures={"eval_loss": 0.5, "trainable_params": 2_442_240, "bytes": 9_800_000, "seconds": 61.0},
)  # fmt: skip
BAD = Entry("ia3", "r2", 20, state="FAILED", reason=f"Memory ran out {EVIL}.")
BASE = Entry("", passed=0, asked=16, eval_loss=[[0, 3.1]])


@dataclass
class FakeRaces:
    views: list[RaceView] = field(default_factory=list)
    started: list[Any] = field(default_factory=list)
    cancelled: list[tuple[str, str]] = field(default_factory=list)

    def start(self, request: Any) -> str:
        if "full" in request.methods:
            raise InputError(f"1 of 2 methods cannot run. Full: too large {EVIL}.")
        self.started.append(request)
        return "race1"

    def races(self, owner: str = "local") -> list[RaceView]:
        return self.views

    def cancel(self, race: str, owner: str) -> None:
        self.cancelled.append((race, owner))


def view(state: str = "MEASURING", *entries: Entry) -> RaceView:
    one = Race("race1", "local", f"rows {EVIL}", "rows.jsonl", 1.0, state, f"ends-with:{EVIL}", 20, None, entries or (GOOD, BAD), BASE,
               f"Measuring LoRA {EVIL}" if state == "MEASURING" else "")  # fmt: skip
    return RaceView(one, 90.0 if state == "MEASURING" else None, 1, 2)


@pytest.fixture
def raced(services: FakeServices) -> FakeServices:
    services.race = FakeRaces([view()])  # type: ignore[attr-defined]
    services.adapters.rows = [row(id="mine")]
    return services


def test_a_race_is_started_with_the_forms_settings(raced: Any, me: Visitor) -> None:
    source = Source(Path("rows.jsonl"), "rows", "rows", leave_out=("duplicate",), good=2)
    found, error = race.start(raced, me, source, ["lora", "ia3"], "minutes", 2.5, " json ", 4, 512, 9)
    assert (found, error["visible"]) == ("race1", False)
    (request,) = raced.race.started
    assert (request.methods, request.minutes, request.steps) == (("lora", "ia3"), 2.5, None)
    assert (request.batch_size, request.max_tokens, request.seed, request.leave_out) == (4, 512, 9, ("duplicate",))


def test_what_cannot_be_raced_is_said_where_it_was_asked(raced: Any, me: Visitor) -> None:
    source = Source(Path("rows.jsonl"), "rows", "rows", good=2)
    _, error = race.start(raced, me, source, ["lora", "full"], "steps", 20, "", 8, 2048, 7)
    assert "1 of 2 methods cannot run" in error["value"]
    assert "<img" not in error["value"]
    _, error = race.start(raced, me, Source(), ["lora"], "steps", 20, "", 8, 2048, 7)
    assert error["visible"]
    assert raced.race.started == []


def test_the_table_names_figures_reasons_and_a_way_to_a_side(raced: Any, me: Visitor) -> None:
    table = race.table_html(view())
    assert "<td>Base, untrained</td>" in table
    assert "15 of 16" in table
    assert "2,442,240" in table
    assert "+0.20" in table
    assert "18 of 40, was 20" in table
    assert "Memory ran out" in table
    assert table.count("Use as a side</button>") == 1, "what made no adapter has no button"
    everything = table + race.head_html(view())
    assert "<img" not in everything
    assert "&lt;img" in everything


def test_every_place_is_filled_and_what_was_sent_is_left_alone(raced: Any, me: Visitor) -> None:
    with gr.Blocks():
        tab = race.build()
    shown = race.show(raced, me, "race1", {}, "score")
    assert len(shown) == len(tab.shown)
    assert shown[0] == "race1"
    assert shown[-1].active
    again = race.show(raced, me, "race1", shown[1], "score")
    skip = gr.skip()
    assert [again[place] for place in (2, 3, 5, 6, 7, 8)] == [skip] * 6
    other = race.show(raced, me, "race1", shown[1], "loss")
    assert "polyline" in other[5]["value"]
    raced.race.views = []
    assert len(race.show(raced, me, "", {}, "score")) == len(tab.shown)


def test_a_refresh_takes_up_a_race_that_lives(raced: Any, me: Visitor) -> None:
    fold, *shown = race.opened(raced, me, "", {}, "score")
    assert fold["open"] is True
    assert shown[0] == "race1"
    raced.race.views = [view("DONE")]
    fold, *shown = race.opened(raced, me, "", {}, "score")
    assert fold == gr.skip(), "one that is over waits in its fold"
    assert shown[-1].active is False


def test_a_row_becomes_a_side_only_if_it_is_this_races_and_there(raced: Any, me: Visitor) -> None:
    assert race.side_of(raced, me, "mine", "race1")[0] == "mine"
    for wrong in ("somebody_elses", "", "../x"):
        adapter, error = race.side_of(raced, me, wrong, "race1")
        assert adapter == ""
        assert "not here any more" in error["value"]
    raced.adapters.rows = []
    assert race.side_of(raced, me, "mine", "race1")[0] == ""
    assert all(one == gr.skip() for one in race.use(raced, me, "", None))


def test_cancel_names_the_race_that_is_shown(raced: Any, me: Visitor) -> None:
    race.cancel(raced, me, "")
    assert raced.race.cancelled == [("race1", "local")]


def test_the_picture_puts_every_label_in_its_own_place() -> None:
    entries = [
        replace(GOOD, method=method, figures={"eval_loss": 0.5, "trainable_params": params})
        for method, params in (("lora", 1000), ("dora", 1001), ("qlora", 1002), ("ia3", 1003), ("full", 10**8))
    ]
    drawn = race_chart.scatter(entries, BASE)
    assert drawn.count("<circle") == 5
    assert 'class="limit"' in drawn
    places = race_chart._spread([(race_chart.Dot(str(n), 1, 1), 50.0, 20.0) for n in range(5)])
    heights = sorted(at for _, _, at in places)
    assert all(b - a > 11.9 for a, b in pairwise(heights))
    assert race_chart.scatter([BAD], BASE) == ""
    assert "Held-out loss, lower is better. LoRA 0.500." in race_chart.scatter([GOOD], BASE)
