"""Excel workbooks and Parquet files -> records. Both are compressed: what they unpack to is limited as well."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playground.data.records import Records, clean_name, listed
from playground.data.separated import build_table
from playground.errors import InputError

UNPACKED = 10
"""A compressed file may unpack to this many times the upload limit."""


def parse_xlsx(path: Path, limit_bytes: int) -> Records:
    """The first sheet that holds anything. Raises InputError when it is no workbook, or has no columns or rows."""
    try:
        import openpyxl
    except ImportError:
        raise InputError(f"{path.name} needs openpyxl, which is not installed. Install it, or save the sheet as CSV.") from None
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError):
        raise InputError(f"{path.name} is no Excel workbook (.xlsx), or has a password. Save it again, or as CSV.") from None
    _refuse_bomb(path, unpacked, limit_bytes)
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            for sheet in book.worksheets:
                rows = _sheet(sheet)
                if rows:
                    return build_table(rows[0], rows[1:], path.name)
        finally:
            book.close()
    except InputError:
        raise
    except Exception as error:  # a damaged workbook fails anywhere inside openpyxl, with any type
        raise InputError(f"{path.name} cannot be read as an Excel workbook: {error}. Save it again, or as CSV.") from error
    raise InputError(f"{path.name} is an empty workbook. Put column names in the first line and rows under them.")


def parse_parquet(path: Path, limit_bytes: int) -> Records:
    """Raises InputError when it is no Parquet file, or has no columns or rows."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{path.name} needs pyarrow, which is not installed. Install it, or save the data as JSONL.") from None
    rows: list[dict[str, Any]] = []
    unpacked = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = tuple(clean_name(name) for name in file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=1024):
                unpacked += batch.nbytes
                _refuse_bomb(path, unpacked, limit_bytes)
                rows += batch.rename_columns(list(columns)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path.name} is no Parquet file, or damaged: {error}. Write it again, or as JSONL.") from error
    if not columns or not rows:
        raise InputError(f"{path.name} has {len(columns)} columns ({listed(columns)}) and {len(rows)} rows. Add rows.")
    for row in rows:
        row.update({key: "" for key, value in row.items() if value is None})
    return Records(columns, [*enumerate(rows, 1)])


def _sheet(sheet: Any) -> list[list[object]]:
    """Rows from the first one that is not empty to the last; the empty ones between them keep their number."""
    sheet.reset_dimensions()  # some programs write a wrong size, and only that much would be read
    return _trim([list(row) for row in sheet.iter_rows(values_only=True)])


def _trim(rows: list[list[object]]) -> list[list[object]]:
    def filled() -> Iterator[int]:
        return (place for place, row in enumerate(rows) if any(cell not in (None, "") for cell in row))

    first, last = next(filled(), None), max(filled(), default=None)
    return [] if first is None or last is None else rows[first : last + 1]


def _refuse_bomb(path: Path, unpacked: int, limit_bytes: int) -> None:
    if unpacked > UNPACKED * limit_bytes:
        raise InputError(f"{path.name} unpacks to more than {UNPACKED} times the size limit. Keep fewer rows.")
