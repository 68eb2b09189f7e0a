"""Rows as a person edits and takes them away: cells of text, the bad rows as CSV to mend, the good ones as JSONL."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from playground.data.advice import bad_rows
from playground.data.example import TOOLS, Checked, Example, Message, Passage, Preference, PromptOnly, Row, uses_tools
from playground.data.files import read_files
from playground.data.records import AS_FOUND, Reading
from playground.data.token_counts import TokenReport
from playground.data.tools import TEXT, laid_out


class Table(NamedTuple):
    """columns: of the whole file. rows: number -> its cells, in the order asked for; empty where it is unreadable."""

    columns: tuple[str, ...]
    rows: dict[int, list[str]]


def table_of(path: Path, rows: Sequence[int], limit_bytes: int, reading: Reading = AS_FOUND) -> Table:
    """These rows of a file. Raises InputError."""
    wanted = set(rows)
    columns: dict[str, None] = {}
    found: dict[int, dict[str, Any]] = {}
    for number, record in read_files(path, limit_bytes, reading):
        cells = record if isinstance(record, dict) else {}
        columns |= dict.fromkeys(cells)
        if number in wanted:
            found[number] = cells
    cells_of = {row: [_editing_cell(found[row].get(name)) for name in columns] for row in rows if row in found}
    return Table(tuple(columns), cells_of)


def edited_lines(
    path: Path, changes: Mapping[int, Mapping[str, Any]], limit_bytes: int, reading: Reading = AS_FOUND
) -> Iterator[str]:
    """Every record as a line of JSON, with the changes. An unreadable one that is not changed is an empty object."""
    for number, record in read_files(path, limit_bytes, reading):
        edited = dict(record) if isinstance(record, dict) else {}
        for column, value in changes.get(number, {}).items():
            edited[column] = _value(value, edited.get(column))
        yield json.dumps(edited, ensure_ascii=False, default=str) + "\n"


def _editing_cell(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)


def _value(text: Any, before: Any) -> Any:
    """What was a list or an object is read as one again, if it still is."""
    if isinstance(before, list | dict):
        try:
            return json.loads(str(text))
        except ValueError:
            pass
    return "" if text is None else str(text)


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a cell begins that a spreadsheet program would run (OWASP, CSV injection), full-width forms included."""
BOM = "\ufeff"  # Excel reads a file as UTF-8 where it begins with this mark


def bad_rows_csv(
    checked: Checked, tokens: TokenReport | None = None, original: Mapping[int, Mapping[str, Any]] | None = None
) -> str:
    """The bad rows as CSV: file (where there are several), row, reason, fix, then what the row holds.

    original: a row's number -> its cells by column; none of a row that could not be read."""
    bad, original = bad_rows(checked, tokens), original or {}
    held = dict.fromkeys(name for row in bad for name in original.get(row.row, ()))
    columns = [*dict.fromkeys(name for name in (*checked.columns, *held) if name in held)]
    lines: list[list[object]] = [[*(["file"] if checked.files else []), "row", "reason", "fix", *columns]]
    for row in bad:
        part, cells = checked.part_of(row.row), original.get(row.row, {})
        place = [part.name, row.row - part.first + 1] if part else [row.row]
        lines.append([*place, row.reason, row.fix, *(cells.get(name, "") for name in columns)])
    return csv_of(lines)


def csv_of(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV, quoted throughout, which is safe under another separator too. Cells that a spreadsheet program would
    run as a formula begin with an apostrophe."""
    out = io.StringIO(BOM)
    out.seek(0, io.SEEK_END)
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(map(_cell, row) for row in rows)
    return out.getvalue()


def good_rows_jsonl(checked: Checked, rows: Collection[int] | None = None) -> str:
    """The rows that can be trained on as OpenAI and TRL read them, an object a line; read again, the same rows. rows:
    only those of these numbers."""
    taken = None if rows is None else frozenset(rows)
    wanted = (row for row in checked.usable if taken is None or row.row in taken)
    lines = (json.dumps(as_record(row), ensure_ascii=False) for row in wanted)
    return "".join(f"{row.translate(_LINE_ENDS)}\n" for row in lines)


_LINE_ENDS = str.maketrans({end: json.dumps(end).strip('"') for end in "\u2028\u2029\x85"})


def as_record(row: Row) -> dict[str, Any]:
    """A row as ``good_rows_jsonl`` writes it."""
    if isinstance(row, Passage):
        return {"text": row.text}
    if isinstance(row, Example):
        return {"messages": _turns(row.messages)} | _offered(row.messages)
    prompt = {"prompt": _turns(row.prompt)} | _offered(row.prompt)
    if isinstance(row, PromptOnly):
        return prompt
    answers = [[{"role": "assistant", "content": text}] for text in row.answers]
    if isinstance(row, Preference):
        return prompt | {"chosen": answers[0], "rejected": answers[1]}
    return prompt | {"completion": answers[0], "label": row.good}


def _turns(turns: Sequence[Message]) -> list[dict[str, Any]]:
    told = [turn for turn in turns if turn.role != TOOLS]
    named = [{"role": one.role, "content": one.content} for one in told]
    plain = laid_out(turns, TEXT).turns if uses_tools(turns) else named
    return [
        made | ({} if one.learned else {"weight": 0}) | ({"reasoning_content": one.thought} if one.thought else {})
        for made, one in zip(plain, told, strict=True)
    ]


def _offered(turns: Sequence[Message]) -> dict[str, Any]:
    tools = laid_out(turns[:1]).tools if uses_tools(turns[:1]) else None
    return {"tools": tools} if tools else {}


def _cell(value: Any) -> str:
    """A value as a cell that is text and nothing else."""
    is_text = isinstance(value, str)
    text = value if is_text else "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    text = text.encode("utf-8", "replace").decode().replace("\0", "")
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text
