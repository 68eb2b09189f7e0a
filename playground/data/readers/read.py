"""A person's files -> numbered records and their shapes: one file, several, or a folder of them, all of one objective.

Says in plain words why a file cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from playground.data.columns import Shape, detect
from playground.data.example import BadRow
from playground.data.readers.delimited import parse_delimited, parse_plain, table_in_text
from playground.data.readers.jsonl import parse_json, parse_jsonl, starts_as_jsonl
from playground.data.readers.limits import KEEP_FEWER, Limits, OnProgress, Progress
from playground.data.readers.records import Broken, Numbered, Records, is_nested
from playground.data.readers.text import Text, open_text
from playground.data.readers.workbook import parse_parquet, parse_xlsx
from playground.errors import InputError

TEXTS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt", ".md")
EXTENSIONS = (".csv", ".tsv", ".xlsx", ".json", ".jsonl", ".ndjson", ".parquet", ".txt", ".md", ".gz")
"""What is taken; ``.gz`` after the ending of any text kind, as in ``rows.csv.gz``."""
MEBI = 1024 * 1024
READING = 0.5
"""The share of a check's work that is reading; the rest is validating each row."""


def read_records(path: Path, limit_bytes: int, on_progress: OnProgress | None = None) -> Records:
    """Every record of a file, the broken ones by their number.

    limit_bytes: the largest file taken; ``Limits`` says what such a file may hold. on_progress: called with the share
    read, 0 to 1. Raises InputError when the file as a whole is of no use: missing, a folder, empty, binary, of an
    unknown kind, too large, damaged, without columns or rows, or a JSON document that does not parse."""
    size = _file_size(path)
    kind, packed = _kind(path)
    if size > limit_bytes:
        raise _too_large(path.name, size, limit_bytes)
    empty = "Choose the file again, or export it once more."
    if size == 0:
        raise InputError(f"{path.name} is empty (0 bytes). {empty}")
    progress, limits = Progress(on_progress), Limits(path.name, limit_bytes)
    if kind == ".xlsx":
        records = parse_xlsx(path, limits)
    elif kind == ".parquet":
        records = parse_parquet(path, limits, progress.part(0, 1))
    else:
        text = open_text(path, packed, limits, progress.part(0, 0.2))
        if text.encoding.blank:
            raise InputError(f"{path.name} is empty: nothing but blank lines. {empty}")
        records = _parse(text, kind, progress.part(0.2, 1))
    limits.check_columns(len(records.columns))
    limits.check_rows(len(records.rows))
    limits.check_cells(len(records.columns) * len(records.rows))
    progress.at(1)
    return records


def _file_size(path: Path) -> int:
    """Bytes on disk. Raises InputError when it is no file that can be opened."""
    kinds = ", ".join(EXTENSIONS)
    try:
        if path.is_dir():
            raise InputError(f"{path.name or path} is a folder, not a file. Name one file: {kinds}.")
        if not path.exists():
            raise InputError(f"There is no file {path.name}. Check its name and folder.")
        if not path.is_file():
            raise InputError(f"{path.name} is not a regular file. Name a file on disk: {kinds}.")
        return path.stat().st_size
    except (OSError, ValueError) as error:  # no permission; a NUL or too long a name
        raise InputError(f"{path.name[:80]!r} cannot be opened: {error}. Check its name and permissions.") from error


def _too_large(name: str, size: int, limit_bytes: int) -> InputError:
    has, may = _human_size(size), _human_size(limit_bytes)
    if has == may:
        has, may = f"{size:,} bytes", f"{limit_bytes:,} bytes"
    return InputError(f"{name} is {has}; the limit is {may}. {KEEP_FEWER}")


def _human_size(size: int) -> str:
    for unit, name in ((MEBI, "MB"), (1024, "KB")):
        if size >= unit:
            return f"{size / unit:.0f} {name}"
    return f"{size} bytes"


def _kind(path: Path) -> tuple[str, bool]:
    """(the ending that says what it is, whether it is packed)."""
    kind = path.suffix.lower()
    if kind == ".gz":
        inner = Path(path.stem).suffix.lower()
        if inner not in TEXTS:
            known = ", ".join(f"{ending}.gz" for ending in TEXTS)
            raise InputError(
                f"{path.name} does not say what it holds; known are {known}. Rename it, or unpack it first."
            )
        return inner, True
    if kind not in EXTENSIONS:
        old = kind in (".xls", ".ods", ".numbers")
        how = "Save the workbook as .xlsx or CSV." if old else "Save it as one of these."
        known = ", ".join(EXTENSIONS)
        raise InputError(f"{path.name} is of an unknown kind ({kind or 'no extension'}); known are {known}. {how}")
    return kind, False


def _parse(text: Text, kind: str, on_progress: OnProgress) -> Records:
    if kind == ".json":
        return parse_json(text, on_progress)
    if kind in (".jsonl", ".ndjson"):
        return parse_jsonl(text, on_progress)
    if kind in (".csv", ".tsv"):
        return parse_delimited(text, "\t" if kind == ".tsv" else ",")
    separator = table_in_text(text) if kind == ".txt" else None
    if separator:
        return parse_delimited(text, separator)
    return parse_jsonl(text, on_progress) if starts_as_jsonl(text) else parse_plain(text)


@dataclass(frozen=True)
class Part:
    """One of the files with its records and its shape."""

    name: str
    records: Records
    shape: Shape


def gather(path: Path | str | Sequence[Path | str]) -> list[Path]:
    """The files meant: one; or every file of a folder, hidden ones aside, and of a list, sorted by name.

    Raises InputError when a folder or list holds none.
    """
    if isinstance(path, str | Path) and not _is_folder(Path(path)):
        return [Path(path)]
    found: set[Path] = set()
    for one in [path] if isinstance(path, str | Path) else path:
        if _is_folder(Path(one)):
            found |= {inner for inner in Path(one).iterdir() if inner.is_file() and not inner.name.startswith(".")}
        else:
            found.add(Path(one))
    if not found:
        what = f"The folder {Path(path).name} holds no files" if isinstance(path, str | Path) else "No file was given"
        raise InputError(f"{what}. Name a file, or a folder with files in it.")
    return sorted(found, key=lambda file: (file.name, str(file)))


def read_parts(
    paths: Sequence[Path], mapping: Mapping[str, str] | None, limit_bytes: int, progress: Progress
) -> list[Part]:
    """Each file's records and shape. limit_bytes: for all of them together.

    Raises InputError when one cannot be read or understood, or they do not all train the same.
    """
    sizes = [_file_size(path) for path in paths]
    total = sum(sizes)
    if len(paths) > 1 and total > limit_bytes:
        raise _too_large(f"All {len(paths)} files together", total, limit_bytes)
    parts, done = [], 0
    for path, size in zip(paths, sizes, strict=True):
        share = READING / max(1, total)
        records = read_records(path, limit_bytes, progress.part(done * share, (done + size) * share))
        done += size
        if not records.some():
            broken = [BadRow(number, row.reason, row.fix) for number, row in records.rows if isinstance(row, Broken)]
            raise no_usable_rows(path.name, len(records.rows), broken)
        try:
            parts.append(Part(path.name, records, detect(records, mapping)))
        except InputError as error:
            raise error if len(paths) == 1 else InputError(f"{path.name}: {error}") from None
    if len({part.shape.objective for part in parts}) > 1:
        what = "; ".join(f"{part.name} trains {part.shape.objective} ({part.shape.format})" for part in parts)
        raise InputError(f"The files do not train the same: {what}. Give those together that do, or map their columns.")
    return parts


def read_files(path: Path | str | Sequence[Path | str], limit_bytes: int) -> Iterator[Numbered]:
    """Every record as it stands in the files, numbered as a check numbers them: on through all of them.

    An object whose entries are columns is given by these alone (``data.prompt``). Raises InputError as reading does.
    """
    last = 0
    for one in gather(path):
        offset = last
        for number, record in read_records(one, limit_bytes).rows:
            last = offset + number
            if isinstance(record, dict):
                record = {name: value for name, value in record.items() if not is_nested(value)}
            yield last, record


def no_usable_rows(name: str, rows: int, bad: Sequence[BadRow]) -> InputError:
    """The refusal of a file of which nothing can be used, with the first reasons."""
    first = " ".join(f"Row {row.row}: {row.reason}. {row.fix}" for row in bad[:3])
    return InputError(f"{name}: none of the {rows} rows can be used. {first}")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a NUL or too long a name: reported when it is opened
        return False
