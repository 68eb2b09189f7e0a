"""Files, folders and zips -> numbered records and their shapes; JSON lines are read here, a line at a time."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from playground.data.column_profile import NAMES, SPLIT, clean_name, is_nested, listed, own_part, spelling
from playground.data.columns import Shape, detect
from playground.data.example import BadRow
from playground.data.records import (
    AS_FOUND,
    DECODER,
    KEEP_FEWER,
    LONGEST_LINE,
    Limits,
    Numbered,
    OnProgress,
    Progress,
    Reading,
    Records,
    Text,
    json_fault,
    open_text,
    parsed,
    stream,
)
from playground.data.retrieval import parse_document
from playground.data.text_formats import parse_delimited, parse_json, parse_text, rows_of
from playground.data.turns import Unusable
from playground.data.workbook import NO_ARCHIVE, parse_parquet, parse_xlsx
from playground.errors import InputError

_LINE = "Mend the line: one JSON object, double quotes, nothing after the closing brace."


def _json_lines(text: Text, on_progress: OnProgress | None) -> Records:
    """One object a line; blank lines are not records."""

    def read(on_progress: OnProgress | None) -> Iterator[Numbered]:
        more = 0  # rows beyond one a line, for lines that hold several
        for number, line in enumerate(text.lines(on_progress, cut=True), 1):
            line = line.strip().strip("\ufeff")
            if len(line) > LONGEST_LINE:
                fix = "Shorten it, or cut it into several rows."
                yield number + more, Unusable(f"longer than {LONGEST_LINE:,} characters", fix)
            elif line:
                try:
                    for place, record in enumerate(_rows_of(DECODER.decode(line))):
                        more += place > 0
                        yield number + more, record
                except (ValueError, RecursionError) as error:
                    yield number + more, Unusable(f"not valid JSON: {json_fault(error)}", _LINE)

    return stream(read, text.limits, on_progress)


def _rows_of(value: object) -> Sequence[dict[str, Any] | Unusable]:
    """Most are one row of texts and numbers, which nothing has to be unpacked of."""
    if not isinstance(value, dict) or "_input_hash" in value:
        return rows_of(value)
    nested = any(isinstance(cell, dict | list) for cell in value.values())
    return rows_of(value) if nested else [{clean_name(key): cell for key, cell in value.items()}]


def _is_document(text: Text) -> bool:
    """Whether a .jsonl file is really one JSON document.

    1. One line is read as a document. 2. A first line that parses alone makes it JSONL. 3. From "[" on: what parses as
    a whole, or has an array's commas and bracket. 4. From "{" on, when no line parses alone: what parses as a whole.
    """
    first, *rest = text.first_lines(21)
    if not rest:
        return True  # 1
    if parsed(first) is not None:
        return False  # 2
    if first.startswith("["):  # 3
        whole = text.whole()
        array = first == "[" or whole.rstrip().endswith("]") or any(line.endswith("},") for line in (first, *rest))
        return array or parsed(whole) is not None
    return not any(isinstance(parsed(line), dict) for line in rest) and parsed(text.whole()) is not None  # 4


def _json(text: Text, on_progress: OnProgress | None) -> Records:
    return parse_json(text) or _json_lines(text, on_progress)


def _jsonl(text: Text, on_progress: OnProgress | None) -> Records:
    return (_json if _is_document(text) else _json_lines)(text, on_progress)


TEXT_READERS: dict[str, Callable[[Text, OnProgress | None], Records]] = {
    ".csv": lambda text, _: parse_delimited(text, ","),
    ".tsv": lambda text, _: parse_delimited(text, "\t"),
    ".json": _json,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".txt": lambda text, on_progress: parse_text(text, ".txt") or _jsonl(text, on_progress),
    ".md": lambda text, on_progress: parse_text(text, ".md") or _jsonl(text, on_progress),
}
DOCUMENTS = (".pdf", ".docx")
EXTENSIONS = (".csv", ".tsv", ".xlsx", ".json", ".jsonl", ".ndjson", ".parquet", ".txt", ".md", *DOCUMENTS, ".gz")
"""What holds rows; ``.gz`` after the ending of any text kind, as in ``rows.csv.gz``."""
TAKEN = (*EXTENSIONS, ".zip")
"""What is taken; a zip is read as a folder of the files in it."""
Paths = Path | str | Sequence[Path | str]  # a file, several, or a folder of them
MEBI = 1024 * 1024
_POINTER = b"version https://git-lfs.github.com/spec/"
READING = 0.5  # the share of a check's work that is reading; the rest is validating each row


def read_records(
    path: Path, limit_bytes: int, on_progress: OnProgress | None = None, reading: Reading = AS_FOUND
) -> Records:
    """Every record of a file of at most ``limit_bytes``; raises InputError when the file as a whole is of no use."""
    size = _file_size(path)
    kind, packed = _kind(path)
    _check_size(path.name, size, limit_bytes)
    again = "Choose the file again, or export it once more."
    if size == 0:
        raise InputError(f"{path.name} is empty (0 bytes). {again}")
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            what = f"{path.name} is a Git LFS pointer, not the data"
            raise InputError(f"{what}. Run git lfs pull where it was cloned, or download the file itself.")
    progress, limits = Progress(on_progress), Limits(path.name, limit_bytes)
    if reading.sheet and kind != ".xlsx":
        raise InputError(f"{path.name} is no workbook: it has no sheets. Leave the sheet out.")
    if reading.encoding and kind in (".xlsx", ".parquet", *DOCUMENTS):
        raise InputError(f"{path.name} says itself how its text is encoded. Leave the encoding out.")
    if kind == ".xlsx":
        records = parse_xlsx(path, limits, reading.sheet)
    elif kind == ".parquet":
        records = parse_parquet(path, limits, progress.part(0, 1))
    elif kind in DOCUMENTS:
        records = parse_document(path, limits, progress.part(0, 1))
    else:
        text = open_text(path, packed, limits, progress.part(0, 0.2), reading.encoding)
        if text.blank:
            raise InputError(f"{path.name} is empty: nothing but blank lines. {again}")
        records = replace(TEXT_READERS[kind](text, progress.part(0.2, 1)), encoding=text.encoding)
    limits.check_columns(len(records.columns))
    limits.check("rows", len(records.rows))
    limits.check("cells", len(records.columns) * len(records.rows))
    progress.at(1)
    return records


def _file_size(path: Path) -> int:
    """Bytes on disk. Raises InputError when it is no file that can be opened."""
    kinds = ", ".join(TAKEN)
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


def _check_size(name: str, size: int, limit_bytes: int) -> None:
    if size <= limit_bytes:
        return
    has, may = _human_size(size), _human_size(limit_bytes)
    if has == may:
        has, may = f"{size:,} bytes", f"{limit_bytes:,} bytes"
    raise InputError(f"{name} is {has}; the limit is {may}. {KEEP_FEWER}")


def _human_size(size: int) -> str:
    if size < 1024:
        return f"{size} bytes"
    return f"{size / MEBI:.0f} MB" if size >= MEBI else f"{size / 1024:.0f} KB"


def _kind(path: Path) -> tuple[str, bool]:
    """(the ending that says what it is, whether it is packed)."""
    kind = path.suffix.lower()
    if kind == ".gz":
        inner = Path(path.stem).suffix.lower()
        if inner not in TEXT_READERS:
            known = ", ".join(f"{ending}.gz" for ending in TEXT_READERS)
            what = f"does not say what it holds; known are {known}"
            raise InputError(f"{path.name} {what}. Rename it, or unpack it first.")
        return inner, True
    if kind not in EXTENSIONS:
        old = kind in (".xls", ".ods", ".numbers")
        how = "Save the workbook as .xlsx or CSV." if old else "Save it as one of these."
        known = ", ".join(TAKEN)
        raise InputError(f"{path.name} is of an unknown kind ({kind or 'no extension'}); known are {known}. {how}")
    return kind, False


class Part(NamedTuple):
    """One of the files with its records and its shape. column: says which split each row is in. split: of all its rows,
    "" = its own or none. splits: those that there are, where one was chosen. last: its last record's number,
    where a split of several files was chosen."""

    name: str
    records: Records
    shape: Shape
    column: str = ""
    split: str = ""
    splits: tuple[str, ...] = ()
    last: int = 0


def plain_split(name: str) -> str:
    """By which names of one split are the same."""
    return name.strip().casefold()


def _match(wanted: str, there: Iterable[str], what: str) -> str:
    """The split that is meant: by its name, else by what it is for. Raises InputError."""
    names = [*dict.fromkeys(there)]
    same = [name for name in names if plain_split(name) == plain_split(wanted)]
    same = same or [name for name in names if own_part(wanted) and own_part(name) == own_part(wanted)]
    if len(same) == 1:
        return same[0]
    has = f"It has: {listed(names)}." if names else "It has no splits."
    raise InputError(f"{what} has no split {wanted[:40]!r}. {has}")


def _splits_of(paths: Sequence[Path]) -> dict[Path, str]:
    """What each file of a folder is for, by its name; {} where these do not say that some are held back."""
    named = {path: own_part(path.name.partition(".")[0]) for path in paths}
    return {path: part or "train" for path, part in named.items()} if {"train"} < {*named.values()} - {""} else {}


def _split_column(records: Records) -> str:
    """The column that says which split each row is in, "" for none."""
    for name in records.columns:
        if spelling(name) in NAMES["splits"]:
            parts = {own_part(str(value)) for row in records.sample if (value := row.get(name)) not in (None, "")}
            if {"train"} < parts - {""} == parts:
                return name
    return ""


def _chosen(name: str, records: Records, wanted: str, limits: Limits) -> tuple[Records, str, str, tuple[str, ...]]:
    """The records of one split, the column that says so, the split, and all splits; rows that say nothing are of the
    one to train on. Raises InputError where there is none such."""
    column = _split_column(records) or next((one for one in records.columns if spelling(one) in NAMES["splits"]), "")
    cells = (row.get(column) for _, row in records.rows if isinstance(row, dict))
    there = dict[str, str]()
    for cell in cells:
        if cell not in (None, ""):
            there.setdefault(plain_split(str(cell)), str(cell))
    split = _match(wanted, there.values(), name)
    same = {plain_split(split)} | ({"", "none"} if own_part(split) == "train" else set())
    only = stream(
        lambda _: (
            one for one in records.rows if isinstance(one[1], Unusable) or plain_split(str(one[1].get(column))) in same
        ),
        limits,
        columns=records.columns,
    )
    return replace(records, rows=only.rows, sample=only.sample), column, split, tuple(there.values())


@contextmanager
def opened(path: Paths, limit_bytes: int) -> Iterator[list[Path]]:
    """The files meant, those in zips unpacked for as long as they are read. Raises InputError."""
    paths = _gather(path)
    if not any(one.suffix.lower() == ".zip" for one in paths):
        yield paths
        return
    with TemporaryDirectory() as folder:
        there: list[Path] = []
        for number, one in enumerate(paths):
            is_zip = one.suffix.lower() == ".zip"
            there += _unzipped(one, Path(folder, str(number)), limit_bytes) if is_zip else [one]
        yield there


_ABOUT = re.compile(
    r"(readme|licen[cs]e|citation)(\.|$)|(dataset_infos?|dataset_dict|datapackage|state)\.json$", re.IGNORECASE
)
"""What stands beside data, and tells of it."""
_MOST_FILES = 1_000
MOST_ENTRIES = 10_000
"""Files and folders of one folder that are looked through."""
_DAMAGED_ZIP = (*NO_ARCHIVE, lzma.LZMAError, EOFError, RuntimeError, ValueError, OSError)


def _unzipped(path: Path, folder: Path, limit_bytes: int) -> list[Path]:
    """The files of data in a zip, in a new folder: by their names, with those of their folders where it holds several.
    Raises InputError where there is none, for a password, for damage, and for too much."""
    size = _file_size(path)
    _check_size(path.name, size, limit_bytes)
    folder.mkdir()
    try:
        with path.open("rb") as file:
            file.seek(max(0, size - 65_557))
            tail = file.read()
        files, names = struct.unpack_from("<HI", tail, tail.rindex(b"PK\x05\x06") + 10)
        if files > _MOST_FILES or names > MEBI:  # before zipfile reads them all
            raise InputError(f"{path.name} lists {files:,} files; at most {_MOST_FILES:,} are read. {KEEP_FEWER}")
        with zipfile.ZipFile(path) as archive:
            inside = {
                entry: parts
                for entry in archive.infolist()
                if not entry.is_dir()
                and (parts := PurePosixPath(entry.filename.replace("\\", "/")).parts)
                and not any(part.startswith((".", "__MACOSX")) for part in parts)
                and parts[-1].lower().endswith(EXTENSIONS)
                and not _ABOUT.match(parts[-1])
            }
            if not inside:
                raise InputError(f"{path.name} holds no file of rows. Pack one of these: {', '.join(EXTENSIONS)}.")
            if sum(entry.file_size for entry in inside) > limit_bytes:
                what = f"{path.name} unpacks to more than {_human_size(limit_bytes)}, the limit"
                raise InputError(f"{what}. {KEEP_FEWER}")
            shared, every = 0, [*inside.values()]
            while all(len(parts) > shared + 1 for parts in every) and len({parts[shared] for parts in every}) == 1:
                shared += 1
            for entry, parts in inside.items():
                name = re.sub(r"[^\w. -]", "_", "-".join(parts[shared:]))[-120:]
                with archive.open(entry) as reading, (folder / name).open("xb") as out:
                    shutil.copyfileobj(reading, out, MEBI)
    except FileExistsError as error:
        raise InputError(f"{path.name} holds two files of one name. Give them names of their own.") from error
    except _DAMAGED_ZIP as error:
        what = f"{path.name} is no zip archive, is damaged, or has a password"
        raise InputError(f"{what}. Pack it again, or name the files themselves.") from error
    return sorted(folder.iterdir())


def few(folder: Path, inside: Iterable[Path]) -> list[Path]:
    """What is inside, of which no more is looked at than of a folder of examples. Raises InputError."""
    if len(found := [*islice(inside, MOST_ENTRIES + 1)]) > MOST_ENTRIES:
        what = f"{folder} holds more than {MOST_ENTRIES:,} files and folders"
        raise InputError(f"{what}. Name the folder that holds the examples alone, or a file.")
    return found


def _gather(path: Paths) -> list[Path]:
    """The files meant: one, those of a folder but hidden ones and what tells of them, or of a list; by name."""
    found: set[Path] = set()
    for each in [Path(path)] if isinstance(path, str | Path) else map(Path, path):
        if os.path.isdir(each):  # False for a NUL or too long a name: reported when it is opened
            there = few(each, each.iterdir())
            inside = {inner for inner in there if inner.is_file() and not inner.name.startswith(".")}
            found |= {inner for inner in inside if not _ABOUT.match(inner.name)} or inside
        else:
            found.add(each)
    if not found:
        what = f"The folder {Path(path).name} holds no files" if isinstance(path, str | Path) else "No file was given"
        raise InputError(f"{what}. Name a file, or a folder with files in it.")
    return sorted(found, key=lambda file: (file.name, str(file)))


def read_parts(
    paths: Sequence[Path],
    mapping: Mapping[str, str] | None,
    limit_bytes: int,
    progress: Progress,
    reading: Reading = AS_FOUND,
) -> list[Part]:
    """Each file's records and shape; raises InputError where one is of no use, or they do not all train the same."""
    own, splits = _splits_of(paths), tuple[str, ...]()
    if own and reading.split:
        splits, split = tuple(dict.fromkeys(own.values())), _match(reading.split, own.values(), "The folder")
        own = {path: split for path in paths if own[path] == split}
        paths, reading = [*own], replace(reading, split="")
    sizes = [_file_size(path) for path in paths]
    total = sum(sizes)
    if len(paths) > 1:
        _check_size(f"All {len(paths)} files together", total, limit_bytes)
    parts, done, share = [], 0, READING / max(1, total)
    for path, size in zip(paths, sizes, strict=True):
        records = read_records(path, limit_bytes, progress.part(done * share, (done + size) * share), reading)
        done += size
        split, last = own.get(path, ""), 0
        if reading.split:
            for last, _ in records.rows if len(paths) > 1 else ():
                pass
            records, column, split, splits = _chosen(path.name, records, reading.split, Limits(path.name, limit_bytes))
        elif not all(map(own_part, records.splits)):
            counts = Counter(row.get(SPLIT) for _, row in records.rows if isinstance(row, dict))
            found = ", ".join(f"{name} ({count})" for name, count in counts.items())
            what = f"{path.name} holds several lists of rows: {found}"
            raise InputError(f"{what}. Choose one (on the command line: --split NAME).")
        else:
            column = "" if path in own else _split_column(records)
        if not records.sample:
            broken = [BadRow(number, row.reason, row.fix) for number, row in records.rows if isinstance(row, Unusable)]
            raise no_usable_rows(path.name, len(records.rows), broken)
        try:
            others = replace(records, columns=tuple(name for name in records.columns if name != column))
            shape = detect(others, mapping)
            parts.append(Part(path.name, records, shape, column, split, splits, last))
        except InputError as error:
            note = f" It is {records.note}." if len(records.sheets) > 1 else ""
            raise InputError(f"{error}{note}" if len(paths) == 1 else f"{path.name}: {error}{note}") from None
    if len({part.shape.objective for part in parts}) > 1:
        what = "; ".join(f"{part.name} trains {part.shape.objective} ({part.shape.format})" for part in parts)
        raise InputError(f"The files do not train the same: {what}. Give those together that do, or map their columns.")
    return parts


def read_files(path: Paths, limit_bytes: int, reading: Reading = AS_FOUND) -> Iterator[Numbered]:
    """Every record as it stands in the files, numbered on through all of them; of nested columns the entries alone. A
    file's split, where its name says that, stands in a column."""
    last = 0
    with opened(path, limit_bytes) as paths:
        own = _splits_of(paths)
        if reading.split and own:
            split = _match(reading.split, own.values(), "The folder")
            paths = [one for one in paths if own[one] == split]
        for one in paths:
            offset = last
            for number, record in read_records(one, limit_bytes, reading=reading).rows:
                last = offset + number
                if isinstance(record, dict):
                    record = {name: value for name, value in record.items() if not is_nested(value)}
                    record |= {SPLIT: own[one]} if own else {}
                yield last, record


def no_usable_rows(name: str, rows: int, bad: Sequence[BadRow]) -> InputError:
    """The refusal of a file of which nothing can be used, with the first row of each reason."""
    firsts = [*{(row.reason, row.fix): row for row in reversed(bad)}.values()][::-1]
    if len(bad) == rows > len(firsts) == 1:
        return InputError(f"{name}: none of the {rows} rows can be used: {bad[0].reason}. {bad[0].fix}")
    first = " ".join(f"Row {row.row}: {row.reason}. {row.fix}" for row in firsts[:3])
    return InputError(f"{name}: none of the {rows} rows can be used. {first}")
