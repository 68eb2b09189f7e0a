"""Rows of like length in one batch, for rows that are padded; the batches come in random order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

WINDOW = 16
"""Batches whose rows are sorted by length together: enough to pad little, few enough that batches differ from epoch to epoch."""


class Buckets(Sampler[int]):
    """Row numbers, ``batch_size`` neighbours of which make a batch. Every epoch holds each row once and draws anew from (seed, epoch), so a
    resumed run sees what the uninterrupted one would have seen."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed, self._epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        dice = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        drawn = torch.randperm(len(self._lengths), generator=dice).tolist()
        size, window = self._batch_size, self._batch_size * WINDOW
        full = len(drawn) - len(drawn) % size  # the rows that are left over make the last batch, whatever their lengths
        batches = []
        for start in range(0, full, window):
            part = sorted(drawn[start : min(start + window, full)], key=lambda row: self._lengths[row])
            batches += [part[at : at + size] for at in range(0, len(part), size)]
        for place in torch.randperm(len(batches), generator=dice).tolist():
            yield from batches[place]
        yield from drawn[full:]
