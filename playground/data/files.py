"""One file, several, or a folder of them -> their records and shapes, all of one objective."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from playground.data.detect import Shape, detect
from playground.data.example import BadRow
from playground.data.nested import is_open
from playground.data.progress import Progress
from playground.data.read import file_size, read_records, too_large
from playground.data.records import Broken, Numbered, Records
from playground.errors import InputError

READING = 0.5
"""The share of a check's work that is reading; the rest is looking at each row."""


@dataclass(frozen=True)
class Part:
    """One of the files, read and understood by itself."""

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


def read_parts(paths: Sequence[Path], mapping: Mapping[str, str] | None, limit_bytes: int, progress: Progress) -> list[Part]:
    """Each file's records and shape. limit_bytes: for all of them together.

    Raises InputError when one cannot be read or understood, or they do not all train the same.
    """
    sizes = [file_size(path) for path in paths]
    total = sum(sizes)
    if len(paths) > 1 and total > limit_bytes:
        raise too_large(f"All {len(paths)} files together", total, limit_bytes)
    parts, done = [], 0
    for path, size in zip(paths, sizes, strict=True):
        share = READING / max(1, total)
        records = read_records(path, limit_bytes, progress.part(done * share, (done + size) * share))
        done += size
        if not records.some():
            broken = [BadRow(number, row.reason, row.fix) for number, row in records.rows if isinstance(row, Broken)]
            raise useless(path.name, len(records.rows), broken)
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

    An object that was taken apart is given by its entries alone (``data.prompt``). Raises InputError as reading does.
    """
    last = 0
    for one in gather(path):
        offset = last
        for number, record in read_records(one, limit_bytes).rows:
            last = offset + number
            if isinstance(record, dict):
                record = {name: value for name, value in record.items() if not is_open(value)}
            yield last, record


def useless(name: str, rows: int, bad: Sequence[BadRow]) -> InputError:
    """The refusal of a file of which nothing can be used, with the first reasons."""
    first = " ".join(f"Row {row.row}: {row.reason}. {row.fix}" for row in bad[:3])
    return InputError(f"{name}: none of the {rows} rows can be used. {first}")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a NUL or too long a name: said when it is opened
        return False
