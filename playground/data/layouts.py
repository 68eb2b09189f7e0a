"""Records as known programs lay them out -> the rows in them; an answer that is an object -> its JSON text. And which
columns and keys of a file reach no example, and which of them seem to belong to one by name or content."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from playground.data.column_profile import (
    NAMES,
    Column,
    answer_kind,
    clean_name,
    flatten,
    is_nested,
    parents_of,
    profile,
    spans_of,
    spelling,
    truth,
    written,
)
from playground.data.example import Example, Row, Unused, texts_of, without_end
from playground.data.tools import pieces
from playground.data.turns import MASKS, STRUCTURE, Unusable, is_turn, is_turns, plain_text, read_turns, turn_text

_NESTED = ("instances", "paragraphs", "qas")
"""Lists of rows inside a row: Alpaca's seed tasks, SQuAD's own JSON."""
_MARKERS = frozenset({*_NESTED, "request", "patterns", "_input_hash"})
_WRAPPERS = frozenset({"text", "content", "value", "parts", "choices", "messages", "message", "body", "generated_text"})
"""Keys of an object that holds an answer's text, and is none itself."""


def flat_rows(record: Mapping[str, Any]) -> list[dict[str, Any] | Unusable]:
    """The rows of one record, with their columns as ``flatten`` names them; one without an answer is Unusable."""
    if _MARKERS.isdisjoint(record):
        return [_flat(record)]
    try:
        return [*map(_flat, rows_in(record))]
    except Unusable as why:
        return [why]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    nested = {key: answer_text(key, value, row) for key, value in row.items() if isinstance(value, dict | list)}
    return flatten({**row, **nested} if nested else row)


def rows_in(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The rows of one record, itself as a rule.

    1. an API's log is a chat; 2. each row of a list inside, with what stands around it; 3. each pattern of an intent;
    4. a task of Prodigy's. Raises Unusable for one that has no answer.
    """
    if _MARKERS.isdisjoint(record):
        yield record
        return
    if chat := _logged(record):  # 1
        around = {key: value for key, value in record.items() if key not in ("request", "response")}
        around |= {"messages of the row": around["messages"]} if "messages" in around else {}
        yield around | _beside_log(record) | {"messages": chat}
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
    yield _task(record) if "_input_hash" in record and "answer" in record else record  # 4


def _task(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """As https://prodi.gy/docs/api-interfaces has it: of a choice the texts of the options whose ids were accepted, of
    a form what was typed, of a suggested label or spans both, and ``answer`` says whether they are right."""
    said, options, accepted = record["answer"], record.get("options"), record.get("accept")
    if said == "ignore":
        raise Unusable("the annotator skipped it (answer: ignore)", "Annotate it, or leave it out.")
    if isinstance(options, list) and isinstance(accepted, list):
        each = [one for one in options if isinstance(one, dict) and "id" in one]
        texts = {str(one["id"]): str(one.get("text", one["id"])) for one in each}
        chosen = [texts.get(str(id), str(id)) for id in accepted]
        if said == "reject" or not chosen:
            raise Unusable("none of its options was accepted", "Choose one, or leave it out.")
        return {**record, "options": [*texts.values()], "accept": ", ".join(chosen)}
    typed = record.get("field_id", "user_input")
    if typed in record:
        return {**{name: value for name, value in record.items() if name != typed}, "user_input": record[typed]}
    if "label" in record and not record.get("spans"):
        return {name: value for name, value in record.items() if name != "spans"}
    return record


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


def _beside_log(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a request and its response hold besides the turns: ``request.model``, ``response.usage``."""
    found: dict[str, Any] = {}
    for name, turns in (("request", ("messages", "system")), ("response", ())):
        value = record[name]
        parts = [value, value.get("body")] if isinstance(value, dict) else []
        held = {key: inner for part in parts if isinstance(part, dict) for key, inner in part.items() if key != "body"}
        choices = held.get("choices")  # a name that would say options
        if name == "response" and isinstance(choices, list) and choices and isinstance(choices[0], dict):
            first = {key: inner for key, inner in choices[0].items() if key != "message"}
            held["replies"] = [one for one in (first, *held.pop("choices")[1:]) if one]
        elif name == "response" and is_turn(held):
            held = {}
        found |= {f"{name}.{key}": inner for key, inner in held.items() if key not in turns}
    return found


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
    """Whether doccano or Prodigy wrote it, or it is a text and its labels alone."""
    alone = "text" in record and record.keys() <= _TEXT_AND_LABELS
    return alone or "Comments" in record or "comments" in record or "_input_hash" in record


_TEXT_AND_LABELS = frozenset({"id", "text", "label", "labels", "cats", "entities", "intents", "slots"})


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


# -- what reaches no example -------------------------------------------------------------------------------------------

Path = tuple[str, ...]  # a column, then what leads on inside its value: ``[]``, ``.key``

_TELLING = 12  # characters from which on a text that also stands in the example is no chance
_WHOLE = 5  # lists and objects of a column that are looked at whole
_KEPT = 50  # values of a path that are looked at for what they are
_PLAIN = STRUCTURE | MASKS | {"content", "value"}
"""Keys of a turn that has nothing which could be lost, where its content is a text."""
_TRUSTED = ("messages", "prompt", "completion", "chosen", "rejected", "text", "tools")
"""Roles whose text reaches the example, be it taken apart on its way (``Human: … Assistant: …``)."""
_KINDS = {
    "histories": "earlier turns of the conversation",
    "systems": "a system prompt",
    "contexts": "what the answer is taken from",
    "media": "pictures, sound or other files, which are not trained on here",
    "options": "options to choose from",
    "reasonings": "what is thought before the answer",
    "tools": "tools that may be called, or calls of them",
    "inputs": "part of the question",
    "asks_for_input": "part of the question",
}
"""Role in the table of names -> what a column of such a name is."""
_ROLES = {
    "histories": "history",
    "reasonings": "thought",
    "systems": "system",
    "contexts": "input",
    "options": "options",
    "inputs": "input",
    "asks_for_input": "input",
}
_NAMED, _LOOKS = "Its name says that it is", "What it holds looks like"
_WORD = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_OPTION = re.compile(r"(option|choice|opt|distractor|op)s?[\s_.-]*([a-h]|\d)", re.IGNORECASE)
_MEDIA = re.compile(
    r"data:(image|audio|video)/|\S+\.(png|jpe?g|gif|webp|bmp|wav|mp3|flac|ogg|mp4|webm|pdf)$", re.IGNORECASE
)


@dataclass
class _Seen:
    """What a path holds in the rows so far. lost: some of it stands in no example."""

    values: list[Any]
    lost: bool = False


class Usage:
    """Gathers, row by row, what of a file's records stands in the examples. mapping: role -> column."""

    def __init__(self, columns: Sequence[str], mapping: Mapping[str, str]) -> None:
        self._columns = columns
        self._touched = {name for column in mapping.values() for name in (column, *parents_of(column))}
        if (options := option_columns(columns)) and mapping.get("options") in options:  # a column each
            self._touched |= {*options}
        self._trusted = {column for role, column in mapping.items() if role in _TRUSTED}
        self._label = mapping.get("label")
        able = {"input", "history", "options"} if "prompt" in mapping else set[str]()
        able |= {"thought"} if "completion" in mapping else set()
        able |= {"system"} if "text" not in mapping else set()
        self._free, self._chat = able - mapping.keys(), "messages" in mapping
        self._seen: dict[Path, _Seen] = {}
        self._whole: dict[str, list[Any]] = {}  # lists and objects of columns that no role has, the first few
        self._plain: Counter[str] = Counter()
        self._known: set[str] = set()  # columns that are in no example, of which enough values are kept

    def add(self, record: Mapping[str, Any], row: Row, mended: Sequence[str] = ()) -> None:
        """mended: texts of it that repair changed or left out, and has said so."""
        whole = ""
        for path, value, trusted in self._leaves(record):
            seen = self._seen.setdefault(path, _Seen([]))
            if len(seen.values) < _KEPT:
                seen.values.append(value)
            elif seen.lost and len(path) == 1:
                self._known.add(path[0])
            if not (trusted or seen.lost):
                whole = whole or "\n".join((*texts_of(row), *_thoughts(row), *mended))
                seen.lost = not self._stands(path, value, whole)

    def _leaves(self, record: Mapping[str, Any]) -> Iterator[tuple[Path, Any, bool]]:
        """(path, a text, number or truth value that is no structure and no mask, whether it is taken as it is)."""
        for name, value in record.items():
            if not isinstance(value, list | dict):
                if name in self._known or (name in self._trusted and isinstance(value, str)):
                    continue  # as it is in the examples, or not at all
            elif name not in self._touched:
                if value and len(held := self._whole.setdefault(name, [])) < _WHOLE:
                    held.append(value)
            elif name in self._trusted and _is_plain(value):
                self._plain[name] += 1
                if self._plain[name] > _KEPT:  # such turns are known by now, and there may be a hundred thousand
                    continue
            if "." in name and any(isinstance(record.get(one), dict | list) for one in parents_of(name)):
                continue  # what is inside comes with its parent
            for path, leaf in _inside((name,), value, 1):
                known = len(path) > 1 and path[0] in self._touched and path[-1][1:] in STRUCTURE | MASKS
                if path[0] != self._label and not known:
                    yield path, leaf, leaf is value and name in self._trusted and isinstance(leaf, str)

    def _stands(self, path: Path, value: Any, whole: str) -> bool:
        forms = _forms(value)
        if path[0] not in self._touched and len(forms[0]) < _TELLING:
            return False
        if any(form in whole for form in forms):
            return True
        apart = pieces(value) if isinstance(value, str) and path[0] in self._touched else [value]
        return apart != [value] and all(any(form in whole for form in _forms(one)) for one in apart)

    def found(self) -> tuple[Unused, ...]:
        """Every path that is not in the examples, as short as it can be said, in the order of the records."""
        used = {path for path, seen in self._seen.items() if not seen.lost}
        shorter = {path[:end] for path in used for end in range(1, len(path) + 1)}
        lost: dict[str, list[Any]] = {}
        for path, seen in self._seen.items():
            if not seen.lost:
                continue
            end = next((end for end in range(1, len(path)) if path[:end] not in shorter), len(path))
            name = "".join(path[:end]).removesuffix("[]")
            crowded = (one for one in parents_of(name) if one in self._columns and one not in self._touched)
            lost.setdefault(next(crowded, name), []).extend(seen.values)
        return tuple(self._judged(name, values, [*lost]) for name, values in lost.items())

    def _judged(self, name: str, values: list[Any], beside: Collection[str]) -> Unused:
        if name in self._touched:
            return Unused(name, "It is read, but not all that it holds reaches the examples.")
        column = profile(name, values)
        kind, why = _kind(column, values, beside)
        if kind is None and any(map(is_turns, self._whole.get(name, ()))):
            kind, why = "histories", _LOOKS
        if kind is None:
            return Unused(name)
        role = self._role(_ROLES.get(kind, ""), name, values) if name in self._columns else ""
        return Unused(name, f"{why} {_KINDS[kind]}; no example holds it.", role if role in self._free else "")

    def _role(self, role: str, name: str, values: list[Any]) -> str:
        """The role that can take a column in as it is, "" for none. values: some of what stands in it."""
        whole = self._whole.get(name, [])
        if role == "options" and not whole:
            return role if name == next(iter(option_columns(self._columns)), "") else ""
        if role == "input" and self._chat:  # a chat reads it first
            role = "system"
        try:
            for value in whole or values:
                if role == "history":
                    read_turns(value, name)
                elif role == "system" and whole:
                    turn_text(value, 1)
        except Unusable:
            return ""
        return "" if role == "thought" and whole else role


def _thoughts(row: Row) -> list[str]:
    return [turn.thought for turn in row.messages if turn.thought] if isinstance(row, Example) else []


def _is_plain(value: Any) -> bool:
    """Whether these are turns of text alone."""
    if not isinstance(value, list):
        return False
    for turn in value:
        if not isinstance(turn, dict) or not _PLAIN.issuperset(turn):
            return False
        if not isinstance(turn.get("content", turn.get("value")), str):
            return False
    return True


def _inside(path: Path, value: Any, depth: int) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict):
        flat = len(path) == 1 and depth <= 4 and is_nested(value)
        for key, inner in value.items():
            if not flat:
                yield from _inside((*path, f".{key}"), inner, depth + 1)
            else:
                yield from _inside((f"{path[0]}.{clean_name(key)}",), inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _inside((*path, "[]") if isinstance(inner, dict) else path, inner, depth + 1)
    elif not (value is None or (isinstance(value, float) and not math.isfinite(value)) or not str(value).strip()):
        yield path, value


def _forms(value: Any) -> tuple[str, ...]:
    """How a leaf may be written in a text: without end tokens, true and false in small letters, inside JSON."""
    text = str(value).lower() if isinstance(value, bool) else without_end(str(value).strip()).strip()
    if not isinstance(value, str):
        return (text,)
    return text, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]


def _kind(column: Column, values: list[Any], beside: Collection[str]) -> tuple[str | None, str]:
    """(the role in ``_KINDS`` that its name, else its content says, how that is said)."""
    if column.is_identifier:
        return None, ""
    if _is_option(column.name, beside):
        return "options", _NAMED
    parts = [part for part in re.split(r"\.|\[\]", column.name) if part]
    words = [*map(spelling, (column.name, *reversed(parts)))]
    if spelling(column.name) in NAMES["prompts"] and spelling(column.name) not in NAMES["texts"]:
        words.append("question")
    if any(isinstance(value, str) and truth(value) is None and _WORD.search(value) for value in values):
        words += [spelling(word) for part in parts for word in _WORD.findall(_CAMEL.sub(" ", part))]
    if not column.is_meta and (kind := next((kind for word in words for kind in _KINDS if word in NAMES[kind]), None)):
        return kind, _NAMED
    if any(isinstance(value, str) and _MEDIA.match(value.strip()) for value in values):
        return "media", _LOOKS
    return None, ""


def _is_option(name: str, beside: Collection[str]) -> bool:
    """One of several columns, an option each: ``option_a``, ``choice2``; ``A``, ``B``, ``C``."""
    letters = "ABCDEFGHabcdefgh"
    return _OPTION.fullmatch(name) is not None or (name in letters and sum(other in letters for other in beside) > 1)
