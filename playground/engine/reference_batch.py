"""Rows of the reference path under way together: one shared cache, padded on the left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from playground.engine.padded import Padded
from playground.engine.virtual import Start
from playground.engine.writer import Writer

if TYPE_CHECKING:
    from playground.engine.reference import ReferencePath


class Batch:
    """Rows under way together, with their shared cache. ``live``: writers that are not done; ``_rows``: writers that the cache holds."""

    def __init__(
        self,
        path: ReferencePath,
        writers: Sequence[Writer],
        prompts: Sequence[Sequence[int]],
        slots: Sequence[int],
        starts: Sequence[Start],
        started: float,
    ) -> None:
        self._path, self._writers, self._prompts, self._starts, self._started = path, list(writers), prompts, starts, started
        self.live, self._rows = list(range(len(writers))), list(range(len(writers)))
        self._slots = torch.tensor(list(slots), device=path.loaded.device)
        self._given: Padded | None = None

    def step(self) -> None:
        """One forward pass, one token for every live row; rows that are done leave."""
        given = self._given
        if given is None:
            given = self._path.begun(self._prompts, self._starts)
        elif int(given.positions[0, -1]) == self._path.turn:  # a row that goes alone: its cache is made anew
            given = self._path.begun([[*self._prompts[0], *self._writers[0].tokens]], self._starts)
        logits = self._path.forward(given, self._slots)
        now = time.perf_counter() - self._started
        for place, index in enumerate(self._rows):
            if index in self.live:
                self._writers[index].take(logits[place], now)
        self.live = [index for index in self.live if not self._writers[index].state.finish]
        stay = [place for place, index in enumerate(self._rows) if index in self.live]
        mask, positions = given.mask, given.positions
        if 0 < len(stay) < len(self._rows) and all(hasattr(layer, "batch_select_indices") for layer in given.cache.layers):
            keep = torch.tensor(stay, dtype=torch.long, device=mask.device)
            mask, positions, self._slots = mask[keep], positions[keep], self._slots[keep]
            given.cache.batch_select_indices(keep)
            self._rows = list(self.live)
        if self.live:  # where the cache cannot let go of a row, one that is done goes along on its last token
            last = [(self._writers[index].tokens or [self._path.pad])[-1] for index in self._rows]
            ids = torch.tensor(last, device=mask.device)[:, None]
            self._given = Padded(ids, None, torch.cat([mask, torch.ones_like(ids)], dim=1), positions[:, -1:] + 1, given.cache)
