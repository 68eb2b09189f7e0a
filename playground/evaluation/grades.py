"""How far a reply is from passing a check: a grade from 0 to 1, for training by rewards.

A yes or no teaches nothing to a model that always fails, because every one of its replies is then worth the same. So each check
gives a share for what is already there; 1 always means that the check passes, and nothing else gives 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from difflib import SequenceMatcher

from playground.evaluation.checks import Check
from playground.evaluation.patterns import compiled, end_of

Grade = Callable[[str], float]
_WORD = re.compile(r"\w+|[^\w\s]")
SHORT_OF_PASSING = 0.9
"""The most that a reply is worth which does not pass."""


def grade(check: Check) -> Grade:
    """The grade of a check, a function of the reply.

    1. ``contains``, ``ends-with``: how many of the text's words are in the reply in one run; for ``ends-with`` half where it is not at
    the end. Letters do not count: they are in every reply, and would be rewarded for nothing.
    2. ``regex``: the share of its parts (split where it says ``.*`` or ``.+``) that are found in their order.
    3. ``max-words``: how many words are allowed, over how many there are.
    4. ``json``, ``json-schema``: how far the reply can be read as JSON; from half on it can, and does not fit the schema.
    """
    kind, _, value = check.spec.partition(":")
    share: Grade = {
        "contains": lambda reply: _overlap(value, reply),
        "ends-with": lambda reply: 0.5 * _overlap(value.strip(), reply) + 0.5 * _overlap(value.strip(), _end(reply, value)),
        "regex": _parts(value),
        "max-words": lambda reply: int(value) / max(1, len(reply.split())),
        "json": lambda reply: 0.5 * _read(reply),
        "json-schema": lambda reply: 0.5 if _read(reply) == 1 else 0.5 * _read(reply),
    }[kind]
    return lambda reply: 1.0 if check.passes(reply) else min(SHORT_OF_PASSING, SHORT_OF_PASSING * share(reply))


def _end(reply: str, text: str) -> str:
    return reply.strip()[-len(text.strip()) :]


def _overlap(wanted: str, reply: str) -> float:
    """The longest run of ``wanted``'s words and signs that is in ``reply``, as a share of them."""
    if wanted in reply:
        return 1.0
    words = _WORD.findall(wanted)
    matcher = SequenceMatcher(None, words, _WORD.findall(reply), autojunk=False)
    return matcher.find_longest_match().size / max(1, len(words))


def _parts(pattern: str) -> Grade:
    """The parts of a pattern between its gaps, each a pattern of its own; where they are not, it is yes or no."""
    try:
        parts = [compiled(part, dotall=True) for part in re.split(r"(?<!\\)\.[*+]\??", pattern) if part]
    except ValueError:
        parts = []

    def share(reply: str) -> float:
        at, found, text = 0, 0, reply.strip()
        for part in parts:
            if (end := end_of(part, text, at)) is not None:
                at, found = end, found + 1
        return found / len(parts) if parts else 0.0

    return share


def _read(reply: str) -> float:
    """How much of a reply JSON's reader takes before it stumbles; 1 = all of it."""
    text = reply.strip()
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos / max(1, len(text)) if text[:1] in ("{", "[") else 0.0
    return 1.0
