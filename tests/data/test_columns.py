"""Column names and contents -> format and mapping; records -> rows to train on, bad rows, and warnings."""

import json

import pytest

from playground.data.check import validate
from playground.data.columns import Shape, detect
from playground.data.example import Judged, Passage, Preference
from playground.data.files import Part
from playground.data.records import Progress, Records
from tests.data.conftest import OBJECTIVES, cases
from tests.refused import refused

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def table(**columns):
    """Three rows; a column is one value for all, or a list of three."""
    each = [value if isinstance(value, list) and len(value) == 3 else [value] * 3 for value in columns.values()]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*each, strict=True)]
    return Records(tuple(columns), [*enumerate(rows, 1)], rows)


CASES = cases("detect")


@pytest.mark.parametrize("pair", CASES["pairs"])
@pytest.mark.parametrize("turned", [False, True])
def test_pairs_by_name(pair, turned):
    prompt, completion = pair.split("/")
    columns = {prompt: "what is it", completion: "it is this"}
    shape = detect(table(**dict(reversed(columns.items())) if turned else columns))
    assert (shape.mapping, shape.objective) == ({"prompt": prompt, "completion": completion}, "sft")


@pytest.mark.parametrize("case", CASES["formats"], ids=[case["mapping"] for case in CASES["formats"]])
def test_formats(case):
    shape = detect(table(**case["columns"]))
    assert (shape.format, shape.objective) == (case["format"], OBJECTIVES[case["format"]])
    assert " ".join(f"{role}={column}" for role, column in shape.mapping.items()) == case["mapping"]


def test_a_name_most_rows_have_goes_before_a_better_one():
    rows = [{"question": "q", "answer": "a"}] * 8 + [{"prompt": "p", "completion": "c"}]
    shape = detect(Records(("prompt", "completion", "question", "answer"), [*enumerate(rows, 1)], rows))
    assert shape.mapping == {"prompt": "question", "completion": "answer"}


@pytest.mark.parametrize(("columns", "given", "mapping"), CASES["mappings"])
def test_a_mapping_overrides(columns, given, mapping):
    records = table(**{name: CHAT if name == "messages" else f"some words of {name}" for name in columns.split()})
    shape = detect(records, dict(each.split("=") for each in given.split()))
    assert " ".join(f"{role}={column}" for role, column in shape.mapping.items()) == mapping


@pytest.mark.parametrize("case", CASES["refused"], ids=[case["says"] for case in CASES["refused"]])
def test_errors(case):
    assert case["says"] in refused("", detect, table(**case["columns"]), case["given"])


ROLES = {
    "prompt-completion": ("prompt", "completion", "system"),
    "instruction": ("prompt", "input", "completion"),
    "chat": ("messages", "system"),
    "preference": ("prompt", "chosen", "rejected"),
    "text": ("text",),
    "unpaired-preference": ("prompt", "completion", "label"),
}
U, A, S = (lambda text, role=role: {"role": role, "content": text} for role in ("user", "assistant", "system"))


def check(kind, *rows):
    shape = Shape(kind, OBJECTIVES[kind], {role: role for role in ROLES[kind]})
    found = validate([Part("rows", Records(ROLES[kind], [*enumerate(rows, 1)], ()), shape)], Progress(None))
    assert found.good + len(found.bad) == len(rows)
    assert all(bad.reason and bad.fix for bad in found.bad)
    return found


def written(checked):
    return [[{"role": turn.role, "content": turn.content} for turn in row.messages] for row in checked.examples]


@pytest.mark.parametrize(
    "messages",
    [
        [U("x"), A("y")],
        [S(" "), U("x"), A("y")],
        [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}],
        [{"role": "Human", "text": "x"}, {"role": "MODEL", "text": "y"}],
        [U([{"type": "text", "text": "x"}]), A("y")],
        json.dumps([U("x"), A("y")], indent=1),
        str([U("x"), A("y")]),
    ],
)
def test_chats_of_every_spelling(messages):
    assert written(check("chat", {"messages": messages})) == [[U("x"), A("y")]]
    assert written(check("chat", {"messages": messages, "system": "s"})) == [[S("s"), U("x"), A("y")]]


def test_texts_of_pairs():
    found = check(
        "prompt-completion",
        {"prompt": 3, "completion": True},
        {"prompt": " kept ", "completion": 2.5, "system": "s"},
        {"prompt": [S("s"), U("q")], "completion": [A("a")]},
    )
    assert written(found) == [[U("3"), A("true")], [S("s"), U(" kept "), A("2.5")], [S("s"), U("q"), A("a")]]
    pairs = (("do", "this"), ("do", ""), ("", "this"))
    found = check("instruction", *({"prompt": p, "input": i, "completion": "a"} for p, i in pairs))
    assert [row.prompt[0].content for row in found.examples] == ["do\n\nthis", "do", "this"]


def test_preferences_judgements_and_passages():
    found = check(
        "preference",
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "chosen": [U("q"), A("good")], "rejected": [U("q"), A("bad")]},
        {"prompt": [U("q")], "chosen": [A("bad")], "rejected": [A("good")]},
    )
    chosen = [(row.chosen, row.prompt) for row in found.others if isinstance(row, Preference)]
    assert chosen == [(answer, found.others[0].prompt) for answer in ("good", "good", "bad")]
    reasons = [warning.reason for warning in found.warnings]
    assert reasons == ["the same as row 1", "same prompt and answers as row 1, the opposite choice"]

    asked = {"prompt": "q", "completion": "a"}
    found = check("unpaired-preference", *(asked | {"label": label} for label in (True, "no", 1)))
    assert [row.good for row in found.others if isinstance(row, Judged)] == [True, False, True]
    reasons = [warning.reason for warning in found.warnings]
    assert reasons == ["same prompt and answer as row 1, the opposite label", "the same as row 1"]

    found = check("text", {"text": "a"}, {"text": "a"})
    assert (found.others, found.duplicates) == ((Passage("a", 1), Passage("a", 2)), 1)


def test_duplicates_conflicts_and_damage_are_warnings():
    pair, other = {"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "c"}
    damaged = {"prompt": "x\ufffd", "completion": "y"}
    rows = (pair, {"prompt": "r", "completion": "b"}, pair, other, {**pair, "system": "s"}, damaged, other)
    found = check("prompt-completion", *rows)
    assert (found.good, found.duplicates) == (7, 2)
    assert [(warning.row, warning.reason) for warning in found.warnings] == [
        (3, "the same as row 1"),
        (4, "same prompt as row 1, another answer"),
        (6, "holds \ufffd: a character was lost when the file was saved"),
        (7, "the same as row 4"),
    ]
