"""Excel workbooks and Parquet files -> records; a child process decodes them first, bounded in memory and time."""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from playground.data.column_profile import listed
from playground.data.layouts import flat_rows
from playground.data.limited import read_limited
from playground.data.records import LONGEST_LINE, Limits, Numbered, OnProgress, Records, stream
from playground.data.text_formats import build_table
from playground.errors import InputError

_BATCH_BYTES = 16 << 20  # decoded bytes of a Parquet file that become Python values at a time
_ROW_BYTES = 4 << 20
"""Of a sheet's XML: openpyxl holds a row whole, 80 times as large where its cells are empty."""
_STYLE_BYTES = 8 << 20
"""Of a workbook's styles, all of which openpyxl reads: two seconds for each of these megabytes."""
NO_ARCHIVE = (zipfile.BadZipFile, zlib.error, struct.error)
_VALUE_BYTES = 200  # what a Python value takes besides, about


def parse_xlsx(path: Path, limits: Limits, wanted: str = "") -> Records:
    """The sheet that is wanted, else the first that holds anything; the others that do are named. Raises InputError
    when it is no workbook, has no such sheet, is empty, or holds too much."""
    wanted = wanted.replace("\0", "").encode("utf-8", "replace").decode()  # a process takes it as an argument
    _check_archive(path, limits)
    probe(path, limits, wanted)
    try:
        with contextlib.closing(_opened(path)) as book:
            for sheet in _chosen(book, wanted):
                if rows := _trim(list(_rows(sheet, limits))):
                    records = _filled(build_table(lambda: rows, limits, _NAMES), path)
                    some = (
                        one for one in book.worksheets if one is sheet or _trim([*islice(_rows(one, limits), _SEEN)])
                    )
                    held = [one.title for one in some]
                    others = [title for title in held if title != sheet.title]
                    said = f"read from the sheet {sheet.title}; not read: {listed(others)}" if others else ""
                    note = "; ".join(filter(None, (records.note, said)))
                    return replace(records, note=note, sheet=sheet.title, sheets=tuple(held))
            if wanted:
                there = listed([sheet.title for sheet in book.worksheets])
                what = f"{path.name} has no sheet {wanted[:60]!r} with anything in it"
                raise InputError(f"{what}. Its sheets are: {there}.")
    except InputError:
        raise
    except Exception as error:  # a damaged workbook fails anywhere inside openpyxl, with any type
        raise _unreadable(path, str(error)) from error
    raise InputError(f"{path.name} is an empty workbook. Put column names in the first line and rows under them.")


def _chosen(book: Any, wanted: str) -> list[Any]:
    """The sheets to go through. Raises InputError for too many."""
    if (count := len(book.worksheets)) > _SHEETS:
        raise InputError(f"The workbook has {count:,} sheets; at most {_SHEETS} are read. Keep the one with the rows.")
    return [one for one in book.worksheets if not wanted or one.title.strip().casefold() == wanted.strip().casefold()]


_UNFILLED = re.compile(rb"</f>\s*(<v></v>|<v ?/>|</c>)")
_SHEETS, _SEEN = 500, 50
"""Sheets of a workbook, at most; first rows of another sheet, which tell whether it holds anything."""
_NAMES = "Give every column that holds something a name in the first row."


def _filled(records: Records, path: Path) -> Records:
    """The records; raises InputError where a column is empty because its formulas were never calculated."""
    empty = [name for name in records.columns if all(record[name] in (None, "") for record in records.sample)]
    if empty and records.sample:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if entry.startswith("xl/worksheets/") and _UNFILLED.search(archive.read(entry)):
                    what = f"{path.name} holds formulas without their values ({listed(empty)})"
                    raise InputError(f"{what}. Open it in a spreadsheet program, save it there, or paste the values.")
    return records


def _check_archive(path: Path, limits: Limits) -> None:
    """Raises InputError where a workbook unpacks to too much, or any of its files is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            limits.check_unpacked(sum(entry.file_size for entry in archive.infolist()))
            if any(one.filename == "xl/styles.xml" and one.file_size > _STYLE_BYTES for one in archive.infolist()):
                raise InputError(f"{path.name} holds more styles than a table needs. Save it again, or as CSV.")
            damaged = archive.testzip()
    except (*NO_ARCHIVE, OSError, EOFError, ValueError, RuntimeError):  # RuntimeError: encrypted, or not implemented
        what = f"{path.name} is no Excel workbook (.xlsx), or has a password"
        raise InputError(f"{what}. Save it again, or as CSV.") from None
    if damaged:
        raise _unreadable(path, f"{damaged} is damaged")


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(f"{path.name} cannot be read as an Excel workbook: {why}. Save it again, or as CSV.")


def _has_short_rows(path: Path) -> bool:
    """Whether no row of any sheet takes much, by its bytes alone; no where anything could hide a row's begin."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.filename.startswith("xl/worksheets/"):
                continue
            since, tail = 0, b""
            with archive.open(entry) as sheet:
                while block := sheet.read(1 << 20):
                    data = tail + block
                    first, last = data.find(b"<row"), data.rfind(b"<row")
                    if b"<!" in data or since + (len(block) if first < 0 else first) > _ROW_BYTES:
                        return False
                    since = since + len(block) if last < 0 else len(data) - last
                    tail = data[-3:]
    return True


def _needs(path: Path, module: str, what: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise InputError(f"{path.name} needs {module}, which is not installed. Install it, or save {what}.")


def _opened(path: Path) -> Any:
    _needs(path, "openpyxl", "the sheet as CSV")
    import openpyxl

    return openpyxl.load_workbook(path, read_only=True, data_only=True)


def _parquet_batches(path: Path, limits: Limits) -> Iterator[tuple[int, Any]]:
    """(rows in the file, the next few of them, decoded)."""
    import pyarrow.parquet

    unpacked = values = 0
    with pyarrow.parquet.ParquetFile(path) as file:
        limits.check("rows", file.metadata.num_rows)
        limits.check_columns(file.metadata.num_columns)
        for coded in file.iter_batches(batch_size=1024):
            batch = coded.cast(pyarrow.schema([field.with_type(_written_out(field.type)) for field in coded.schema]))
            inside = sum(map(_values, batch.columns))
            unpacked, values = unpacked + batch.nbytes, values + inside
            limits.check_unpacked(unpacked)
            limits.check("cells", values)
            step = max(1, batch.num_rows * _BATCH_BYTES // max(_BATCH_BYTES, batch.nbytes + _VALUE_BYTES * inside))
            for start in range(0, batch.num_rows, step):
                yield file.metadata.num_rows, batch.slice(start, step)


def _written_out(kind: Any) -> Any:
    """A type without dictionaries: a text that is repeated counts each time."""
    import pyarrow

    types = pyarrow.types
    if types.is_dictionary(kind):
        return _written_out(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        return (pyarrow.list_ if types.is_list(kind) else pyarrow.large_list)(_written_out(kind.value_type))
    if types.is_struct(kind):
        return pyarrow.struct([field.with_type(_written_out(field.type)) for field in kind])
    return kind


def _values(column: Any) -> int:
    """Values inside the lists, structures and maps of a column, itself among them."""
    import pyarrow

    types = pyarrow.types
    if types.is_struct(column.type):
        return len(column) + sum(map(_values, column.flatten()))
    if types.is_map(column.type):
        return len(column) + _values(column.keys) + _values(column.items)
    return len(column) + (_values(column.flatten()) if types.is_nested(column.type) else 0)


def parse_parquet(path: Path, limits: Limits, on_progress: OnProgress | None = None) -> Records:
    """Raises InputError when it is no Parquet file, empty, or holds too much."""
    _needs(path, "pyarrow", "the data as JSONL")
    import pyarrow

    try:
        if _has_parquet_ends(path):
            probe(path, limits)
        records = stream(lambda progress: _parquet_rows(path, limits, progress), limits, on_progress)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        what = f"is no Parquet file, or damaged: {error}"
        raise InputError(f"{path.name} {what}. Write it again, or as JSONL.") from error
    if not records.columns or not len(records.rows):
        has = f"{len(records.columns)} columns ({listed(records.columns)}) and {len(records.rows)} rows"
        raise InputError(f"{path.name} has {has}. Add rows.")
    return records


def _has_parquet_ends(path: Path) -> bool:
    """Whether Parquet's magic bytes are at both ends; without them pyarrow refuses the file before it decodes any."""
    with path.open("rb") as file:
        first = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        return first == file.read() == b"PAR1"


def _parquet_rows(path: Path, limits: Limits, on_progress: OnProgress | None) -> Iterator[Numbered]:
    number, names = 0, _label_names(path)
    for total, batch in _parquet_batches(path, limits):
        for row in batch.to_pylist():
            for flat in flat_rows({key: _named(key, value, names) for key, value in row.items()}):
                number += 1
                yield number, flat
        if on_progress is not None:
            on_progress(number / max(1, total))


def _label_names(path: Path) -> dict[str, list[str]]:
    """Column -> the names of its numbers, where a data set of the hub keeps them (ClassLabel)."""
    import pyarrow.parquet

    try:
        held = json.loads((pyarrow.parquet.read_schema(path).metadata or {})[b"huggingface"])
        features = {name: feature.get("feature", feature) for name, feature in held["info"]["features"].items()}
        return {name: feature["names"] for name, feature in features.items() if feature.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _named(column: str, value: Any, names: dict[str, list[str]]) -> Any:
    """A cell, "" for null; the number of a label by its name."""
    if value is None:
        return ""
    if column not in names:
        return value
    if isinstance(value, list):
        return ", ".join(str(_named(column, item, names)) for item in value)
    known = names[column]
    return known[value] if isinstance(value, int) and 0 <= value < len(known) else value


def _rows(sheet: Any, limits: Limits) -> Iterator[list[object]]:
    """Every row without the empty cells at its end. Raises InputError where there is too much."""
    sheet.reset_dimensions()  # some programs write a wrong size, and only that much would be read
    cells = 0
    for number, row in enumerate(sheet.iter_rows(values_only=True)):
        width = len(row)
        while width and row[width - 1] in (None, ""):
            width -= 1
        cells += len(row)
        if any(isinstance(cell, str) and len(cell) > LONGEST_LINE for cell in row[:width]):
            what = f"row {number + 1:,} of the sheet has a cell of more than {LONGEST_LINE:,} characters"
            raise InputError(f"{limits.name}: {what}. Shorten it.")
        limits.check_columns(width)
        limits.check("cells", cells)
        limits.check("rows", number)
        yield [
            _ESCAPED.sub(_character, cell) if isinstance(cell, str) and "_x" in cell else cell for cell in row[:width]
        ]


_ESCAPED = re.compile(r"_x000D_\n|_x([0-9A-Fa-f]{4})_")


def _character(match: re.Match[str]) -> str:
    """What Excel wrote as ``_x000D_``: a carriage return ends a line."""
    code = int(match[1], 16) if match[1] else 13
    return "\n" if code == 13 else chr(code)


def _trim(rows: list[list[object]]) -> list[list[object]]:
    """From the first row that is not empty to the last; the empty ones between them keep their number."""
    filled = [place for place, row in enumerate(rows) if any(cell not in (None, "") for cell in row)]
    return rows[filled[0] : filled[-1] + 1] if filled else []


def probe(path: Path, limits: Limits, sheet: str = "") -> None:
    """Decode the file once in a child process; raises InputError when it takes too much."""
    stat = path.stat()
    _probed(path, stat.st_size, stat.st_mtime_ns, limits, sheet)


@lru_cache(maxsize=64)
def _probed(path: Path, size: int, changed_ns: int, limits: Limits, sheet: str) -> None:
    collections.deque(read_limited(decode, path, limits, sheet), maxlen=0)


_OUT_OF_MEMORY = ("allocat", "memory", "worker thread", "resource temporarily")
"""What libraries say when they are refused memory or a thread."""
_DAMAGED: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError)
_DAMAGED += (ArithmeticError, RuntimeError, SyntaxError, AssertionError)
"""What decoders raise for a damaged file; XML that does not parse is a SyntaxError."""


def decode(file: Path, limits: Limits, bound: Callable[[], None], wanted: str) -> Iterator[None]:
    """As ``limited.Reader``: yields nothing. Damage is passed over; the reader will say it. wanted: a sheet."""
    damaged: tuple[type[Exception], ...] = (*NO_ARCHIVE, *_DAMAGED)  # an error of another type counts as no memory
    is_parquet = file.suffix.lower() == ".parquet"
    if is_parquet:
        import pyarrow.parquet

        pyarrow.set_cpu_count(1)
        damaged += (pyarrow.ArrowException,)
    else:
        import openpyxl  # noqa: F401
    bound()
    try:
        if is_parquet:
            collections.deque(_parquet_batches(file, limits), maxlen=0)  # every page
        else:
            with contextlib.closing(_opened(file)) as book:  # which allocates its shared strings and styles
                for sheet in [] if _has_short_rows(file) else _chosen(book, wanted):  # as parse_xlsx goes through them
                    if max(map(len, _rows(sheet, limits)), default=0):
                        break
    except MemoryError:
        raise
    except damaged as error:
        if any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
            raise MemoryError from error
    yield from ()
