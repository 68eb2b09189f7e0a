"""A file -> what can be trained on, what cannot and why, and how long the rows are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from playground.data.detect import detect
from playground.data.example import BadRow, Checked, Example, Judged, Message, Passage, Preference, RowWarning
from playground.data.read import MEBI, read_records
from playground.data.render import encode, render_example
from playground.data.validate import validate
from playground.errors import InputError

_SHOWN = 10


@dataclass(frozen=True)
class TokenReport:
    """Tokens per usable row, prompt and answer together, before anything is cut (nearest-rank percentiles).

    truncated: rows whose prompt is cut. warnings: those rows. bad: rows whose answer alone is too long.
    """

    min: int
    median: int
    p95: int
    max: int
    truncated: int = 0
    warnings: tuple[RowWarning, ...] = ()
    bad: tuple[BadRow, ...] = ()


def check_file(path: Path, mapping: Mapping[str, str] | None = None, limit_bytes: int = 256 * MEBI) -> Checked:
    """What is in a file, without a tokenizer. mapping: role -> column, where the person knows better than the guess.

    Raises InputError when the file cannot be read, its columns cannot be told, or no row can be used.
    """
    path = Path(path)
    records = read_records(path, limit_bytes)
    bad = [BadRow(number, record.reason, record.fix) for number, record in records.rows if not isinstance(record, dict)]
    if len(bad) == len(records.rows):
        raise _useless(path.name, len(records.rows), bad)
    shape = detect(records, mapping)
    found = validate(records, shape)
    if not found.rows:
        raise _useless(path.name, len(records.rows), found.bad)
    return Checked(
        format=shape.format,
        objective=shape.objective,
        rows=len(records.rows),
        examples=tuple(row for row in found.rows if isinstance(row, Example)),
        bad=tuple(found.bad),
        warnings=tuple(found.warnings),
        duplicates=found.duplicates,
        columns=records.columns,
        mapping=shape.mapping,
        others=tuple(row for row in found.rows if not isinstance(row, Example)),
    )


def token_report(checked: Checked, tokenizer: Any, max_tokens: int) -> TokenReport:
    """Lengths as the base sees them. A preference counts with its longer answer; raw text is never cut, it is read in pieces.

    Raises InputError when max_tokens is below 2, or every answer alone is too long.
    """
    if max_tokens < 2:
        raise InputError(f"The limit of {max_tokens} tokens leaves no room for a prompt and an answer. Give at least 2.")
    lengths: list[int] = []
    warnings: list[RowWarning] = []
    bad: list[BadRow] = []
    for row in (*checked.examples, *checked.others):
        try:
            length, cut = _length(row, tokenizer, max_tokens)
        except InputError as error:
            reason, _, fix = str(error).removeprefix(f"Row {row.row}: ").partition(". ")
            bad.append(BadRow(row.row, reason, fix))
            continue
        lengths.append(length)
        if cut:
            reason = f"cut: the first {cut} of {length} tokens do not fit into {max_tokens}; the answer is kept"
            warnings.append(RowWarning(row.row, reason, "long"))
    if not lengths:
        raise _useless("The file", checked.rows, sorted((*checked.bad, *bad), key=lambda item: item.row))
    lengths.sort()
    median, p95 = _rank(lengths, 0.5), _rank(lengths, 0.95)
    return TokenReport(lengths[0], median, p95, lengths[-1], len(warnings), tuple(warnings), tuple(bad))


def as_json(checked: Checked, tokens: TokenReport | None = None) -> dict[str, Any]:
    """The JSON of ``check``. Without a token report, ``tokens`` is null and nothing counts as truncated."""
    bad, warnings = _bad(checked, tokens), _warnings(checked, tokens)
    return {
        "format": checked.format,
        "objective": checked.objective,
        "rows": checked.rows,
        "good": checked.rows - len(bad),
        "bad": [asdict(row) for row in bad],
        "warnings": [asdict(row) for row in warnings],
        "duplicates": checked.duplicates,
        "tokens": {key: getattr(tokens, key) for key in ("min", "median", "p95", "max")} if tokens else None,
        "truncated": tokens.truncated if tokens else 0,
    }


def as_text(checked: Checked, tokens: TokenReport | None = None) -> str:
    """The same in a few lines for a terminal; long lists are shortened and say so."""
    bad, warnings = _bad(checked, tokens), _warnings(checked, tokens)
    mapping = ", ".join(f"{role} = {column}" for role, column in checked.mapping.items())
    lines = [
        f"Format: {checked.format} ({mapping}); trains {checked.objective}.",
        f"Rows: {checked.rows}, of them {checked.rows - len(bad)} good and {len(bad)} bad; "
        f"{len(warnings)} warnings, {checked.duplicates} duplicates.",
    ]
    if tokens:
        lines.append(
            f"Tokens per row: {tokens.min} at least, {tokens.median} median, {tokens.p95} for 95 %, {tokens.max} at most; "
            f"{tokens.truncated} rows cut."
        )
    lines += _section("Bad rows (not trained on):", [f"row {row.row}: {row.reason}. {row.fix}" for row in bad])
    lines += _section("Warnings (kept):", [f"row {row.row}: {row.reason}" for row in warnings])
    return "\n".join(lines)


def _section(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    more = [f"  … and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return [title, *(f"  {item}" for item in items[:_SHOWN]), *more]


def _bad(checked: Checked, tokens: TokenReport | None) -> list[BadRow]:
    return sorted((*checked.bad, *(tokens.bad if tokens else ())), key=lambda item: item.row)


def _warnings(checked: Checked, tokens: TokenReport | None) -> list[RowWarning]:
    """A row that turned out bad is not warned of as well."""
    bad = {row.row for row in tokens.bad} if tokens else set()
    both = (*checked.warnings, *(tokens.warnings if tokens else ()))
    return sorted((item for item in both if item.row not in bad), key=lambda item: item.row)


def _length(row: Example | Preference | Judged | Passage, tokenizer: Any, max_tokens: int) -> tuple[int, int]:
    """(tokens before cutting, tokens cut)."""
    if isinstance(row, Passage):
        return len(encode(tokenizer, row.text)), 0
    answers = (row.chosen, row.rejected) if isinstance(row, Preference) else (row.completion,)
    found = []
    for answer in answers:
        example = row if isinstance(row, Example) else Example((*row.prompt, Message("assistant", answer)), row.row)
        rendered = render_example(tokenizer, example, max_tokens)
        found.append((rendered.cut + len(rendered.prompt_ids) + len(rendered.completion_ids), rendered.cut))
    return max(found)


def _rank(ordered: Sequence[int], share: float) -> int:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _useless(name: str, rows: int, bad: Sequence[BadRow]) -> InputError:
    first = " ".join(f"Row {row.row}: {row.reason}. {row.fix}" for row in bad[:3])
    return InputError(f"{name}: none of the {rows} rows can be used. {first}")
