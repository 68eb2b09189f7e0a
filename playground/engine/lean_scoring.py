"""Scoring on the lean path: rows are read as prompts are, and the head runs over the scored places, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from playground.engine.bank import Bank
from playground.engine.compute import Compute
from playground.engine.lean import LeanModel, Segment
from playground.engine.nats import PLACES, costs, divergences
from playground.engine.packed import Packed
from playground.engine.scoring import Score, Text, parts

CHUNK = 256
"""Tokens that are read in one go; replies that are being written take a step in between."""


@dataclass
class _Reading:
    """A text read with one adapter. states: of the scored places, as they come."""

    text: Text
    adapter: Packed | None
    slot: int | None = None
    read: int = 0
    states: list[torch.Tensor] = field(default_factory=list)

    @property
    def lead(self) -> int:
        return self.adapter.lead if self.adapter else 0

    @property
    def wanted(self) -> int:
        """Tokens to read: what comes after the last is not asked for."""
        return len(self.text.ids) - 1


def scores(
    model: LeanModel, compute: Compute, texts: Sequence[Text], adapters: Sequence[Packed | None]
) -> Iterator[tuple[int, Score]]:
    """(place among ``texts``, its score) as they are done. adapters: of each text. A text that several ask for with the same
    weights, the base's above all, is read once for those that are read together."""
    bank = model.new_bank()
    for part in parts([len(text.ids) for text in texts]):
        readings: dict[tuple[tuple[int, ...], int, str], _Reading] = {}
        pairs = [
            (place, _reading(readings, texts[place], adapters[place]), _reading(readings, texts[place], None))
            if texts[place].divergence
            else (place, _reading(readings, texts[place], adapters[place]), None)
            for place in part
        ]
        _read(model, compute, bank, list(readings.values()))
        for place, own, base in pairs:
            yield place, compute.run(partial(_score, model, own, base))


def _reading(readings: dict[tuple[tuple[int, ...], int, str], _Reading], text: Text, adapter: Packed | None) -> _Reading:
    """The one there is for the same tokens and weights, or a new one."""
    return readings.setdefault((text.ids, text.first, adapter.key if adapter else ""), _Reading(text, adapter))


def _read(model: LeanModel, compute: Compute, bank: Bank, readings: Sequence[_Reading]) -> None:
    cache = model.new_cache()

    def begin() -> None:
        cache.ensure(len(readings), max(one.lead + one.wanted for one in readings))
        for row, one in enumerate(readings):
            one.slot = bank.take(one.adapter)
            cache.begin(row, one.adapter.start if one.adapter else None)

    def step() -> bool:
        segments, left = [], CHUNK
        for row, one in enumerate(readings):
            ids = one.text.ids[one.read : min(one.wanted, one.read + left)]
            if ids:
                segments.append(Segment(row, ids, one.lead + one.read, one.slot))
                left -= len(ids)
        if not segments:
            return False
        states = model.states(segments, cache, bank)
        at = 0
        for segment in segments:
            one = readings[segment.row]
            skipped = min(len(segment.ids), max(0, one.text.first - 1 - one.read))
            one.states.append(states[at + skipped : at + len(segment.ids)].clone())  # not the whole block with it
            one.read += len(segment.ids)
            at += len(segment.ids)
        return True

    compute.run(begin)
    while compute.run(step):
        pass
    for one in readings:
        bank.release(one.slot)


@torch.inference_mode()
def _score(model: LeanModel, own: _Reading, base: _Reading | None) -> Score:
    tokens = torch.tensor(own.text.ids[own.text.first :], device=model.device)
    here, there = torch.cat(own.states), torch.cat(base.states) if base else None
    loss = apart = base_loss = 0.0
    for begin in range(0, len(tokens), PLACES):
        places = slice(begin, begin + PLACES)
        logits = model.logits(here[places])
        loss += float(costs(logits, tokens[places]).sum())
        if there is not None:
            known = model.logits(there[places])
            base_loss += float(costs(known, tokens[places]).sum())
            apart += float(divergences(logits, known).sum())
    count = len(tokens)
    return Score(count, loss / count, apart / count if base else None, base_loss / count if base else None)
