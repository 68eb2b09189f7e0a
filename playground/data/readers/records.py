"""What a file holds before its columns mean anything: numbered records, those that could not be read, and the columns
inside objects: ``{"data": {"prompt": …}}`` gets a column ``data.prompt`` beside ``data``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from playground.data import column_aliases
from playground.data.column_aliases import clean_name, leaf, spelling
from playground.data.readers.limits import Limits, OnProgress
from playground.data.turns import is_turn

SAMPLE = 500
"""Records in a sample: at least so many, at most twice as many, from all over the file."""
_MAX_DEPTH = 3
_MAX_DOTS = 20
"""Of a name; what a person wrote with more is one name from there on."""
_MAX_KEYS = 60
"""More keys than this are not columns but data, such as one key per id."""
_SCORES = ("overall_score", "score", "rating", "fine-grained_score")
_ANSWERS = ("response", "answer", "completion", "output", "text", "content")


@dataclass(frozen=True)
class Broken:
    """A record that could not be read: what is wrong and what to do."""

    reason: str
    fix: str


Numbered = tuple[int, dict[str, Any] | Broken]


class Rows(Collection[Numbered]):
    """``count`` records, read from the file anew at every iteration."""

    def __init__(self, read: Callable[[], Iterable[Numbered]], count: int) -> None:
        self._read, self._count = read, count

    def __len__(self) -> int:
        return self._count

    def __contains__(self, row: object) -> bool:
        return any(row == mine for mine in self)

    def __iter__(self) -> Iterator[Numbered]:
        return iter(self._read())


@dataclass(frozen=True)
class Records:
    """One file's records.

    columns: every column (or key), cleaned, in the order they first appear; a nested one with dots (``data.prompt``).
    rows: (number, record). The number is what the person sees: the line of a JSONL file, the item of a JSON list, the
        data row of a table, the passage of a text; all from 1. A missing cell of a table is ``""``.
    sample: some of the readable records, spread evenly; taken from ``rows`` where a reader gave none.
    """

    columns: tuple[str, ...]
    rows: Collection[Numbered]
    sample: Sequence[dict[str, Any]] = ()

    def some(self) -> Sequence[dict[str, Any]]:
        """The sample; empty only when no record can be read."""
        if self.sample:
            return self.sample
        sample = _Sample()
        for _, record in self.rows:
            if isinstance(record, dict):
                sample.add(record)
        return sample.kept


def stream(
    read: Callable[[OnProgress | None], Iterable[Numbered]], limits: Limits, on_progress: OnProgress | None
) -> Records:
    """Records that stay on disk: one pass for their columns, number and sample. Raises InputError where there are too
    many."""
    columns, sample, count = Columns(), _Sample(), 0
    for _, record in read(on_progress):
        count += 1
        limits.check_rows(count)
        if isinstance(record, dict):
            columns.add(record)
            sample.add(record)
    return Records(columns.names(), Rows(lambda: read(None), count), sample.kept)


class _Sample:
    """Every n-th of a stream of unknown length, evenly; n doubles as the stream grows."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self._step, self._count = 1, 0

    def add(self, record: dict[str, Any]) -> None:
        if self._count % self._step == 0:
            self.kept.append(record)
            if len(self.kept) >= 2 * SAMPLE:
                self.kept = self.kept[::2]
                self._step *= 2
        self._count += 1


class Columns:
    """Gathers the columns of flat records one by one, in the order of first appearance."""

    def __init__(self) -> None:
        self._plain: dict[str, bool] = {}

    def add(self, flat: Mapping[str, Any]) -> None:
        plain = self._plain
        for name, value in flat.items():
            if name not in plain:
                plain[name] = not is_nested(value)
            elif not plain[name] and not is_nested(value) and value not in (None, ""):
                plain[name] = True

    def names(self) -> tuple[str, ...]:
        """An object that is nothing but its entries is no column itself; one with many different keys over the rows is
        one column."""
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
    """The record with clean names, and one more entry for each value inside its objects.

    Beside objects: two answers in a list are its ``NAME.1`` and ``NAME.2``; a list of scored answers has a
    ``NAME.best`` and a ``NAME.worst``; Label Studio's ``annotations`` have a ``annotations.choice``; Open Assistant's
    tree of replies has a ``NAME.thread``."""
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
        if spelling(leaf(name)) not in column_aliases.ANSWER_PAIRS:
            return
        given = (scores for key, scores in beside.items() if spelling(key) in column_aliases.SCORES)
        scores = next((two for two in given if _are_two_numbers(two)), None)
        if scores is None:
            flat[f"{name}.1"], flat[f"{name}.2"] = value
        elif scores[0] != scores[1]:
            flat[f"{name}.best"], flat[f"{name}.worst"] = value if scores[0] > scores[1] else value[::-1]
    elif value and isinstance(value[0], dict):
        if spelling(name) == "annotations" and "result" in value[0]:
            flat[f"{name}.choice"] = _choice(value[0]["result"])
        elif len(value) >= 2 and spelling(leaf(name)) in column_aliases.SCORED:
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
                return ", ".join(str(part) for part in found)
            if isinstance(found, str | int | float):
                return str(found)
    return ""
