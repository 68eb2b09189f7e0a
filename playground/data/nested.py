"""Columns inside columns: ``{"data": {"prompt": …}}`` gets a column ``data.prompt`` beside ``data``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from playground.data import names
from playground.data.records import clean_name, spelling
from playground.data.turns import is_turn

_DEEPEST = 3
_DOTS = 20
"""Of a name; what a person wrote with more is one name from there on."""
_MOST = 60
"""More keys than this are not columns but data, such as one key per id."""
_SCORES = ("overall_score", "score", "rating", "fine-grained_score")
_ANSWERS = ("response", "answer", "completion", "output", "text", "content")


def flatten(record: Mapping[str, Any], clean: bool = True) -> dict[str, Any]:
    """The record with clean names, and one more entry for each value inside its objects.

    Beside objects: two answers in a list are its ``NAME.1`` and ``NAME.2``; a list of scored answers has a ``NAME.best`` and a
    ``NAME.worst``; Label Studio's ``annotations`` have a ``annotations.choice``; Open Assistant's
    tree of replies has a ``NAME.thread``.
    """
    flat: dict[str, Any] = {}
    for key, value in record.items():
        name = clean_name(key) if clean else key
        flat[name] = value
        if isinstance(value, dict | list):
            _open(name, value, flat, 1, record)
    return flat


def columns_of(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Every column in the order of first appearance. An object that is nothing but its entries is not one itself."""
    seen = Columns()
    for record in records:
        seen.add(record)
    return seen.names()


class Columns:
    """Gathers the columns of flat records one by one."""

    def __init__(self) -> None:
        self._plain: dict[str, bool] = {}

    def add(self, flat: Mapping[str, Any]) -> None:
        plain = self._plain
        for name, value in flat.items():
            if name not in plain:
                plain[name] = not is_open(value)
            elif not plain[name] and not is_open(value) and value not in (None, ""):
                plain[name] = True

    def names(self) -> tuple[str, ...]:
        """An object with many different keys over the rows is one column, not many."""
        inside: dict[str, int] = {}
        for name in self._plain:
            for parent in _parents(name):
                if parent in self._plain:
                    inside[parent] = inside.get(parent, 0) + 1
        crowded = {parent for parent, count in inside.items() if count > _MOST}
        return tuple(
            name
            for name, plain in self._plain.items()
            if (plain or name in crowded or name not in inside) and crowded.isdisjoint(_parents(name))
        )


def leaf(name: str) -> str:
    """The last part of a nested column's name."""
    return name.rpartition(".")[2]


def is_open(value: object) -> bool:
    """Whether a value is an object of columns: not empty, not one turn of a chat."""
    return isinstance(value, dict) and 0 < len(value) <= _MOST and not is_turn(value)


def _parents(name: str) -> list[str]:
    parts = name.split(".", _DOTS)
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _open(name: str, value: Any, flat: dict[str, Any], depth: int, beside: Mapping[str, Any]) -> None:
    if isinstance(value, list):
        _open_list(name, value, flat, beside)
    elif isinstance(value.get("replies"), list) and is_turn(value):
        flat[f"{name}.thread"] = _thread(value)
    elif is_open(value):
        for key, inner in value.items():
            path = f"{name}.{clean_name(key)}"
            if path in flat:
                continue
            flat[path] = "" if inner is None else inner
            if depth < _DEEPEST and isinstance(inner, dict | list):
                _open(path, inner, flat, depth + 1, value)


def _open_list(name: str, value: list[Any], flat: dict[str, Any], beside: Mapping[str, Any]) -> None:
    if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], str):
        if spelling(leaf(name)) in names.ANSWER_PAIRS:
            scores = next((given for key, given in beside.items() if spelling(key) in names.SCORES and _are_two(given)), None)
            if scores is None:
                flat[f"{name}.1"], flat[f"{name}.2"] = value
            elif scores[0] != scores[1]:
                order = value if scores[0] > scores[1] else value[::-1]
                flat[f"{name}.best"], flat[f"{name}.worst"] = order
    elif value and isinstance(value[0], dict):
        if spelling(name) == "annotations" and "result" in value[0]:
            flat[f"{name}.choice"] = _choice(value[0]["result"])
        elif len(value) >= 2 and spelling(leaf(name)) in names.SCORED:
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


def _are_two(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(score, int | float) for score in value)


def _thread(turn: Any) -> list[Any]:
    """Open Assistant's tree of replies: from its root along the first reply, which is the best ranked."""
    found = []
    while isinstance(turn, dict):
        found.append({"role": turn.get("role"), "content": turn.get("text", turn.get("content"))})
        replies = turn.get("replies")
        turn = replies[0] if isinstance(replies, list) and replies else None
    return found[:-1] if len(found) % 2 else found


def _choice(result: Any) -> str:
    """What the first annotator of Label Studio said: choices, a text or a rating."""
    for item in result if isinstance(result, list) else ():
        said = item.get("value") if isinstance(item, dict) else None
        for key in ("choices", "text", "rating", "taxonomy"):
            found = said.get(key) if isinstance(said, dict) else None
            if isinstance(found, list) and found:
                return ", ".join(str(part) for part in found)
            if isinstance(found, str | int | float):
                return str(found)
    return ""
