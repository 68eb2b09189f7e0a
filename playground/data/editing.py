"""Rows as a person edits them: shown as cells of text, written back as JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.data.files import read_files

_NESTED = (list, dict)


@dataclass(frozen=True)
class Table:
    """columns: of the whole file. rows: number -> its cells, in the order asked for; an unreadable row has empty ones."""

    columns: tuple[str, ...]
    rows: dict[int, list[str]]


def table_of(path: Path, rows: Sequence[int], limit_bytes: int) -> Table:
    """These rows of a file. Raises InputError."""
    wanted = set(rows)
    columns: dict[str, None] = {}
    held: dict[int, dict[str, Any]] = {}
    for number, record in read_files(path, limit_bytes):
        if isinstance(record, dict):
            columns.update(dict.fromkeys(record))
        if number in wanted:
            held[number] = record if isinstance(record, dict) else {}
    names = tuple(columns)
    return Table(names, {row: [_cell(held[row].get(name)) for name in names] for row in rows if row in held})


def edited_lines(path: Path, changes: Mapping[int, Mapping[str, Any]], limit_bytes: int) -> Iterator[str]:
    """Every record as a line of JSON, with the changes. An unreadable one that is not changed is an empty object."""
    for number, record in read_files(path, limit_bytes):
        held = dict(record) if isinstance(record, dict) else {}
        for column, value in changes.get(number, {}).items():
            held[column] = _value(value, held.get(column))
        yield json.dumps(held, ensure_ascii=False, default=str) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, _NESTED) else str(value)


def _value(text: Any, before: Any) -> Any:
    """What was a list or an object is read as one again, if it still is."""
    if isinstance(before, _NESTED):
        try:
            return json.loads(str(text))
        except ValueError:
            pass
    return "" if text is None else str(text)
