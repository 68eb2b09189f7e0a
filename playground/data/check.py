"""A file -> what can be trained on, what cannot and why; ``token_report`` and ``as_json`` go on from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from playground.data.example import Checked, Example, FilePart
from playground.data.files import READING, gather, read_parts, useless
from playground.data.lengths import TokenReport
from playground.data.measure import token_report
from playground.data.progress import Progress
from playground.data.read import MEBI
from playground.data.report import as_json, as_text
from playground.data.validate import Validated


def check_file(
    path: Path | str | Sequence[Path | str],
    mapping: Mapping[str, str] | None = None,
    limit_bytes: int = 256 * MEBI,
    progress: Callable[[float], None] | None = None,
) -> Checked:
    """What is in a file, several, or a folder of them, without a tokenizer.

    mapping: role -> column, where the person knows better than the guess; for every file. limit_bytes: for all files together.
    progress: called about ten times a second with the share done, 0 to 1.
    Raises InputError when a file cannot be read, its columns cannot be told, the files do not train the same, or no row can be
    used.
    """
    paths = gather(path)
    told = Progress(progress)
    parts = read_parts(paths, mapping, limit_bytes, told)
    rows = sum(len(part.records.rows) for part in parts)
    found, files, last, done = Validated(), [], 0, 0
    for part in parts:
        count = len(part.records.rows)
        spans = (READING + (1 - READING) * share / rows for share in (done, done + count))
        first, last = last + 1, found.add(part.records, part.shape, last, told.part(*spans))
        files.append(FilePart(part.name, first, last - first + 1))
        done += count
    found.finish()
    if not found.rows:
        raise useless(paths[0].name if len(paths) == 1 else "The files", rows, found.bad)
    told.at(1)
    shapes = [part.shape for part in parts]
    sure = min(shapes, key=lambda shape: shape.confidence)
    return Checked(
        format=" + ".join(dict.fromkeys(shape.format for shape in shapes)),
        objective=sure.objective,
        rows=rows,
        examples=tuple(row for row in found.rows if isinstance(row, Example)),
        bad=tuple(found.bad),
        warnings=tuple(found.warnings),
        duplicates=found.duplicates,
        columns=tuple(dict.fromkeys(column for part in parts for column in part.records.columns)),
        mapping=shapes[0].mapping,
        others=tuple(row for row in found.rows if not isinstance(row, Example)),
        confidence=sure.confidence,
        why=sure.why if len(parts) == 1 else "; ".join(f"{part.name}: {part.shape.why}" for part in parts),
        files=tuple(files) if len(parts) > 1 else (),
    )


__all__ = ["TokenReport", "as_json", "as_text", "check_file", "token_report"]
