"""Scoring: the loss of given texts. What is asked, what comes back, and which texts are read together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TOGETHER = 8
"""Rows that are read together, at most."""
ROOM = 2048
"""Tokens that these may take in all, each as long as the longest; a longer row goes alone."""
PLACES = 128
"""Places whose distributions over the whole vocabulary are held at once."""


@dataclass(frozen=True)
class ScoreRow:
    """A text to be scored.

    prompt: rendered text that is given, "" = none: then the text's first token is given. completion: what is scored,
    rendered, its end token included where training learned it (``Rendered.completion_text``). adapter: whose weights,
    None = the base.
    divergence: also measure how far the adapter is from the base; its base's loss comes with it.
    """

    prompt: str
    completion: str
    adapter: str | None = None
    divergence: bool = False


@dataclass(frozen=True)
class Score:
    """tokens: of the completion, how many were scored. loss: mean nats a token, the completion's own tokens always
    given (teacher forcing). divergence: KL(adapter || base), mean nats a token over the same places; base_loss: the
    base's loss there. Both None where they were not asked for."""

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


def token_losses(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each place's token: logits [places, vocabulary], tokens [places] -> [places], nats."""
    from torch.nn import functional

    return functional.cross_entropy(logits.float(), tokens, reduction="none")


def token_divergences(logits: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of each place, p from ``logits`` and q from ``base`` [places, vocabulary] -> [places]."""
    from torch.nn import functional

    p, q = logits.float().log_softmax(-1), base.float().log_softmax(-1)
    return functional.kl_div(q, p, reduction="none", log_target=True).sum(-1).clamp_(min=0.0)
