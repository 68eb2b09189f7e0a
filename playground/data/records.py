"""Numbered records of a file with their columns and a sample, and the limits of what one file may hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from playground.data.column_profile import NAMES, clean_name, leaf, spelling
from playground.data.turns import Unusable, is_turn
from playground.errors import InputError

UNPACKED = 10
"""A compressed file may unpack to this many times the upload limit."""
COLUMNS = 1000
LONGEST_LINE = 16 * 1024 * 1024
"""Characters of one line of JSONL, or of one cell."""
_ROW_BYTES, _MIN_ROWS = 100, 100_000
_A_ROW = {"rows": 1, "lines": 4, "cells": 40}
"""How many of each there may be for every row; a quoted cell or a passage may have several lines."""
KEEP_FEWER = "Keep fewer rows, or split the file."


@dataclass(frozen=True)
class Limits:
    """What a file may hold at this limit of an upload; counted while it is read, the checks raise InputError."""

    name: str
    upload_bytes: int

    @property
    def unpacked_bytes(self) -> int:
        return UNPACKED * self.upload_bytes

    @property
    def rows(self) -> int:
        """One for every 100 bytes of the largest upload: 209,715 at 20 MB, 2,684,354 at 256 MB."""
        return max(_MIN_ROWS, self.upload_bytes // _ROW_BYTES)

    def check(self, what: str, count: int) -> None:
        """what: ``rows``, ``lines`` or ``cells``."""
        most = _A_ROW[what] * self.rows
        if count > most:
            fix = "Keep fewer columns or rows." if what == "cells" else KEEP_FEWER
            raise InputError(f"{self.name} has more than {most:,} {what}, the most that are read here. {fix}")

    def check_unpacked(self, count: int) -> None:
        if count > self.unpacked_bytes:
            raise InputError(f"{self.name} unpacks to more than {UNPACKED} times the size limit. Keep fewer rows.")

    def check_line(self, count: int, number: int) -> None:
        if count > LONGEST_LINE:
            what = f"line {number:,} is longer than {LONGEST_LINE:,} characters"
            raise InputError(f"{self.name}: {what}. Cut it into several lines.")

    def check_columns(self, count: int) -> None:
        if count > COLUMNS:
            what = f"{count:,} columns; at most {COLUMNS} are read"
            raise InputError(f"{self.name} has {what}. Keep the ones to train on.")

    def check_whole(self, count: int) -> None:
        """count: bytes of a document that can only be parsed as one piece."""
        if count > self.upload_bytes:
            raise InputError(
                f"{self.name} unpacks to one JSON document of more than {self.upload_bytes:,} bytes, the most that is "
                "parsed in one piece. Save it as JSONL, one object a line."
            )


OnProgress = Callable[[float], None]
"""Called with a share from 0 to 1."""


class Progress:
    """Calls ``on_progress`` at most ten times a second; with 1 always, and never with less than before."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._last, self._share = -1.0, 0.0

    def at(self, share: float) -> None:
        """share: of the whole work, from 0 to 1."""
        if self._on_progress is None:
            return
        share = min(1.0, max(share, self._share))
        now = time.monotonic()
        if share >= 1 > self._share or now - self._last >= 0.1:
            self._last, self._share = now, share
            self._on_progress(share)

    def part(self, start: float, end: float) -> OnProgress:
        """A callback for one part of the work: its 0 is ``start`` of the whole, its 1 is ``end``."""
        return lambda share: self.at(start + (end - start) * min(1.0, share))


_SAMPLE = 500
"""Records in a sample: at least so many, at most twice as many, from all over the file."""
_MAX_DEPTH, _MAX_DOTS = 3, 20
"""Of objects in objects, and of dots in a name; what a person wrote with more is one name from there on."""
_MAX_KEYS = 60
"""More keys than this are not columns but data, such as one key per id."""
_SCORES = ("overall_score", "score", "rating", "fine-grained_score")
_ANSWERS = ("response", "answer", "completion", "output", "text", "content")


Numbered = tuple[int, dict[str, Any] | Unusable]


@dataclass(frozen=True)
class Rows:
    """``count`` records, read from the file anew at every iteration."""

    read: Callable[[], Iterable[Numbered]]
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Numbered]:
        return iter(self.read())


@dataclass(frozen=True)
class Records:
    """One file's records, numbered from 1 as the person sees them: line of JSONL, item of JSON, data row, passage."""

    columns: tuple[str, ...]  # cleaned, in the order they first appear; a nested one with dots (``data.prompt``)
    rows: Rows | Sequence[Numbered]  # a missing cell of a table is ""
    sample: Sequence[dict[str, Any]] = ()  # of the readable ones, spread evenly; from ``rows`` where there is none

    def some(self) -> Sequence[dict[str, Any]]:
        """The sample; empty only when no record can be read."""
        if self.sample:
            return self.sample
        survey = _Survey()
        for _, record in self.rows:
            if isinstance(record, dict):
                survey.sample(record)
        return survey.kept


def stream(
    read: Callable[[OnProgress | None], Iterable[Numbered]], limits: Limits, on_progress: OnProgress | None = None
) -> Records:
    """Records that stay on disk: one pass for their columns, number and sample. Raises InputError for too many."""
    survey, count = _Survey(), 0
    for count, (_, record) in enumerate(read(on_progress), 1):
        limits.check("rows", count)
        if isinstance(record, dict):
            survey.columns(record)
            survey.sample(record)
    return Records(survey.names(), Rows(lambda: read(None), count), survey.kept)


class _Survey:
    """Gathers the columns of records in the order of first appearance, and every n-th record; n grows with them."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self._step, self._count = 1, 0
        self._plain: dict[str, bool] = {}

    def sample(self, record: dict[str, Any]) -> None:
        if self._count % self._step == 0:
            self.kept.append(record)
            if len(self.kept) >= 2 * _SAMPLE:
                self.kept = self.kept[::2]
                self._step *= 2
        self._count += 1

    def columns(self, flat: Mapping[str, Any]) -> None:
        plain = self._plain
        for name, value in flat.items():
            if name not in plain:
                plain[name] = not is_nested(value)
            elif not plain[name] and not is_nested(value) and value not in (None, ""):
                plain[name] = True

    def names(self) -> tuple[str, ...]:
        """An object is no column beside its entries; one with very many different keys over the rows is one column."""
        inside: dict[str, int] = {}
        for name in self._plain:
            for parent in _parents(name):
                if parent in self._plain:
                    inside[parent] = inside.get(parent, 0) + 1
        crowded = {parent for parent, count in inside.items() if count > _MAX_KEYS}
        return tuple(
            name
            for name, plain in self._plain.items()
            if (plain or name in crowded or name not in inside) and crowded.isdisjoint(_parents(name))
        )


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
    return isinstance(value, dict) and 0 < len(value) <= _MAX_KEYS and not is_turn(value)


def _parents(name: str) -> list[str]:
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
    if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], str):
        if spelling(leaf(name)) not in NAMES["answer_pairs"]:
            return
        given = (scores for key, scores in beside.items() if spelling(key) in NAMES["scores"])
        scores = next((two for two in given if _are_two_numbers(two)), None)
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


def _are_two_numbers(value: Any) -> bool:
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
    """The first annotation of Label Studio: choices, a text or a rating."""
    for item in result if isinstance(result, list) else ():
        value = item.get("value") if isinstance(item, dict) else None
        for key in ("choices", "text", "rating", "taxonomy"):
            found = value.get(key) if isinstance(value, dict) else None
            if isinstance(found, list) and found:
                return ", ".join(map(str, found))
            if isinstance(found, str | int | float):
                return str(found)
    return ""
