"""JSON and JSONL text -> records, whichever of the two the file's name says."""

from __future__ import annotations

import json
from typing import Any

from playground.data.records import Broken, Records, clean_name
from playground.data.turns import is_turns
from playground.errors import InputError

_DECODER = json.JSONDecoder(parse_constant=lambda _: None)  # NaN and Infinity are not JSON: a missing value
_OBJECT = 'Write each row as an object such as {"prompt": "…", "completion": "…"}.'
_LINE = "Mend the line: one JSON object, double quotes, nothing after the closing brace."


def parse_json(text: str, name: str) -> Records:
    """A list of objects, an object that holds one (``{"data": [...]}``), or one object.

    Raises InputError with line and column when it does not parse: a list is taken whole or not at all.
    """
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and isinstance(_parsed(_first_lines(text, 1)[0]), dict):
            return _lines(text)
        near = text[max(0, error.pos - 10) : error.pos + 20]
        raise InputError(
            f"{name} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno} (near {near!r}). "
            "Mend that place; until the whole file parses, none of it is used."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not usable JSON: {_why(error)}. Write a flat list of objects.") from None
    return _numbered(_items(value, name), name)


def parse_jsonl(text: str, name: str) -> Records:
    """One object a line; blank lines are not records. A whole JSON document under this name is read as one."""
    if _is_document(text):
        return parse_json(text, name)
    return _lines(text)


def _lines(text: str) -> Records:
    rows: list[tuple[int, dict[str, Any] | Broken]] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip().strip("\ufeff")
        if not line:
            continue
        try:
            rows.append((number, _record(_DECODER.decode(line))))
        except (ValueError, RecursionError) as error:
            rows.append((number, Broken(f"not valid JSON: {_why(error)}", _LINE)))
    return _with_columns(rows)


def _is_document(text: str) -> bool:
    """Whether a .jsonl file is really one JSON document.

    1. One line is read as a document. 2. A first line that parses alone makes it JSONL. 3. From "[" on: what parses as a
    whole, or has an array's commas and bracket. 4. From "{" on, when no line parses alone: what parses as a whole.
    """
    first, *rest = _first_lines(text, 21)
    if not rest:
        return True  # 1
    if _parsed(first) is not None:
        return False  # 2
    if first.startswith("["):  # 3
        array = first == "[" or text.rstrip().endswith("]") or any(line.endswith("},") for line in (first, *rest))
        return array or _parsed(text) is not None
    return not any(isinstance(_parsed(line), dict) for line in rest) and _parsed(text) is not None  # 4


def _first_lines(text: str, most: int) -> list[str]:
    found: list[str] = []
    at = 0
    while at <= len(text) and len(found) < most:
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end].strip()
        if line:
            found.append(line)
        at = end + 1
    return found


def _items(value: Any, name: str) -> list[Any]:
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        raise InputError(f"{name} holds {_kind(value)}, not rows. {_OBJECT}")
    lists = {key: items for key, items in value.items() if _are_rows(items)}
    if len(lists) > 1:
        found = ", ".join(f"{key} ({len(items)})" for key, items in lists.items())
        raise InputError(f"{name} holds several lists of rows: {found}. Save the one to use as a file of its own.")
    return next(iter(lists.values())) if lists else [value]


def _are_rows(items: object) -> bool:
    return isinstance(items, list) and not is_turns(items) and any(isinstance(item, dict) for item in items[:100])


def _numbered(items: list[Any], name: str) -> Records:
    if not items or items == [{}]:
        raise InputError(f"{name} holds no rows. {_OBJECT}")
    return _with_columns([(number, _record(item)) for number, item in enumerate(items, 1)])


def _record(value: Any) -> dict[str, Any] | Broken:
    return value if isinstance(value, dict) else Broken(f"{_kind(value)}, not an object", _OBJECT)


def _with_columns(rows: list[tuple[int, dict[str, Any] | Broken]]) -> Records:
    names: dict[str, str] = {}
    for place, (number, record) in enumerate(rows):
        if isinstance(record, Broken):
            continue
        for key in record:
            if key not in names:
                names[key] = clean_name(key)
        if any(names[key] is not key and names[key] != key for key in record):
            rows[place] = (number, {names[key]: value for key, value in record.items()})
    return Records(tuple(dict.fromkeys(names.values())), rows)


def _parsed(text: str) -> Any:
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
