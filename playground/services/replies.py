"""A whole comparison at once: every turn to its end, as the command line and its JSON give it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from playground.engine.request import Sampling
from playground.errors import RunFailedError
from playground.services.compare import CompareService
from playground.services.sides import Side, Turn


def all_replies(
    service: CompareService,
    sides: Sequence[Side],
    questions: Sequence[str],
    sampling: Sampling,
    tell: Callable[[int, int], None] = lambda turn, tokens: None,
) -> list[dict[str, Any]]:
    """Ask ``questions`` as turns of one conversation with every side. tell: hears (turn, tokens written so far).

    Raises RunFailedError with the side's own words when one fails.
    """
    histories: list[list[Turn]] = [[] for _ in sides]
    found: list[dict[str, Any]] = []
    for turn, question in enumerate(questions):
        replies = []
        for replies in service.ask(sides, histories, question, sampling):
            tell(turn, sum(reply.completion_tokens for reply in replies))
        for side, reply, history in zip(sides, replies, histories, strict=True):
            if reply.error:
                raise RunFailedError(f"{side.label}: {reply.error}")
            history.append(Turn(question, reply.text))
            found.append(
                {
                    "side": side.label,
                    "turn": turn,
                    "text": reply.text,
                    "prompt_tokens": reply.prompt_tokens,
                    "completion_tokens": reply.completion_tokens,
                    "first_token_s": round(reply.first_token_s or 0.0, 4),
                    "seconds": round(reply.seconds, 4),
                    "stamp": reply.stamp,
                }
            )
    return found
