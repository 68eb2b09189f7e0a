"""Column names and contents -> format and mapping."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from playground.data.columns import FORMATS, detect
from playground.data.records import Records
from playground.errors import InputError

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
OBJECTIVES = {each.name: each.objective for each in FORMATS} | {"instruction": "sft"}


def table(**columns: Any) -> Records:
    """Three rows; a column is one value for all, or a list of three."""
    rows: list[Any] = []
    for place in range(3):
        row = {}
        for name, value in columns.items():
            listed = isinstance(value, list) and len(value) == 3
            row[name] = value[place] if listed else value
        rows.append((place + 1, row))
    return Records(tuple(columns), rows, [row for _, row in rows])


CASES = tomllib.loads(Path(__file__).with_name("detect.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("pair", CASES["pairs"])
@pytest.mark.parametrize("turned", [False, True])
def test_pairs_by_name(pair: str, turned: bool) -> None:
    prompt, completion = pair.split("/")
    columns = {prompt: "what is it", completion: "it is this"}
    shape = detect(table(**dict(reversed(columns.items())) if turned else columns))
    assert shape.mapping == {"prompt": prompt, "completion": completion}
    assert shape.objective == "sft"


@pytest.mark.parametrize("case", CASES["formats"], ids=[case["mapping"] for case in CASES["formats"]])
def test_formats(case: dict[str, Any]) -> None:
    shape = detect(table(**case["columns"]))
    assert (shape.format, shape.objective) == (case["format"], OBJECTIVES[case["format"]])
    assert " ".join(f"{role}={column}" for role, column in shape.mapping.items()) == case["mapping"]


def test_a_name_most_rows_have_goes_before_a_better_one() -> None:
    rows = [{"question": "q", "answer": "a"}] * 8 + [{"prompt": "p", "completion": "c"}]
    shape = detect(Records(("prompt", "completion", "question", "answer"), [*enumerate(rows, 1)], rows))
    assert shape.mapping == {"prompt": "question", "completion": "answer"}


@pytest.mark.parametrize(
    ("given", "mapping"),
    [
        ({"prompt": "b", "completion": "a"}, {"prompt": "b", "completion": "a"}),
        ({"Instruction": "B ", "answer": "a"}, {"prompt": "b", "completion": "a"}),
        ({"prompt": "b", "completion": "a", "system": "note"}, {"prompt": "b", "completion": "a", "system": "note"}),
        ({"text": "note"}, {"text": "note"}),
        ({"completion": "question"}, {"prompt": "a", "completion": "question"}),
        ({"prompt": "a"}, {"prompt": "a", "completion": "answer"}),
    ],
)
def test_a_mapping_overrides(given: dict[str, str], mapping: dict[str, str]) -> None:
    columns = {"a": "one two", "b": "three four", "note": "x y", "question": "q q", "answer": "r r"}
    if given == {"completion": "question"}:
        columns = {"a": "one two", "question": "q q"}
    assert detect(table(**columns), given).mapping == mapping


def test_a_mapping_beside_messages() -> None:
    records = table(messages=CHAT, prompt="hi there", reply="ho there")
    assert detect(records).format == "chat"
    assert detect(records, {"completion": "reply"}).mapping == {"prompt": "prompt", "completion": "reply"}


@pytest.mark.parametrize("case", CASES["refused"], ids=[case["says"] for case in CASES["refused"]])
def test_errors(case: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        detect(table(**case["columns"]), case["given"])
    assert case["says"] in str(caught.value)
