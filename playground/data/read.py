"""A person's file -> numbered records. Says in plain words why a file cannot be read."""

from __future__ import annotations

from pathlib import Path

from playground.data.jsonl import parse_json, parse_jsonl, starts_as_jsonl
from playground.data.limits import Limits
from playground.data.plain import parse_plain, table_in_text
from playground.data.progress import Progress, Tell
from playground.data.records import Broken, Records
from playground.data.separated import parse_separated
from playground.data.source import Text, open_text
from playground.data.workbook import parse_parquet, parse_xlsx
from playground.errors import InputError

TEXTS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt", ".md")
EXTENSIONS = (".csv", ".tsv", ".xlsx", ".json", ".jsonl", ".ndjson", ".parquet", ".txt", ".md", ".gz")
"""What is taken; ``.gz`` after the ending of any text kind, as in ``rows.csv.gz``."""
MEBI = 1024 * 1024


def read_records(path: Path, limit_bytes: int, tell: Tell | None = None) -> Records:
    """Every record of a file, the broken ones by their number.

    limit_bytes: the largest file taken; ``Limits`` says what such a file may hold. tell: called with the share read, 0 to 1.
    Raises InputError when the file as a whole is of no use: missing, a folder, empty, binary, of an unknown kind, too large,
    damaged, without columns or rows, or a JSON document that does not parse.
    """
    size = file_size(path)
    kind, packed = _kind(path)
    if size > limit_bytes:
        raise too_large(path.name, size, limit_bytes)
    if size == 0:
        raise InputError(f"{path.name} is empty (0 bytes). Choose the file again, or export it once more.")
    progress, limits = Progress(tell), Limits(path.name, limit_bytes)
    if kind == ".xlsx":
        records = parse_xlsx(path, limits)
    elif kind == ".parquet":
        records = parse_parquet(path, limits, progress.part(0, 1))
    else:
        text = open_text(path, packed, limits, progress.part(0, 0.2))
        if text.blank:
            raise InputError(f"{path.name} is empty: nothing but blank lines. Choose the file again, or export it once more.")
        records = _parse(text, kind, progress.part(0.2, 1))
    limits.check_columns(len(records.columns))
    limits.check_rows(len(records.rows))
    limits.check_cells(len(records.columns) * len(records.rows))
    progress.at(1)
    return records


def file_size(path: Path) -> int:
    """Bytes on disk. Raises InputError when it is no file that can be opened."""
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


def too_large(name: str, size: int, limit_bytes: int) -> InputError:
    """The refusal of a file, or of several, beyond the limit."""
    has, may = _words(size), _words(limit_bytes)
    if has == may:
        has, may = f"{size:,} bytes", f"{limit_bytes:,} bytes"
    return InputError(f"{name} is {has}; the limit is {may}. Keep fewer rows, or split the file.")


def _kind(path: Path) -> tuple[str, bool]:
    """(the ending that says what it is, whether it is packed)."""
    kind = path.suffix.lower()
    if kind == ".gz":
        inner = Path(path.stem).suffix.lower()
        if inner not in TEXTS:
            known = ", ".join(f"{ending}.gz" for ending in TEXTS)
            raise InputError(f"{path.name} does not say what it holds; known are {known}. Rename it, or unpack it first.")
        return inner, True
    if kind not in EXTENSIONS:
        how = "Save the workbook as .xlsx or CSV." if kind in (".xls", ".ods", ".numbers") else "Save it as one of these."
        known = ", ".join(EXTENSIONS)
        raise InputError(f"{path.name} is of an unknown kind ({kind or 'no extension'}); known are {known}. {how}")
    return kind, False


def _parse(text: Text, kind: str, tell: Tell) -> Records:
    if kind == ".json":
        return parse_json(text, tell)
    if kind in (".jsonl", ".ndjson"):
        return parse_jsonl(text, tell)
    if kind in (".csv", ".tsv"):
        return parse_separated(text, "\t" if kind == ".tsv" else ",")
    separator = table_in_text(text) if kind == ".txt" else None
    if separator:
        return parse_separated(text, separator)
    return parse_jsonl(text, tell) if starts_as_jsonl(text) else parse_plain(text)


def _words(size: int) -> str:
    for unit, name in ((MEBI, "MB"), (1024, "KB")):
        if size >= unit:
            return f"{size / unit:.0f} {name}"
    return f"{size} bytes"


__all__ = ["EXTENSIONS", "MEBI", "Broken", "Records", "file_size", "read_records", "too_large"]
