"""Excel workbooks and Parquet files -> records. Both are compressed: a child process decodes them first, under a limit on memory."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from playground.data.limits import Limits, probe
from playground.data.nested import Columns, flatten
from playground.data.progress import Tell
from playground.data.records import Numbered, Records, Spread, listed
from playground.data.separated import build_table
from playground.errors import InputError

_BATCH_BYTES = 16 << 20
"""Decoded bytes of a Parquet file that become Python values at a time."""
_ROW_BYTES = 4 << 20
"""Of a sheet's XML: openpyxl holds a row whole, 80 times as large where its cells are empty."""
_VALUE_BYTES = 200
"""What a Python value takes besides, about."""


def parse_xlsx(path: Path, limits: Limits) -> Records:
    """The first sheet that holds anything. Raises InputError when it is no workbook, has no columns or rows, or too much of them."""
    _unpacked(path, limits)
    probe(path, limits)
    try:
        book = _opened(path)
        try:
            for sheet in book.worksheets:
                rows = _sheet(sheet, limits)
                if rows:
                    return build_table(rows[0], lambda rows=rows: rows[1:], limits)  # type: ignore[misc]
        finally:
            book.close()
    except InputError:
        raise
    except Exception as error:  # a damaged workbook fails anywhere inside openpyxl, with any type
        raise InputError(f"{path.name} cannot be read as an Excel workbook: {error}. Save it again, or as CSV.") from error
    raise InputError(f"{path.name} is an empty workbook. Put column names in the first line and rows under them.")


def decode_xlsx(path: Path, upload_bytes: int) -> None:
    """All that reading a workbook allocates: its shared strings and styles whole, and where one may be large its rows, each of them
    whole. Raises InputError where that is too much."""
    limits = Limits(path.name, upload_bytes)
    _unpacked(path, limits)
    book = _opened(path)
    for sheet in [] if _has_short_rows(path) else book.worksheets:  # as parse_xlsx goes through them
        if max(map(len, _rows(sheet, limits)), default=0):
            break
    book.close()


def _unpacked(path: Path, limits: Limits) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError, struct.error):  # what a damaged list of entries raises
        raise InputError(f"{path.name} is no Excel workbook (.xlsx), or has a password. Save it again, or as CSV.") from None
    limits.check_unpacked(unpacked)


def _has_short_rows(path: Path) -> bool:
    """Whether no row of any sheet takes much, told from the bytes alone; where anything could hide a row's begin, it cannot be told."""
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


def _opened(path: Path) -> Any:
    try:
        import openpyxl
    except ImportError:
        raise InputError(f"{path.name} needs openpyxl, which is not installed. Install it, or save the sheet as CSV.") from None
    return openpyxl.load_workbook(path, read_only=True, data_only=True)


class ParquetRows(Collection[Numbered]):
    """The rows of a Parquet file, read anew each time they are gone through."""

    def __init__(self, path: Path, limits: Limits, tell: Tell | None) -> None:
        """Reads the file once. Raises InputError when it holds too much; pyarrow's own errors when it is damaged."""
        self._path, self._limits = path, limits
        seen, taken, count = Columns(), Spread(), 0
        for total, rows in self._batches():
            for row in rows:
                seen.add(row)
                taken.add(row)
            count += len(rows)
            if tell is not None:
                tell(count / max(1, total))
        self._count, self.columns, self.sample = count, seen.names(), taken.kept

    def __len__(self) -> int:
        return self._count

    def __contains__(self, row: object) -> bool:
        return any(row == mine for mine in self)

    def __iter__(self) -> Iterator[Numbered]:
        number = 0
        for _, rows in self._batches():
            for row in rows:
                number += 1
                yield number, row

    def _batches(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """(rows in the file, the next rows)."""
        for total, batch in _parquet_batches(self._path, self._limits):
            rows = ({key: "" if value is None else value for key, value in row.items()} for row in batch.to_pylist())
            yield total, [flatten(row) for row in rows]


def _parquet_batches(path: Path, limits: Limits) -> Iterator[tuple[int, Any]]:
    """(rows in the file, the next few of them, decoded)."""
    import pyarrow.parquet

    unpacked = values = 0
    with pyarrow.parquet.ParquetFile(path) as file:
        limits.check_rows(file.metadata.num_rows)
        limits.check_columns(file.metadata.num_columns)
        for coded in file.iter_batches(batch_size=1024):
            batch = coded.cast(pyarrow.schema([field.with_type(_written_out(field.type)) for field in coded.schema]))
            inside = sum(map(_values, batch.columns))
            unpacked, values = unpacked + batch.nbytes, values + inside
            limits.check_unpacked(unpacked)
            limits.check_cells(values)
            step = max(1, batch.num_rows * _BATCH_BYTES // max(_BATCH_BYTES, batch.nbytes + _VALUE_BYTES * inside))
            for start in range(0, batch.num_rows, step):
                yield file.metadata.num_rows, batch.slice(start, step)


def _written_out(kind: Any) -> Any:
    """A type without dictionaries: a text that is repeated counts each time."""
    import pyarrow

    types = pyarrow.types
    if types.is_dictionary(kind):
        return _written_out(kind.value_type)
    if types.is_list(kind):
        return pyarrow.list_(_written_out(kind.value_type))
    if types.is_large_list(kind):
        return pyarrow.large_list(_written_out(kind.value_type))
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


def decode_parquet(path: Path, upload_bytes: int) -> None:
    """Every page of a Parquet file. Raises InputError when it holds too much, and pyarrow's own errors."""
    for _ in _parquet_batches(path, Limits(path.name, upload_bytes)):
        pass


def parse_parquet(path: Path, limits: Limits, tell: Tell | None = None) -> Records:
    """Raises InputError when it is no Parquet file, has no columns or rows, or too much of them."""
    try:
        import pyarrow
    except ImportError:
        raise InputError(f"{path.name} needs pyarrow, which is not installed. Install it, or save the data as JSONL.") from None
    try:
        probe(path, limits)
        rows = ParquetRows(path, limits, tell)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path.name} is no Parquet file, or damaged: {error}. Write it again, or as JSONL.") from error
    if not rows.columns or not len(rows):
        raise InputError(f"{path.name} has {len(rows.columns)} columns ({listed(rows.columns)}) and {len(rows)} rows. Add rows.")
    return Records(rows.columns, rows, rows.sample)


def _sheet(sheet: Any, limits: Limits) -> list[list[object]]:
    """Rows from the first one that is not empty to the last; the empty ones between them keep their number. Raises InputError."""
    return _trim(list(_rows(sheet, limits)))


def _rows(sheet: Any, limits: Limits) -> Iterator[list[object]]:
    """Every row without the empty cells at its end. Raises InputError where there is too much."""
    sheet.reset_dimensions()  # some programs write a wrong size, and only that much would be read
    cells = 0
    for number, row in enumerate(sheet.iter_rows(values_only=True)):
        width = len(row)
        while width and row[width - 1] in (None, ""):
            width -= 1
        cells += len(row)
        limits.check_columns(width)
        limits.check_cells(cells)
        limits.check_rows(number)
        yield list(row[:width])


def _trim(rows: list[list[object]]) -> list[list[object]]:
    def filled() -> Iterator[int]:
        return (place for place, row in enumerate(rows) if any(cell not in (None, "") for cell in row))

    first, last = next(filled(), None), max(filled(), default=None)
    return [] if first is None or last is None else rows[first : last + 1]
