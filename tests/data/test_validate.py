"""Records -> rows to train on, bad rows with a reason and a fix, and warnings."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from playground.data.check import Validated
from playground.data.columns import FORMATS, Shape
from playground.data.example import Example, Judged, Passage, Preference
from playground.data.records import Records

OBJECTIVES = {name: objective for name, objective, _, _ in FORMATS}
U, A, S = (lambda text, role=role: {"role": role, "content": text} for role in ("user", "assistant", "system"))


def check(kind: str, *rows: Any) -> Validated:
    roles = {
        "prompt-completion": ("prompt", "completion", "system"),
        "instruction": ("prompt", "input", "completion"),
        "chat": ("messages", "system"),
        "preference": ("prompt", "chosen", "rejected"),
        "text": ("text",),
        "unpaired-preference": ("prompt", "completion", "label"),
    }[kind]
    shape = Shape(kind, OBJECTIVES[kind], {role: role for role in roles})
    found = Validated()
    found.add(Records(roles, [*enumerate(rows, 1)], ()), shape)
    found.finish()
    assert len(found.rows) + len(found.bad) == len(rows)
    assert all(bad.reason and bad.fix for bad in found.bad)
    return found


def turns(*messages: Any) -> list[tuple[str, str]]:
    (row,) = check("chat", {"messages": list(messages)}).rows
    assert isinstance(row, Example)
    return [(message.role, message.content) for message in row.messages]


BAD = [
    ("prompt-completion", {"prompt": " \n\u00a0", "completion": "a"}, "the prompt is empty"),
    ("prompt-completion", {"prompt": "q", "completion": None}, "the answer is empty"),
    ("prompt-completion", {"prompt": "q", "completion": float("nan")}, "the answer is empty"),
    ("prompt-completion", {}, "no prompt"),
    ("prompt-completion", {"prompt": ["q"], "completion": "a"}, "is a list, not text"),
    ("prompt-completion", {"prompt": "q\ud800", "completion": "a"}, "lone surrogate"),
    ("prompt-completion", {"prompt": "q", "completion": [U("a")]}, "does not end with an assistant turn"),
    ("instruction", {"prompt": "", "input": "", "completion": "a"}, "the prompt is empty"),
    ("chat", {}, "no messages: 'messages' is missing"),
    ("chat", {"messages": None}, "is empty"),
    ("chat", {"messages": U("x")}, "not a list of turns"),
    ("chat", {"messages": 5}, "not a list of turns"),
    ("chat", {"messages": ["hello"]}, "turn 1 of 'messages' is not an object"),
    ("chat", {"messages": [U("x"), A("")]}, "turn 2 (assistant) is empty"),
    ("chat", {"messages": [U("x"), {"role": "assistant"}]}, "turn 2 (assistant) is empty"),
    ("chat", {"messages": [S("s"), U("x"), U("y"), A("b")]}, "two user turns in a row (turns 2 and 3)"),
    ("chat", {"messages": [S("x")]}, "no assistant turn"),
    ("chat", {"messages": [S("")]}, "no assistant turn"),
    ("unpaired-preference", {"prompt": "q", "completion": "a", "label": ""}, "is empty"),
    ("unpaired-preference", {"prompt": "q", "completion": "a"}, "no label"),
    ("text", {"text": "\n"}, "the text is empty"),
]


@pytest.mark.parametrize(("kind", "row", "says"), BAD)
def test_bad_rows(kind: str, row: Any, says: str) -> None:
    found = check(kind, row)
    assert [bad.row for bad in found.bad] == [1]
    assert says in found.bad[0].reason


def test_chats_of_every_spelling() -> None:
    pair = [("user", "x"), ("assistant", "y")]
    assert turns(S("s"), U("x"), A("y"), U("z"), A("w")) == [("system", "s"), *pair, ("user", "z"), ("assistant", "w")]
    assert turns(S(" "), U("x"), A("y")) == pair
    assert turns({"from": "human", "value": "x"}, {"from": "gpt", "value": 5}) == [("user", "x"), ("assistant", "5")]
    assert turns({"role": "Human", "text": "x"}, {"role": "MODEL", "text": "y"}) == pair
    assert turns(U([{"type": "text", "text": "x"}]), A("y")) == pair


@pytest.mark.parametrize("cell", [json.dumps([U("x"), A("y")], indent=1), str([U("x"), A("y")])])
def test_a_chat_written_into_a_cell(cell: str) -> None:
    (row,) = check("chat", {"messages": cell, "system": "s"}).rows
    assert isinstance(row, Example)
    assert [asdict(turn) for turn in row.messages] == [S("s"), U("x"), A("y")]


def test_texts_of_pairs() -> None:
    rows = check(
        "prompt-completion",
        {"prompt": 3, "completion": True},
        {"prompt": " kept ", "completion": 2.5, "system": "s"},
        {"prompt": [S("s"), U("q")], "completion": [A("a")]},
    ).rows
    assert [[asdict(turn) for turn in row.messages] for row in rows if isinstance(row, Example)] == [
        [U("3"), A("true")],
        [S("s"), U(" kept "), A("2.5")],
        [S("s"), U("q"), A("a")],
    ]
    rows = check(
        "instruction",
        {"prompt": "do", "input": "this", "completion": "a"},
        {"prompt": "do", "input": "", "completion": "b"},
        {"prompt": "", "input": "this", "completion": "c"},
    ).rows
    assert [row.prompt[0].content for row in rows if isinstance(row, Example)] == ["do\n\nthis", "do", "this"]


def test_preferences_judgements_and_passages() -> None:
    found = check(
        "preference",
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "chosen": [U("q"), A("good")], "rejected": [U("q"), A("bad")]},
        {"prompt": [U("q")], "chosen": [A("bad")], "rejected": [A("good")]},
    )
    chosen = [(row.chosen, row.prompt) for row in found.rows if isinstance(row, Preference)]
    assert chosen == [(answer, found.rows[0].prompt) for answer in ("good", "good", "bad")]
    reasons = [warning.reason for warning in found.warnings]
    assert reasons == ["the same as row 1", "same prompt and answers as row 1, the opposite choice"]

    found = check(
        "unpaired-preference", *({"prompt": "q", "completion": "a", "label": label} for label in (True, "no", 1))
    )
    assert [row.good for row in found.rows if isinstance(row, Judged)] == [True, False, True]
    reasons = [warning.reason for warning in found.warnings]
    assert reasons == ["same prompt and answer as row 1, the opposite label", "the same as row 1"]

    found = check("text", {"text": "a"}, {"text": "a"})
    assert found.rows == [Passage("a", 1), Passage("a", 2)]
    assert found.duplicates == 1


def test_duplicates_conflicts_and_damage_are_warnings() -> None:
    pair = {"prompt": "q", "completion": "a"}
    found = check(
        "prompt-completion",
        pair,
        {"prompt": "r", "completion": "b"},
        pair,
        {**pair, "completion": "c"},
        {**pair, "system": "s"},
        {"prompt": "x\ufffd", "completion": "y"},
        {**pair, "completion": "c"},
    )
    assert len(found.rows) == 7
    assert found.duplicates == 2
    assert [(warning.row, warning.reason) for warning in found.warnings] == [
        (3, "the same as row 1"),
        (4, "same prompt as row 1, another answer"),
        (6, "holds \ufffd: a character was lost when the file was saved"),
        (7, "the same as row 4"),
    ]
