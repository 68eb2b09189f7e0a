"""What a person takes away from a check: the bad rows as a table to mend, the good ones as JSONL."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from playground.data.example import Checked, Example, Judged, Message, Passage, Preference
from playground.data.lengths import TokenReport
from playground.data.report import bad_rows

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a cell begins that a spreadsheet program would run (OWASP, CSV injection), full-width forms included."""
BOM = "\ufeff"
"""Tells Excel that the file is UTF-8."""

Original = Callable[[int], Mapping[str, Any] | str | None]
"""A row's number -> what the file has there: its cells by column, its line where it could not be read, or nothing."""


def bad_rows_csv(checked: Checked, tokens: TokenReport | None = None, original: Original | None = None) -> str:
    """The bad rows as CSV, to be saved as UTF-8: file (where there are several), row, reason, fix, then what the row holds.

    What it holds: the file's columns, or ``content`` where it could not be read into columns; neither where nothing is known.
    Cells that a spreadsheet program would run as a formula begin with an apostrophe.
    """
    contents = _contents(checked, tokens, original)
    columns = list(dict.fromkeys(key for content in contents.values() if isinstance(content, Mapping) for key in content))
    order = {column: place for place, column in enumerate(checked.columns)}
    columns.sort(key=lambda column: order.get(column, len(order)))
    lines = any(isinstance(content, str) for content in contents.values())
    several = len(checked.files) > 1
    out = io.StringIO()
    out.write(BOM)
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")  # quoted: safe under another separator too
    head = [*(["file"] if several else []), "row", "reason", "fix", *columns, *(["content"] if lines else [])]
    writer.writerow(map(_cell, head))
    for bad in bad_rows(checked, tokens):
        content = contents.get(bad.row)
        cells: list[Any] = [*_place(checked, bad.row), bad.reason, bad.fix]
        cells += [content.get(column, "") if isinstance(content, Mapping) else "" for column in columns]
        cells += [content if isinstance(content, str) else ""] if lines else []
        writer.writerow(map(_cell, cells))
    return out.getvalue()


def good_rows_jsonl(checked: Checked, tokens: TokenReport | None = None) -> str:
    """The rows that can be trained on, one JSON object a line, in the shapes that OpenAI and TRL read: ``messages``; ``prompt``,
    ``chosen`` and ``rejected``; ``prompt``, ``completion`` and ``label``; or ``text``. Read again, they give the same rows."""
    bad = {row.row for row in tokens.bad} if tokens else set()
    rows = (json.dumps(as_record(row), ensure_ascii=False) for row in checked.usable if row.row not in bad)
    return "".join(f"{_line(row)}\n" for row in rows)


def as_record(row: Example | Preference | Judged | Passage) -> dict[str, Any]:
    """A row as ``good_rows_jsonl`` writes it."""
    if isinstance(row, Passage):
        return {"text": row.text}
    if isinstance(row, Example):
        return {"messages": [turn.as_dict() for turn in row.messages]}
    prompt = [turn.as_dict() for turn in row.prompt]
    if isinstance(row, Preference):
        return {"prompt": prompt, "chosen": _said(row.chosen), "rejected": _said(row.rejected)}
    return {"prompt": prompt, "completion": _said(row.completion), "label": row.good}


def _said(answer: str) -> list[dict[str, str]]:
    return [Message("assistant", answer).as_dict()]


def _line(text: str) -> str:
    """JSON on one line for every reader: some break lines at these characters too."""
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")


def _contents(checked: Checked, tokens: TokenReport | None, original: Original | None) -> dict[int, Mapping[str, Any] | str]:
    """What each bad row holds: as the file has it, else as it was read."""
    found: dict[int, Mapping[str, Any] | str] = {}
    read = {row.row for row in tokens.bad} if tokens else set()
    if read:
        found = {row.row: json.dumps(as_record(row), ensure_ascii=False) for row in checked.usable if row.row in read}
    for bad in bad_rows(checked, tokens) if original else ():
        content = original(bad.row) if original else None
        if content is not None:
            found[bad.row] = content
    return found


def _place(checked: Checked, row: int) -> list[Any]:
    if len(checked.files) < 2:
        return [row]
    part = next((part for part in checked.files if part.first <= row < part.first + part.rows), None)
    return [part.name, row - part.first + 1] if part else ["", row]


def _cell(value: Any) -> str:
    """A value as a cell that is text and nothing else."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = text.encode("utf-8", "replace").decode().replace("\0", "")
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text
