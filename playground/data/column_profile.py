"""How people name columns, what a sample of each holds, and which columns and keys of a file reach no example."""

from __future__ import annotations

import json
import math
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from playground.data.example import MEDIA, Example, Row, Unused, style_of, texts_of, without_end
from playground.data.tools import DESCRIBED, pieces
from playground.data.turns import MASKS, STRUCTURE, Unusable, is_turn, is_turns, read_transcript, read_turns, turn_text


@lru_cache(maxsize=4096, typed=True)
def clean_name(name: object) -> str:
    """A column's name without invisible characters (byte-order mark, zero-width, control), outer spaces and quotes."""
    text = "" if name is None else str(name)
    if not (text.isascii() and text.isprintable()):
        text = text.replace("\n", " ").replace("\t", " ")
        text = "".join(char for char in text if unicodedata.category(char) not in ("Cf", "Cc", "Cs"))
        text = re.sub(r"\s+", " ", text)
    return text.strip().strip("\"'").strip()


@lru_cache(maxsize=4096)
def spelling(name: str) -> str:
    """The name as it is compared: no case, accents, spaces or punctuation (``Prompt_Text`` is ``prompttext``)."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    return "".join(char for char in plain if char.isalnum())


def leaf(name: str) -> str:
    """The last part of a nested column's name."""
    return name.rpartition(".")[2]


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message: the first ``most``, each kept short."""
    shown = ", ".join(name if len(name) <= 40 else name[:39] + "…" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


NAMES: dict[str, dict[str, int]] = {
    role: {spelling(word): rank for rank, word in reversed([*enumerate(words.split())])}
    for role, words in tomllib.loads(Path(__file__).with_name("column_names.toml").read_text(encoding="utf-8")).items()
}
"""Role -> how people name its column, by ``spelling`` -> its rank, 0 the likeliest."""


SPLIT = "split"
"""The column that says which split of an object each of its rows is in."""


@lru_cache(maxsize=4096)
def own_part(split: str) -> str:
    """What a split is for, by the first or the last word of its name: train, validation, test, "" for others."""
    words = re.split(r"[^a-z]+", split.casefold().replace("held-out", "heldout").replace("held_out", "heldout"))
    parts = ("train", "validation", "test")
    return next((part for word in (words[0], words[-1]) for part in parts if word in NAMES[part]), "")


_GOOD = "true yes 1 1.0 good y t up 👍 thumbs_up thumbsup like liked positive desirable chosen accept accepted correct"
_BAD = "false no 0 0.0 bad n f down 👎 thumbs_down thumbsdown dislike disliked negative undesirable rejected reject"
_TRUTHS = dict.fromkeys([*_GOOD.split(), "+1"], True) | dict.fromkeys([*_BAD.split(), "incorrect", "-1"], False)


def truth(value: object) -> bool | None:
    """A label as true or false; None when it is neither."""
    return _TRUTHS.get(str(value).strip().casefold())


@dataclass(frozen=True)
class Column:
    """What a sample of one column holds."""

    name: str
    kind: str  # turns, turn, tools, texts, text, number, flag, other
    filled: float  # share of sampled records that have a value
    words: float  # mean of a value
    distinct: float  # share of different values
    constant: bool
    transcript: bool  # most values are chats written as one text, ``Human: … Assistant: …``
    markup: str = ""  # the chat template whose marks stand in most values

    @property
    def is_identifier(self) -> bool:
        plain = spelling(leaf(self.name))
        ends = re.search(r"[_\s-](id|idx|uuid)$", self.name.lower()) or re.search(r"[a-z]I[dD]$", self.name)
        return plain in NAMES["identifiers"] or plain.startswith("unnamed") or ends is not None

    @property
    def is_meta(self) -> bool:
        """Whether its name, or that of a column around it, says that it is about the row rather than of it."""
        return any(spelling(part) in NAMES["meta"] for part in self.name.split("."))

    @property
    def is_content(self) -> bool:
        """Whether it may be a prompt or an answer by what it holds."""
        about = self.is_meta or self.is_identifier or self.constant
        return self.kind in ("text", "number", "flag") and not about

    @property
    def is_prose(self) -> bool:
        return self.kind == "text" and self.words >= 1.5


def rank(name: str, role: str) -> float | None:
    """How well a name fits a role, 0 the best; a nested column goes by its last part if its whole name says nothing."""
    ranks = NAMES[role]
    whole = ranks.get(spelling(name))
    if whole is not None or "." not in name:
        return whole
    *parents, last = map(spelling, name.split("."))
    return ranks[last] + 0.5 if last in ranks and NAMES["meta"].keys().isdisjoint(parents) else None


def named(columns: Iterable[Column], role: str, *kinds: str) -> str | None:
    """The best-named column of these kinds; one that most records have goes before one that few have."""
    able = [
        (column.filled < 0.5, place, column.name)
        for column in columns
        if (place := rank(column.name, role)) is not None and (not kinds or column.kind in kinds)
    ]
    return min(able, key=lambda item: item[:2])[2] if able else None


def profile(name: str, values: list[Any]) -> Column:
    """What a column holds, from a sample of its values."""
    present = [value for value in values if (value.strip() if isinstance(value, str) else value not in (None, []))]
    count = max(1, len(present))
    texts = [str(value) for value in present if not isinstance(value, list | dict)]
    distinct = len(set(texts))
    styles = Counter(filter(None, map(style_of, texts))).most_common(1)
    kinds = (kind for kind, is_kind in _KINDS.items() if sum(map(is_kind, present)) * 2 > len(present))
    return Column(
        name=name,
        kind=next(kinds, "text") if present else "other",
        filled=len(present) / max(1, len(values)),
        words=sum(len(text[:2000].split()) for text in texts) / count,
        distinct=distinct / count,
        constant=distinct == 1 and count >= 5,
        transcript=sum(bool(read_transcript(text)) for text in texts) * 2 > count,
        markup=styles[0][0] if styles and styles[0][1] * 2 > count else "",
    )


def are_tools(value: object) -> bool:
    """Whether a value describes tools, itself or as JSON in a cell."""
    if isinstance(value, str):
        if not (value.lstrip().startswith(("[", "{")) and '"name"' in value):
            return False
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    each = [
        one.get("function", one) if isinstance(one, Mapping) else None
        for one in (value if isinstance(value, list) else [value])
    ]
    return bool(each) and all(
        isinstance(one, Mapping) and "name" in one and not DESCRIBED.isdisjoint(one) for one in each
    )


_KINDS: dict[str, Callable[[Any], bool]] = {
    "tools": are_tools,
    "turns": is_turns,
    "turn": is_turn,
    "texts": lambda value: isinstance(value, list) and bool(value) and isinstance(value[0], str),
    "other": lambda value: isinstance(value, list | dict),
    "flag": lambda value: truth(value) is not None,
    "number": lambda value: re.fullmatch(r"[-+]?\d+([.,]\d+)*", str(value).strip()) is not None,
}


MAX_KEYS = 60  # more are not columns but data, such as one key per id


def is_nested(value: object) -> bool:
    """Whether a value is an object of columns: not empty, not one turn of a chat."""
    return isinstance(value, dict) and 0 < len(value) <= MAX_KEYS and not is_turn(value)


def parents_of(name: str) -> list[str]:
    parts = name.split(".", 20)  # a name of more dots is one from there on
    return [".".join(parts[:end]) for end in range(1, len(parts))]


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


_Place = tuple[str, ...]  # a column, then what leads on inside its value: ``[]``, ``.key``

_TELLING = 12  # characters from which on a text that also stands in the example is no chance
_WHOLE = 5  # lists and objects of a column that are looked at whole
_KEPT = 50  # values of a path that are looked at for what they are
_PLAIN = STRUCTURE | MASKS | {"content", "value"}
"""Keys of a turn that has nothing which could be lost, where its content is a text."""
_TRUSTED = ("messages", "prompt", "completion", "chosen", "rejected", "text", "tools")
"""Roles whose text reaches the example, be it taken apart on its way (``Human: … Assistant: …``)."""
_BELONGS = {
    "histories": ("earlier turns of the conversation", "history"),
    "systems": ("a system prompt", "system"),
    "contexts": ("what the answer is taken from", "input"),
    "media": ("pictures, sound or other files, which are not trained on here", ""),
    "options": ("options to choose from", "options"),
    "reasonings": ("what is thought before the answer", "thought"),
    "tools": ("tools that may be called, or calls of them", ""),
    "inputs": ("part of the question", "input"),
    "asks_for_input": ("part of the question", "input"),
}
"""Role in the table of names -> what a column of such a name is, and the role of a file that could take it in."""
_NAMED, _LOOKS = "Its name says that it is", "What it holds looks like"
_WORD = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_OPTION = re.compile(r"(option|choice|opt|distractor|op)s?[\s_.-]*([a-h]|\d)", re.IGNORECASE)


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
        self._seen: dict[_Place, _Seen] = {}
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
                thoughts = [turn.thought for turn in row.messages if turn.thought] if isinstance(row, Example) else []
                whole = whole or "\n".join((*texts_of(row), *thoughts, *mended))
                seen.lost = not self._stands(path, value, whole)

    def _leaves(self, record: Mapping[str, Any]) -> Iterator[tuple[_Place, Any, bool]]:
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

    def _stands(self, path: _Place, value: Any, whole: str) -> bool:
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
        what, role = _BELONGS[kind]
        role = self._role(role, name, values) if name in self._columns else ""
        return Unused(name, f"{why} {what}; no example holds it.", role if role in self._free else "")

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


def _is_plain(value: Any) -> bool:
    """Whether these are turns of text alone."""
    return isinstance(value, list) and all(
        isinstance(turn, dict) and _PLAIN.issuperset(turn) and isinstance(turn.get("content", turn.get("value")), str)
        for turn in value
    )


def _inside(path: _Place, value: Any, depth: int) -> Iterator[tuple[_Place, Any]]:
    if isinstance(value, dict):
        flat = len(path) == 1 and depth <= 4 and is_nested(value)
        for key, inner in value.items():
            yield from _inside((f"{path[0]}.{clean_name(key)}",) if flat else (*path, f".{key}"), inner, depth + 1)
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
    """(the role in ``_BELONGS`` that its name, else its content says, how that is said)."""
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
    if not column.is_meta and (
        kind := next((kind for word in words for kind in _BELONGS if word in NAMES[kind]), None)
    ):
        return kind, _NAMED
    if any(isinstance(value, str) and MEDIA.match(value.strip()) for value in values):
        return "media", _LOOKS
    return None, ""


def _is_option(name: str, beside: Collection[str]) -> bool:
    """One of several columns, an option each: ``option_a``, ``choice2``; ``A``, ``B``, ``C``."""
    letters = "ABCDEFGHabcdefgh"
    return _OPTION.fullmatch(name) is not None or (name in letters and sum(other in letters for other in beside) > 1)
