"""How people name columns, what a sample of each holds, what a cell says of an answer, and columns inside objects."""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from playground.data.example import style_of
from playground.data.tools import are_tools
from playground.data.turns import is_turn, is_turns, read_transcript


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


@lru_cache(maxsize=4096)
def answer_kind(name: str) -> str:
    """The first role by which a column of answers goes: scored, structured, kinds or completions; "" for others."""
    plain = spelling(name)
    if plain == "translation":  # an object of languages
        return ""
    return next((kind for kind in ("scored", "structured", "kinds", "completions") if plain in NAMES[kind]), "")


_TWO = re.compile(r"(?P<stem>\D*?)(?P<which>[ab]|[012])")


def two_answers(columns: Sequence[str]) -> tuple[str, str, int] | None:
    """(first, second, the number that the first goes by) of columns such as ``response_a`` and ``response_b``.

    The Stanford Human Preferences say 1 where ``human_ref_A`` is the better: there B comes first, with 0.
    """
    found: dict[tuple[str, str], str] = {}
    for column in columns:
        match = _TWO.fullmatch(spelling(column))
        if match and match["stem"] in NAMES["stems"]:
            found.setdefault((match["stem"], match["which"]), column)
    for (stem, which), column in found.items():
        for first, second, lowest in (("a", "b", 0), ("0", "1", 0), ("1", "2", 1)):
            if which == first and (stem, second) in found:
                other = found[stem, second]
                return (other, column, 0) if stem == "humanref" else (column, other, lowest)
    return None


_GOOD = "true yes 1 1.0 good y t up 👍 thumbs_up thumbsup like liked positive desirable chosen accept accepted correct"
_BAD = "false no 0 0.0 bad n f down 👎 thumbs_down thumbsdown dislike disliked negative undesirable rejected reject"
_TRUTHS = dict.fromkeys([*_GOOD.split(), "+1"], True) | dict.fromkeys([*_BAD.split(), "incorrect", "-1"], False)
_FIRST, _SECOND = ("a", "j", "first", "left", "chosen"), ("b", "k", "second", "right", "rejected")
_STEM = re.compile(
    r"^(model|response|answer|completion|output|option|assistant|reply|conversation|text|candidate|choice)[\s_-]*"
)


def truth(value: object) -> bool | None:
    """A label as true or false; None when it is neither."""
    return _TRUTHS.get(str(value).strip().casefold())


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


_KINDS: dict[str, Callable[[Any], bool]] = {
    "tools": are_tools,
    "turns": is_turns,
    "turn": is_turn,
    "texts": lambda value: isinstance(value, list) and bool(value) and isinstance(value[0], str),
    "other": lambda value: isinstance(value, list | dict),
    "flag": lambda value: truth(value) is not None,
    "number": lambda value: re.fullmatch(r"[-+]?\d+([.,]\d+)*", str(value).strip()) is not None,
}


_MAX_DEPTH, _MAX_DOTS = 3, 20  # of objects in objects, and of dots in a name, which is one name from there on
MAX_KEYS = 60  # more are not columns but data, such as one key per id
_SCORES = ("overall_score", "score", "rating", "fine-grained_score")
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


def is_nested(value: object) -> bool:
    """Whether a value is an object of columns: not empty, not one turn of a chat."""
    return isinstance(value, dict) and 0 < len(value) <= MAX_KEYS and not is_turn(value)


def parents_of(name: str) -> list[str]:
    parts = name.split(".", _MAX_DOTS)
    return [".".join(parts[:end]) for end in range(1, len(parts))]


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
