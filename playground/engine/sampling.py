"""From logits to the next token, one row at a time, each with its own seeded generator."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch

from playground.engine.request import Sampling

LIKELY = 256
"""Tokens that top-p looks at first: nearly always enough, and sorting a whole vocabulary takes 4 ms."""


class Sampler:
    """One row's sampler. The same seed and logits give the same tokens, whatever the other rows do.

    The order is the usual one: repetition penalty, ends suppressed while the reply is too short, temperature, top-k,
    top-p.
    prompt: the prompt's token ids, which the repetition penalty counts as seen. ends: token ids that end a reply.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = (), ends: Collection[int] = ()) -> None:
        self._sampling = sampling
        self._ends = sorted(ends)
        self._seen = set(prompt) if sampling.repetition_penalty != 1 else set()
        self._drawn = 0
        self._generator: torch.Generator | None = None

    def pick(self, logits: torch.Tensor) -> int:
        """The next token id. logits: [vocabulary], left as they are. Raises FloatingPointError where they are not
        finite, or no token has a share of the probability."""
        token = self._draw(self._changed(logits))
        self._drawn += 1
        if self._sampling.repetition_penalty != 1:
            self._seen.add(token)
        return token

    def _changed(self, logits: torch.Tensor) -> torch.Tensor:
        """logits after the repetition penalty and the suppression of the reply's end."""
        penalty, short = self._sampling.repetition_penalty, self._drawn < self._sampling.min_tokens
        if penalty == 1 and not (short and self._ends):
            return logits
        logits = logits.float().clone()
        if penalty != 1 and self._seen:
            seen = torch.tensor(sorted(self._seen), device=logits.device)
            found = logits[seen]
            logits[seen] = torch.where(found < 0, found * penalty, found / penalty)
        if short and self._ends:
            logits[self._ends] = float("-inf")
        return logits

    def shares(self, logits: torch.Tensor) -> torch.Tensor:
        """Each token's probability [vocabulary] as the next draw would have it. Not for a temperature of 0."""
        return self._shares(self._changed(logits))

    def _shares(self, logits: torch.Tensor) -> torch.Tensor:
        sampling = self._sampling
        scaled = logits.float().cpu() / sampling.temperature
        if 0 < sampling.top_k < scaled.shape[0]:
            scaled = scaled.masked_fill(scaled < scaled.topk(sampling.top_k).values[-1], float("-inf"))
        shares = scaled.softmax(-1)
        if sampling.top_p < 1:
            values, indices = shares.topk(min(LIKELY, shares.shape[0]))
            if float(values.sum()) < sampling.top_p:
                values, indices = shares.sort(descending=True)
            kept = values.masked_fill(values.cumsum(0) - values >= sampling.top_p, 0)
            shares = torch.zeros_like(shares).scatter_(0, indices, kept / kept.sum())
        return shares

    def _draw(self, logits: torch.Tensor) -> int:
        if self._sampling.temperature == 0:
            best = int(logits.argmax())  # of a NaN, where there is one
            _refuse_unless(math.isfinite(float(logits[best])))
            return best
        if self._generator is None:
            self._generator = torch.Generator().manual_seed(self._sampling.seed)
        # one number and a search: torch.multinomial draws one for every token of the vocabulary, which takes longer
        reached = self._shares(logits).cumsum(0, dtype=torch.float64)
        _refuse_unless(math.isfinite(float(reached[-1])))
        drawn = torch.rand(1, generator=self._generator, dtype=torch.float64) * reached[-1]
        token = int(torch.searchsorted(reached, drawn, right=True))
        return min(token, int(torch.searchsorted(reached, reached[-1])))


def _refuse_unless(finite: bool) -> None:
    if not finite:
        raise FloatingPointError("logits that are not finite")
