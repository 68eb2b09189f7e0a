"""Keys and values of every row: one block a layer, [rows, length, 2, kv_heads, head_dim], so that a step writes with one index_copy.
Behind each block lies one place more, ``scratch``, that belongs to no row: the padding rows of a captured step write there."""

from __future__ import annotations

import math

import torch

STEP = 256
"""Room grows by this many tokens at a time."""


class RowCache:
    """Rows 0 .. n-1 are in use; the caller keeps them compact with ``move``."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = (2, kv_heads, head_dim)
        self._layers, self._dtype, self._device = layers, dtype, device
        self.rows, self.length = 0, 0
        self.version = 0  # changes when the memory does
        self.blocks: list[torch.Tensor] = []
        self._flat: list[torch.Tensor] = []  # what ``blocks`` are views of: [rows * length + 1, 2 * kv_heads * head_dim]

    @property
    def bytes(self) -> int:
        """Of all rows; the one scratch place is not counted."""
        return sum(block.numel() * block.element_size() for block in self.blocks)

    @property
    def scratch(self) -> int:
        """The place past all rows, in the numbering of ``write``."""
        return self.rows * self.length

    def ensure(self, rows: int, length: int) -> None:
        """Room for this many rows and tokens; what is there stays."""
        if rows <= self.rows and length <= self.length:
            return
        new_rows = max(self.rows, rows)
        new_length = max(self.length, -(-length // STEP) * STEP)
        width = math.prod(self._shape)
        for layer in range(self._layers):
            # zeros, not empty: a masked place may hold anything but not a number that is none
            flat = torch.zeros(new_rows * new_length + 1, width, dtype=self._dtype, device=self._device)
            block = flat[:-1].view(new_rows, new_length, *self._shape)
            if layer < len(self.blocks):
                block[: self.rows, : self.length] = self.blocks[layer]
                self.blocks[layer], self._flat[layer] = block, flat
            else:
                self.blocks.append(block)
                self._flat.append(flat)
        self.rows, self.length = new_rows, new_length
        self.version += 1

    def share(self, layers: int) -> None:
        """Let so many layers write into the one there is: for a step whose keys and values nobody needs."""
        self.blocks, self._flat = self.blocks * layers, self._flat * layers

    def shrink(self) -> None:
        """Give all memory back. Only when no row is in use."""
        self.rows, self.length, self.blocks, self._flat = 0, 0, [], []
        self.version += 1

    def write(self, layer: int, places: torch.Tensor, kv: torch.Tensor) -> None:
        """kv [tokens, 2 * kv_heads * head_dim], keys first, at ``places`` = row * length + position, or ``scratch``."""
        self._flat[layer].index_copy_(0, places, kv)

    def keys_values(self, layer: int, rows: slice | int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views [..., length, kv_heads, head_dim] of keys and of values."""
        block = self.blocks[layer][rows, :length] if isinstance(rows, slice) else self.blocks[layer][rows][:length]
        keys, values = block.unbind(-3)
        return keys, values

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy a row's first ``tokens`` over another row's."""
        for block in self.blocks:
            block[target, :tokens] = block[source, :tokens]

    def clear(self, row: int, tokens: int) -> None:
        """Make a row's first ``tokens`` zeros again."""
        for block in self.blocks:
            block[row, :tokens].zero_()

    def save(self, row: int, tokens: int) -> torch.Tensor:
        """A row's first ``tokens``, [layers, tokens, 2, kv_heads, head_dim], for ``restore``."""
        return torch.stack([block[row, :tokens] for block in self.blocks])

    def restore(self, row: int, saved: torch.Tensor, tokens: int) -> None:
        """Put back the first ``tokens`` of what ``save`` gave."""
        for layer, block in enumerate(self.blocks):
            block[row, :tokens] = saved[layer, :tokens]

    def begin(self, row: int, start: torch.Tensor | None) -> None:
        """Put keys and values that stand before a row's text, shaped as ``save`` gives them, at its start."""
        if start is not None:
            self.restore(row, start, start.shape[1])
