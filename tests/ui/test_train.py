"""The Train tab's handlers of examples and runs, called as plain functions."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import gradio as gr
import pandas as pd
import pytest

from playground.data.example import Repair, RowWarning, Unused
from playground.errors import InputError
from playground.models.bases import BaseState
from playground.report import charts
from playground.ui import examples, html, rows, runs, train
from playground.ui.rows import Source
from playground.ui.wiring import SETTABLE
from tests.refused import refused
from tests.ui.conftest import says
from tests.ui.fakes import EVIL, run_view

ROWS = Source(Path("rows.jsonl"), "rows", good=2)


@pytest.fixture
def read(services, call, tab):
    """Reads a source, and returns what is shown at the end."""
    return lambda source: call(examples.read, tab, source=source, max_tokens=2048)[-1]


def test_a_file_is_read_its_facts_said_and_every_way_to_open_rows_writes_widgets_that_it_declares(services, call, tab):
    opened = call(examples.open_upload, tab, uploaded=[f"/tmp/{EVIL}.jsonl"], max_tokens=2048)[-1]
    assert (opened[tab.source].good, opened[tab.error]["visible"]) == (2, False)
    assert opened[tab.uploaded] == opened[tab.source].path
    says(opened[tab.facts], "1 row cannot be used")
    says(opened[tab.advice], "Two rows are few")
    assert opened[tab.columns]["label"] == "Columns: patient → prompt, report → answer"
    assert call(examples.open_upload, tab, uploaded=None, max_tokens=2048) == []
    source = replace(ROWS, mapping={"prompt": "patient", "completion": "report"}, roles=("prompt", "completion"))
    changed = pd.DataFrame([[3, "p3", "All well."]], columns=["row", "patient", "report"])
    ways = [
        partial(examples.paste, text="a\tb"),
        partial(examples.open_dataset, dataset=" owner/name ", first=None),
        partial(examples.open_set, id="hospital_reports"),
        partial(examples.remap, source=source, roles=("patient", "report", None, None)),
        partial(examples.read_as, source=source, read_as="Raw text"),
        partial(examples.save_edit, source=source, table=changed),
    ]
    for fault in (None, InputError("Say which column is which.")):
        services.data.checked = fault or services.data.checked
        for way in ways:
            opened = call(way, tab, max_tokens=2048)[-1]
            assert set(opened) <= set(tab.read), way
            assert opened[tab.error]["visible"] == bool(fault)
    with pytest.raises(InputError, match="no example set nobody"):
        call(examples.open_set, tab, id="nobody", max_tokens=2048)[-1]


def test_a_base_that_gets_ready_has_rows_read_anew_and_leaves_what_a_person_set(services, call, tab):
    drawn = call(examples.reread, tab, source=ROWS, max_tokens=2048)
    says(drawn[tab.facts], "median")
    assert set(drawn) <= set(tab.drawn)
    assert {one for one in drawn if isinstance(one, SETTABLE)} == {tab.kinds, tab.turns}
    assert not {type(drawn[one]) for one in (tab.kinds, tab.turns)} - {examples.Choices}
    assert call(examples.reread, tab, source=Source(), max_tokens=2048) == {}


def test_bad_rows_can_be_taken_away_and_kinds_of_warnings_left_out(services, call, tab, read):
    shown = read(ROWS)
    assert shown[tab.bad]["label"] == "The 1 row that cannot be used"
    says(shown[tab.bad_rows], "<td>The answer is empty.</td><td>Fill it.</td>")
    assert shown[tab.kinds]["visible"] is False
    offered = call(rows.download, tab, which="bad", source=ROWS, max_tokens=2048)
    name = "rows-bad-rows.csv"
    assert offered == {tab.bad_file: gr.update(value=name, label=f"Download {name}", visible=True)}
    whole, services.data.checked = services.data.checked, InputError("It is empty.")
    refused("It is empty", call, rows.download, tab, which="good", source=ROWS, max_tokens=2048)
    services.data.checked = replace(whole, warnings=(RowWarning(2, "the same as row 1", "duplicate"),))
    kinds = read(replace(ROWS, leave_out=("duplicate",)))[tab.kinds]
    choices = [("1 row that repeats an earlier one", "duplicate")]
    assert (kinds["choices"], kinds["value"]) == (choices, ["duplicate"])
    source = call(examples.leave_out, tab, kinds=["duplicate"], source=ROWS)[tab.source]
    call(train.start, tab, source=source, name="mine", method="lora")
    assert services.training.started[0].leave_out == ("duplicate",)


def test_a_column_says_which_rows_are_held_back_for_the_verdict(services, call, tab, read):
    for chosen, columns in (("group:patient", ("patient", "")), ("time:report", ("", "report")), ("", ("", ""))):
        source = call(rows.hold_by, tab, held_by=chosen, source=ROWS)[tab.source]
        shown = read(source)[tab.held_by]
        assert (shown["value"], len(shown["choices"])) == (chosen, 5)
        call(train.start, tab, source=source, name="mine", method="lora")
        asked = services.training.started[-1]
        assert (asked.group_column, asked.time_column) == columns


def test_another_reading_of_the_file_keeps_what_is_known_and_a_column_that_is_taken_changes_places():
    there, known = ("patient", "report", "stars"), {"prompt": "patient", "completion": "report"}
    assert rows.completed("An answer and whether it is good", known, there) == known | {"label": "stars"}
    assert rows.completed("Raw text", known, there) == {"text": "patient"}
    assert rows.reading(known) == "Prompt and answer"
    assert rows.reading(known | {"label": "stars"}) == "An answer and whether it is good"
    assert rows.reading({"messages": "m"}) == rows.reading({"messages": "m", "tools": "t"}) == "Conversation"
    past = known | {"history": "past", "options": "A"}
    assert rows.completed(rows.reading(past), past, there) == past
    before = {"prompt": "a", "completion": "b"}
    assert rows.swapped(before, {"prompt": "b", "completion": "b"}) == {"prompt": "b", "completion": "a"}
    assert rows.swapped(before, {"prompt": "a", "completion": "b", "system": "b"}) == {"prompt": "a", "system": "b"}
    assert rows.swapped(before, {"prompt": "a", "completion": "c"}) == {"prompt": "a", "completion": "c"}


def test_an_unsure_guess_asks_to_be_checked_and_columns_that_cannot_be_told_are_offered(services, tab, read):
    services.data.checked = replace(services.data.checked, confidence=0.4, why="what the columns hold")
    shown = read(ROWS)
    assert (shown[tab.columns]["open"], "check" in shown[tab.columns]["label"]) == (True, True)
    says(shown[tab.columns_note], "What the columns hold. Please check: this is a guess.")
    services.data.checked = InputError("Say which column is which.")
    shown = read(Source(Path("two.csv"), "two"))
    says(shown[tab.error], "Say which")
    assert (shown[tab.columns]["visible"], shown[tab.source].good) == (True, 0)
    assert shown[tab.roles[0]]["choices"] == [("colour", "colour"), ("size", "size")]


def test_what_no_example_holds_is_shown_and_a_click_takes_it_in(services, call, tab, read):
    unused = (Unused("stars"), Unused(EVIL, "It is part of the question.", "input"), Unused("images", "Pictures."))
    services.data.checked = replace(services.data.checked, unused=unused)
    shown = read(ROWS)
    assert (shown[tab.columns]["open"], shown[tab.take_in[0]]["visible"], shown[tab.take_in[1]]["visible"]) == (1, 1, 0)
    says(shown[tab.unused], "It is part of the question.", "images: Pictures.", "Not in the examples: stars.")
    source = replace(ROWS, mapping={"prompt": "p", "completion": "c", "history": "h"}, roles=("prompt", "completion"))
    call(examples.remap, tab, source=source, roles=("q", "c"), max_tokens=2048)
    assert {"prompt": "q", "completion": "c", "history": "h"} in services.data.mappings  # no dropdown shows history
    taken = call(examples.take_in, tab, place=0, source=shown[tab.source], max_tokens=2048)[-1]
    assert {"input": EVIL}.items() <= services.data.mappings[-2].items()
    assert set(taken) <= set(tab.read)


def test_encoding_sheet_and_split_are_said_and_another_one_reads_the_file_anew(services, call, tab, read):
    whole = services.data.checked
    there = {"encoding": "cp1250", "sheet": "May", "sheets": ("May", EVIL), "splits": {"train": 2, "test": 1}}
    services.data.checked = replace(whole, **there, held={3: "test"})
    shown = read(ROWS)
    says(shown[tab.facts], "encoding cp1250", "sheet May, 1 of 2", "train: 2 rows", "never trained on")
    encoding, sheet, split = (shown[tab.reading[name]] for name in ("encoding", "sheet", "split"))
    assert (encoding["choices"][0], encoding["value"]) == (("Found: cp1250", ""), "")
    assert (sheet["choices"], sheet["value"]) == ([("May", "May"), (EVIL, EVIL)], "May")
    assert (split["choices"][1:], split["visible"]) == ([("train", "train"), ("test", "test")], True)
    assert shown[tab.columns]["open"], "a sheet that is not read is worth a look"
    assert shown[tab.held_by]["choices"][0] == ("The file's own test rows", "")
    chosen = {"encoding": "cp1252", "sheet": "", "split": None}
    again = call(examples.read_otherwise, tab, reading=chosen, source=shown[tab.source], max_tokens=2048)[-1]
    assert services.data.mappings[-2] == {"encoding": "cp1252"}, "the columns are guessed anew"
    assert again[tab.source].asked == {**whole.mapping, "encoding": "cp1252"}
    assert set(again) <= set(tab.read)
    services.data.checked = whole
    assert not any(read(ROWS)[one]["visible"] for one in tab.reading.values())
    services.data.checked = InputError("This sheet holds no examples.")
    assert read(ROWS)[tab.reading["sheet"]]["choices"] == [("May", "May"), ("June", "June")]


def test_repair_is_offered_done_and_undone(services, call, tab, read):
    whole, able = services.data.checked, (Repair("end", (1, 2)), Repair("duplicate", (4,)))
    assert not read(ROWS)[tab.repair]["visible"]
    services.data.checked = replace(whole, repairable=able)
    shown = read(ROWS)
    says(shown[tab.repairs], "Repair can mend rows", "2 rows: what stands after the last", "rows 1 and 2", "row 4")
    services.data.checked = replace(whole, repairs=able)
    mended = call(examples.repair, tab, source=shown[tab.source], max_tokens=2048)[-1]
    assert services.data.mappings[-2] == {**whole.mapping, "repair": "rows"}
    says(mended[tab.repairs], "Repaired", "your file is as it was", "rows 1 and 2")
    assert (mended[tab.repair]["visible"], mended[tab.source].repaired) == (True, True)
    other = {"reading": {"split": "train"}, "source": mended[tab.source], "max_tokens": 2048}
    kept = call(examples.read_otherwise, tab, **other)[-1]
    assert kept[tab.source].reading == {"split": "train", "repair": "rows"}
    undone = call(examples.repair, tab, source=mended[tab.source], max_tokens=2048)[-1]
    assert services.data.mappings[-2] == whole.mapping
    assert not undone[tab.source].repaired
    assert set(undone) <= set(tab.read)


def test_an_edited_cell_becomes_a_copy_of_the_file(services, call, tab):
    page = call(rows.edit_page, tab, which=rows.BAD, by=0, source=ROWS, max_tokens=2048)
    table = page[tab.table]
    assert (table["headers"], table["value"]) == (["row", "patient", "report"], [[3, "p3", ""]])
    says(page[tab.edit_place], "Page 1 of 1")

    def save(report):
        table = pd.DataFrame([[3, "p3", report]], columns=["row", "patient", "report"])
        source = replace(ROWS, reading={"encoding": "cp1250", "split": "train", "repair": "rows"})
        return call(examples.save_edit, tab, table=table, source=source, max_tokens=2048)[-1]

    saved = save("All well.")
    assert (services.data.changes, saved[tab.source].title) == ({3: {"report": "All well."}}, "rows, edited")
    says(saved[tab.edit_error], "Saved as a copy")
    assert saved[tab.source].reading == {"split": "train", "repair": "rows"}, "its other words are of the file alone"
    nothing = save("")
    says(nothing[tab.edit_error], "Nothing was changed")
    assert tab.source not in nothing


def test_the_preview_colours_what_is_learned_and_nothing_waits_for_the_base_to_be_ready(services, call, tab, read):
    shown = call(rows.preview, tab, source=ROWS, max_tokens=2048, by=1)
    assert shown[tab.source].index == 1
    coloured = "Coloured: the 2 tokens it learns to write. The rest, 1 token, is only read."
    says(shown[tab.seen], "<mark><i>o</i><i>ut</i></mark>", coloured)
    says(shown[tab.place], "2 of 2 that can be used")
    other = call(rows.preview, tab, turns="last", source=ROWS, max_tokens=2048)
    assert other[tab.source].turns == "last"
    services.bases.now = BaseState("fetching", "Fetching the base, 62 of 93 MB", "smollm2-135m")
    found = read(replace(ROWS, good=0))
    says(found[tab.facts], "counted once the base is ready")
    shown = call(train.refresh, tab, source=found[tab.source], name="mine", method="lora")
    says(shown[tab.plan], "62 of 93 MB")
    assert shown[tab.start]["interactive"] is False


def visible(tab, drawn):
    """Names of the run card's buttons that are shown."""
    names = ("cancel", "question", "compare", "resume", "up", "down")
    return {name for name in names if drawn[getattr(tab, name)]["visible"]}


@pytest.mark.parametrize(
    ("run", "shown", "label"),
    [
        (run_view(), {"cancel"}, ""),
        (run_view(live="live-r1"), {"cancel", "compare"}, "Chat with it as it learns"),
        (run_view(state="DONE", adapter="mine"), {"compare"}, "Compare in chat"),
        (run_view(state="FAILED", error="Killed.", resume_step=10), {"resume"}, "Go on from the last checkpoint"),
        (run_view(state="CANCELLED"), {"resume"}, "Start again from step 0"),
        (None, set(), ""),
    ],
)
def test_each_state_of_a_run_has_its_buttons(tab, run, shown, label):
    drawn = runs.buttons(tab, run)
    assert visible(tab, drawn) == shown
    for name in shown & {"compare", "resume"}:
        assert drawn[getattr(tab, name)]["value"] == label


def test_a_reload_finds_the_run_that_lives_cancelling_asks_and_waiting_runs_are_moved(services, call, tab):
    services.training.listed = [run_view("done", "DONE"), run_view("alive", name="mine")]
    shown = call(runs.show, tab, followed="")
    assert set(shown) <= set(tab.run_outputs)
    says(shown[tab.run], "mine", 'aria-valuenow="25"')
    says(shown[tab.listing], 'data-id="alive" aria-pressed="true"')
    assert visible(tab, shown) == {"cancel"}
    for keep in (True, False):
        call(runs.act, tab, does="cancel", keep=keep, followed="alive")
        services.training.cancel.assert_called_with("alive", owner="local", keep=keep)
    waiting = [run_view(f"w{place}", "QUEUED", place=place) for place in (1, 2, 3)]
    services.training.listed = [*waiting, run_view("alive")]
    shown = {place: call(runs.show, tab, followed=f"w{place}") for place in (1, 2, 3)}
    moves = {place: visible(tab, one) - {"cancel"} for place, one in shown.items()}
    assert moves == {1: {"down"}, 2: {"up", "down"}, 3: {"up"}}
    says(shown[2][tab.listing], "Waiting, 2nd")
    call(runs.act, tab, does="move", to="up", followed="w2")
    services.training.move.assert_called_once_with("w2", owner="local", to="up")


def test_the_device_panel_asks_about_the_run_that_trains(services, call, tab):
    """Another run may be in the card, waiting behind it."""
    services.training.listed = [run_view("waits", "QUEUED", place=1), run_view("trains")]
    memo, drawn = call(runs.ask_to_cancel, tab, memo={}, followed="waits")
    assert (drawn[tab.followed], visible(tab, drawn)) == ("trains", {"question"})
    assert memo["run-buttons"] == runs.buttons_key(services.training.listed[1], services.training.listed)


def test_curves_of_a_run_and_of_others_laid_over_it(services, call, tab):
    assert runs.small_html(None) == runs.small_html(run_view()) == html.note(runs.NO_CURVES)
    mine = run_view(curves={"lr": [(1, 1e-3), (2, 5e-4)], "memory_bytes": [(1, 1e9), (2, 2e9)]})
    says(runs.small_html(mine), "Learning rate: 5.0e-04", "Memory, peak: 2.0 GB")
    other = run_view("r2", "DONE", name=EVIL, eval_loss=[(0, 2.0), (10, 0.5)])
    services.training.listed = [mine, other]
    assert runs.choices([mine, other], mine) == [(f"{EVIL}, lora", "r2")]

    def lay(others):
        return call(runs.lay, tab.curves, followed="r1", others=others)[tab.curves.laid]

    assert lay([]) == ""
    laid = lay(["r2", "nobody"])
    assert laid.count("<polyline") == 2
    says(laid)
    assert "best at step 10" in charts.loss([(1, 2.0), (2, 1.5)], [(0, 2.0), (10, 0.5), (20, 0.7)], 20)
