"""A person's file -> numbered records. Says in plain words why a file cannot be read."""

from __future__ import annotations

from pathlib import Path

from playground.data.decode import decode
from playground.data.jsonl import parse_json, parse_jsonl
from playground.data.records import Broken, Records
from playground.data.separated import parse_separated
from playground.data.workbook import parse_parquet, parse_xlsx
from playground.errors import InputError

EXTENSIONS = (".csv", ".tsv", ".xlsx", ".json", ".jsonl", ".parquet")
MEBI = 1024 * 1024
_MOST_COLUMNS = 1000


def read_records(path: Path, limit_bytes: int) -> Records:
    """Every record of a file, the broken ones by their number.

    limit_bytes: the largest file taken. Raises InputError when the file as a whole is of no use: missing, a folder, empty,
    binary, of an unknown kind, too large, without columns or rows, or a JSON document that does not parse.
    """
    kind = path.suffix.lower()
    size = _size(path)
    if kind not in EXTENSIONS:
        how = "Save the workbook as .xlsx or CSV." if kind in (".xls", ".ods", ".numbers") else "Save it as one of these."
        known = ", ".join(EXTENSIONS)
        raise InputError(f"{path.name} is of an unknown kind ({kind or 'no extension'}); known are {known}. {how}")
    if size > limit_bytes:
        has, may = _words(size), _words(limit_bytes)
        if has == may:
            has, may = f"{size:,} bytes", f"{limit_bytes:,} bytes"
        raise InputError(f"{path.name} is {has}; the limit is {may}. Keep fewer rows, or split the file.")
    if size == 0:
        raise InputError(f"{path.name} is empty (0 bytes). Choose the file again, or export it once more.")
    records = _parse(path, kind, limit_bytes)
    if len(records.columns) > _MOST_COLUMNS:
        width = len(records.columns)
        raise InputError(f"{path.name} has {width} columns; at most {_MOST_COLUMNS} are read. Keep the ones to train on.")
    return records


def _size(path: Path) -> int:
    try:
        if path.is_dir():
            raise InputError(f"{path.name or path} is a folder, not a file. Name one file: {', '.join(EXTENSIONS)}.")
        if not path.exists():
            raise InputError(f"There is no file {path.name}. Check its name and folder.")
        if not path.is_file():
            raise InputError(f"{path.name} is not a regular file. Name a file on disk: {', '.join(EXTENSIONS)}.")
        return path.stat().st_size
    except (OSError, ValueError) as error:  # no permission; a NUL or too long a name
        raise InputError(f"{path.name[:80]!r} cannot be opened: {error}. Check its name and permissions.") from error


def _parse(path: Path, kind: str, limit_bytes: int) -> Records:
    if kind == ".xlsx":
        return parse_xlsx(path, limit_bytes)
    if kind == ".parquet":
        return parse_parquet(path, limit_bytes)
    try:
        text = decode(path.read_bytes(), path.name)
    except OSError as error:
        raise InputError(f"{path.name} cannot be opened: {error.strerror}. Check its permissions.") from error
    if not text.strip():
        raise InputError(f"{path.name} is empty: nothing but blank lines. Choose the file again, or export it once more.")
    if kind == ".json":
        return parse_json(text, path.name)
    if kind == ".jsonl":
        return parse_jsonl(text, path.name)
    return parse_separated(text, path.name, "\t" if kind == ".tsv" else ",")


def _words(size: int) -> str:
    for unit, name in ((MEBI, "MB"), (1024, "KB")):
        if size >= unit:
            return f"{size / unit:.0f} {name}"
    return f"{size} bytes"


__all__ = ["EXTENSIONS", "MEBI", "Broken", "Records", "read_records"]
