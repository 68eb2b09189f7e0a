"""A whole comparison at once: every turn to its end, as the command line and its JSON give it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from playground.engine.request import Sampling
from playground.errors import RunFailedError
from playground.services.compare import CompareService, Reply
from playground.services.sides import Side, Turn


def all_replies(
    service: CompareService,
    sides: Sequence[Side],
    questions: Sequence[str],
    sampling: Sampling,
    tell: Callable[[int, int], None] = lambda turn, tokens: None,
) -> list[dict[str, Any]]:
    """Ask ``questions`` as turns of one conversation with every side. tell: hears (turn, tokens written so far).

    A side that fails says why (``error``) in its last reply and is asked no more; the others go on. Raises RunFailedError when all fail.
    """
    histories: list[list[Turn]] = [[] for _ in sides]
    failed: dict[int, str] = {}
    found: list[dict[str, Any]] = []
    for turn, question in enumerate(questions):
        asked = [place for place in range(len(sides)) if place not in failed]
        replies: Sequence[Reply] = []
        for replies in service.ask([sides[place] for place in asked], [histories[place] for place in asked], question, sampling):
            tell(turn, sum(reply.completion_tokens for reply in replies))
        for place, reply in zip(asked, replies, strict=True):
            if reply.error:
                failed[place] = reply.error
            else:
                histories[place].append(Turn(question, reply.text))
            found.append(_as_json(sides[place].label, turn, reply))
        if len(failed) == len(sides):
            raise RunFailedError("\n".join(f"{sides[place].label}: {why}" for place, why in failed.items()))
    return found


def _as_json(side: str, turn: int, reply: Reply) -> dict[str, Any]:
    said = {
        "side": side,
        "turn": turn,
        "text": reply.text,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "first_token_s": round(reply.first_token_s or 0.0, 4),
        "seconds": round(reply.seconds, 4),
        "stamp": reply.stamp,
    }
    return said | ({"error": reply.error} if reply.error else {})
