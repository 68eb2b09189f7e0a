"""JSON and JSONL text -> records, whichever of the two the file's name says. JSONL is read line by line, never kept
whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from playground.data.readers.limits import LONGEST_LINE, Limits, OnProgress
from playground.data.readers.records import Broken, Columns, Numbered, Records, flatten, stream
from playground.data.readers.text import Text
from playground.data.turns import is_turns
from playground.errors import InputError

_DECODER = json.JSONDecoder(parse_constant=lambda _: None)  # NaN and Infinity are not JSON: a missing value
_OBJECT = 'Write each row as an object such as {"prompt": "…", "completion": "…"}.'
_LINE = "Mend the line: one JSON object, double quotes, nothing after the closing brace."
_TURN_KEYS = frozenset(["role", "from", "content", "value", "name", "weight"])


def parse_json(text: Text, on_progress: OnProgress | None = None) -> Records:
    """A list of objects, an object that holds one (``{"data": [...]}``), a table by its columns, or one object.

    Raises InputError with line and column when it does not parse: a list is taken whole or not at all.
    """
    name, whole = text.name, text.whole()
    try:
        value = _DECODER.decode(whole)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and isinstance(_parsed(_first_lines(text, 1)[0]), dict | list):
            del whole
            return _lines(text, on_progress)
        near = whole[max(0, error.pos - 10) : error.pos + 20]
        raise InputError(
            f"{name} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno} (near {near!r}). "
            "Mend that place; until the whole file parses, none of it is used."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not usable JSON: {_why(error)}. Write a flat list of objects.") from None
    del whole
    items = _items(value, text.limits)
    text.limits.check_rows(len(items))
    if not items or items == [{}]:
        raise InputError(f"{name} holds no rows. {_OBJECT}")
    rows, columns = [(number, _record(item)) for number, item in enumerate(items, 1)], Columns()
    for _, record in rows:
        if isinstance(record, dict):
            columns.add(record)
    return Records(columns.names(), rows)


def parse_jsonl(text: Text, on_progress: OnProgress | None = None) -> Records:
    """One object a line; blank lines are not records. A whole JSON document under this name is read as one."""
    return parse_json(text, on_progress) if _is_document(text) else _lines(text, on_progress)


def starts_as_jsonl(text: Text) -> bool:
    """Whether the first line is a JSON object: a text file that is really JSONL."""
    return isinstance(_parsed(_first_lines(text, 1)[0]), dict)


def _lines(text: Text, on_progress: OnProgress | None) -> Records:
    return stream(lambda progress: _parse_lines(text, progress), text.limits, on_progress)


def _parse_lines(text: Text, on_progress: OnProgress | None) -> Iterator[Numbered]:
    for number, line in enumerate(text.lines(on_progress, cut=True), 1):
        line = line.strip().strip("\ufeff")
        if not line:
            continue
        if len(line) > LONGEST_LINE:
            fix = "Shorten it, or cut it into several rows."
            yield number, Broken(f"longer than {LONGEST_LINE:,} characters", fix)
            continue
        try:
            yield number, _record(_DECODER.decode(line))
        except (ValueError, RecursionError) as error:
            yield number, Broken(f"not valid JSON: {_why(error)}", _LINE)


def _is_document(text: Text) -> bool:
    """Whether a .jsonl file is really one JSON document.

    1. One line is read as a document. 2. A first line that parses alone makes it JSONL. 3. From "[" on: what parses as
    a whole, or has an array's commas and bracket. 4. From "{" on, when no line parses alone: what parses as a whole.
    """
    first, *rest = _first_lines(text, 21)
    if not rest:
        return True  # 1
    if _parsed(first) is not None:
        return False  # 2
    if first.startswith("["):  # 3
        whole = text.whole()
        array = first == "[" or whole.rstrip().endswith("]") or any(line.endswith("},") for line in (first, *rest))
        return array or _parsed(whole) is not None
    return not any(isinstance(_parsed(line), dict) for line in rest) and _parsed(text.whole()) is not None  # 4


def _first_lines(text: Text, most: int) -> list[str]:
    return [*islice((line for line in map(str.strip, text.lines(cut=True)) if line), most)]


def _items(value: Any, limits: Limits) -> list[Any]:
    """1. one chat, or a list of rows; 2. a table by its columns; 3. the one list of rows inside; 4. one row."""
    name = limits.name
    if isinstance(value, list):  # 1
        return [value] if _is_chat(value) else value
    if not isinstance(value, dict):
        raise InputError(f"{name} holds {_kind(value)}, not rows. {_OBJECT}")
    table = _by_columns(value, limits)
    if table:  # 2
        return table
    lists = {key: items for key, items in value.items() if _are_rows(items)}
    if "rows" in lists and lists.keys() <= {"rows", "features"}:  # the dataset viewer's own answer
        lists.pop("features", None)
    if len(lists) > 1:
        found = ", ".join(f"{key} ({len(items)})" for key, items in lists.items())
        raise InputError(f"{name} holds several lists of rows: {found}. Save the one to use as a file of its own.")
    return next(iter(lists.values())) if lists else [value]  # 3, 4


def _by_columns(value: dict[str, Any], limits: Limits) -> list[Any]:
    """The rows of pandas' ways to write a table: ``{column: [cells]}``, ``{column: {index: cell}}``, columns and data
    apart."""
    columns, data = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(data, list) and data and all(isinstance(row, list) for row in data):
        return [dict(zip(map(str, columns), row, strict=False)) for row in data]
    cells = list(value.values())
    if len(cells) < 2:
        return []
    limits.check_cells(len(cells) * max(len(cell) if isinstance(cell, list | dict) else 0 for cell in cells))
    if all(isinstance(cell, list) and cell and not isinstance(cell[0], dict) for cell in cells):
        if len({len(cell) for cell in cells}) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True)]
    elif all(isinstance(cell, dict) and cell and all(key.isdigit() for key in cell) for cell in cells):
        return [{name: cell.get(index) for name, cell in value.items()} for index in cells[0]]
    return []


def _are_rows(items: object) -> bool:
    return isinstance(items, list) and not _is_chat(items) and any(isinstance(item, dict) for item in items[:100])


def _is_chat(items: list[Any]) -> bool:
    """Whether a list is one chat rather than rows: nothing but turns in it."""
    return is_turns(items) and all(isinstance(turn, dict) and turn.keys() <= _TURN_KEYS for turn in items)


def _record(value: Any) -> dict[str, Any] | Broken:
    if isinstance(value, dict):
        return flatten(value)
    if is_turns(value):
        return {"messages": value}
    return Broken(f"{_kind(value)}, not an object", _OBJECT)


def _parsed(text: str) -> Any:
    if len(text) > LONGEST_LINE:
        return None
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deep" if isinstance(error, RecursionError) else "a number of thousands of digits"


def _kind(value: Any) -> str:
    names = {str: "a text", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "nothing (null)" if value is None else "an object")
