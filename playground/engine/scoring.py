"""What a model thinks of a text that is there already: plain values, and which of them are read together. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TOGETHER = 8
"""Rows that are read together, at most."""
ROOM = 2048
"""Tokens that these may take in all, each as long as the longest; a longer row goes alone."""


@dataclass(frozen=True)
class ScoreRow:
    """A text to be scored.

    prompt: rendered text that is given, "" = none: then the text's first token is given. completion: what is scored, rendered, its
    end token included where training learned it (``Rendered.completion_text``). adapter: whose weights, None = the base.
    divergence: also measure how far the adapter is from the base; its base's loss comes with it.
    """

    prompt: str
    completion: str
    adapter: str | None = None
    divergence: bool = False


@dataclass(frozen=True)
class Score:
    """tokens: of the completion, how many were scored. loss: mean nats a token, the completion's own tokens always given (teacher
    forcing). divergence: KL(adapter || base), mean nats a token over the same places; base_loss: the base's loss there. Both None
    where they were not asked for."""

    tokens: int
    loss: float
    divergence: float | None = None
    base_loss: float | None = None


@dataclass(frozen=True)
class Text:
    """A row as token ids. first: the first of them that is scored, at least 1. adapter: None = the base."""

    ids: tuple[int, ...]
    first: int
    adapter: str | None
    divergence: bool

    @property
    def scored(self) -> int:
        return len(self.ids) - self.first


def text_of(prompt: Sequence[int], completion: Sequence[int], adapter: str | None, divergence: bool) -> Text:
    """A row from the token ids of its two parts; without a prompt the first token of the rest takes its place."""
    return Text((*prompt, *completion), max(1, len(prompt)), adapter, divergence and adapter is not None)


def parts(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of the rows that are read together, in their order."""
    part: list[int] = []
    for place, length in enumerate(lengths):
        longest = max([length, *(lengths[other] for other in part)])
        if part and (len(part) == TOGETHER or longest * (len(part) + 1) > ROOM):
            yield part
            part = []
        part.append(place)
    if part:
        yield part
