"""Keys and values of every row: one block a layer, [rows, length, kv_heads, head_dim], so that a step writes with one index_copy each."""

from __future__ import annotations

import torch

STEP = 256
"""Room grows by this many tokens at a time."""


class RowCache:
    """Rows 0 .. n-1 are in use; the caller keeps them compact with ``move``."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = (kv_heads, head_dim)
        self._layers, self._dtype, self._device = layers, dtype, device
        self.rows, self.length = 0, 0
        self.k: list[torch.Tensor] = []
        self.v: list[torch.Tensor] = []

    def ensure(self, rows: int, length: int) -> None:
        """Room for this many rows and tokens; what is there stays."""
        if rows <= self.rows and length <= self.length:
            return
        new_rows = max(self.rows, rows)
        new_length = max(self.length, -(-length // STEP) * STEP)
        for blocks in (self.k, self.v):
            for layer in range(self._layers):
                # zeros, not empty: a masked place may hold anything but not a number that is none
                block = torch.zeros(new_rows, new_length, *self._shape, dtype=self._dtype, device=self._device)
                if layer < len(blocks):
                    block[: self.rows, : self.length] = blocks[layer]
                    blocks[layer] = block
                else:
                    blocks.append(block)
        self.rows, self.length = new_rows, new_length

    def write(self, layer: int, places: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """k, v [tokens, kv_heads, head_dim] at ``places`` = row * length + position."""
        width = self._shape[0] * self._shape[1]
        self.k[layer].view(-1, width).index_copy_(0, places, k.reshape(-1, width))
        self.v[layer].view(-1, width).index_copy_(0, places, v.reshape(-1, width))

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy a row's first ``tokens`` over another row's."""
        for blocks in (self.k, self.v):
            for block in blocks:
                block[target, :tokens] = block[source, :tokens]

    def save(self, row: int, tokens: int) -> torch.Tensor:
        """A row's first ``tokens``, [2, layers, tokens, kv_heads, head_dim], for ``restore``."""
        return torch.stack([torch.stack([block[row, :tokens] for block in blocks]) for blocks in (self.k, self.v)])

    def restore(self, row: int, saved: torch.Tensor, tokens: int) -> None:
        """Put back the first ``tokens`` of what ``save`` gave."""
        for which, blocks in enumerate((self.k, self.v)):
            for layer, block in enumerate(blocks):
                block[row, :tokens] = saved[which, layer, :tokens]
