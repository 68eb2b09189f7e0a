"""Rows of prompts with answers laid end to end: no padding, and a beginning that all rows of a batch share is read once.

A batch is one line of tokens: the shared beginning, then the rest of each row. Every token is where it would be in its row alone, sees
what it would see there, and its gradient is the same (``tests/training/test_flat.py``); what is shared is computed once, and the
gradients of all rows add up in it. A batch of B rows with p shared tokens of n each costs p + B (n - p) tokens instead of B n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from playground.data.render import Rendered

WORTH = 1 / 50
"""Share of a batch's tokens that reading a beginning once must spare: below that the bookkeeping costs what it saves."""


@dataclass(frozen=True)
class FlatCollator:
    """Builds ``input_ids`` and ``position_ids`` [1, tokens], ``spans`` [1 + rows], ``learned`` and ``labels`` [tokens that count].

    spans: tokens of the shared beginning (0 = none is shared), then those of each row's rest. learned: the place in the line from
    which each label is told. A row's last token has nothing after it to be told, so it is not read.
    """

    def __call__(self, rows: Sequence[Rendered]) -> dict[str, Any]:
        shared = shared_tokens(rows)
        ids, positions = rows[0].prompt_ids[:shared], list(range(shared))
        spans, learned, labels = [shared], [], []
        for row in rows:
            first = len(ids) - shared + len(row.prompt_ids) - 1  # the place of the prompt's last token
            rest = (row.prompt_ids + row.completion_ids)[shared:-1]
            ids += rest
            positions += range(shared, shared + len(rest))
            spans.append(len(rest))
            read = {place for begin, end in row.read for place in range(begin, end)}
            for place, token in enumerate(row.completion_ids):
                if place not in read:
                    learned.append(first + place)
                    labels.append(token)
        found = {"spans": spans, "learned": learned, "labels": labels}
        line = {"input_ids": [ids], "position_ids": [positions]}
        return {name: torch.tensor(value, dtype=torch.long) for name, value in {**line, **found}.items()}


def shared_tokens(rows: Sequence[Rendered]) -> int:
    """How many tokens at the start of these rows are read once for all of them; 0 where that spares less than ``WORTH``.

    The last token of a prompt is never among them: each row's answer is told from it."""
    if len(rows) < 2:
        return 0
    prompts = [row.prompt_ids for row in rows]
    low, high = min(prompts), max(prompts)  # what the first and the last in order have in common, all have
    most = min(map(len, prompts)) - 1
    common = next((place for place in range(most) if low[place] != high[place]), max(most, 0))
    spared = common * (len(rows) - 1)
    return common if spared >= WORTH * sum(row.tokens for row in rows) else 0
