"""Checks that a person writes without code, such as ``ends-with:Reviewed by Dr. Sharma``. A check sees the stripped reply; case matters."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground.errors import InputError

KINDS = "json, json-schema:FILE, regex:PATTERN, ends-with:TEXT, contains:TEXT, max-words:N"


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


def parse_check(spec: str) -> Check:
    """Read one check. Raises InputError naming the kinds there are."""
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
        if not value.strip().isdigit():
            raise InputError(f"{spec!r}: max-words takes a whole number, such as max-words:50.")
        most = int(value)
        return Check(spec, f"At most {most} words", lambda reply: len(reply.split()) <= most)
    if kind == "regex":
        try:
            pattern = re.compile(value, re.DOTALL)
        except re.error as error:
            raise InputError(f"{spec!r} is not a regular expression: {error}.") from error
        return Check(spec, f"Matches {value}", lambda reply: pattern.fullmatch(reply.strip()) is not None)
    if kind == "json-schema":
        validator = _schema(Path(value))
        return Check(
            spec, f"Fits {Path(value).name}", lambda reply: (read := _json(reply)) is not _BROKEN and validator.is_valid(read)
        )
    raise InputError(f"{kind!r} is not a check. There are: {KINDS}.")


_BROKEN = object()


def _json(reply: str) -> Any:
    try:
        return json.loads(reply.strip(), parse_constant=_refuse)
    except ValueError:
        return _BROKEN


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _schema(path: Path) -> Any:
    import jsonschema

    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
        kind = jsonschema.validators.validator_for(schema)
        kind.check_schema(schema)
        return kind(schema)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}. json-schema takes the path of a JSON Schema.") from error
    except (OSError, ValueError, jsonschema.SchemaError) as error:
        raise InputError(f"{path} is not a JSON Schema: {str(error).splitlines()[0][:200]}.") from error
