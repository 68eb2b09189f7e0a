"""A JSON Schema that a person gave: its size and time are bounded, and no reference out of it is followed. Errors name
places and keywords, never what a file holds."""

from __future__ import annotations

import json
import stat
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import referencing
from referencing.exceptions import Unresolvable
from referencing.jsonschema import specification_with

from playground.errors import InputError
from playground.evaluation import checks

MOST_BYTES = 1_000_000
MOST_PATTERNS = 100
PATIENCE_S = 2.0  # seconds that one text may take; what takes longer does not fit. Usual ones take a millisecond
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_TAKES = "json-schema takes a JSON Schema in a file"
_CLOCK = threading.local()  # until: when this thread gives up, by the monotonic clock


class Schema:
    """What a text that was read as JSON must look like."""

    def __init__(self, text: str, name: str) -> None:
        """text: the schema as JSON. name: for what is said of it. Raises InputError for one that cannot be used."""
        try:
            self._validator = _validator(json.loads(text), name)
            self._holds({})
        except json.JSONDecodeError as error:
            place = f"line {error.lineno}, column {error.colno}"
            raise InputError(f"{name} is not JSON: it goes wrong at {place}.") from error
        except jsonschema.SchemaError as error:
            known = jsonschema.Draft202012Validator.VALIDATORS
            keyword = next((repr(step) for step in reversed(error.absolute_path) if step in known), "something in it")
            raise InputError(f"{name} is JSON, but not a JSON Schema: {keyword} says what it cannot say.") from error
        except RecursionError as error:
            raise InputError(f"{name} is nested too deeply, or refers to itself without end.") from error
        except InputError:
            raise
        except Exception as error:  # two libraries and a stranger's text: whatever it is, it is no schema for us
            raise InputError(f"{name} cannot be used as a JSON Schema ({type(error).__name__}).") from error

    def fits(self, value: object) -> bool:
        """Whether JSON fits; False when the time or depth limit was reached first."""
        try:
            return self._holds(value)
        except Exception:  # too deep, too slow, beyond what two libraries can do with a model's text
            return False

    def _holds(self, value: object) -> bool:
        _CLOCK.until = time.monotonic() + PATIENCE_S
        return bool(self._validator.is_valid(value))


def read_schema(path: Path) -> Schema:
    """The schema in a file. Raises InputError, which does not tell what the file holds."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is not a file. {_TAKES}, or itself: json-schema:{{...}}.")
        with path.open("rb") as file:
            held = file.read(MOST_BYTES + 1)
        if len(held) > MOST_BYTES:
            raise InputError(f"{path} is larger than 1 MB, the most that a JSON Schema may take here.")
        return Schema(held.decode("utf-8-sig"), str(path))
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}. {_TAKES}, or itself: json-schema:{{...}}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8, so it is no JSON Schema.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or type(error).__name__}.") from error
    except ValueError as error:  # a zero byte in the path
        raise InputError(f"That is no path of a file. {_TAKES}.") from error


def _validator(schema: Any, name: str) -> Any:
    """Raises InputError and what jsonschema raises for one that is none."""
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    kind.check_schema(schema)
    references, written, keywords = _looked_through(schema)
    if len(written) > MOST_PATTERNS:
        raise InputError(f"{name} has {len(written)} patterns; at most {MOST_PATTERNS} are taken.")
    for pattern in written:
        try:
            checks.compiled(pattern)
        except ValueError as error:
            raise InputError(f"{name} has a pattern that is not a regular expression.") from error
    # the library tries these patterns itself, without an end
    if {"unevaluatedProperties", "patternProperties"} <= keywords:
        raise InputError(f"{name} uses unevaluatedProperties beside patternProperties. Use additionalProperties.")
    resource = specification_with(str(kind.META_SCHEMA["$schema"])).create_resource(schema)
    resolver = referencing.Registry().resolver_with_root(resource)
    for reference in references:
        try:
            if not reference.startswith("#"):
                raise LookupError
            resolver.lookup(reference)
        except (Unresolvable, LookupError, TypeError, ValueError) as error:
            wrong = f"A $ref in {name} points to nothing inside it, and nothing outside is opened."
            raise InputError(f"{wrong} Put what it names under $defs and write #/$defs/NAME.") from error
    return _bounded(kind)(schema, registry=referencing.Registry())


def _looked_through(schema: Any) -> tuple[list[str], list[str], set[str]]:
    """References, patterns and keywords, wherever they stand. ``$schema`` is taken out: a part that names another draft
    would be judged by the library's own validators, which wait for ever and fetch."""
    references, written, keywords, left = list[str](), list[str](), set[str](), [schema]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left += node
        elif isinstance(node, dict):
            if isinstance(node.get("$schema"), str):
                del node["$schema"]
            references += [node[name] for name in _REFERENCES if isinstance(node.get(name), str)]
            written += [node["pattern"]] if isinstance(node.get("pattern"), str) else []
            written += node["patternProperties"] if isinstance(node.get("patternProperties"), dict) else []
            keywords |= set(node)
            left += node.values()
    return references, written, keywords


@lru_cache(maxsize=8)
def _bounded(kind: Any) -> Any:
    """A draft's validator that gives up in time."""

    def in_time(name: str, judge: Any) -> Any:
        def judged(*parts: Any) -> Any:
            _seconds_left()
            return _OWN.get(name, judge)(*parts)

        return judged

    return jsonschema.validators.extend(kind, {name: in_time(name, judge) for name, judge in kind.VALIDATORS.items()})


def _seconds_left() -> float:
    left: float = _CLOCK.until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _occurs(pattern: str, text: str) -> bool:
    patience_s = min(checks.PATIENCE_S, _seconds_left())
    return checks.end_of(checks.compiled(pattern), text, patience_s=patience_s) is not None


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(value, "string") and not _occurs(pattern, value):
        yield jsonschema.ValidationError("The text does not match the pattern.")


def _pattern_properties(validator: Any, properties: dict[str, Any], value: Any, schema: Any) -> Iterator[Any]:
    for pattern, below in properties.items() if validator.is_type(value, "object") else ():
        for key, one in value.items():
            if _occurs(pattern, key):
                yield from validator.descend(one, below, path=key, schema_path=pattern)


def _additional_properties(validator: Any, below: Any, value: Any, schema: Any) -> Iterator[Any]:
    if not validator.is_type(value, "object"):
        return
    known, written = schema.get("properties", {}), schema.get("patternProperties", {})
    extra = [key for key in value if key not in known and not any(_occurs(pattern, key) for pattern in written)]
    if validator.is_type(below, "object"):
        for key in extra:
            yield from validator.descend(value[key], below, path=key)
    elif not below and extra:
        yield jsonschema.ValidationError("There are more properties than are allowed.")


_OWN = {"pattern": _pattern, "patternProperties": _pattern_properties, "additionalProperties": _additional_properties}
