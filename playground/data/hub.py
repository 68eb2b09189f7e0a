"""Data sets of the hub, or of folders laid out like those -> JSONL."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from playground.data.files import TAKEN, few
from playground.data.limited import read_limited
from playground.data.records import KEEP_FEWER, Limits, OnProgress, Progress
from playground.errors import InputError, hub_errors, is_unreachable

FIRST, MOST = 10_000, 1_000_000
"""Rows that are read of a data set, from its start: where nobody says how many, and at most."""
_ANSWER_S = 10.0
"""Seconds that the hub may take to say whether there is such a data set."""
_NAME = r"(?P<name>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
_SUFFIX = r"(?::(?P<config>[A-Za-z0-9][\w.-]{0,95}))?(?:@(?P<split>\w[\w.]{0,63}))?(?:#(?P<revision>\w[\w./-]{0,95}))?"
_HUB = re.compile(rf"{_NAME}{_SUFFIX}", re.ASCII)
_FOLDER = re.compile(rf"(?P<name>.+?){_SUFFIX}", re.ASCII)
_LINK = re.compile(
    rf"(?:https?://(?:huggingface\.co|hf\.co)/|hf://)datasets/{_NAME}(?:@(?P<at>\w[\w.-]{{0,95}}))?"
    r"(?:/viewer(?:/(?P<config>[\w.-]{1,96}))?(?:/(?P<split>\w[\w.]{0,63}))?|/tree/(?P<tree>\w[\w.-]{0,95}))?"
    r"/?(?:[?#].*)?",
    re.ASCII,
)
"""The address of a data set's page, as a browser shows it."""
_FORMATS = frozenset({"arrow", "csv", "json", "parquet", "text"})
"""Builders of ``datasets`` that read data alone; others unpack archives and media, some of them with pickle."""
_SUFFIXES = frozenset({".arrow", ".csv", ".json", ".jsonl", ".ndjson", ".parquet", ".tsv", ".txt"})


@dataclass(frozen=True)
class DatasetId:
    """name: ``owner/name`` on the hub, or a local folder. config, split, revision: "" where none is named."""

    name: str
    config: str = ""
    split: str = ""
    revision: str = ""

    @property
    def is_local(self) -> bool:
        return Path(self.name).is_dir()

    @property
    def file_name(self) -> str:
        name = Path(self.name).resolve().name if self.is_local else self.name.replace("/", "--")
        return "--".join(filter(None, (name, self.config, self.split))) + ".jsonl"


@dataclass(frozen=True)
class Fetched:
    """rows: written. more: the split goes on after them. splits: all there are. commit: of the hub, "" of a folder."""

    name: str
    rows: int
    more: bool
    split: str
    splits: tuple[str, ...]
    commit: str

    def __str__(self) -> str:
        many = f"the first {self.rows:,} rows (there are more)" if self.more else f"all {self.rows:,} rows"
        at = f" at commit {self.commit[:7]}" if self.commit else ""
        others = ", ".join(one for one in self.splits if one != self.split)
        return f"Read: {many} of the split {self.split} of {self.name}{at}." + f" Other splits: {others}." * bool(
            others
        )


def parse_dataset(text: str) -> DatasetId | None:
    """``owner/name[:config][@split][#revision]``, the address of its page, or ``FOLDER[:config][@split]``; None for a
    file or a folder of files. Raises InputError for a folder of too much.

    1. what exists is a file or a folder of files, unless all but its README lie in folders; 2. a folder with a config
    or split; 3. an address; 4. an id of the hub, if it does not end like a file.
    """
    try:
        path = Path(text)
        if path.exists():  # 1
            own = [inner for inner in few(path, path.iterdir()) if inner.is_file()] if path.is_dir() else [path]
            if any(not inner.name.startswith((".", "README")) for inner in own):
                return None
            there = few(path, path.rglob("*"))
            return DatasetId(text) if any(one.suffix in _SUFFIXES and one.is_file() for one in there) else None
        match = _FOLDER.fullmatch(text)
        if match and (path := Path(match["name"])).is_dir():  # 2
            few(path, path.rglob("*"))
            return DatasetId(match["name"], match["config"] or "", match["split"] or "")
    except (OSError, ValueError):  # a NUL or too long a name: reported when it is opened
        return None
    if link := _LINK.fullmatch(text):  # 3
        found = (link["name"], link["config"], link["split"], link["at"] or link["tree"])
    elif match := _HUB.fullmatch(text):  # 4
        files_end = (*TAKEN, ".xls", ".ods", ".doc")
        found = (match["name"], match["config"], match["split"], match["revision"])
        if match["name"].lower().endswith(files_end):
            return None
    else:
        return None
    return None if any(".." in (part or "") for part in found) else DatasetId(*(part or "" for part in found))


def write_dataset(
    dataset: DatasetId, file: Path, limit_bytes: int, first: int = FIRST, on_progress: OnProgress | None = None
) -> Fetched:
    """Writes the first rows as JSONL, of media their names alone; what ``on_progress`` raises ends it. Raises
    InputError."""
    if not 1 <= first <= MOST:
        raise InputError(f"{first:,} first rows cannot be read; from 1 to {MOST:,} can.")
    found, commit = (dataset, "") if dataset.is_local else _on_hub(dataset)
    where = str(Path(found.name).resolve()) if dataset.is_local else found.name
    count = size = 0
    progress = Progress(on_progress)
    with tempfile.TemporaryDirectory() as cache, file.open("w", encoding="utf-8") as out:
        asked = (found.name, where, found.config, found.split, commit, str(first + 1))
        limits = Limits(dataset.name, limit_bytes)
        lines = read_limited(rows_of, Path(cache), limits, *asked, size=limit_bytes, token=_token(dataset))
        with contextlib.closing(lines):
            about = next(lines)
            for count, line in enumerate(islice(lines, first), 1):
                size += out.write(line + "\n")
                if size > limit_bytes:
                    what = f"{dataset.name}: its first {count:,} rows are more than the size limit"
                    raise InputError(f"{what}. {KEEP_FEWER}")
                progress.at(count / min(first, about["rows"] or first))
            more = next(lines, None) is not None
    if not count:
        raise InputError(f"The data set {dataset.name} has no rows. Name another split: {dataset.name}@SPLIT.")
    return Fetched(dataset.name, count, more, about["split"], tuple(about["splits"]), commit)


def _token(dataset: DatasetId) -> str:
    """The person's own, for the hub alone."""
    from huggingface_hub import get_token

    return "" if dataset.is_local else get_token() or ""


def rows_of(
    cache: Path,
    limits: Limits,
    bound: Callable[[bool], None],
    name: str,
    where: str,
    config: str,
    split: str,
    commit: str,
    first: str,
) -> Iterator[Any]:
    """As ``limited.Reader``: what the data set is, then the first rows as JSON."""
    import datasets

    for library in ("datasets", "huggingface_hub"):  # its retries; what fails is said once, by the error
        logging.getLogger(library).setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    datasets.config.STREAMING_READ_MAX_RETRIES = 2
    token = sys.stdin.read() or False
    bound(True)
    os.chdir(cache)  # where no folder has the name of a data set
    dataset = DatasetId(where, config, split)
    try:
        builder = datasets.load_dataset_builder(
            where, config or None, cache_dir=str(cache), revision=commit or None, token=token
        )
        _check_builder(builder, dataset, name)
        splits = builder.as_streaming_dataset()
        chosen = split or ("train" if "train" in splits or len(splits) != 1 else next(iter(splits)))
        if chosen not in splits:
            there = ", ".join(map(str, splits))
            raise InputError(f"{name} has no split {chosen!r}. There are: {there}. Write {name}@SPLIT.")
        said = (builder.info.splits or {}).get(chosen)
        yield {"split": chosen, "splits": [*map(str, splits)], "rows": said.num_examples if said else 0}
        features = splits[chosen].features or {}
        for row in islice(splits[chosen].decode(False) if features else splits[chosen], int(first)):
            plain = {column: _plain(value, features.get(column)) for column, value in row.items()}
            line = json.dumps(plain, ensure_ascii=False, default=str)
            yield line.encode("utf-8", errors="replace").decode()
    except datasets.exceptions.DatasetNotFoundError as error:
        if "gated" in str(error):
            what = f"The data set {name} is gated"
            raise InputError(f"{what}. Accept its terms on its page, and sign in here: hf auth login.") from None
        raise InputError(f"{_absent(dataset)} Check the name.") from None
    except (hub_errors(), datasets.exceptions.DatasetsError, *_unreadable()) as error:
        if is_unreachable(error) and not dataset.is_local:
            raise InputError(_away(dataset)) from None
        what = f"The data set {name} cannot be read: {_one_line(error)}"
        raise InputError(f"{what}. Download a file of it, and name that.") from error


def _unreadable() -> tuple[type[Exception], ...]:
    """What the builders raise for files that are damaged or not what their names say."""
    import yaml

    found = (OSError, ValueError, RuntimeError, ImportError, TypeError, LookupError, AttributeError, ArithmeticError)
    return (*found, AssertionError, zipfile.BadZipFile, zlib.error, yaml.YAMLError)


def _on_hub(dataset: DatasetId) -> tuple[DatasetId, str]:
    """(its name as the hub has it, the commit that is read): one question without retries. Raises InputError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        about = HfApi().dataset_info(dataset.name, revision=dataset.revision or None, timeout=_ANSWER_S)
    except RevisionNotFoundError:
        what = f"The data set {dataset.name} has no revision {dataset.revision!r}"
        raise InputError(f"{what}. Name a branch, a tag or a commit of it, or none.") from None
    except RepositoryNotFoundError:
        raise InputError(f"{_absent(dataset)} Check the name.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise InputError(f"The hub does not hand out {dataset.name} now ({status}). Try again later.") from None
    except (hub_errors(), OSError, ValueError) as error:
        if is_unreachable(error):
            raise InputError(_away(dataset)) from None
        raise InputError(f"The hub does not answer as a hub does: {_one_line(error)}. Try again later.") from None
    return replace(dataset, name=about.id), about.sha or ""


def _absent(dataset: DatasetId) -> str:
    what = f"There is no data set {dataset.name} on the hub that can be read with what you are signed in as"
    return f"{what}, and no file or folder of that name."


def _away(dataset: DatasetId) -> str:
    what = f"The hub cannot be reached for the data set {dataset.name}, and there is no file or folder of that name"
    return f"{what}. Go online, or name a local copy of it: FOLDER[:config][@split]."


def _plain(value: Any, feature: Any) -> Any:
    """A cell as JSON can hold it: labels by their names, several in one text; of a picture or a sound its name."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return feature.int2str(value) if isinstance(value, int) and 0 <= value < feature.num_classes else None
    if isinstance(value, bytes):
        return f"({len(value):,} bytes)"
    inner = getattr(feature, "feature", None)
    if isinstance(value, list):
        plain = [_plain(item, inner) for item in value]
        return ", ".join(map(str, plain)) if isinstance(inner, datasets.ClassLabel) else plain
    if isinstance(value, dict):
        if value.keys() == {"bytes", "path"}:
            return {"path": value["path"] or "unnamed"}
        kinds = feature if isinstance(feature, dict) else {}
        return {name: _plain(item, kinds.get(name)) for name, item in value.items()}
    return value


def _check_builder(builder: Any, dataset: DatasetId, name: str) -> None:
    """Raises InputError where a data set is more than plain data files of its own."""
    kind = type(builder).__module__.split(".")
    if kind[:2] != ["datasets", "packaged_modules"] or kind[2] not in _FORMATS:
        what = f"{kind[-1]} files; {', '.join(sorted(_FORMATS))} are read"
        raise InputError(f"{name} holds {what}. Name another data set.")
    for file in (str(file) for files in (builder.config.data_files or {}).values() for file in files):
        own = file.startswith(f"hf://datasets/{dataset.name}@")
        if not (Path(file).resolve().is_relative_to(dataset.name) if dataset.is_local else own):
            raise InputError(f"{name} names a file outside itself: {file[:200]}. It is not read.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400].rstrip(".") or type(error).__name__
