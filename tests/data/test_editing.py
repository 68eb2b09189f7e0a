"""Rows as a person edits and takes them away: bad ones that no spreadsheet runs, good ones that read back the same."""

import csv
import io
import json
from dataclasses import asdict

import pytest

from playground.data.check import check_file
from playground.data.editing import BOM, bad_rows_csv, edited_lines, good_rows_jsonl, table_of
from playground.data.example import BadRow, Checked, Example, FilePart, Judged, Message, Passage, Preference
from playground.data.files import MEBI
from playground.data.text_formats import pasted_kind
from playground.data.token_counts import token_report
from tests.data.conftest import Words, jsonl, pair, put, usable

HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1", '=HYPERLINK("http://x","y")']


def table(text):
    assert text.startswith(BOM)
    return list(csv.reader(io.StringIO(text.removeprefix(BOM), newline="")))


def test_rows_reasons_and_what_they_hold_of_several_files_and_of_what_is_too_long(tmp_path):
    held = {2: {"completion": "x", "prompt": None, "n": 5, "m": [1, {"b": "ü"}]}, 3: {"n": True}}
    held[9] = {"m": "\ud800", "n": "nul\0", "prompt": 1.5}
    bad = (BadRow(2, "no prompt", "Write one."), BadRow(3, "not valid JSON", "Mend it."), BadRow(9, "gone", "Look."))
    found = table(bad_rows_csv(Checked("chat", "sft", 9, (), bad, columns=("prompt", "completion", "n")), None, held))
    assert found == [
        ["row", "reason", "fix", "prompt", "completion", "n", "m"],
        ["2", "no prompt", "Write one.", "", "x", "5", '[1, {"b": "ü"}]'],
        ["3", "not valid JSON", "Mend it.", "", "", "true", ""],
        ["9", "gone", "Look.", "1.5", "", "nul", "?"],
    ]
    assert table(bad_rows_csv(Checked("chat", "sft", 9, ()))) == [["row", "reason", "fix"]]
    files, bad = (FilePart("a.csv", 1, 3), FilePart("b.csv", 4, 2)), (BadRow(2, "r", "f"), BadRow(5, "r", "f"))
    found = table(bad_rows_csv(Checked("chat", "sft", 5, (), bad, files=files)))
    assert found == [["file", "row", "reason", "fix"], ["a.csv", "2", "r", "f"], ["b.csv", "2", "r", "f"]]
    checked = check_file(jsonl(tmp_path, pair(2, 2), pair(2, 30), "{broken"))
    _, second, third = table(bad_rows_csv(checked, token_report(checked, Words(), 12)))
    assert (second[0], third[0], "the answer alone is 31 tokens" in second[1]) == ("2", "3", True)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_cell_is_a_formula(hostile):
    bad = (BadRow(1, hostile, hostile), BadRow(2, "x", "y"))
    files = (FilePart(hostile, 1, 1), FilePart("b.csv", 2, 1))
    content = {1: {hostile: hostile}, 2: {hostile: hostile}}
    text = bad_rows_csv(Checked("chat", "sft", 2, (), bad, columns=(hostile,), files=files), None, content)
    cells = [cell for row in table(text) for cell in row]
    assert cells.count(f"'{hostile}") == 6
    assert not any(cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝")) for cell in cells)
    assert all(part.startswith('"') for part in text.removeprefix(BOM).split("\r\n") if part and "\r" not in hostile)


ASKED = (Message("system", "Be brief."), Message("user", "What [{'role': 'x'}] is it?"))
TEXT = 'Line one\r\n\n"quoted"\u2028 next \x85 ü 日本 🙂 [{"role": "user", "content": "x"}]'
CHAT = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", " d "))
ROUND = {
    "sft": (Example((*ASKED, Message("assistant", TEXT)), 1), Example(CHAT, 2)),
    "preference": (Preference(ASKED, json.dumps([asdict(CHAT[1])]), TEXT, 1), Preference(ASKED[1:], "yes", "no", 2)),
    "unpaired_preference": (Judged(ASKED, TEXT, True, 1), Judged(ASKED[1:], "no", False, 2)),
    "text": (Passage(TEXT, 1), Passage("another piece of text that is longer", 2)),
}


@pytest.mark.parametrize("objective", ROUND)
def test_good_rows_read_back_as_they_were(objective, tmp_path):
    rows = ROUND[objective]
    again = check_file(put(tmp_path, "good.jsonl", good_rows_jsonl(usable(*rows))))
    assert (again.objective, again.bad, again.usable) == (objective, (), rows)


LIMIT = 8 * MEBI


def test_an_edit_keeps_the_numbers_mends_what_it_touches_and_a_conversation_is_edited_as_json(tmp_path):
    file = put(tmp_path, "rows.csv", 'prompt,completion\na,b\nc,\none,"torn\n')
    assert [bad.row for bad in check_file(file).bad] == [2, 3]
    assert table_of(file, [2, 3], LIMIT) == (("prompt", "completion"), {2: ["c", ""], 3: ["", ""]})
    lines = edited_lines(file, {2: {"completion": "d"}}, LIMIT)
    after = check_file(put(tmp_path, "copy.jsonl", "".join(lines)))
    assert (after.rows, [bad.row for bad in after.bad]) == (3, [3])
    assert [(row.row, row.completion) for row in after.examples] == [(1, "b"), (2, "d")]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]
    file = jsonl(tmp_path, {"messages": turns}, {"messages": [turns[0], {"role": "assistant", "content": "Yes"}]})
    cell = table_of(file, [1], LIMIT).rows[1][0]
    assert json.loads(cell) == turns
    for text, kept in (
        (cell.replace('""', '"Hello"'), [turns[0], {"role": "assistant", "content": "Hello"}]),
        ("no list any more", "no list any more"),
    ):
        first, _ = edited_lines(file, {1: {"messages": text}}, LIMIT)
        assert json.loads(first)["messages"] == kept


PASTED = {
    '[{"prompt": "a", "completion": "b"}]': ".json",
    '{"prompt": "a"}\n{"prompt": "b"}': ".jsonl",
    '{"prompt": "a", \n{"prompt": "b"}': ".jsonl",
    "prompt\tcompletion\na\tb": ".tsv",
    "prompt,completion\na,b": ".csv",
    "prompt;completion\na;b": ".csv",
    "It was a day like any other, or nearly so.\n\nAnd then it was not.": ".txt",
    "one line": ".txt",
}


def test_what_is_pasted_is_read_as_what_it_looks_like():
    assert {text: pasted_kind(text) for text in PASTED} == PASTED
