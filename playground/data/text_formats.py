"""CSV, TSV, JSON and plain text -> records; a row that cannot be read is one broken record."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, islice
from typing import Any

from playground.data.column_profile import NAMES, SPLIT, clean_name, listed, own_part, spelling
from playground.data.layouts import flat_rows
from playground.data.records import DECODER, LONGEST_LINE, Limits, Numbered, Records, Text, json_fault, parsed, stream
from playground.data.turns import Unusable, is_turn, is_turns
from playground.errors import InputError

_OBJECT = 'Write each row as an object such as {"prompt": "…", "completion": "…"}.'
_TURN_KEYS = frozenset(["role", "from", "author", "type", "content", "value", "data", "name", "weight"])
_TURN_KEYS |= {"tool_calls", "tool_call_id", "function_call", "reasoning_content", "id"}


def parse_json(text: Text) -> Records | None:
    """A list of objects, an object that holds one, a table by its columns, or one object; None for one value a line.
    Raises InputError for others."""
    name, whole = text.name, text.whole()
    try:
        value = DECODER.decode(whole)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and isinstance(parsed(*text.first_lines(1)), dict | list):
            return None
        near = whole[max(0, error.pos - 10) : error.pos + 20]
        what = f"{name} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno} (near {near!r})"
        raise InputError(f"{what}. Mend that place; until the whole file parses, none of it is used.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not usable JSON: {json_fault(error)}. Write a flat list of objects.") from None
    del whole
    splits = _splits(value, text.limits)
    items = [_in_split(row, key) for key, rows in splits.items() for row in rows] or _items(value, text.limits)
    text.limits.check("rows", len(items))
    if not items or items == [{}]:
        raise InputError(f"{name} holds no rows. {_OBJECT}")
    rows = [*enumerate((record for item in items for record in rows_of(item)), 1)]
    return replace(stream(lambda _: rows, text.limits), splits=tuple(splits))


def _items(value: Any, limits: Limits) -> list[Any]:
    """1. a chat, or a list of rows; 2. a table by its columns; 3. the one list inside; 4. rows by id; 5. one row."""
    if isinstance(value, list):  # 1
        return [value] if _is_chat(value) else value
    if not isinstance(value, dict):
        raise InputError(f"{limits.name} holds {_kind(value)}, not rows. {_OBJECT}")
    if table := _by_columns(value, limits):  # 2
        return table
    lists = _lists(value)
    if lists and _is_row(value):
        return [value]
    if lists:
        return next(iter(lists.values()))  # 3
    return [{"id": key, **row} for key, row in value.items()] if _is_keyed(value) else [value]  # 4, 5


def _lists(value: dict[str, Any]) -> dict[str, list[Any]]:
    """The lists of rows in an object, by their keys."""
    lists = {
        key: items
        for key, items in value.items()
        if isinstance(items, list) and not _is_chat(items) and any(isinstance(item, dict) for item in items[:100])
    }
    if "rows" in lists and lists.keys() <= {"rows", "features"}:  # the dataset viewer's own answer
        lists.pop("features", None)
    return lists


def _splits(value: Any, limits: Limits) -> dict[str, list[Any]]:
    """The rows of each split, where an object holds several; {} for others."""
    if not isinstance(value, dict) or len(value) < 2:
        return {}
    if all(map(own_part, value)) and all(isinstance(one, list | dict) and one for one in value.values()):
        return {key: _items(one, limits) for key, one in value.items()}
    lists = _lists(value)
    return lists if len(lists) > 1 and not _is_row(value) else {}


def _in_split(row: Any, split: str) -> Any:
    row = {"text": row} if isinstance(row, str) else {"messages": row} if is_turns(row) else row
    return {**row, SPLIT: split} if isinstance(row, dict) else row


def _is_row(value: dict[str, Any]) -> bool:
    """Whether an object with lists in it is itself a row: it holds a chat, or an answer beside its prompt."""
    lists = {key: items for key, items in value.items() if isinstance(items, list)}
    if any(_is_chat(items) and spelling(key) in NAMES["chats"] for key, items in lists.items()):
        return True
    for row in (item for items in lists.values() for item in items[:1] if isinstance(item, dict)):
        if all(any(spelling(key) in NAMES[role] for key in row) for role in ("prompts", "completions")):
            return False
    told = [key for key, one in value.items() if isinstance(one, str) and spelling(key) in NAMES["prompts"]]
    return bool(told) and any(spelling(key) in NAMES["completions"] for key in value if key not in told)


def _is_keyed(value: dict[str, Any]) -> bool:
    """Whether an object holds a row under each of its keys: two or more, most with one key, none a role's name."""
    roles = ("prompts", "completions", "chosen", "rejected")
    if len(value) < 2 or any(spelling(key) in NAMES[role] for key in value for role in roles):
        return False
    rows = [*value.values()]
    if not all(isinstance(row, dict) and not is_turn(row) for row in rows):
        return False
    return max(Counter(key for row in rows for key in row).values(), default=0) * 2 > len(rows)


def _by_columns(value: dict[str, Any], limits: Limits) -> list[Any]:
    """A table as pandas writes it: ``{column: [cells]}``, ``{column: {index: cell}}``, or columns and data apart."""
    columns, data = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(data, list) and data and all(isinstance(row, list) for row in data):
        return [dict(zip(map(str, columns), row, strict=False)) for row in data]
    cells = list(value.values())
    if len(cells) < 2:
        return []
    limits.check("cells", len(cells) * max(len(cell) if isinstance(cell, list | dict) else 0 for cell in cells))
    if all(isinstance(cell, list) and cell and not isinstance(cell[0], dict) for cell in cells):
        if len({len(cell) for cell in cells}) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True)]
    elif all(isinstance(cell, dict) and cell and all(key.isdigit() for key in cell) for cell in cells):
        return [{name: cell.get(index) for name, cell in value.items()} for index in cells[0]]
    return []


def _is_chat(items: list[Any]) -> bool:
    """Whether a list is one chat rather than rows: nothing but turns in it."""
    return is_turns(items) and all(isinstance(turn, dict) and turn.keys() <= _TURN_KEYS for turn in items)


def rows_of(value: Any) -> Sequence[dict[str, Any] | Unusable]:
    """The rows of one value of JSON, as known programs lay them out."""
    if isinstance(value, dict):
        return flat_rows(value)
    return [{"messages": value} if is_turns(value) else Unusable(f"{_kind(value)}, not an object", _OBJECT)]


def _kind(value: object) -> str:
    names = {str: "a text", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "nothing (null)" if value is None else "an object")


_NO_SEPARATOR = "\x1f"  # a table of one column: commas belong to the text
_QUOTES = 'Put quotes around a cell that holds separators or line breaks, and write a quote inside it twice ("").'


def parse_delimited(text: Text, hint: str = ",") -> Records:
    """``hint``: the separator the file's extension promises. Raises InputError when there are no columns or no rows."""
    lines = [*text.lines()]
    declared = re.fullmatch(r"sep=([,;|\t])", lines[0].strip(" \"'"))  # Excel's own way
    if declared:
        lines = lines[1:]
    separator = declared[1] if declared else _separator(lines, hint)
    if any('\\"' in line for line in lines[:400]):  # a quote inside a cell written \\", not ""
        doubled = [line.replace('\\"', '""') for line in lines]
        lines = min(
            lines, doubled, key=lambda some: sum(isinstance(row, Unusable) for row in _rows(some[:400], separator))
        )
    return build_table(lambda: _rows(lines, separator), text.limits)


_Cells = Sequence[object] | Unusable


def build_table(rows: Callable[[], Iterable[_Cells]], limits: Limits, fix: str = "", note: str = "") -> Records:
    """Records from the rows under the first that holds column names; raises InputError for none of either, or too many.

    fix: what to do about a row with more cells than there are names. note: as in ``Records``.
    """
    name, head = limits.name, [*islice(rows(), 51)]
    at = _header_at(head)
    header = head[at] if head else []
    if isinstance(header, Unusable):
        raise InputError(f"{name}: the line with the column names cannot be read: {header.reason}. {header.fix}")
    if above := [str(cell) for row in head[:at] if not isinstance(row, Unusable) for cell in row if cell]:
        note = f"above the column names and left out: {listed(above)}"
    names = [clean_name(cell) for cell in header]
    while names and not names[-1]:
        names.pop()
    if len(names) == 1 and not note and not any(spelling(names[0]) in ranks for ranks in NAMES.values()):
        note = f"the first row, {listed(names)}, is taken for the column's name"
    limits.check_columns(len(names))
    columns: list[str] = []
    for place, column in enumerate(names, 1):
        unique = column or f"column {place}"
        columns.append(unique if unique not in columns else f"{unique} ({place})")
    if not columns:
        fix = "Its first line must name the columns, for example: prompt,completion"
        raise InputError(f"{name} has no column names. {fix}")
    records = stream(
        lambda _: _table_rows(columns, islice(rows(), at + 1, None), fix or _QUOTES), limits, columns=columns
    )
    if not len(records.rows):
        raise InputError(f"{name} has column names ({listed(columns)}) but no rows. Add rows under them.")
    return replace(records, note=note)


def _header_at(head: list[_Cells]) -> int:
    """The place of the column names: the first row, or the first of several cells under titles, each a cell alone."""
    filled = [0 if isinstance(row, Unusable) else sum(cell not in (None, "") for cell in row) for row in head]
    if len(head) < 3 or filled[0] != 1 or isinstance(head[0], Unusable) or head[0][0] in (None, ""):
        return 0
    at = next((place for place, count in enumerate(filled[:10]) if count > 1), 0)
    under = filled[at + 1 :]
    return at if under and sum(count > 1 for count in under) * 2 > len(under) else 0


def _is_blank(cells: Sequence[object]) -> bool:
    """Whether a row holds nothing, or nothing but a sheet's boxes that are not ticked."""
    empty = [cell in (None, "") for cell in cells]
    boxes = all(cell is False or cell in _UNTICKED for cell, none in zip(cells, empty, strict=True) if not none)
    return boxes and (any(empty) or not cells)


_UNTICKED = ("", "FALSE", "False", "false")
_NOTHING = frozenset((*_UNTICKED, None, False))


def _table_rows(columns: list[str], rows: Iterable[_Cells], fix: str) -> Iterator[Numbered]:
    """Every row but the blank ones at the end."""
    width = len(columns)
    blank = dict.fromkeys(columns, "")
    waiting: list[Numbered] = []
    for number, cells in enumerate(rows, 1):
        if not isinstance(cells, Unusable) and not (cells and cells[0] not in _NOTHING) and _is_blank(cells):
            waiting.append((number, blank | dict(zip(columns, cells, strict=False))))
            continue
        if waiting:
            yield from waiting
            waiting = []
        if isinstance(cells, Unusable):
            yield number, cells
        elif len(cells) == width and None not in cells:
            yield number, dict(zip(columns, cells, strict=True))
        elif len(cells) > width and any(cell not in (None, "") for cell in cells[width:]):
            yield number, Unusable(f"{len(cells)} cells in a table of {width} columns", fix)
        else:
            values = ("" if cell is None else cell for cell in cells)
            yield number, blank | dict(zip(columns, values, strict=False))


def _separator(lines: list[str], hint: str) -> str:
    """The separator that splits the header, and most rows into as many cells as the header has."""
    best, found = (0.0, 0), _NO_SEPARATOR
    for separator in dict.fromkeys((hint, *",;\t|")):
        header, *rest = [*islice(_rows(lines[:400], separator), 51)] or [[]]
        while rest and not isinstance(header, Unusable) and len(header) < 2 and _known_below(rest):
            header, *rest = rest  # a title above the column names
        if isinstance(header, Unusable) or len(header) < 2:
            continue
        agree = sum(not isinstance(row, Unusable) and len(row) == len(header) for row in rest) / max(1, len(rest))
        if (agree, len(header)) > best:
            best, found = (agree, len(header)), separator
    return found


def _known_below(rows: Sequence[_Cells]) -> bool:
    """Whether one of the next few rows names columns that are known."""
    known = {name for role in ("prompts", "completions", "chosen", "rejected") for name in NAMES[role]}
    few = [row for row in rows[:6] if not isinstance(row, Unusable) and len(row) > 1]
    return any(sum(spelling(str(cell)) in known for cell in row) > 1 for row in few)


def _rows(lines: list[str], separator: str) -> Iterator[list[str] | Unusable]:
    """Every row that is not a blank line. Linear: after a quote that never closes, each line is a row of its own."""
    csv.field_size_limit(LONGEST_LINE)  # a quote that never closes must not swallow a whole large file
    spaced = any(f'{separator} "' in line for line in lines[:50])
    at, alone, width = 0, False, 0
    while at < len(lines):
        feed = (lines[place] + "\n" for place in range(at, at + 1 if alone else len(lines)))
        reader = csv.reader(feed, delimiter=separator, strict=True, skipinitialspace=spaced)
        begin = at
        try:
            for cells in reader:
                begin = at + reader.line_num
                if cells and not (len(cells) == 1 and cells[0].isspace()):
                    width = width or len(cells)
                    yield cells
            at = begin
            if not alone:
                return
        except csv.Error as error:
            at = begin + 1
            plain = lines[begin].split("\t")
            if separator == "\t" and width and len(plain) == width:
                yield plain  # many TSV files do not quote: the marks are part of the text
                continue
            inner = "expected after" in str(error)
            alone = alone or not inner
            what = "a quote inside the text is not doubled" if inner else "a quote is opened and never closed"
            yield Unusable(what, _QUOTES)


_HEADING, _UNDERLINE = re.compile(r"\s{0,3}#{1,6}\s"), re.compile(r"\s{0,3}(=+|-+)\s*$")


def parse_text(text: Text, kind: str) -> Records | None:
    """A table (.txt only) where the first line names known columns, None where that is an object, else passages.

    1. Blank lines separate passages. 2. A text without any blank line between is one passage a line. 3. Headings stay
    with the passage under them. 4. A blank line inside a fenced block of code separates nothing.
    """
    first = text.first_lines(1)[0]
    if kind == ".txt" and (separator := _separator_of_known(first)):
        return parse_delimited(text, separator)
    if isinstance(parsed(first), dict):
        return None
    if kind == ".txt" and "\t" in first and (table := _tabbed(text)):
        return table
    found = [*passages(text.lines())]
    if len(found) == 1:  # 2
        found = [line for line in found[0].split("\n") if line.strip()]
    if not found:
        raise InputError(f"{text.name} holds no text. Write passages with a blank line between them.")
    rows: list[Numbered] = [(number, {"text": passage}) for number, passage in enumerate(found, 1)]
    return stream(lambda _: rows, text.limits, columns=("text",))


def _tabbed(text: Text) -> Records | None:
    """A table without names of what stands before and after the one tab of every line; None for other texts."""
    rows = [line.split("\t") for line in text.lines() if line.strip()]
    if len(rows) < 2 or any(len(row) != 2 or not all(map(str.strip, row)) for row in rows):
        return None
    labelled = len(rows) >= 10 and len({before for before, _ in rows}) * 2 <= len(rows)
    names = ["label", "text"] if labelled else ["question", "answer"]
    note = f"the file names no columns: before the tab stands the {names[0]}, after it the {names[1]}"
    return build_table(lambda: chain([names], rows), text.limits, note=note)


def _separator_of_known(first: str) -> str | None:
    """What separates the cells of a line that names known columns."""
    known = {name for role in ("prompts", "completions", "chosen", "rejected", "inputs") for name in NAMES[role]}
    for separator in ("\t", ";", "|", ","):
        cells = [spelling(cell) for cell in first.split(separator)]
        if len(cells) >= 2 and len(known & set(cells)) >= 2 and len(set(cells) - known) <= len(cells) // 2:
            return separator
    return None


def passages(lines: Iterable[str]) -> Iterator[str]:
    """Blocks of lines between blank ones."""
    fence, headings = "", list[str]()

    def separates(line: str) -> bool:
        nonlocal fence
        mark = line.strip()[:3]
        if mark in ("```", "~~~") and fence in ("", mark):  # 4
            fence = "" if fence else mark
        return not line.strip() and not fence

    for is_blank, group in groupby(lines, separates):
        if is_blank:
            continue
        block = [line.rstrip() for line in group]
        headings.append("\n".join(block).strip("\n"))
        if not (all(map(_HEADING.match, block)) or (len(block) == 2 and _UNDERLINE.match(block[1]))):  # 3
            yield "\n\n".join(headings)
            headings = []
    if headings:
        yield "\n\n".join(headings)


def pasted_kind(text: str) -> str:
    """The extension that its reader wants: 1. JSON or JSON lines; 2. what a sheet copies (tabs); 3. CSV; 4. text."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    if lines[0].lstrip()[:1] in ("{", "["):  # 1
        return ".jsonl" if parsed(text) is None else ".json"
    if "\t" in lines[0]:  # 2
        return ".tsv"
    widths = {len(cells) for separator in ",;|" for cells in csv.reader(lines[:1], delimiter=separator)} - {1}
    if len(lines) > 1 and widths and len(lines[0]) <= 200 and not lines[0].rstrip().endswith((".", "?", "!")):  # 3
        return ".csv"
    return ".txt"  # 4
