"""The Train tab's handlers, called as plain functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from playground.data.example import RowWarning
from playground.errors import InputError
from playground.services.bases import BaseState
from playground.ui import chart, columns, curves, edit, examples, html, plan, rows, runs, seen, side, train, words
from playground.ui.source import Source
from playground.ui.wiring import Visitor
from tests.ui.fakes import EVIL, FakeServices, card, run_view

SETTINGS = (20, 1e-3, 8, 8, 2048, 7)


def last(shown: Iterator[list[Any]]) -> list[Any]:
    """What a handler that tells how far it has come shows at its end."""
    return list(shown)[-1]


def test_a_file_is_read_and_its_facts_are_said(services: FakeServices, me: Visitor) -> None:
    opened = examples.open_upload(services, me, Source(), [f"/tmp/{EVIL}.jsonl"], 2048)
    kept, source, error, _heading, facts, advice, fold, *_ = last(opened)
    assert source.good == 2
    assert kept == source.path
    assert error["visible"] is False
    assert "1 row cannot be used" in facts["value"]
    assert "Two rows are few" in advice["value"]
    assert "<img" not in facts["value"] + advice["value"]
    assert fold["label"] == "Columns: patient → prompt, report → answer"


def test_every_reading_fills_every_place(services: FakeServices, me: Visitor) -> None:
    """The handlers answer with lists; a place too many or too few would put the wrong thing into the wrong widget."""
    import gradio as gr

    with gr.Blocks():
        tab = train.build(services)
    source = Source(
        Path("rows.jsonl"), "rows", mapping={"prompt": "patient", "completion": "report"}, roles=("prompt", "completion")
    )
    everything = len(tab.read_outputs)
    assert len(last(examples.read(services, me, source, 2048))) == everything
    assert len(last(examples.read(services, me, Source(), 2048))) == everything
    assert len(last(examples.open_upload(services, me, source, None, 2048))) == 1 + everything
    assert len(last(examples.paste(services, me, "a\tb", source, 2048))) == 1 + everything
    assert len(last(examples.read_as(services, me, "Raw text", source, 2048))) == everything
    assert len(last(examples.save_edit(services, me, source, 2048, {"headers": ["row"], "data": []}))) == 2 + everything
    services.data.checked = InputError("Say which column is which.")
    assert len(last(examples.read(services, me, source, 2048))) == everything
    assert len(last(examples.open_set(services, me, "nobody", source, 2048))) == everything


def test_bad_rows_say_why_and_what_to_do(services: FakeServices, me: Visitor) -> None:
    checked = services.data.check(Path("rows.jsonl"))
    bad, warnings = rows.split_report(checked, None)
    fold, listed, kinds, takes, *_ = rows.show(checked, bad, warnings, ())
    assert fold["label"] == "The 1 row that cannot be used"
    assert "<td>The answer is empty.</td><td>Fill it.</td>" in listed
    assert (kinds["visible"], takes["visible"]) == (False, True)


def test_kinds_of_warnings_may_be_left_out(services: FakeServices, me: Visitor) -> None:
    checked = replace(services.data.check(Path("rows.jsonl")), warnings=(RowWarning(2, "the same as row 1", "duplicate"),))
    bad, warnings = rows.split_report(checked, None)
    kinds = rows.show(checked, bad, warnings, ("duplicate",))[2]
    assert kinds["choices"] == [("1 row that repeats an earlier one", "duplicate")]
    assert kinds["value"] == ["duplicate"]
    source = examples.leave_out(services, me, ["duplicate"], Source(Path("rows.jsonl"), "rows", good=2))
    plan.start(services, me, source, "mine", "lora", *SETTINGS)
    assert services.training.started[0].leave_out == ("duplicate",)


def test_the_bad_rows_can_be_taken_away(services: FakeServices, me: Visitor) -> None:
    button, error = rows.download(services, me, "bad", Source(Path("rows.jsonl"), "rows", good=2), 2048)
    assert (button["label"], error["visible"]) == ("Download rows-bad-rows.csv", False)


def test_the_preview_colours_what_is_learned(services: FakeServices, me: Visitor) -> None:
    source, text, place = seen.show(services, me, Source(Path("rows.jsonl"), good=2), 2048, 1)
    assert source.index == 1
    assert "<mark><i>o</i><i>ut</i></mark>" in text
    assert "<img" not in text
    assert "2 of 2 that can be used" in place
    assert "Coloured: the 2 tokens it learns to write. The rest, 1 token, is only read." in text


def test_another_reading_of_the_file_keeps_what_is_known() -> None:
    there = ("patient", "report", "stars")
    known = {"prompt": "patient", "completion": "report"}
    assert columns.completed("An answer and whether it is good", known, there) == known | {"label": "stars"}
    assert columns.completed("Raw text", known, there) == {"text": "patient"}
    assert columns.reading(known) == "Prompt and answer"
    assert columns.reading(known | {"label": "stars"}) == "An answer and whether it is good"
    assert columns.reading({"messages": "m"}) == "Conversation"


def test_a_column_that_is_taken_changes_places() -> None:
    before = {"prompt": "a", "completion": "b"}
    assert columns.swapped(before, {"prompt": "b", "completion": "b"}) == {"prompt": "b", "completion": "a"}
    assert columns.swapped(before, {"prompt": "a", "completion": "b", "system": "b"}) == {"prompt": "a", "system": "b"}
    assert columns.swapped(before, {"prompt": "a", "completion": "c"}) == {"prompt": "a", "completion": "c"}


def test_an_unsure_guess_asks_to_be_checked() -> None:
    fold, note, *_ = columns.show(
        ("a", "b"), {"prompt": "a", "completion": "b"}, ("prompt", "completion"), 0.4, "what the columns hold"
    )
    assert fold["open"] is True
    assert "check" in fold["label"]
    assert "this is a guess" in note


def test_an_edited_cell_becomes_a_copy_of_the_file(services: FakeServices, me: Visitor) -> None:
    source = Source(Path("rows.jsonl"), "rows", good=2)
    source, frame, place, error = edit.show(services, me, edit.BAD, 0, source, 2048)
    assert frame["headers"] == ["row", "patient", "report"]
    assert frame["value"] == [[3, "p3", ""]]
    assert "Page 1 of 1" in place
    edited, error = edit.save(services, me, source, {"headers": frame["headers"], "data": [[3, "p3", "All well."]]})
    assert services.data.changes == {3: {"report": "All well."}}
    assert edited is not None
    assert edited.title == "rows, edited"
    nothing, error = edit.save(services, me, source, {"headers": frame["headers"], "data": [[3, "p3", ""]]})
    assert nothing is None
    assert "Nothing was changed" in error["value"]


def test_columns_that_cannot_be_told_are_offered(services: FakeServices, me: Visitor) -> None:
    services.data.checked = InputError("Say which column is which.")
    source, error, _, _, _, fold, _, _, first, *_ = last(examples.read(services, me, Source(Path("two.csv"), "two"), 2048))
    assert "Say which" in error["value"]
    assert fold["visible"] is True
    assert first["choices"] == [("colour", "colour"), ("size", "size")]
    assert source.good == 0


def test_before_the_base_is_ready_nothing_waits_for_it(services: FakeServices, me: Visitor) -> None:
    services.bases.now = BaseState("fetching", "Fetching the base, 62 of 93 MB", "smollm2-135m")
    found = last(examples.read(services, me, Source(Path("rows.jsonl"), "rows"), 2048))
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


def test_a_method_shows_its_own_options_and_what_its_rank_means(services: FakeServices, me: Visitor) -> None:
    def shown(name: str) -> list[str]:
        return [
            option for option, at in zip(plan.OPTIONS, plan.method_chosen(services, me, name)[3:], strict=True) if at["visible"]
        ]

    assert shown("lora") == ["rslora", "pissa"]
    assert shown("full") == ["layers"]
    assert shown("prompt") == ["init_text"]
    assert shown("bottleneck") == ["placement"]
    assert shown("ia3") == []
    assert plan.method_chosen(services, me, "prefix")[2]["label"] == "Virtual tokens"
    assert plan.method_chosen(services, me, "ia3")[2]["visible"] is False
    assert plan.rate_of(services, me, "lora", True) < plan.rate_of(services, me, "lora", False)


def test_options_reach_the_run_and_those_of_another_method_do_not(services: FakeServices, me: Visitor) -> None:
    source = Source(Path("rows.jsonl"), "rows", good=2)
    options = (True, True, 2, "Write a report", "pfeiffer")
    for method, expected in {
        "lora": {"rslora": True, "pissa": True},
        "full": {"layers": 2},
        "p-tuning-v2": {"init_text": "Write a report"},
        "bottleneck": {"placement": "pfeiffer"},
        "ia3": {},
    }.items():
        plan.start(services, me, source, "mine", method, *SETTINGS, 10, 15, *options)
        assert services.training.started[-1].options.chosen() == expected
    fold = plan.settings_label("prompt", *SETTINGS, 10, 15, *options)
    assert "8 virtual tokens, begins as a text" in fold
    assert "rsLoRA, PiSSA" in plan.settings_label("lora", *SETTINGS, 10, 15, *options)


def test_the_form_has_a_widget_for_every_option(services: FakeServices) -> None:
    import gradio as gr

    with gr.Blocks():
        tab = train.build(services)
    assert len(tab.options) == len(plan.OPTIONS)
    assert tab.pissa is tab.options[plan.OPTIONS.index("pissa")]


def test_a_run_that_trains_can_be_chatted_with_once_it_has_a_checkpoint() -> None:
    assert not runs.buttons(run_view())[2]["visible"]
    hear = runs.buttons(run_view(live="live-r1"))[2]
    assert hear["visible"]
    assert hear["value"] == "Chat with it as it learns"
    done = runs.buttons(run_view(state="DONE", adapter="mine"))[2]
    assert done["value"] == "Compare in chat"


def test_a_side_that_learned_becomes_its_adapter_when_the_run_ends(services: FakeServices, me: Visitor) -> None:
    services.adapters.learns = (card("live-r1"),)
    assert ("live-r1 · LoRA r8", "live-r1") in side.dropdown_updates(services, me, ["live-r1"])[0]["choices"]
    services.adapters.learns, services.adapters.became_ = (), {"live-r1": "hospital_reports"}
    ended, gone, base = side.dropdown_updates(services, me, ["live-r1", "gone", "base"])
    assert ended["choices"][-1] == (f"hospital_reports · LoRA r8, {words.TRAINED}", "live-r1")
    assert gone["choices"][-1] == (f"gone, {words.GONE}", "gone")
    assert base["choices"] == ended["choices"][:-1] == gone["choices"][:-1]
    assert not any("value" in update for update in (ended, gone, base)), "what a person chose is theirs to change"
    asked = side.read_setups(services, me, ["live-r1", "", 0, "", *["gone", "", 0, ""] * 5])
    assert (asked["A"].model, asked["B"].model) == ("hospital_reports", "gone")


def test_curves_of_a_run_and_of_others_laid_over_it(services: FakeServices, me: Visitor) -> None:
    assert curves.small_html(None) == curves.small_html(run_view()) == html.note(curves.NONE)
    mine = run_view(curves={"lr": [(1, 1e-3), (2, 5e-4)], "memory_bytes": [(1, 1e9), (2, 2e9)]})
    drawn = curves.small_html(mine)
    assert "Learning rate: 5.0e-04" in drawn
    assert "Memory, peak: 2.0 GB" in drawn
    other = run_view("r2", "DONE", name=EVIL, eval_loss=[(0, 2.0), (10, 0.5)])
    services.training.listed = [mine, other]
    assert curves.choices([mine, other], mine) == [(f"{EVIL}, lora", "r2")]
    assert curves.lay(services, me, "r1", []) == ""
    laid = curves.lay(services, me, "r1", ["r2", "nobody"])
    assert laid.count("<polyline") == 2
    assert "<img" not in laid
    assert "best at step 10" in chart.loss([(1, 2.0), (2, 1.5)], [(0, 2.0), (10, 0.5), (20, 0.7)], 20)
