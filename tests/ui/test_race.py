"""The race fold's handlers, called as plain functions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from playground.errors import InputError
from playground.report import charts
from playground.ui import race, words
from playground.ui.race import RaceFold
from playground.ui.rows import Source
from playground.ui.train import TrainTab
from playground.verdict.race import RaceView
from playground.verdict.race_store import Entry, Race, picture
from tests.ui.conftest import Call
from tests.ui.fakes import EVIL, FakeServices, row

FORGOT = {"loss_before": 3.0, "loss_after": 3.2, "tokens": 90, "divergence": 0.11}
FORGOT |= {"right_before": 20, "right_after": 18, "questions": 40}
FIGURES = {"eval_loss": 0.5, "trainable_params": 2_442_240, "bytes": 9_800_000, "seconds": 61.0}
DONE: Any = {"adapter": "mine", "passed": 15, "asked": 16, "measured_s": 9.0, "loss": [[1, 3.0], [2, 2.5]]}
GOOD = Entry("lora", "r1", 20, state="DONE", forgot=FORGOT, figures=FIGURES, **DONE)
BAD = Entry("ia3", "r2", 20, state="FAILED", reason=f"Memory ran out {EVIL}.")
BASE = Entry("", passed=0, asked=16, eval_loss=[[0, 3.1]])


@dataclass
class FakeRaces:
    views: list[RaceView] = field(default_factory=list)
    started: list[Any] = field(default_factory=list)
    cancelled: list[tuple[str, str]] = field(default_factory=list)

    def start(self, request: Any) -> str:
        self.started.append(request)
        return "race1"

    def races(self, owner: str = "local") -> list[RaceView]:
        return self.views

    def cancel(self, race: str, owner: str) -> None:
        self.cancelled.append((race, owner))


def view(state: str = "MEASURING", *entries: Entry) -> RaceView:
    live = state == "MEASURING"
    named = ("race1", "local", f"rows {EVIL}", "rows.jsonl", 1.0, state, f"ends-with:{EVIL}", 20, None)
    one = Race(*named, entries or (GOOD, BAD), BASE, f"Measuring LoRA {EVIL}" if live else "")
    return RaceView(one, 90.0 if live else None, 1, 2)


@pytest.fixture
def raced(services: FakeServices) -> FakeServices:
    services.race = FakeRaces([view()])  # type: ignore[attr-defined]
    services.adapters.rows = [row(id="mine")]
    return services


@pytest.fixture
def fold(tab: TrainTab) -> RaceFold:
    return tab.race


SOURCE = Source(Path("rows.jsonl"), "rows", "rows", leave_out=("duplicate",), good=2)
FORM: Any = {"source": SOURCE, "check": " json ", "form": {"batch_size": 4, "max_tokens": 512, "seed": 9}}


def test_a_race_is_started_with_the_forms_settings(raced: Any, call: Call, fold: RaceFold) -> None:
    started = call(race.start, fold, methods=["lora", "ia3"], kind="minutes", amount=2.5, **FORM)
    assert started == {fold.race: "race1"}
    (request,) = raced.race.started
    assert (request.methods, request.minutes, request.steps) == (("lora", "ia3"), 2.5, None)
    assert (request.batch_size, request.max_tokens, request.seed, request.leave_out) == (4, 512, 9, ("duplicate",))
    with pytest.raises(InputError, match=words.TRAIN_EMPTY):
        call(race.start, fold, methods=["lora"], kind="steps", amount=20, **FORM | {"source": Source()})
    assert len(raced.race.started) == 1


def test_the_table_names_figures_reasons_and_a_way_to_a_side(raced: Any) -> None:
    table = race.table_html(view())
    for part in ("<td>Base, untrained</td>", "15 of 16", "2,442,240", "+0.20", "18 of 40, was 20", "Memory ran out"):
        assert part in table
    assert table.count("Use as a side</button>") == 1, "what made no adapter has no button"
    everything = table + race.head_html(view())
    assert "<img" not in everything
    assert "&lt;img" in everything


def test_what_was_sent_is_left_alone(raced: Any, call: Call, fold: RaceFold) -> None:
    shown = call(race.show, fold, race="race1", sent={}, which="score")
    assert set(shown) | {fold.fold} == set(fold.shown)
    assert shown[fold.race] == "race1"
    assert shown[fold.timer]["active"]
    again = call(race.show, fold, race="race1", sent=shown[fold.sent], which="score")
    assert set(again) == {fold.race, fold.sent}
    other = call(race.show, fold, race="race1", sent=shown[fold.sent], which="loss")
    assert "polyline" in other[fold.plot]["value"]
    call(race.cancel, fold, race="")
    assert raced.race.cancelled == [("race1", "local")]
    raced.race.views = []
    none = call(race.show, fold, race="", sent={}, which="score")
    assert (none[fold.start]["visible"], none[fold.cancel]["visible"], none[fold.timer]["active"]) == (
        True,
        False,
        False,
    )


def test_a_refresh_takes_up_a_race_that_lives(raced: Any, call: Call, fold: RaceFold) -> None:
    shown = call(race.opened, fold, race="", which="score")
    assert shown[fold.fold]["open"] is True
    assert shown[fold.race] == "race1"
    raced.race.views = [view("DONE")]
    shown = call(race.opened, fold, race="", which="score")
    assert fold.fold not in shown, "one that is over waits in its fold"
    assert shown[fold.timer]["active"] is False


def test_a_row_becomes_a_side_only_if_it_is_this_races_and_there(raced: Any, call: Call, fold: RaceFold) -> None:
    assert call(race.side_of, fold, picked="mine", race="race1") == {fold.chosen: "mine"}
    for wrong in ("somebody_elses", "", "../x"):
        chosen = call(race.side_of, fold, picked=wrong, race="race1")
        assert chosen[fold.chosen] == ""
        assert "not here any more" in chosen[fold.error]["value"]
    raced.adapters.rows = []
    assert call(race.side_of, fold, picked="mine", race="race1")[fold.chosen] == ""


def test_the_picture_puts_every_label_in_its_own_place() -> None:
    entries = [
        replace(GOOD, method=method, figures={"eval_loss": 0.5, "trainable_params": params})
        for method, params in (("lora", 1000), ("dora", 1001), ("qlora", 1002), ("ia3", 1003), ("full", 10**8))
    ]
    drawn = picture(entries, BASE, False)
    assert drawn.count("<circle") == 5
    assert 'class="limit"' in drawn
    same = charts.scatter([charts.Dot(str(n), 1, 1) for n in range(5)], None)
    heights = sorted(float(at) for at in re.findall(r'<text class="name" x="[^"]*" y="([^"]*)"', same))
    assert len(heights) == 5
    assert all(b - a > 11.9 for a, b in pairwise(heights))
    assert picture([BAD], BASE, False) == ""
    assert "Held-out loss, lower is better. LoRA 0.500." in picture([GOOD], BASE, False)
