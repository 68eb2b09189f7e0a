"""Data sets of the hub, or of folders laid out like those -> JSONL."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.data.check import EXTENSIONS
from playground.data.records import KEEP_FEWER, OnProgress
from playground.errors import InputError

MAX_ROWS = 10_000  # rows that are read of a data set, from its start
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
                    what = f"{dataset.name}: its first {count:,} rows are more than the size limit"
                    raise InputError(f"{what}. {KEEP_FEWER}")
                if on_progress is not None and count % 100 == 0:
                    on_progress(count / MAX_ROWS)
    except datasets.exceptions.DatasetNotFoundError:
        what = f"There is no data set {dataset.name} on the hub that can be read without signing in"
        raise InputError(f"{what}, and no file or folder of that name. Check the name.") from None
    except (ConnectionError, httpx.HTTPError) as error:
        if dataset.is_local:
            raise InputError(f"{dataset.name} cannot be read: {_one_line(error)}.") from None
        what = f"The hub cannot be reached for the data set {dataset.name}, and there is no file or folder of that name"
        raise InputError(f"{what}. Go online, or name a local copy of it: FOLDER[:config][@split].") from None
    except (datasets.exceptions.DatasetsError, *_UNREADABLE) as error:
        what = f"The data set {dataset.name} cannot be read: {_one_line(error)}"
        raise InputError(f"{what}. Download a file of it, and name that.") from error
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
