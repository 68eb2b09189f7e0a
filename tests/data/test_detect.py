"""Column names and contents -> format and mapping."""

from __future__ import annotations

from typing import Any

import pytest

from playground.data.columns import FORMATS, detect
from playground.data.records import Records
from playground.errors import InputError

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
OBJECTIVES = {each.name: each.objective for each in FORMATS} | {"instruction": "sft"}
SHARE = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]


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


PAIRS = """
prompt/completion, Prompt/Completion, PROMPT /COMPLETION, question/answer, input/output, query/response,
instruction/response, user_message/Assistant Message, source/target, frage/antwort, pregunta/respuesta,
Question/Réponse, domanda/risposta, pergunta/resposta, 问题/回答, вопрос/ответ, mr/ref, text/category, text/label,
dialogue/summary, article/highlights, patient/report, user input/expected_output
"""


@pytest.mark.parametrize("pair", [pair.strip("\n") for pair in PAIRS.replace(",\n", ", ").split(", ")])
@pytest.mark.parametrize("turned", [False, True])
def test_pairs_by_name(pair: str, turned: bool) -> None:
    prompt, completion = pair.split("/")
    columns = {prompt: "what is it", completion: "it is this"}
    shape = detect(table(**dict(reversed(columns.items())) if turned else columns))
    assert shape.mapping == {"prompt": prompt, "completion": completion}
    assert shape.objective == "sft"


@pytest.mark.parametrize(
    ("kind", "mapping", "columns"),
    [
        (
            "instruction",
            "prompt=instruction input=input completion=output",
            {"instruction": "do it", "input": "x", "output": "y"},
        ),
        ("instruction", "prompt=instruction completion=output", {"instruction": "do it", "output": "y"}),
        (
            "instruction",
            "prompt=instruction input=context completion=response",
            {"instruction": "do", "context": "x", "response": "y", "category": ["a", "b", "c"]},
        ),
        ("chat", "system=system messages=Conversation", {"Conversation": SHARE, "system": "be kind"}),
        ("text", "text=text", {"id": "1", "url": "http://x", "text": "a long story", "timestamp": "2020"}),
        ("text", "text=text", {"text": "a b c", "score": [0.1, 0.2, 0.3]}),
        ("text", "text=notes", {"notes": ["a b", "c d", "e f"], "id": [1, 2, 3]}),
        (
            "prompt-completion",
            "prompt=symptoms completion=finding",
            {"symptoms": ["a b", "c d", "e f"], "finding": ["u v", "w x", "y z"]},
        ),
        (
            "prompt-completion",
            "prompt=kennung completion=befund",
            {"kennung": ["GEN", "FAM", "GEN"], "befund": ["u v", "w x", "y z"]},
        ),
        (
            "prompt-completion",
            "prompt=report_body completion=kind",
            {"kind": ["GEN", "GEN", "GEN"], "report_body": ["u v", "w x", "y z"]},
        ),
        (
            "prompt-completion",
            "prompt=said completion=wrote",
            {"ID": [0, 1, 2], "code": ["G", "F", "G"], "said": ["a b", "c d", "e f"], "wrote": ["u v", "w x", "y z"]},
        ),
        (
            "prompt-completion",
            "prompt=dialogue completion=section_text",
            {
                "ID": [0, 1, 2],
                "section_header": ["G", "F", "G"],
                "section_text": "a b",
                "dialogue": ["u v", "w x", "y z"],
            },
        ),
        (
            "prompt-completion",
            "prompt=patient completion=letter",
            {"Unnamed: 0": [0, 1, 2], "patient": "sore throat", "letter": ["u v", "w x", "y z"]},
        ),
    ],
)
def test_formats(kind: str, mapping: str, columns: dict[str, Any]) -> None:
    shape = detect(table(**columns))
    assert (shape.format, shape.objective) == (kind, OBJECTIVES[kind])
    assert " ".join(f"{role}={column}" for role, column in shape.mapping.items()) == mapping


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


@pytest.mark.parametrize(
    ("columns", "given", "says"),
    [
        ({"a": "x", "b": "y"}, {"prompt": "c", "completion": "b"}, "no column 'c'. The file has the columns a, b"),
        ({"a": "x", "b": "y"}, {"promt": "a"}, "no role 'promt'. Roles are prompt, input, completion"),
        ({"a": "x", "b": "y"}, {"prompt": "a", "completion": "a"}, "a role takes one column"),
        ({"a": "x", "b": "y"}, {"prompt": "a", "question": "b"}, "a role takes one column"),
        ({"a": "x", "b": "y"}, {"prompt": "a", "text": "b"}, "does not go together"),
        ({"a": "x y", "b": "y z", "c": "z z"}, {}, "columns a, b, c; which is the prompt"),
        ({"a": "x y", "b": "y z", "c": "z z"}, {}, "--map prompt=COLUMN completion=COLUMN"),
        ({"prompt": "only this"}, {}, "columns prompt"),
        ({"How do I locate my card?": "x y", "card_arrival": "u v"}, {}, "The first line looks like data"),
        ({"1": [1, 2, 3], "2": [1, 2, 3]}, {}, "The first line looks like data"),
    ],
)
def test_errors(columns: dict[str, Any], given: dict[str, str], says: str) -> None:
    with pytest.raises(InputError) as caught:
        detect(table(**columns), given)
    assert says in str(caught.value)
