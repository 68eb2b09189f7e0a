"""What ``check`` says of a file, as JSON and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from playground.data.advice import Advice, advise
from playground.data.example import BadRow, Checked, RowWarning
from playground.data.lengths import TokenReport

_SHOWN = 10


def as_json(
    checked: Checked,
    tokens: TokenReport | None = None,
    advice: Sequence[Advice] | None = None,
    split: Mapping[str, Any] | None = None,
    batch_size: int = 8,
) -> dict[str, Any]:
    """The JSON of ``check``. Without a token report, ``tokens`` is null and nothing counts as truncated.

    advice: what ``advise`` found, looked for here where it is not given. split: the parts as run.json would record them.
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
    sure = f" This is a guess, {checked.confidence:.0%} sure: {checked.why}." if checked.confidence < 1 and checked.why else ""
    lines = [
        f"Format: {checked.format} ({mapping}); trains {checked.objective}.{sure}",
        f"Rows: {checked.rows}, of them {checked.rows - len(bad)} good and {len(bad)} bad; "
        f"{len(warnings)} warnings, {checked.duplicates} duplicates.",
    ]
    if tokens:
        padding = tokens.padding(batch_size)
        lines.append(
            f"Tokens per row: {tokens.min} at least, {tokens.median} median, {tokens.p95} for 95 %, {tokens.max} at most; "
            f"{tokens.truncated} rows cut."
        )
        if not tokens.packed:
            lines.append(
                f"Padding: {padding.random:.0%} of a batch of {padding.batch_size} in random order, "
                f"{padding.by_length:.0%} with rows of like length together."
            )
    lines += _section("Bad rows (not trained on):", [f"row {checked.place(row.row)}: {row.reason}. {row.fix}" for row in bad])
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
    more = [f"  … and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return [title, *(f"  {item}" for item in items[:_SHOWN]), *more]
