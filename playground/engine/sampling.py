"""From logits to the next token, one row at a time, each with its own seeded generator."""

from __future__ import annotations

import torch

from playground.engine.request import Sampling


class Sampler:
    """One row's sampler. The same seed and logits give the same tokens, whatever the other rows do."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def pick(self, logits: torch.Tensor) -> int:
        """The next token id. logits: [vocabulary]."""
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        shares = (logits.float().cpu() / self._sampling.temperature).softmax(-1)
        if self._sampling.top_p < 1:
            ordered, index = shares.sort(descending=True)
            ordered[ordered.cumsum(0) - ordered >= self._sampling.top_p] = 0
            return int(index[torch.multinomial(ordered, 1, generator=self._generator)])
        return int(torch.multinomial(shares, 1, generator=self._generator))
