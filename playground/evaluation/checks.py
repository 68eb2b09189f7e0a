"""Checks that a person writes without code, such as ``ends-with:Reviewed by Dr. Sharma``. A check sees the stripped reply; case matters."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.errors import InputError
from playground.evaluation import patterns

KINDS = "json, json-schema:FILE, regex:PATTERN, ends-with:TEXT, contains:TEXT, max-words:N"
SCHEMA = "json-schema:"
NO_FILES = (
    "json-schema names a file of this machine, which a shared app does not open. Write the schema itself in its place, in one line: "
    'json-schema:{"type": "object", "required": ["name"]}.'
)
MOST = 20
"""Checks of one verdict, bench or run."""
_BRIEF = 60


@dataclass(frozen=True)
class Check:
    """spec: as it was written, which is also its name. words: for a person. passes: reply -> whether it holds."""

    spec: str
    words: str
    passes: Callable[[str], bool]


def is_check(name: str) -> bool:
    """Whether a metric's name is a check, as it was written."""
    kind, colon, _ = name.partition(":")
    return name == "json" or (bool(colon) and kind in [known.partition(":")[0] for known in KINDS.split(", ")[1:]])


def parse_checks(specs: Sequence[str], *, files: bool = True) -> list[Check]:
    """Read checks, each once; files: as in ``parse_check``. Raises InputError that names every fault."""
    if len(set(specs)) > MOST:
        raise InputError(f"There are {len(set(specs))} checks; at most {MOST} are taken. Keep those that decide.")
    read, faults = [], []
    for spec in dict.fromkeys(specs):
        try:
            read.append(parse_check(spec, files=files))
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError(" ".join(faults))
    return read


def parse_check(spec: str, *, files: bool = True) -> Check:
    """Read one check. files: whether ``json-schema:FILE`` may open a file of this machine; where the app is shared it may not, and takes
    the schema itself: ``json-schema:{...}``. Raises InputError naming the kinds there are."""
    kind, colon, value = spec.partition(":")
    if spec == "json":
        return Check(spec, "Valid JSON", lambda reply: _json(reply) is not _BROKEN)
    if not colon or not value.strip():
        raise InputError(f"{spec!r} is not a check. There are: {KINDS}.")
    if kind == "ends-with":
        return Check(spec, f"Ends with “{value}”", lambda reply: reply.strip().endswith(value.strip()))
    if kind == "contains":
        return Check(spec, f"Contains “{value}”", lambda reply: value in reply.strip())
    if kind == "max-words":
        if not value.strip().isdecimal() or len(value.strip()) > 9:
            raise InputError(f"{spec!r}: max-words takes a whole number, such as max-words:50.")
        most = int(value)
        return Check(spec, f"At most {most} words", lambda reply: len(reply.split()) <= most)
    if kind == "regex":
        try:
            pattern = patterns.compiled(value, dotall=True)
        except ValueError as error:
            raise InputError(f"{_brief(spec)!r} is not a regular expression: {error}.") from error
        return Check(spec, f"Matches {value}", lambda reply: patterns.matches(pattern, reply.strip()))
    if kind == "json-schema":
        return _fits(spec, value, files)
    raise InputError(f"{_brief(kind)!r} is not a check. There are: {KINDS}.")


def schema_file(spec: str) -> Path | None:
    """The file that a check reads; None where it reads none."""
    value = spec.removeprefix(SCHEMA)
    return None if value == spec or _is_inline(value) else Path(value)


def _is_inline(value: str) -> bool:
    return value.lstrip().startswith("{")


def _fits(spec: str, value: str, files: bool) -> Check:
    inline = _is_inline(value)
    if not inline and not files:
        raise InputError(NO_FILES)
    from playground.evaluation.schema import Schema, read_schema  # jsonschema, at the moment it is needed

    schema = Schema(value, "The schema of the check") if inline else read_schema(Path(value))
    words = f"Fits {_brief(value.strip()) if inline else Path(value).name}"
    return Check(spec, words, lambda reply: (read := _json(reply)) is not _BROKEN and schema.fits(read))


def _brief(text: str) -> str:
    return text if len(text) <= _BRIEF else f"{text[:_BRIEF]}…"


_BROKEN = object()


def _json(reply: str) -> Any:
    try:
        return json.loads(reply.strip(), parse_constant=_refuse)
    except (ValueError, RecursionError):  # broken, or brackets in brackets past reading
        return _BROKEN


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
