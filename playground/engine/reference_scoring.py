"""Scoring on the reference path: whole rows, padded on the left, by the model's own forward pass.

Some families change logits after the head, or read a long row otherwise than its beginning: so a row is never read in pieces, and the
logits are always the model's. Where a batch has more scored places than may be held at once, it is read again for the next of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from playground.engine.nats import PLACES, costs, divergences
from playground.engine.scoring import Score, Text, parts
from playground.engine.virtual import NOTHING, Start

Logits = Callable[[Sequence[Sequence[int]], Sequence[Start], Sequence[int], tuple[int, int]], torch.Tensor]
"""(token ids of rows, what stands before each, slot of each, (begin, end) counted back from the right edge) -> logits [rows, begin -
end, vocabulary] of these columns."""


@dataclass
class _Sums:
    loss: float = 0.0
    apart: float = 0.0
    base_loss: float = 0.0


def scores(
    logits: Logits, texts: Sequence[Text], slots: Sequence[int], starts: Sequence[Start], alone: Callable[[Text, Start], bool]
) -> Iterator[tuple[int, Score]]:
    """(place among ``texts``, its score) as they are done. alone: whether a row must not share a batch."""
    together = [place for place, text in enumerate(texts) if not alone(text, starts[place])]
    batches = [[together[i] for i in part] for part in parts([len(texts[place].ids) for place in together])]
    batches += [[place] for place in range(len(texts)) if place not in set(together)]
    for batch in batches:
        rows = [texts[place] for place in batch]
        sums = [_Sums() for _ in batch]
        for columns in _columns(rows):
            _add(logits, rows, [slots[place] for place in batch], [starts[place] for place in batch], columns, sums)
        for place, text, total in zip(batch, rows, sums, strict=True):
            count = text.scored
            apart = (total.apart / count, total.base_loss / count) if text.divergence else (None, None)
            yield place, Score(count, total.loss / count, *apart)


def _columns(rows: Sequence[Text]) -> Iterator[tuple[int, int]]:
    """Scored columns, counted back from the right edge, as many as may be held for all rows."""
    longest, wide = max(text.scored for text in rows), max(1, PLACES // len(rows))
    for begin in range(longest, 0, -wide):
        yield begin, max(0, begin - wide)


def _add(
    logits: Logits,
    rows: Sequence[Text],
    slots: Sequence[int],
    starts: Sequence[Start],
    columns: tuple[int, int],
    sums: Sequence[_Sums],
) -> None:
    """Add the costs of these columns to the rows' sums; the last token is not read, so that column c tells of the token at -c."""
    ids = [text.ids[:-1] for text in rows]
    begin, end = columns
    here = logits(ids, starts, slots, columns)
    wanted = [place for place, text in enumerate(rows) if text.divergence]
    there = logits([ids[p] for p in wanted], [NOTHING] * len(wanted), [0] * len(wanted), columns) if wanted else None
    for place, (text, total) in enumerate(zip(rows, sums, strict=True)):
        count = min(begin, text.scored) - end
        if count <= 0:
            continue
        tokens = torch.tensor(text.ids[len(text.ids) - end - count : len(text.ids) - end], device=here.device)
        own = here[place, -count:]
        total.loss += float(costs(own, tokens).sum())
        if there is not None and place in wanted:
            known = there[wanted.index(place), -count:]
            total.base_loss += float(costs(known, tokens).sum())
            total.apart += float(divergences(own, known).sum())
