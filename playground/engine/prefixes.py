"""Prefix cache: keys and values of prompts that have been read, kept after their row is gone, so that the next question on the same
system prompt is quick. Entries are keyed by adapter and by salt (whose they are)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from playground.engine.cache import RowCache

PREFIX_MIN = 16
"""Shorter beginnings are not worth a copy."""
PREFIX_BYTES = 256 * 1024 * 1024


class PrefixStore:
    """Least recently used ones go first when ``limit_bytes`` is reached."""

    def __init__(self, limit_bytes: int = PREFIX_BYTES) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[tuple[str, str, tuple[int, ...]], torch.Tensor] = OrderedDict()

    @property
    def bytes(self) -> int:
        return sum(block.numel() * block.element_size() for block in list(self._kept.values()))

    def remember(self, adapter: str, tokens: Sequence[int], cache: RowCache, row: int, lead: int = 0, salt: str = "") -> None:
        """Keep a row's cache. adapter: what stands for its weights, "" = the base; lead: places before the text, which are kept too;
        salt: whose it is, "" = anybody's."""
        key = (adapter, salt, tuple(tokens))
        if key not in self._kept:
            self._kept[key] = cache.save(row, lead + len(tokens))
        self._kept.move_to_end(key)
        while self._kept and self.bytes > self._limit:
            self._kept.popitem(last=False)

    def longest(self, adapter: str, tokens: Sequence[int], salt: str = "") -> tuple[int, torch.Tensor | None]:
        """(length of the text, saved cache) of the longest prefix of ``tokens`` that is known under this salt or under none."""
        best, found = 0, None
        for key in self._kept:
            if key[0] == adapter and key[1] in ("", salt) and (length := common(key[2], tokens)) > best:
                best, found = length, key
        if found is None:
            return 0, None
        self._kept.move_to_end(found)
        return best, self._kept[found]

    def clear(self) -> None:
        self._kept.clear()


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    return next((place for place, (left, right) in enumerate(zip(a, b, strict=False)) if left != right), min(len(a), len(b)))
