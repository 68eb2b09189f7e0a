"""The form that a reply is held to while it is written: JSON, a JSON Schema or a pattern, as a grammar for llguidance.

Written as the checks are: ``json`` (an object or an array), ``json-schema:SCHEMA`` and ``regex:PATTERN`` (a dot is also
the end of a line). What the grammar cannot hold exactly is refused, so that no reply can break its form."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from llguidance import LLMatcher

from playground.errors import InputError
from playground.evaluation.checks import SCHEMA, parse_check, schema_file
from playground.evaluation.inferred_checks import FEWEST, inferred, labels_of

REGEX = "regex:"
REFERENCES = "references"
"""In place of a form: the one that the reference answers share."""
KINDS = "json, json-schema:FILE, regex:PATTERN, references"
LONGEST = 50_000
"""Characters of a form: it stands in the stamp of every reply."""
ANY_JSON: dict[str, Any] = {"type": ["object", "array"]}
MOST_READ = 2000
"""Answers that a form is read from."""
FEW_VALUES, TIMES_EACH = 20, 4
"""A text is one of a few where the answers have at most so many different ones, each so many times on average."""
_OPTIONS: Any = {
    "whitespace_pattern": r"[ \t\r\n]{1,20}",  # a small model may go on with spaces for ever
    "json_allowed_escapes": 'nrtbf"\\',  # \u0061 would spell a declared key anew, past its type
}
_WITHOUT = "Take it out of the schema, and check it instead."


@lru_cache(maxsize=64)
def grammar(form: str) -> str:
    """As llguidance reads it. Raises InputError for what is no form, or cannot be held exactly."""
    kind = form.partition(":")[0]
    if kind not in ("json", "json-schema", "regex"):
        raise InputError(f"{form!r:.60} is no form of a reply. There are: {KINDS}.")
    if len(form) > LONGEST:
        raise InputError(f"The form has {len(form):,} characters; at most {LONGEST:,} are taken. Write a shorter one.")
    check = parse_check(form, files=False)
    if kind == "regex":
        made = LLMatcher.grammar_from_regex(f"(?s:{check.value})")
    else:
        made = LLMatcher.grammar_from_json_schema(_exact(schema_of(form)), overrides=_OPTIONS)
    if fault := LLMatcher.validate_grammar(made):
        said = " ".join(fault.split())
        raise InputError(f"Replies cannot be held to {form!r:.60}: {said:.200}. Write it without that.")
    return made


def schema_of(form: str) -> Any:
    """The JSON Schema of a form that is JSON."""
    return ANY_JSON if form == "json" else json.loads(form.removeprefix(SCHEMA))


def read_form(spec: str) -> str:
    """A form, with the schema in it where it names a file of one. Raises InputError."""
    if spec == REFERENCES:
        return spec
    if (file := schema_file(spec)) is not None:
        parse_check(spec)  # says what is wrong with the file
        spec = SCHEMA + compact(json.loads(Path(file).read_text(encoding="utf-8-sig")))
    grammar(spec)
    return spec


def shared_form(references: Sequence[str]) -> str:
    """The form that reference answers share, "" where there is none or they are fewer than 5: a schema of their JSON,
    their labels, or a pattern of their beginning, headings and ending. All that are read fit it."""
    return _shared_form(tuple(references[:MOST_READ]))


@lru_cache(maxsize=8)
def _shared_form(references: tuple[str, ...]) -> str:
    texts = [text.strip() for text in references if text.strip()]
    if len(texts) < FEWEST:
        return ""
    try:
        values = [json.loads(text) for text in texts]
    except ValueError:
        values = []
    if values and all(isinstance(value, dict | list) for value in values):
        return SCHEMA + compact(_schema(values))
    if labels := labels_of(texts):
        return REGEX + "|".join(map(re.escape, labels))
    specs = dict(spec.partition(":")[::2] for spec in inferred(texts))
    begins, ending = specs.get("regex", ".*" if "ends-with" in specs else ""), specs.get("ends-with", "")
    form = f"{REGEX}{begins}{re.escape(ending)}" if begins else ""
    return form if form and all(parse_check(form).passes(text) for text in texts) else ""


def _schema(values: Sequence[Any]) -> dict[str, Any]:
    """Of values that stand at one place."""
    kinds: dict[str, list[Any]] = {}
    for value in values:
        kinds.setdefault(_KIND[type(value)], []).append(value)
    if {"integer", "number"} <= kinds.keys():
        kinds["number"] += kinds.pop("integer")
    found = [_of_kind(kind, there) for kind, there in kinds.items()]
    return found[0] if len(found) == 1 else {"anyOf": found}


_KIND = {
    **{dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"},
    type(None): "null",
}


def _of_kind(kind: str, values: Sequence[Any]) -> dict[str, Any]:
    if kind == "object":
        order, _ = Counter(tuple(value) for value in values).most_common(1)[0]
        keys = list(dict.fromkeys([*order, *(key for value in values for key in value)]))
        parts = {key: _schema([value[key] for value in values if key in value]) for key in keys}
        always = [key for key in keys if all(key in value for value in values)]
        return {"type": kind, "properties": parts, "required": always, "additionalProperties": False}
    if kind == "array":
        items = [item for value in values for item in value]
        return {"type": kind} | ({"items": _schema(items)} if items else {})
    different = len(set(values))
    if kind == "string" and different <= FEW_VALUES and different * TIMES_EACH <= len(values):
        return {"enum": sorted(set(values))}
    return {"type": kind}


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _exact(schema: Any) -> Any:
    """Raises InputError for keywords that llguidance holds only nearly: a key may come twice, which counts once."""
    for node in _objects(schema):
        least, step = node.get("minProperties"), node.get("multipleOf")
        if isinstance(least, int) and least > len(node.get("required") or ()):
            raise InputError(f"minProperties above the required keys cannot be held to. {_WITHOUT}")
        if isinstance(step, float) and not step.is_integer():
            raise InputError(f"multipleOf {step} cannot be held to: it is no whole number. {_WITHOUT}")
    return schema


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object in a schema, itself first."""
    left = [schema]
    while left:
        node = left.pop()
        left += node if isinstance(node, list) else node.values() if isinstance(node, dict) else ()
        if isinstance(node, dict):
            yield node


def hints(form: str) -> list[str]:
    """Texts that a short document of this form is likely to hold: required keys, the shortest of fixed values."""
    found = list[str]()
    for node in () if form.startswith(REGEX) else _objects(schema_of(form)):
        required, fixed = node.get("required"), node.get("enum")
        found += [f"{compact(key)}:" for key in required] if isinstance(required, list) else []
        found += [min(map(compact, fixed), key=len)] if isinstance(fixed, list) and fixed else []
    return list(dict.fromkeys(found))


def patterns(form: str) -> list[str]:
    """Every pattern in it, without anchors at its ends."""
    if form.startswith(REGEX):
        return [form.removeprefix(REGEX)]
    found = [node["pattern"] for node in _objects(schema_of(form)) if isinstance(node.get("pattern"), str)]
    return [re.sub(r"^\^|(?<!\\)\$$", "", pattern) for pattern in dict.fromkeys(found)]
