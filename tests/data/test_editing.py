"""Rows as a person edits them, and what is pasted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from playground.data.check import check_file
from playground.data.editing import edited_lines, table_of
from playground.data.read import MEBI
from playground.data.text_formats import pasted_kind

LIMIT = 8 * MEBI


def test_an_edit_keeps_the_numbers_and_mends_what_it_touches(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('prompt,completion\na,b\nc,\none,"torn\n')
    before = check_file(file)
    assert [bad.row for bad in before.bad] == [2, 3]
    table = table_of(file, [2, 3], LIMIT)
    assert table.columns == ("prompt", "completion")
    assert table.rows == {2: ["c", ""], 3: ["", ""]}
    copy = tmp_path / "copy.jsonl"
    copy.write_text("".join(edited_lines(file, {2: {"completion": "d"}}, LIMIT)))
    after = check_file(copy)
    assert (after.rows, [bad.row for bad in after.bad]) == (3, [3])
    assert [(row.row, row.completion) for row in after.examples] == [(1, "b"), (2, "d")]


def test_a_conversation_is_edited_as_json(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": ""}]
    file.write_text(
        "\n".join(
            [
                json.dumps({"messages": turns}),
                json.dumps({"messages": [turns[0], {"role": "assistant", "content": "Yes"}]}),
            ]
        )
    )
    cell = table_of(file, [1], LIMIT).rows[1][0]
    assert json.loads(cell) == turns
    (first, _) = edited_lines(file, {1: {"messages": cell.replace('""', '"Hello"')}}, LIMIT)
    assert json.loads(first)["messages"][1]["content"] == "Hello"
    (first, _) = edited_lines(file, {1: {"messages": "no list any more"}}, LIMIT)
    assert json.loads(first)["messages"] == "no list any more"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('[{"prompt": "a", "completion": "b"}]', ".json"),
        ('{"prompt": "a"}\n{"prompt": "b"}', ".jsonl"),
        ('{"prompt": "a", \n{"prompt": "b"}', ".jsonl"),
        ("prompt\tcompletion\na\tb", ".tsv"),
        ("prompt,completion\na,b", ".csv"),
        ("prompt;completion\na;b", ".csv"),
        ("It was a day like any other, or nearly so.\n\nAnd then it was not.", ".txt"),
        ("one line", ".txt"),
    ],
)
def test_what_is_pasted_is_read_as_what_it_looks_like(tmp_path: Path, text: str, kind: str) -> None:
    assert pasted_kind(text) == kind
