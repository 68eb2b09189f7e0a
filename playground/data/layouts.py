"""Records as known programs lay them out -> the rows in them; an answer that is an object -> its JSON text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import takewhile
from typing import Any

from playground.data.column_profile import answer_kind, flatten, spans_of, spelling, written
from playground.data.example import is_turn, is_turns, plain_text

_NESTED = ("instances", "paragraphs", "qas")
"""Lists of rows inside a row: Alpaca's seed tasks, SQuAD's own JSON."""
_MARKERS = frozenset({*_NESTED, "request", "patterns"})
_WRAPPERS = frozenset({"text", "content", "value", "parts", "choices", "messages", "message", "body", "generated_text"})
"""Keys of an object that holds an answer's text, and is none itself."""


def flat_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of one record, with their columns as ``flatten`` names them."""
    return [_flat(record)] if _MARKERS.isdisjoint(record) else [*map(_flat, rows_in(record))]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    nested = {key: answer_text(key, value, row) for key, value in row.items() if isinstance(value, dict | list)}
    return flatten({**row, **nested} if nested else row)


def rows_in(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rows of one record, itself as a rule.

    1. an API's log is a chat; 2. each row of a list inside, with what stands around it; 3. each pattern of an intent.
    """
    if _MARKERS.isdisjoint(record):
        yield record
        return
    if chat := _logged(record):  # 1
        yield {**{key: value for key, value in record.items() if key not in ("request", "response")}, "messages": chat}
        return
    for key in _NESTED:  # 2
        inner = record.get(key)
        if isinstance(inner, list) and inner and all(isinstance(item, dict) for item in inner):
            around = {name: value for name, value in record.items() if name != key}
            for item in inner:
                yield from rows_in(around | item)
            return
    patterns = record.get("patterns")
    if isinstance(patterns, list) and "tag" in record:  # 3
        rest = {name: value for name, value in record.items() if name not in ("patterns", "responses")}
        replies = {"responses of the intent": record["responses"]} if "responses" in record else {}
        for pattern in patterns:
            yield {"pattern": pattern, **rest, **replies}
        return
    yield record


def _logged(record: Mapping[str, Any]) -> list[Any]:
    """The turns of a request and its response, as OpenAI's and Anthropic's APIs write them; [] for others."""
    request, response = record.get("request"), record.get("response")
    request, response = (one.get("body", one) if isinstance(one, dict) else one for one in (request, response))
    if not isinstance(request, dict) or not is_turns(request.get("messages")):
        return []
    turns = list(request["messages"])
    if system := request.get("system"):
        turns.insert(0, {"role": "system", "content": system})
    choices = response.get("choices") if isinstance(response, dict) else None
    if isinstance(choices, list) and choices and isinstance(choices[0], dict) and is_turn(choices[0].get("message")):
        return [*turns, choices[0]["message"]]
    if isinstance(response, str):
        return [*turns, {"role": "assistant", "content": response}]
    return [*turns, response] if is_turn(response) else []


def answer_text(name: str, value: Any, beside: Mapping[str, Any]) -> Any:
    """The value of a column with an answer's name, as text where it is data: 1. spans of a text; 2. several labels;

    3. right answers with where they stand; 4. any other object, list of them, or of values is its JSON. Else itself.
    """
    kind = answer_kind(name)
    if not kind:
        return value
    if isinstance(value, dict):
        return value if _wraps(value) or not value else written(value)
    if not value:
        return "[]" if kind == "structured" else value
    if spans := spans_of(value, beside):  # 1
        return written(spans)
    if all(isinstance(item, str) for item in value):
        if kind == "kinds" and _is_annotated(beside):
            return ", ".join(value)  # 2
        return written(value) if kind == "structured" else value
    if all(isinstance(item, dict) for item in value) and not is_turns(value):
        if all("text" in item and "answer_start" in item for item in value):
            return [item["text"] for item in value]  # 3
        return value if kind == "scored" and len(value) > 1 and _is_scored(value[0]) else _json_of(value)
    return value


def _is_annotated(record: Mapping[str, Any]) -> bool:
    """Whether doccano or Prodigy wrote it."""
    return "Comments" in record or "comments" in record or "_input_hash" in record


def _json_of(value: list[Any]) -> Any:
    return value if any(not _WRAPPERS.isdisjoint(item) for item in value) else written(value)


def _is_scored(item: Mapping[str, Any]) -> bool:
    return any(key in item for key in ("overall_score", "score", "rating", "fine-grained_score", "rank"))


def _wraps(value: Mapping[str, Any]) -> bool:
    """Whether an object is an envelope of the answer's text."""
    if is_turn(value) or not _WRAPPERS.isdisjoint(value):
        return True
    return len(value) == 1 and answer_kind(next(iter(value))) in ("completions", "scored")


_TITLE, _BODY = (
    ("title", "name", "heading"),
    ("text", "content", "page_content", "passage", "snippet", "body", "document"),
)


def source_text(value: Any, what: str) -> str:
    """What a prompt is to be answered from: a text, a list of texts, or of documents with a title and a text."""
    if not isinstance(value, list | dict):
        return plain_text(value, what)
    return "\n\n".join(map(_document, value if isinstance(value, list) else [value]))


def _document(item: Any) -> str:
    if isinstance(item, dict):
        parts = [next((item[key] for key in keys if isinstance(item.get(key), str)), "") for keys in (_TITLE, _BODY)]
        return "\n".join(filter(None, parts)) if parts[1] else written(item)
    return item if isinstance(item, str) else written(item)


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTERED = re.compile(r"(option|options|choice|op|opt|)([a-h1-9])")


def option_columns(columns: Iterable[str]) -> list[str]:
    """The columns of a question's options, in their order: A B C, option_a option_b, choice1 choice2; [] for none."""
    found: dict[str, dict[str, str]] = {}
    for column in columns:
        if len(column) < 12 and (match := _LETTERED.fullmatch(spelling(column))):
            found.setdefault(match[1], {}).setdefault(match[2], column)
    for stem, group in found.items():
        row = "abcdefgh" if "a" in group else "123456789"
        order = [group[mark] for mark, _ in zip(row, takewhile(group.__contains__, row), strict=False)]
        if len(order) >= (2 if stem else 3) and (stem or "a" in group):
            return order
    return []


def options_text(record: Mapping[str, Any], column: str, answer: object = "") -> str:
    """The options under a prompt, one a line, marked as the answers name them; "" for none.

    column: of the list of them, or the first of their columns. answer: one whose number counts a list from 0.
    """
    value, marks = record.get(column), None
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, list):
        marks = record.get(f"{column.removesuffix('text')}label")  # ARC's
        texts = [_document(item) for item in value]
        if not isinstance(marks, list) or len(marks) != len(texts):
            marks = [str(place) for place in range(len(texts))] if str(answer).strip().isdigit() else _LETTERS
    else:
        columns = option_columns(record)
        marks = [spelling(one)[-1].upper() for one in columns]
        texts = [plain_text(record.get(one), f"the option ({one})") for one in columns]
    return (
        "\n\n" + "\n".join(f"{mark}. {text}" for mark, text in zip(marks, texts, strict=False) if text) if texts else ""
    )
