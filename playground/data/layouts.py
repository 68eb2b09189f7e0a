"""Records as known programs lay them out -> the rows in them, flat; an answer that is an object -> its JSON text; and
what a cell says of two answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from playground.data.column_profile import NAMES, clean_name, is_nested, leaf, option_columns, spelling
from playground.data.turns import Unusable, is_turn, is_turns, plain_text

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
        scored = kind == "scored" and len(value) > 1 and not _SCORED.isdisjoint(value[0])
        return value if scored or any(not _WRAPPERS.isdisjoint(item) for item in value) else written(value)
    return value


def _is_annotated(record: Mapping[str, Any]) -> bool:
    """Whether doccano or Prodigy wrote it, or it is a text and its labels alone."""
    alone = "text" in record and record.keys() <= _TEXT_AND_LABELS
    return alone or "Comments" in record or "comments" in record or "_input_hash" in record


_TEXT_AND_LABELS = frozenset({"id", "text", "label", "labels", "cats", "entities", "intents", "slots"})


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


@lru_cache(maxsize=4096)
def answer_kind(name: str) -> str:
    """The first role by which a column of answers goes: scored, structured, kinds or completions; "" for others."""
    plain = spelling(name)
    if plain == "translation":  # an object of languages
        return ""
    return next((kind for kind in ("scored", "structured", "kinds", "completions") if plain in NAMES[kind]), "")


_FIRST, _SECOND = ("a", "j", "first", "left", "chosen"), ("b", "k", "second", "right", "rejected")


_STEM = re.compile(
    r"^(model|response|answer|completion|output|option|assistant|reply|conversation|text|candidate|choice)[\s_-]*"
)


def first_won(value: object, lowest: int) -> bool | None:
    """Whether a cell (``a``, ``model_b``, ``response 1``) says that the first of two answers is better; None: neither.

    lowest: the number that stands for the first answer, 0 or 1; below 0 every negative number does.
    """
    word = _STEM.sub("", str(value).strip().casefold()).removesuffix(".0")
    if lowest < 0 and re.fullmatch(r"-?\d+", word):
        return None if int(word) == 0 else int(word) < 0
    if word in _FIRST or word == str(lowest):
        return True
    return False if word in _SECOND or word == str(lowest + 1) else None


_MAX_DEPTH = 3  # of objects in objects


_SCORES = ("overall_score", "score", "rating", "fine-grained_score")
_SCORED = {*_SCORES, "rank"}


_ANSWERS = ("response", "answer", "completion", "output", "text", "content")


def flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with clean names, and one more entry for each value inside its objects (``data.prompt``).

    Beside objects: two answers in a list are its ``NAME.1`` and ``NAME.2``; a list of scored answers has a
    ``NAME.best`` and a ``NAME.worst``; Label Studio's ``annotations`` have a ``annotations.choice``; Open Assistant's
    tree of replies has a ``NAME.thread``.
    """
    flat: dict[str, Any] = {}
    for key, value in record.items():
        name = clean_name(key)
        flat[name] = value
        if isinstance(value, dict | list):
            _flatten_value(name, value, flat, 1, record)
    return flat


def _flatten_value(name: str, value: Any, flat: dict[str, Any], depth: int, beside: Mapping[str, Any]) -> None:
    if isinstance(value, list):
        _flatten_list(name, value, flat, beside)
    elif isinstance(value.get("replies"), list) and is_turn(value):
        flat[f"{name}.thread"] = _thread(value)
    elif is_nested(value):
        for key, inner in value.items():
            path = f"{name}.{clean_name(key)}"
            if path in flat:
                continue
            flat[path] = "" if inner is None else inner
            if depth < _MAX_DEPTH and isinstance(inner, dict | list):
                _flatten_value(path, inner, flat, depth + 1, value)


def _flatten_list(name: str, value: list[Any], flat: dict[str, Any], beside: Mapping[str, Any]) -> None:
    if len(value) == 2 and all(isinstance(item, str) for item in value):
        if spelling(leaf(name)) not in NAMES["answer_pairs"]:
            return
        given = (scores for key, scores in beside.items() if spelling(key) in NAMES["scores"])
        pairs = (two for two in given if isinstance(two, list) and len(two) == 2)
        scores = next((two for two in pairs if all(isinstance(score, int | float) for score in two)), None)
        if scores is None:
            flat[f"{name}.1"], flat[f"{name}.2"] = value
        elif scores[0] != scores[1]:
            flat[f"{name}.best"], flat[f"{name}.worst"] = value if scores[0] > scores[1] else value[::-1]
    elif value and isinstance(value[0], dict):
        if spelling(name) == "annotations" and "result" in value[0]:
            flat[f"{name}.choice"] = _choice(value[0]["result"])
        elif len(value) >= 2 and spelling(leaf(name)) in NAMES["scored"]:
            ranked = sorted((item for item in map(_scored, value) if item), key=lambda item: item[0])
            if len(ranked) == len(value) and ranked[0][0] < ranked[-1][0]:
                flat[f"{name}.best"], flat[f"{name}.worst"] = ranked[-1][1], ranked[0][1]


def _scored(item: Any) -> tuple[float, str] | None:
    """(how good, the answer): UltraFeedback's overall_score, Nectar's rank."""
    if not isinstance(item, dict):
        return None
    text = next((item[key] for key in _ANSWERS if isinstance(item.get(key), str)), None)
    score = next((item[key] for key in _SCORES if isinstance(item.get(key), int | float)), None)
    if score is None and isinstance(item.get("rank"), int | float):
        score = -item["rank"]
    return None if text is None or score is None or score != score else (float(score), text)


def _thread(turn: Any) -> list[Any]:
    """Open Assistant's tree of replies: from its root along the first reply, which is the best ranked."""
    found = []
    while isinstance(turn, dict):
        found.append({"role": turn.get("role"), "content": turn.get("text", turn.get("content"))})
        replies = turn.get("replies")
        turn = replies[0] if isinstance(replies, list) and replies else None
    return found[:-1] if len(found) % 2 else found


def _choice(result: Any) -> str:
    """The first annotation of Label Studio: choices, a text or a rating; of spans of a text, all as JSON."""
    values = [item.get("value") for item in result if isinstance(item, dict)] if isinstance(result, list) else []
    if spans := spans_of([value for value in values if isinstance(value, dict) and "labels" in value], {}):
        return written(spans)
    for item in result if isinstance(result, list) else ():
        value = item.get("value") if isinstance(item, dict) else None
        for key in ("choices", "text", "rating", "taxonomy"):
            found = value.get(key) if isinstance(value, dict) else None
            if isinstance(found, list) and found:
                return ", ".join(map(str, found))
            if isinstance(found, str | int | float):
                return str(found)
    return ""


def written(value: Any) -> str:
    """A value as JSON on one line, its keys in their order."""
    return json.dumps(value, ensure_ascii=False, default=str)


def spans_of(value: list[Any], beside: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``[{"text", "label"}]`` of spans as Label Studio, doccano and Prodigy write them; [] for anything else."""
    text = next((beside[key] for key in ("text", "data") if isinstance(beside.get(key), str)), "")
    found = []
    for item in value:
        if isinstance(item, list) and len(item) == 3 and isinstance(item[0], int) and isinstance(item[1], int):
            start, end, label, said = *item, None
        elif isinstance(item, dict) and ("label" in item or "labels" in item):
            start, end = (item.get(key, item.get(f"{key}_offset")) for key in ("start", "end"))
            label, said = item.get("label", item.get("labels")), item.get("text")
        else:
            return []
        if said is None and isinstance(start, int) and isinstance(end, int):
            said = text[start:end]
        if not isinstance(said, str) or start is None:
            return []
        found.append({"text": said, "label": ", ".join(map(str, label)) if isinstance(label, list) else label})
    return found
