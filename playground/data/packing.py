"""Packed sequences for continued pretraining: rows of one length that hold several documents each.

Documents stay apart: positions begin anew at each, none attends to another, and no document's first token is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from playground.data.example import Passage
from playground.data.render import encode
from playground.errors import InputError


@dataclass(frozen=True)
class Packed:
    """One row. ids: at most the length asked for. starts: where in ids each document, or a piece of a long one,
    begins."""

    ids: list[int]
    starts: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def prompt_ids(self) -> list[int]:
        """What a sample while training goes on from: the first document's beginning."""
        end = self.starts[1] if len(self.starts) > 1 else len(self.ids)
        return self.ids[: max(1, min(_PROMPT_TOKENS, end // 2))]


def pack(tokenizer: Any, passages: Sequence[Passage], length: int, *, together: bool = True) -> list[Packed]:
    """Every token of every passage once, each passage closed by the end token; first fit into the newest rows, in
    order.

    together: several passages may share a row; otherwise each has its own, as methods with virtual tokens need it: what
    stands before a row stands before its first passage only. A passage longer than ``length`` is cut into pieces of it.
    Raises InputError when length is below 2."""
    if length < 2:
        raise InputError(f"A length of {length} tokens leaves nothing to predict. Give at least 2.")
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    rows: list[tuple[list[int], list[int]]] = []
    for passage in passages:
        ids = encode(tokenizer, passage.text) + end
        for begin in range(0, len(ids), length):
            piece = ids[begin : begin + length]
            if len(piece) < 2:
                continue  # a lone token has nothing before it to be predicted from
            open_rows = rows[-_OPEN:] if together else []
            row = next((row for row in open_rows if len(row[0]) + len(piece) <= length), None)
            if row is None:
                rows.append((list(piece), [0]))
            else:
                row[1].append(len(row[0]))
                row[0].extend(piece)
    return [Packed(ids, tuple(starts)) for ids, starts in rows]


_PROMPT_TOKENS = 32
_OPEN = 16
"""The newest rows that a document may still be packed into."""
