"""Races on the tiny model, through workers that are forks, and what is decided before and after them."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from playground.db import ENDED
from playground.errors import InputError, NotFoundError, PlaygroundError
from playground.runs.planner import Plan
from playground.services import build_services
from playground.verdict.race import RaceRequest, RaceView
from playground.verdict.race_store import HEAD, NONE, Entry, Race, RaceStore, cells, chosen, lanes, record, status, text
from tests.refused import refused
from tests.services.conftest import last, little_to_remember
from tests.waiting import wait_for


@pytest.fixture
def racing(forking):
    forking.forgetting.material = little_to_remember
    forking.race.start_measuring()
    return forking


def plan_of(request, blocked="", fixed_s=12.0, step_s=3.0):
    steps = request.steps or 20
    return Plan(10, 1000, fixed_s + step_s * steps, 1, 40, 16, steps, 1e-3, 8, blocked)


def test_two_methods_from_start_to_table(racing, rows_file):
    asked = {"steps": 2, "check": "ends-with:gladly.", "name": "Two", "batch_size": 4}
    request = RaceRequest(rows_file, methods=("ia3", "lora"), **asked)
    race = racing.race.start(request)
    first = racing.race.show(race)
    assert first.live
    assert first.seconds_left > 0
    view = last(racing.race.follow(race, poll_s=0.1))
    assert (view.race.state, view.measured, view.of, view.seconds_left) == ("DONE", 2, 2, None)
    assert [entry.method for entry in view.race.entries] == ["lora", "ia3"], "in the order of the form"
    for entry in view.race.entries:
        plan = racing.training.plan(request.run_of(entry.method, 2))
        assert (entry.state, entry.reason, entry.lr) == ("DONE", "", plan.lr)
        assert (entry.figures["trainable_params"], entry.figures["bytes"]) == (plan.trainable_params, plan.disk_bytes)
        assert entry.figures["eval_loss"] > 0
        assert entry.figures["peak_memory_bytes"] > 0
        assert [step for step, _ in entry.loss] == [1, 2]
        assert (entry.passed, entry.asked) == (0, 2), "a random model keeps no format; a tenth of 24 rows is held back"
        assert entry.forgot["questions"] == 2
        assert racing.adapters.get(entry.adapter or "").name in ("Two LoRA", "Two IA³")
    assert (view.race.base.asked, view.race.base.eval_loss[0][0], racing.manager.leases()) == (2, 0, [])
    for entry in view.race.entries:  # the table stays when the runs are cleared away
        racing.training.remove(entry.run)
    assert racing.race.show(race).race == view.race


def test_a_race_survives_a_restart_and_a_failed_run(forking, rows_file):
    """Nobody measures here until another process, as it were, owns the home."""
    race = forking.race.start(RaceRequest(rows_file, methods=("lora", "ia3"), steps=2, batch_size=4))
    forking.training.cancel(forking.race.show(race).race.entries[1].run)
    wait_for(lambda: all(entry.state in ENDED for entry in forking.race.show(race).race.entries), "trained")
    assert forking.race.show(race).race.state == "RUNNING"
    again = build_services(forking.settings)
    again.race.tick()
    view = again.race.show(race)
    good, bad = view.race.entries
    assert (view.race.state, good.state, bad.state) == ("DONE", "DONE", "CANCELLED")
    assert good.forgot is not None
    assert good.passed is None, "no check, no adherence"
    assert "Cancelled before it started" in bad.reason
    again.race.remove(race)
    assert forking.race.races() == []


def test_cancel_ends_what_has_not_ended_and_keeps_the_rows(racing, rows_file):
    race = racing.race.start(RaceRequest(rows_file, methods=("lora", "ia3", "dora"), steps=3000, batch_size=4))
    refused("has not ended", racing.race.remove, race)
    wait_for(lambda: racing.race.show(race).race.entries[0].loss, "training")
    assert "LoRA, 1 of 3" in racing.race.show(race).race.message
    racing.race.cancel(race)
    wait_for(lambda: all(run.state in ENDED for run in racing.training.runs()), "cancelled")
    racing.race.tick()
    view = racing.race.show(race)
    assert (view.race.state, view.live) == ("CANCELLED", False)
    assert [(entry.state, bool(entry.reason)) for entry in view.race.entries] == [("CANCELLED", True)] * 3
    racing.race.cancel(race)  # once more is harmless


def test_nothing_starts_where_one_cannot_and_the_check_of_a_shipped_set_is_its_own(services, rows_file, settings):
    start = services.race.start
    refused(r"nowhere\.csv", start, RaceRequest(Path("nowhere.csv")))
    refused("not both", RaceRequest, rows_file, steps=3, minutes=2.0)
    refused("above 0", RaceRequest, rows_file, minutes=0.0)
    refused("cannot be raced", RaceRequest, rows_file, objective="reward")
    assert services.training.runs() == services.race.races() == []
    assert (len(chosen(())), chosen(())[-1]) == (10, "full"), "full runs last"
    assert chosen(("full", "ia3", "lora")) == ["lora", "ia3", "full"]
    refused("two methods or more", chosen, ("lora",))
    waiting = build_services(settings)  # nobody trains
    shipped = waiting.data.shipped("hospital_reports")
    for given, kept in (("", shipped.check), ("json", "json")):
        race = waiting.race.start(RaceRequest(shipped.file, methods=("lora", "ia3"), steps=1, check=given))
        assert waiting.race.show(race).race.check == kept


def test_one_message_names_all_that_cannot_run_and_minutes_become_as_many_steps_as_fit_each():
    def plan(request):
        if request.method == "ia3":
            raise InputError("This base has no keys.")
        return plan_of(request, "Full needs 9.0 GB." if request.method == "full" else "")

    words = r"2 of 3 .* IA³: This base has no keys\. Full: Full needs 9\.0 GB\."
    assert "LoRA" not in refused(words, lanes, RaceRequest(Path("x"), methods=("lora", "ia3", "full")), plan)
    two = RaceRequest(Path("x"), methods=("lora", "ia3"))
    refused(r"^There is no file x\.$", lanes, two, lambda request: plan_of(request, "There is no file x."))
    seconds = {"lora": 3.0, "dora": 6.0}
    asked = RaceRequest(Path("x"), methods=("lora", "dora"), minutes=2)
    found = lanes(asked, lambda request: plan_of(request, step_s=seconds[request.method]))
    assert [lane.plan.steps for lane in found] == [36, 18]
    assert all(lane.plan.seconds <= 120 for lane in found)
    assert [lane.request.save_steps for lane in found] == [36, 18], "scored once, at the end"
    short = RaceRequest(Path("x"), methods=("lora", "ia3"), minutes=0.1)
    refused(r"one step takes about 0\.2 minutes", lanes, short, plan_of)


def test_the_record_is_read_back_and_knows_its_schema(tmp_path):
    store = RaceStore(tmp_path / "db.sqlite")
    entries = (Entry("lora", "run1", 2),)
    race = Race("r1", "ann", "n", "f.jsonl", 1.0, "RUNNING", "json", 2, None, entries, Entry("", passed=1))
    store.add(race)
    assert RaceStore(tmp_path / "db.sqlite").all() == [race]
    assert store.change("r1", lambda one: replace(one, state="DONE")).state == "DONE"
    db = sqlite3.connect(tmp_path / "db.sqlite", isolation_level=None)  # every statement is its own
    record = json.loads(db.execute("SELECT record FROM races").fetchone()[0])
    db.execute("UPDATE races SET record = ?", (json.dumps(record | {"from_tomorrow": 1}),))
    assert store.all()[0].name == "n", "what is not known is left out"
    db.execute("UPDATE races SET record = ?", (json.dumps(record | {"schema": 99}),))
    refused("newer version", store.all, error=PlaygroundError)
    refused("There is no race", store.change, "r2", replace, error=NotFoundError)


FORGOT = {"loss_before": 3.0, "loss_after": 3.25, "tokens": 90, "right_before": 20, "right_after": 18, "questions": 40}
FIGURES = {"eval_loss": 0.5004, "trainable_params": 2_442_240, "bytes": 9_816_440, "peak_memory_bytes": 4_562_259_968}
DONE = Entry("lora", "r1", 20, state="DONE", adapter="mine", passed=15, asked=16, measured_s=9.0, lr=1e-3)
DONE = replace(DONE, figures=FIGURES | {"seconds": 61.2, "tokens_per_s": 183.4}, forgot=FORGOT | {"divergence": None})
WAITS = Entry("full", "r2", 20)
BASE = Entry("", passed=0, asked=16, eval_loss=[[0, 3.1]])
VIEW = RaceView(Race("x", "local", "n", "f.jsonl", 1.0, "RUNNING", "json", 20, None, (DONE, WAITS), BASE), 90.0, 1, 2)


def test_a_line_is_as_long_as_the_head_whatever_is_known_and_what_is_missing_says_why():
    line = "LoRA|0.001|0.500|15 of 16|2,442,240|9.8 MB|4.6 GB|61|183|+0.25|18 of 40, was 20|–"
    assert (cells(DONE), cells(WAITS)) == (line.split("|"), ["Full", *[NONE] * (len(HEAD) - 1)])
    assert (cells(BASE)[:4], status(WAITS)) == (["Base, untrained", NONE, "3.100", "0 of 16"], "waits")
    assert status(replace(WAITS, state="RUNNING", loss=[[3, 1.0]])) == "step 3 of 20"
    assert status(replace(WAITS, state="DONE")) == "trained, not measured yet"
    assert status(replace(WAITS, state="FAILED", reason="Memory ran out.")) == "Memory ran out."
    assert status(DONE) == status(BASE) == ""

    lines = text(VIEW).splitlines()
    assert (len(lines), lines[-1]) == (5, "Full: waits")
    found = json.loads(json.dumps(record(VIEW), allow_nan=False))
    assert [one["method"] for one in found["rows"]] == ["lora", "full"]
    assert (found["rows"][0]["eval_loss"], found["base"]["passed"]) == (0.5004, 0)
    assert (found["race"], found["state"], found["steps"]) == ("x", "RUNNING", 20)
