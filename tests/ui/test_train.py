"""The Train tab's handlers, called as plain functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from playground.errors import InputError
from playground.services.bases import BaseState
from playground.ui import examples, plan, runs, words
from playground.ui.examples import Source
from playground.ui.wiring import Visitor
from tests.ui.fakes import EVIL, FakeServices, run_view

SETTINGS = (20, 1e-3, 8, 8, 2048, 7)


def test_a_file_is_read_and_its_facts_are_said(services: FakeServices, me: Visitor) -> None:
    kept, source, error, _heading, facts, columns, *_ = examples.open_upload(services, me, Source(), f"/tmp/{EVIL}.jsonl", 2048)
    assert source.good == 2
    assert kept == source.path
    assert error["visible"] is False
    assert "1 row cannot be used" in facts["value"]
    assert "<img" not in facts["value"]
    assert columns["label"] == "Columns: patient → prompt, report → answer"


def test_bad_rows_say_why_and_what_to_do(services: FakeServices, me: Visitor) -> None:
    found = examples.read(services, me, Source(Path("rows.jsonl"), "rows"), 2048)
    assert found[9]["label"] == "The 1 row that cannot be used"
    assert "<td>The answer is empty.</td><td>Fill it.</td>" in found[10]


def test_the_preview_marks_what_is_learned(services: FakeServices, me: Visitor) -> None:
    source, text, place = examples.preview(services, me, Source(Path("rows.jsonl"), shown=2), 2048, 1)
    assert source.index == 1
    assert "<mark>out</mark>" in text
    assert "<img" not in text
    assert "Example 2 of 2" in place


def test_columns_that_cannot_be_told_are_offered(services: FakeServices, me: Visitor, tmp_path: Path) -> None:
    file = tmp_path / "two.csv"
    file.write_text("colour,size\nred,1\n", encoding="utf-8")
    services.data.checked = InputError("Say which column is which.")
    source, error, _, _, columns, first, *_ = examples.read(services, me, Source(file, "two"), 2048)
    assert "Say which" in error["value"]
    assert columns["visible"] is True
    assert first["choices"] == [("colour", "colour"), ("size", "size")]
    assert source.good == 0


def test_before_the_base_is_ready_nothing_waits_for_it(services: FakeServices, me: Visitor) -> None:
    services.bases.now = BaseState("fetching", "Fetching the base, 62 of 93 MB", "smollm2-135m")
    found = examples.read(services, me, Source(Path("rows.jsonl"), "rows"), 2048)
    assert "counted once the base is ready" in found[3]["value"]
    shown, _, start, _ = plan.refresh(services, me, found[0], "mine", "lora", *SETTINGS)
    assert "62 of 93 MB" in shown
    assert start["interactive"] is False


def test_the_plan_names_what_blocks_it(services: FakeServices, me: Visitor) -> None:
    source = Source(Path("rows.jsonl"), "rows", "rows", good=2)
    shown, blocked, start, fold = plan.refresh(services, me, source, "mine", "lora", *SETTINGS)
    assert "1.2 M of 134.5 M weights (0.9 %)" in shown
    assert (start["interactive"], blocked["visible"]) == (True, False)
    assert fold["label"] == "Everything else: 20 steps, learning rate 1e-3, rank 8, batch 8, seed 7"
    services.training.blocked = "Full needs 5.1 GB. Choose LoRA."
    _, blocked, start, _ = plan.refresh(services, me, source, "mine", "full", *SETTINGS)
    assert "Choose LoRA" in blocked["value"]
    assert start["interactive"] is False


def test_start_hands_over_what_was_set(services: FakeServices, me: Visitor) -> None:
    source = Source(Path("rows.jsonl"), "rows", "rows", {"prompt": "patient"}, good=2)
    run, error = plan.start(services, me, source, " mine ", "lora", *SETTINGS)
    (request,) = services.training.started
    assert (run, error["visible"]) == ("r1", False)
    assert (request.name, request.steps, request.lr, request.rank, request.owner) == ("mine", 20, 1e-3, 8, "local")
    assert request.mapping == {"prompt": "patient"}


def test_start_without_examples_says_what_to_do(services: FakeServices, me: Visitor) -> None:
    _, error = plan.start(services, me, Source(), "", "lora", *SETTINGS)
    assert words.TRAIN_EMPTY in error["value"]


@pytest.mark.parametrize(
    ("slug", "name"), [("hospital_reports", "hospital_reports-2"), ("my file (1)", "my_file_1"), ("///", "adapter")]
)
def test_a_free_name_is_proposed(slug: str, name: str) -> None:
    assert plan.free_name(slug, {"hospital_reports"}) == name


def test_a_reload_finds_the_run_that_lives(services: FakeServices, me: Visitor) -> None:
    services.training.listed = [run_view("done", "DONE"), run_view("alive", name="mine")]
    _, _, card, listed, cancel, question, compare, resume, up, down = runs.show(services, me, "")
    assert "mine" in card
    assert 'aria-valuenow="25"' in card
    assert 'data-id="alive" aria-pressed="true"' in listed["value"]
    shown = [one["visible"] for one in (cancel, question, compare, resume, up, down)]
    assert shown == [True, False, False, False, False, False]


@pytest.mark.parametrize("keep", [True, False])
def test_cancelling_asks_the_service_to_keep_or_not(services: FakeServices, me: Visitor, keep: bool) -> None:
    services.training.listed = [run_view("r1")]
    runs.cancel(services, me, keep, "r1")
    assert services.training.cancelled == [("r1", keep)]


def test_a_done_run_can_be_compared_and_a_failed_one_resumed() -> None:
    done = runs.buttons(run_view(state="DONE", adapter="mine"))
    failed = runs.buttons(run_view(state="FAILED", error="It was killed.", resume_step=10))
    assert [one["visible"] for one in done] == [False, False, True, False, False, False]
    assert [one["visible"] for one in failed] == [False, False, False, True, False, False]
    assert failed[3]["value"] == "Go on from the last checkpoint"


def test_without_a_checkpoint_it_starts_again() -> None:
    assert runs.buttons(run_view(state="CANCELLED"))[3]["value"] == "Start again from step 0"


def test_waiting_runs_say_their_place_and_are_moved(services: FakeServices, me: Visitor) -> None:
    services.training.listed = [run_view(f"w{place}", "QUEUED", place=place) for place in (1, 2, 3)] + [run_view("alive")]
    moves = {place: [one["visible"] for one in runs.show(services, me, f"w{place}")[-2:]] for place in (1, 2, 3)}
    assert moves == {1: [False, True], 2: [True, True], 3: [True, False]}
    assert "Waiting, 2nd" in runs.show(services, me, "w2")[3]["value"]
    runs.move(services, me, "up", "w2")
    assert services.training.moved == [("w2", "up")]


def test_the_device_panel_asks_about_the_run_that_trains(services: FakeServices, me: Visitor) -> None:
    """Another run may be in the card, waiting behind it; the question must be about the one whose name stands beside the button."""
    services.training.listed = [run_view("waits", "QUEUED", place=1), run_view("trains")]
    memo, followed, *_, cancel, question, _, _, _, _ = runs.ask_to_cancel(services, me, {}, "waits")
    assert followed == "trains"
    assert (cancel["visible"], question["visible"]) == (False, True)
    assert memo["run-buttons"] == runs.buttons_key(services.training.listed[1], services.training.listed)
