"""Tokens that an adapter puts before the text: they are no words, and a row's text begins after them.

Prefix tuning (Li & Liang 2021, arXiv:2101.00190) and P-tuning v2 (Liu et al. 2022, arXiv:2110.07602) learn keys and values for every
layer: they lie at the start of the row's cache, are not turned by positions, and the text stands at positions from their count on.
Prompt tuning (Lester et al. 2021, arXiv:2104.08691) and P-tuning (Liu et al. 2021, arXiv:2103.10385) learn embeddings, which are read
like a text's at positions 0 ..; what they leave in the cache depends on nothing after them, so the lean path reads them once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from playground.errors import AdapterError


@dataclass(frozen=True)
class VirtualTokens:
    """As a file has them. flat: [tokens, layers * 2 * kv_heads * head_dim] where ``prefix``, else [tokens, hidden]."""

    flat: torch.Tensor
    prefix: bool

    @property
    def count(self) -> int:
        return self.flat.shape[0]

    def keys_values(self, name: str, layers: int, kv_heads: int, head_dim: int) -> torch.Tensor:
        """[layers, tokens, 2, kv_heads, head_dim], keys first. name: the adapter's, for the AdapterError on another base's."""
        _check(name, "keys and values are", self.flat.shape[1], layers * 2 * kv_heads * head_dim)
        return self.flat.view(self.count, layers, 2, kv_heads, head_dim).transpose(0, 1)

    def embeddings(self, name: str, hidden: int) -> torch.Tensor:
        """[tokens, hidden]. Raises AdapterError as above."""
        _check(name, "embeddings are", self.flat.shape[1], hidden)
        return self.flat


def _check(name: str, what: str, wide: int, here: int) -> None:
    if wide != here:
        raise AdapterError(
            f"{name} was trained on another base: its {what} {wide} numbers wide, this base's {here}. "
            "Choose the base it was trained on."
        )


@dataclass(frozen=True)
class Start:
    """The same as the reference path begins a row with: embeddings [tokens, hidden], or keys_values [layers, tokens, 2, kv_heads,
    head_dim]."""

    embeddings: torch.Tensor | None = None
    keys_values: torch.Tensor | None = None

    @property
    def read(self) -> int:
        """Tokens that are read before the text."""
        return 0 if self.embeddings is None else self.embeddings.shape[0]

    @property
    def held(self) -> int:
        """Tokens that are in the cache before anything is read."""
        return 0 if self.keys_values is None else self.keys_values.shape[1]

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.embeddings, self.keys_values) if t is not None)


NOTHING = Start()
