"""A chat as files write it -> messages that can be trained on, or the reason why not."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Sequence
from datetime import date, time
from decimal import Decimal
from itertools import pairwise
from typing import Any

from playground.data.example import Message

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant", "ai": "assistant",
}  # fmt: skip
"""The role words of OpenAI's, ShareGPT's and Gemini's files -> ours."""

_TURN = 'Write each turn as {"role": "user", "content": "…"}.'
_LARGEST_LITERAL = 1_000_000  # characters of a cell read as a Python list


class Unusable(Exception):
    """A record that cannot be trained on. Raised and caught inside this layer only: it becomes a BadRow."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.reason, self.fix = reason, fix


def is_turns(value: object) -> bool:
    """Whether a value looks like a list of turns, itself or as JSON in a cell."""
    if isinstance(value, str):
        return re.match(r"""\s*\[\s*\{\s*["'](role|from|content|value)["']""", value) is not None
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and not {"role", "from"}.isdisjoint(value[0])


def plain_text(value: object, what: str) -> str:
    """A cell's text; numbers, dates and true/false are written out, nothing is ``""``. Raises Unusable for lists and objects."""
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise Unusable(f"{what} holds half a character (a lone surrogate)", "Type that character again.") from None
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else ""
    if isinstance(value, int | Decimal | date | time):
        return str(value)
    raise Unusable(f"{what} is {'an object' if isinstance(value, dict) else 'a list'}, not text", "Write it as one text.")


def read_turns(value: object, what: str) -> tuple[Message, ...]:
    """Turns in any order, each with a known role and some text; an empty system turn is left out. Raises Unusable."""
    if value is None or value == "":
        raise Unusable(f"{what} is empty", _TURN)
    if isinstance(value, str):
        value = _literal(value)
    if not isinstance(value, list):
        kind = "one object" if isinstance(value, dict) else "text"
        raise Unusable(f"{what} is {kind}, not a list of turns", f"Write a list. {_TURN}")
    if not value:
        raise Unusable(f"{what} is an empty list", _TURN)
    turns = [_turn(item, place, what) for place, item in enumerate(value, 1)]
    return tuple(turn for turn in turns if turn.role != "system" or turn.content.strip())


def check_turns(turns: Sequence[Message]) -> None:
    """What every base's template takes: system only first, then user and assistant in turn, the assistant last.

    Raises Unusable.
    """
    rest = turns[1:] if turns and turns[0].role == "system" else turns
    if any(turn.role == "system" for turn in rest):
        raise Unusable("a system turn that is not the first", "Move the system turn to the start, and keep only one.")
    if not any(turn.role == "assistant" for turn in rest):
        raise Unusable("no assistant turn: there is no answer to learn", "Add the assistant's answer.")
    if rest[0].role == "assistant":
        raise Unusable("the first turn is the assistant's", "Start with a user turn.")
    for place, (before, after) in enumerate(pairwise(rest), 1 + len(turns) - len(rest)):
        if before.role == after.role:
            reason = f"two {after.role} turns in a row (turns {place} and {place + 1})"
            raise Unusable(reason, "Join them, or add the turn between them.")
    if rest[-1].role != "assistant":
        raise Unusable("the last turn is not the assistant's", "Add the assistant's answer, or remove the last turn.")


def _literal(cell: str) -> object:
    """A list written into a cell of a table: JSON, or Python's own spelling of it."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        pass
    if len(cell) > _LARGEST_LITERAL:
        return cell
    try:
        return ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return cell


def _turn(item: object, place: int, what: str) -> Message:
    if not isinstance(item, dict):
        raise Unusable(f"turn {place} of {what} is not an object", _TURN)
    name = item.get("role", item.get("from"))
    if not name:
        raise Unusable(f"turn {place} of {what} has no role", _TURN)
    role = ROLES.get(str(name).strip().casefold())
    if role is None:
        raise Unusable(f"unknown role {str(name)[:40]!r} in turn {place}", "Use system, user or assistant.")
    content = item.get("content", item.get("value", item.get("text")))
    text = _parts(content, place) if isinstance(content, list) else plain_text(content, f"turn {place}")
    if not text.strip() and role != "system":
        raise Unusable(f"turn {place} ({role}) is empty", "Fill in its text, or remove the turn.")
    return Message(role, text)


def _parts(content: list[Any], place: int) -> str:
    """OpenAI's list of content parts; only text can be trained on here."""
    if not all(isinstance(part, dict) and part.get("type", "text") == "text" for part in content):
        raise Unusable(f"turn {place} holds something other than text", "Keep the text parts only, or remove the row.")
    return "\n".join(plain_text(part.get("text"), f"turn {place}") for part in content)
