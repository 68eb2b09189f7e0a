"""One answered example of one side: what the figures of a verdict are made from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answered:
    """What one side said to one example.

    example: its number in the file. prompt: as it was rendered. seconds: from asked to answered, None where it was not timed. stamp: what the reply can be
    replayed from. passages: what a side with documents was given to read. repeats: replies of sampled repeats, ``reply`` not among
    them. loss: mean nats a token of the reference, where it was measured.
    """

    example: int
    side: str
    question: str
    prompt: str
    reply: str
    reference: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None
    stamp: dict | None
    passages: tuple[str, ...] = ()
    repeats: tuple[str, ...] = ()
    loss: float | None = None
