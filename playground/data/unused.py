"""Which columns and keys of a file reach no example, and which of them seem to belong to one by name or content."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from playground.data.column_profile import NAMES, Column, clean_name, is_nested, parents_of, profile, spelling, truth
from playground.data.example import MASKS, STRUCTURE, Example, Row, Unused, is_turns, texts_of
from playground.data.layouts import option_columns

Path = tuple[str, ...]  # a column, then what leads on inside its value: ``[]``, ``.key``

_TELLING = 12  # characters from which on a text that also stands in the example is no chance
_KEPT = 50  # values of a path that are looked at for what they are
_PLAIN = STRUCTURE | MASKS | {"content", "value"}
"""Keys of a turn that has nothing which could be lost, where its content is a text."""
_TRUSTED = ("messages", "prompt", "completion", "chosen", "rejected", "text")
"""Roles whose text reaches the example, be it taken apart on its way (``Human: … Assistant: …``)."""
_KINDS = {
    "histories": "earlier turns of the conversation",
    "systems": "a system prompt",
    "contexts": "what the answer is taken from",
    "media": "pictures, sound or other files, which are not trained on here",
    "options": "options to choose from",
    "reasonings": "what is thought before the answer",
    "tools": "tools, which are not trained on here",
    "inputs": "part of the question",
    "asks_for_input": "part of the question",
}
"""Role in the table of names -> what a column of such a name is."""
_ROLES = {
    "reasonings": "thought",
    "systems": "system",
    "contexts": "input",
    "options": "input",
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
        able = {"system", "input"} if "prompt" in mapping else {"system"} if "text" not in mapping else set[str]()
        able |= {"thought"} if "completion" in mapping else set()
        self._free = able - mapping.keys()
        self._seen: dict[Path, _Seen] = {}
        self._chats: set[str] = set()
        self._plain: Counter[str] = Counter()

    def add(self, record: Mapping[str, Any], row: Row) -> None:
        whole = ""
        others = ((name, value) for name, value in record.items() if name not in self._touched)
        self._chats |= {name for name, value in others if isinstance(value, list) and is_turns(value)}
        for path, value, trusted in self._leaves(record):
            seen = self._seen.setdefault(path, _Seen([]))
            if len(seen.values) < _KEPT:
                seen.values.append(value)
            if not (trusted or seen.lost):
                whole = whole or "\n".join((*texts_of(row), *_thoughts(row)))
                seen.lost = not self._stands(path, value, whole)

    def _leaves(self, record: Mapping[str, Any]) -> Iterator[tuple[Path, Any, bool]]:
        """(path, a text, number or truth value that is no structure and no mask, whether it is taken as it is)."""
        for name, value in record.items():
            if name in self._trusted and _is_plain(value):
                self._plain[name] += 1
                if self._plain[name] > _KEPT:  # such turns are known by now, and there may be a hundred thousand
                    continue
            if "." in name and any(isinstance(record.get(one), dict | list) for one in parents_of(name)):
                continue  # what is inside comes with its parent
            for path, leaf in _inside((name,), value, 1):
                known = len(path) > 1 and path[0] in self._touched and path[-1][1:] in STRUCTURE | MASKS
                if path[0] != self._label and not known:
                    yield path, leaf, len(path) == 1 and path[0] in self._trusted and isinstance(leaf, str)

    def _stands(self, path: Path, value: Any, whole: str) -> bool:
        forms = _forms(value)
        if path[0] not in self._touched and len(forms[0]) < _TELLING:
            return False
        return any(form in whole for form in forms)

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
        if kind is None and name in self._chats:
            kind, why = "histories", _LOOKS
        if kind is None:
            return Unused(name)
        able = name in self._columns and column.kind in ("text", "number") and not _is_option(name, beside)
        role = _ROLES.get(kind, "")
        return Unused(name, f"{why} {_KINDS[kind]}; no example holds it.", role if able and role in self._free else "")


def _thoughts(row: Row) -> list[str]:
    return [turn.thought for turn in row.messages if turn.thought] if isinstance(row, Example) else []


def _is_plain(value: Any) -> bool:
    """Whether these are turns of text alone."""
    return isinstance(value, list) and all(
        isinstance(turn, dict) and turn.keys() <= _PLAIN and isinstance(turn.get("content", turn.get("value")), str)
        for turn in value
    )


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
    """How a leaf may be written in a text: as it is, true and false in small letters, inside JSON."""
    text = str(value).lower() if isinstance(value, bool) else str(value).strip()
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
