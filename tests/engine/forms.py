"""Random JSON Schemas that replies can be held to."""

from random import Random
from typing import Any

WORDS = ("name", "size", "due", "note", "a b", "ünit", "x")
PATTERNS = ("^[A-Z]{2,4}-[0-9]{3}$", "^.*end$", "^(yes|no)$", "^[a-f]{12}$")


def schema(draw: Random, depth: int = 2) -> dict[str, Any]:
    """One of at most ``depth`` levels; some have documents of one token, others of hundreds."""
    kinds = ["string", "integer", "number", "boolean", "enum", "pattern"] + [
        "object",
        "array",
        "either",
        "object",
    ] * bool(depth)
    kind = draw.choice(kinds) if depth < 2 else draw.choice(["object", "object", "array", "either"])
    if kind == "object":
        keys = draw.sample(WORDS, draw.randint(0, 4))
        made: dict[str, Any] = {"type": "object", "properties": {key: schema(draw, depth - 1) for key in keys}}
        made |= {"required": draw.sample(keys, draw.randint(0, len(keys)))}
        return made | draw.choice([{}, {"additionalProperties": False}, {"additionalProperties": {"type": "integer"}}])
    if kind == "array":
        least = draw.randint(0, 2)
        return {
            "type": "array",
            "items": schema(draw, depth - 1),
            "minItems": least,
            "maxItems": least + draw.randint(0, 3),
        }
    if kind == "either":
        return {"anyOf": [schema(draw, depth - 1), schema(draw, depth - 1)]}
    if kind == "enum":
        return {"enum": draw.sample(["open", "in progress", 3, None, True, "é", "a\nb"], draw.randint(1, 4))}
    if kind == "pattern":
        return {"type": "string", "pattern": draw.choice(PATTERNS)}
    if kind == "string":
        return {"type": "string"} | draw.choice(
            [{}, {"minLength": 3}, {"maxLength": 8}, {"minLength": 20, "maxLength": 40}]
        )
    if kind in ("integer", "number"):
        return {"type": kind} | draw.choice(
            [{}, {"minimum": 100}, {"minimum": -5, "maximum": 5}, {"exclusiveMaximum": 0}]
        )
    return {"type": kind}
