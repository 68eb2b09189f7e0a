"""Files, folders and data sets of the hub -> numbered records and their shapes."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from playground.data.columns import Shape, detect
from playground.data.example import BadRow
from playground.data.records import KEEP_FEWER, Limits, Numbered, OnProgress, Progress, Records, is_nested
from playground.data.text import Text, open_text
from playground.data.text_formats import parse_delimited, parse_json, parse_jsonl, parse_text
from playground.data.turns import Unusable
from playground.data.workbook import parse_parquet, parse_xlsx
from playground.errors import InputError

TEXT_READERS: dict[str, Callable[[Text, OnProgress], Records]] = {
    ".csv": lambda text, _: parse_delimited(text, ","),
    ".tsv": lambda text, _: parse_delimited(text, "\t"),
    ".json": parse_json,
    ".jsonl": parse_jsonl,
    ".ndjson": parse_jsonl,
    ".txt": lambda text, on_progress: parse_text(text, ".txt", on_progress),
    ".md": lambda text, on_progress: parse_text(text, ".md", on_progress),
}
EXTENSIONS = (".csv", ".tsv", ".xlsx", ".json", ".jsonl", ".ndjson", ".parquet", ".txt", ".md", ".gz")
"""What is taken; ``.gz`` after the ending of any text kind, as in ``rows.csv.gz``."""
Paths = Path | str | Sequence[Path | str]
"""A file, several, or a folder of them."""
MEBI = 1024 * 1024
READING = 0.5
"""The share of a check's work that is reading; the rest is validating each row."""


def read_records(path: Path, limit_bytes: int, on_progress: OnProgress | None = None) -> Records:
    """Every record of a file of at most ``limit_bytes``; raises InputError when the file as a whole is of no use."""
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
        records = TEXT_READERS[kind](text, progress.part(0.2, 1))
    limits.check_columns(len(records.columns))
    limits.check("rows", len(records.rows))
    limits.check("cells", len(records.columns) * len(records.rows))
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
        if inner not in TEXT_READERS:
            known = ", ".join(f"{ending}.gz" for ending in TEXT_READERS)
            what = f"does not say what it holds; known are {known}"
            raise InputError(f"{path.name} {what}. Rename it, or unpack it first.")
        return inner, True
    if kind not in EXTENSIONS:
        old = kind in (".xls", ".ods", ".numbers")
        how = "Save the workbook as .xlsx or CSV." if old else "Save it as one of these."
        known = ", ".join(EXTENSIONS)
        raise InputError(f"{path.name} is of an unknown kind ({kind or 'no extension'}); known are {known}. {how}")
    return kind, False


class Part(NamedTuple):
    """One of the files with its records and its shape."""

    name: str
    records: Records
    shape: Shape


def gather(path: Paths) -> list[Path]:
    """The files meant: one, those of a folder but hidden ones, or of a list; by name. Raises InputError for none."""
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
    """Each file's records and shape; raises InputError where one is of no use, or they do not all train the same."""
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
            broken = [BadRow(number, row.reason, row.fix) for number, row in records.rows if isinstance(row, Unusable)]
            raise no_usable_rows(path.name, len(records.rows), broken)
        try:
            parts.append(Part(path.name, records, detect(records, mapping)))
        except InputError as error:
            raise error if len(paths) == 1 else InputError(f"{path.name}: {error}") from None
    if len({part.shape.objective for part in parts}) > 1:
        what = "; ".join(f"{part.name} trains {part.shape.objective} ({part.shape.format})" for part in parts)
        raise InputError(f"The files do not train the same: {what}. Give those together that do, or map their columns.")
    return parts


def read_files(path: Paths, limit_bytes: int) -> Iterator[Numbered]:
    """Every record as it stands in the files, numbered on through all of them; of nested columns the entries alone."""
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


MAX_ROWS = 10_000
"""Rows that are read of a data set, from its start."""
_SUFFIX = r"(?::(?P<config>[A-Za-z0-9][\w.-]{0,95}))?(?:@(?P<split>\w{1,64}))?"
_HUB = re.compile(rf"(?P<name>[A-Za-z0-9][\w.-]{{0,95}}/[A-Za-z0-9][\w.-]{{0,95}}){_SUFFIX}", re.ASCII)
_FOLDER = re.compile(rf"(?P<name>.+?){_SUFFIX}", re.ASCII)
_FORMATS = frozenset({"arrow", "csv", "json", "parquet", "text"})
"""Builders of ``datasets`` that read data alone; others unpack archives and media, some of them with pickle."""
_SUFFIXES = frozenset({".arrow", ".csv", ".json", ".jsonl", ".ndjson", ".parquet", ".tsv", ".txt"})
_UNREADABLE = (OSError, ValueError, RuntimeError, ImportError, TypeError, KeyError)
"""What the builders raise for files that are damaged or not what their names say."""
_MEDIA = frozenset({"Image", "Audio", "Video", "Pdf", "Nifti", "Mesh"})


@dataclass(frozen=True)
class DatasetId:
    """name: ``owner/name`` on the hub, or a local folder. config, split: "" where none is named."""

    name: str
    config: str = ""
    split: str = ""

    @property
    def is_local(self) -> bool:
        return Path(self.name).is_dir()

    @property
    def file_name(self) -> str:
        name = Path(self.name).resolve().name if self.is_local else self.name.replace("/", "--")
        return "--".join(filter(None, (name, self.config, self.split))) + ".jsonl"


def parse_dataset(text: str) -> DatasetId | None:
    """``owner/name[:config][@split]`` or ``FOLDER[:config][@split]``; None for a file or a folder of files.

    1. what exists is a file or a folder of files, unless all but its README lie in folders; 2. a folder with a config
    or split; 3. an id of the hub, if it does not end like a file.
    """
    try:
        path = Path(text)
        if path.exists():  # 1
            files = [inner for inner in path.rglob("*") if inner.is_file()] if path.is_dir() else []
            own = [file for file in files if file.parent == path and not file.name.startswith((".", "README"))]
            return DatasetId(text) if not own and any(file.suffix in _SUFFIXES for file in files) else None
        match = _FOLDER.fullmatch(text)
        if not (match and Path(match["name"]).is_dir()):  # else 2
            match = _HUB.fullmatch(text)  # 3
            files_end = (*EXTENSIONS, ".xls", ".ods", ".doc", ".docx", ".pdf")
            if not match or ".." in text or match["name"].lower().endswith(files_end):
                return None
    except (OSError, ValueError):  # a NUL or too long a name: reported when it is opened
        return None
    return DatasetId(match["name"], match["config"] or "", match["split"] or "")


def write_dataset(dataset: DatasetId, file: Path, limit_bytes: int, on_progress: OnProgress | None = None) -> int:
    """Writes the first ``MAX_ROWS`` rows as JSONL without media; returns their number. Raises InputError."""
    import datasets
    import httpx

    for library in ("datasets", "huggingface_hub"):  # its retries; what fails is said once, by the error
        logging.getLogger(library).setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    count = size = 0
    try:
        with tempfile.TemporaryDirectory() as cache, file.open("w", encoding="utf-8", errors="replace") as out:
            for count, row in enumerate(_rows(dataset, cache), 1):
                size += out.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                if size > limit_bytes:
                    what = f"its first {count:,} rows are more than the size limit"
                    raise InputError(f"{dataset.name}: {what}. {KEEP_FEWER}")
                if on_progress is not None and count % 100 == 0:
                    on_progress(count / MAX_ROWS)
    except datasets.exceptions.DatasetNotFoundError:
        raise InputError(
            f"There is no data set {dataset.name} on the hub that can be read without signing in, and no file or "
            "folder of that name. Check the name."
        ) from None
    except (ConnectionError, httpx.HTTPError) as error:
        if dataset.is_local:
            raise InputError(f"{dataset.name} cannot be read: {_one_line(error)}.") from None
        raise InputError(
            f"The hub cannot be reached for the data set {dataset.name}, and there is no file or folder of that "
            "name. Go online, or name a local copy of it: FOLDER[:config][@split]."
        ) from None
    except (datasets.exceptions.DatasetsError, *_UNREADABLE) as error:
        raise InputError(
            f"The data set {dataset.name} cannot be read: {_one_line(error)}. Download a file of it, and name that."
        ) from error
    if not count:
        raise InputError(f"The data set {dataset.name} has no rows. Name another split: {dataset.name}@SPLIT.")
    return count


def _rows(dataset: DatasetId, cache: str) -> Iterator[dict[str, Any]]:
    import datasets

    where = str(Path(dataset.name).resolve()) if dataset.is_local else dataset.name
    builder = datasets.load_dataset_builder(where, dataset.config or None, cache_dir=cache)
    _check_builder(builder, dataset, where)
    splits = builder.as_streaming_dataset()
    chosen = dataset.split or ("train" if "train" in splits or len(splits) != 1 else next(iter(splits)))
    if chosen not in splits:
        there = ", ".join(map(str, splits))
        raise InputError(f"{dataset.name} has no split {chosen!r}. There are: {there}. Write {dataset.name}@SPLIT.")
    stream = splits[chosen]
    features = stream.features or {}
    stream = stream.remove_columns([name for name, kind in features.items() if type(kind).__name__ in _MEDIA])
    labels = {name: kind for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    for row in stream.take(MAX_ROWS):
        for name, label in labels.items():
            known = isinstance(row[name], int) and 0 <= row[name] < label.num_classes
            row[name] = label.int2str(row[name]) if known else None
        yield row


def _check_builder(builder: Any, dataset: DatasetId, where: str) -> None:
    """Raises InputError where a data set is more than plain data files of its own."""
    kind = type(builder).__module__.split(".")
    if kind[:2] != ["datasets", "packaged_modules"] or kind[2] not in _FORMATS:
        what = f"{kind[-1]} files; {', '.join(sorted(_FORMATS))} are read"
        raise InputError(f"{dataset.name} holds {what}. Name another data set.")
    for file in (str(file) for files in (builder.config.data_files or {}).values() for file in files):
        own = Path(file).resolve().is_relative_to(where) if dataset.is_local else file.startswith("hf://datasets/")
        if not own:
            raise InputError(f"{dataset.name} names a file outside itself: {file[:200]}. It is not read.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400].rstrip(".") or type(error).__name__
