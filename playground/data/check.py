"""A file -> what can be trained on, what cannot and why; and the report of ``check``, as JSON and as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from playground.data.advice import Advice, advise
from playground.data.example import BadRow, Checked, Example, FilePart, RowWarning
from playground.data.readers.limits import Progress
from playground.data.readers.read import MEBI, READING, gather, no_usable_rows, read_parts
from playground.data.token_counts import TokenReport, token_report
from playground.data.validate import Validated

_MAX_SHOWN = 10


def as_json(
    checked: Checked,
    tokens: TokenReport | None = None,
    advice: Sequence[Advice] | None = None,
    split: Mapping[str, Any] | None = None,
    batch_size: int = 8,
) -> dict[str, Any]:
    """The JSON of ``check``. Without a token report, ``tokens`` is null and nothing counts as truncated.

    advice: made here where it is not given. split: the parts as run.json would record them.
    batch_size: rows a batch, for its padding.
    """
    bad, warnings = bad_rows(checked, tokens), kept_warnings(checked, tokens)
    advice = advise(checked, tokens) if advice is None else advice
    found: dict[str, Any] = {
        "format": checked.format,
        "objective": checked.objective,
        "rows": checked.rows,
        "good": checked.rows - len(bad),
        "bad": [asdict(row) for row in bad],
        "warnings": [asdict(row) for row in warnings],
        "duplicates": checked.duplicates,
        "tokens": {key: getattr(tokens, key) for key in ("min", "median", "p95", "max")} if tokens else None,
        "truncated": tokens.truncated if tokens else 0,
        "mapping": dict(checked.mapping),
        "confidence": round(checked.confidence, 3),
        "why": checked.why,
        "advice": [asdict(item) | {"rows": list(item.rows)} for item in advice],
    }
    if tokens:
        found["histogram"] = [{"from": low, "to": high, "rows": rows} for low, high, rows in tokens.histogram()]
        found["padding"] = {key: round(value, 4) for key, value in asdict(tokens.padding(batch_size)).items()}
    if checked.files:
        found["files"] = [asdict(part) for part in checked.files]
    if split is not None:
        found["split"] = dict(split)
    return found


def as_text(
    checked: Checked, tokens: TokenReport | None = None, advice: Sequence[Advice] | None = None, batch_size: int = 8
) -> str:
    """The same in a few lines for a terminal; long lists are shortened and say so."""
    bad, warnings = bad_rows(checked, tokens), kept_warnings(checked, tokens)
    advice = advise(checked, tokens) if advice is None else advice
    mapping = ", ".join(f"{role} = {column}" for role, column in checked.mapping.items())
    sure = (
        f" This is a guess, {checked.confidence:.0%} sure: {checked.why}."
        if checked.confidence < 1 and checked.why
        else ""
    )
    lines = [
        f"Format: {checked.format} ({mapping}); trains {checked.objective}.{sure}",
        f"Rows: {checked.rows}, of them {checked.rows - len(bad)} good and {len(bad)} bad; "
        f"{len(warnings)} warnings, {checked.duplicates} duplicates.",
    ]
    if tokens:
        padding = tokens.padding(batch_size)
        lines.append(
            f"Tokens per row: {tokens.min} at least, {tokens.median} median, {tokens.p95} for 95 %, "
            f"{tokens.max} at most; {tokens.truncated} rows cut."
        )
        if not tokens.packed:
            lines.append(
                f"Padding: {padding.random:.0%} of a batch of {padding.batch_size} in random order, "
                f"{padding.by_length:.0%} with rows of like length together."
            )
    lines += _section(
        "Bad rows (not trained on):", [f"row {checked.place(row.row)}: {row.reason}. {row.fix}" for row in bad]
    )
    lines += _section("Warnings (kept):", [f"row {checked.place(row.row)}: {row.reason}" for row in warnings])
    lines += _section("Advice:", [item.text for item in advice])
    return "\n".join(lines)


def bad_rows(checked: Checked, tokens: TokenReport | None = None) -> list[BadRow]:
    """Every bad row in the file's order: those of the file, and those that the token report found."""
    return sorted((*checked.bad, *(tokens.bad if tokens else ())), key=lambda item: item.row)


def kept_warnings(checked: Checked, tokens: TokenReport | None = None) -> list[RowWarning]:
    """Every warning in the file's order. A row that turned out bad is not warned of as well."""
    bad = {row.row for row in tokens.bad} if tokens else set()
    both = (*checked.warnings, *(tokens.warnings if tokens else ()))
    return sorted((item for item in both if item.row not in bad), key=lambda item: item.row)


def _section(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    more = [f"  … and {len(items) - _MAX_SHOWN} more"] if len(items) > _MAX_SHOWN else []
    return [title, *(f"  {item}" for item in items[:_MAX_SHOWN]), *more]


def check_file(
    path: Path | str | Sequence[Path | str],
    mapping: Mapping[str, str] | None = None,
    limit_bytes: int = 256 * MEBI,
    progress: Callable[[float], None] | None = None,
) -> Checked:
    """What is in a file, several, or a folder of them, without a tokenizer.

    mapping: role -> column, where the person knows better than the guess; for every file. limit_bytes: for all files
    together.
    progress: called about ten times a second with the share done, 0 to 1. Raises InputError when a file cannot be read,
    their columns cannot be guessed, the files do not train the same, or no row can be used."""
    paths = gather(path)
    whole = Progress(progress)
    parts = read_parts(paths, mapping, limit_bytes, whole)
    rows = sum(len(part.records.rows) for part in parts)
    found, files, last, done = Validated(), [], 0, 0
    for part in parts:
        count = len(part.records.rows)
        spans = (READING + (1 - READING) * share / rows for share in (done, done + count))
        first, last = last + 1, found.add(part.records, part.shape, last, whole.part(*spans))
        files.append(FilePart(part.name, first, last - first + 1))
        done += count
    found.finish()
    if not found.rows:
        raise no_usable_rows(paths[0].name if len(paths) == 1 else "The files", rows, found.bad)
    whole.at(1)
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
