"""Excel workbooks and Parquet files -> records. Both are compressed: what they unpack to is limited as well."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from playground.data.nested import Columns, flatten
from playground.data.progress import Tell
from playground.data.records import Numbered, Records, Spread, listed
from playground.data.separated import build_table
from playground.data.source import UNPACKED
from playground.errors import InputError


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
                    return build_table(rows[0], lambda rows=rows: rows[1:], path.name)  # type: ignore[misc]
        finally:
            book.close()
    except InputError:
        raise
    except Exception as error:  # a damaged workbook fails anywhere inside openpyxl, with any type
        raise InputError(f"{path.name} cannot be read as an Excel workbook: {error}. Save it again, or as CSV.") from error
    raise InputError(f"{path.name} is an empty workbook. Put column names in the first line and rows under them.")


class ParquetRows(Collection[Numbered]):
    """The rows of a Parquet file, read anew each time they are gone through."""

    def __init__(self, path: Path, limit_bytes: int, tell: Tell | None) -> None:
        """Reads the file once. Raises InputError when it unpacks to too much; pyarrow's own errors when it is damaged."""
        self._path = path
        seen, taken, count = Columns(), Spread(), 0
        for unpacked, total, rows in self._batches():
            _refuse_bomb(path, unpacked, limit_bytes)
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
        for _, _, rows in self._batches():
            for row in rows:
                number += 1
                yield number, row

    def _batches(self) -> Iterator[tuple[int, int, list[dict[str, Any]]]]:
        """(bytes unpacked so far, rows in the file, the next rows)."""
        import pyarrow.parquet

        unpacked = 0
        with pyarrow.parquet.ParquetFile(self._path) as file:
            for batch in file.iter_batches(batch_size=1024):
                unpacked += batch.nbytes
                rows = ({key: "" if value is None else value for key, value in row.items()} for row in batch.to_pylist())
                yield unpacked, file.metadata.num_rows, [flatten(row) for row in rows]


def parse_parquet(path: Path, limit_bytes: int, tell: Tell | None = None) -> Records:
    """Raises InputError when it is no Parquet file, or has no columns or rows."""
    try:
        import pyarrow
    except ImportError:
        raise InputError(f"{path.name} needs pyarrow, which is not installed. Install it, or save the data as JSONL.") from None
    try:
        rows = ParquetRows(path, limit_bytes, tell)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path.name} is no Parquet file, or damaged: {error}. Write it again, or as JSONL.") from error
    if not rows.columns or not len(rows):
        raise InputError(f"{path.name} has {len(rows.columns)} columns ({listed(rows.columns)}) and {len(rows)} rows. Add rows.")
    return Records(rows.columns, rows, rows.sample)


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
