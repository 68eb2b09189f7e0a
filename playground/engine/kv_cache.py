"""KV cache and prefix cache.

Keys and values of every sequence: one block a layer, [rows, length, 2, kv_heads, head_dim], so that a step writes with
one index_copy. Behind each block lies one place more, ``scratch``, that belongs to no row: the padding rows of a
captured step write there.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from playground.engine.load import bytes_of

STEP = 256
"""Room grows by this many tokens at a time."""
PREFIX_MIN = 16
"""Shorter prefixes are not worth a copy."""
PREFIX_BYTES = 256 * 1024 * 1024


class KVCache:
    """Rows 0 .. n-1 are in use; the caller keeps them compact with ``move``."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = (2, kv_heads, head_dim)
        self._layers, self._dtype, self._device = layers, dtype, device
        self.rows, self.length = 0, 0
        self.version = 0  # changes when the memory does
        self.blocks: list[Tensor] = []
        self._flat: list[Tensor] = []
        """What ``blocks`` are views of: [rows * length + 1, 2 * kv_heads * head_dim]."""

    @property
    def bytes(self) -> int:
        """Of all rows; the one scratch place is not counted."""
        return bytes_of(*self.blocks)

    @property
    def scratch(self) -> int:
        """The place past all rows, in the numbering of ``write``."""
        return self.rows * self.length

    def ensure(self, rows: int, length: int) -> None:
        """Room for this many rows and tokens; what is there stays."""
        if rows <= self.rows and length <= self.length:
            return
        new_rows, new_length = max(self.rows, rows), max(self.length, -(-length // STEP) * STEP)
        width = math.prod(self._shape)
        for layer in range(self._layers):
            # zeros, not empty: a masked place may hold anything but NaN
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
        """Make so many layers write into the one there is: for a step whose keys and values nobody needs."""
        self.blocks, self._flat = self.blocks * layers, self._flat * layers

    def shrink(self) -> None:
        """Free all memory. Only when no row is in use."""
        self.rows, self.length, self.blocks, self._flat = 0, 0, [], []
        self.version += 1

    def write(self, layer: int, places: Tensor, kv: Tensor) -> None:
        """kv [tokens, 2 * kv_heads * head_dim], keys first, at ``places`` = row * length + position, or ``scratch``."""
        self._flat[layer].index_copy_(0, places, kv)

    def keys_values(self, layer: int, rows: slice | int, length: int) -> tuple[Tensor, Tensor]:
        """Views [..., length, kv_heads, head_dim] of keys and of values."""
        block = self.blocks[layer][rows, :length] if isinstance(rows, slice) else self.blocks[layer][rows][:length]
        keys, values = block.unbind(-3)
        return keys, values

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy a row's first ``tokens`` over another row's."""
        for block in self.blocks:
            block[target, :tokens] = block[source, :tokens]

    def clear(self, row: int, tokens: int) -> None:
        """Zero a row's first ``tokens``."""
        for block in self.blocks:
            block[row, :tokens].zero_()

    def save(self, row: int, tokens: int) -> Tensor:
        """A copy of a row's first ``tokens``, [layers, tokens, 2, kv_heads, head_dim]."""
        return torch.stack([block[row, :tokens] for block in self.blocks])

    def restore(self, row: int, saved: Tensor | None, tokens: int | None = None) -> None:
        """Write the first ``tokens`` (None = all) of what ``save`` gave at a row's start; saved None: nothing."""
        if saved is not None:
            for layer, part in zip(self.blocks, saved[:, :tokens], strict=True):
                layer[row, : part.shape[0]] = part


class PrefixCache:
    """KV caches of sequences that have ended, so that the next question with the same system prompt is prefilled
    quickly. Keyed by adapter and by salt (whose they are); past PREFIX_BYTES the least recently used ones go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, tuple[int, ...]], Tensor] = OrderedDict()

    @property
    def bytes(self) -> int:
        return bytes_of(*list(self._kept.values()))

    def add(
        self, adapter: str, tokens: Sequence[int], cache: KVCache, row: int, virtual_tokens: int = 0, salt: str = ""
    ) -> None:
        """Keep a row's KV cache. adapter: the key of its weights, "" = the base; virtual_tokens: kept before the text;
        salt: whose it is, "" = anybody's."""
        key = (adapter, salt, tuple(tokens))
        if key not in self._kept:
            self._kept[key] = cache.save(row, virtual_tokens + len(tokens))
        self._kept.move_to_end(key)
        while self._kept and self.bytes > PREFIX_BYTES:
            self._kept.popitem(last=False)

    def longest(self, adapter: str, tokens: Sequence[int], salt: str = "") -> tuple[int, Tensor | None]:
        """(tokens, saved KV cache) of the longest known prefix of ``tokens`` under this salt or under none."""
        best, found = 0, None
        for key in self._kept:
            if key[0] == adapter and key[1] in ("", salt) and (length := common_prefix(key[2], tokens)) > best:
                best, found = length, key
        if found is None:
            return 0, None
        self._kept.move_to_end(found)
        return best, self._kept[found]

    def clear(self) -> None:
        self._kept.clear()


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(a), len(b)))
