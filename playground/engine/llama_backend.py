"""The fast backend, for the Llama family: attaching to its model, and what is read beside the scheduler's batch.

Scoring reads sequences as prompts are prefilled; the head runs over the scored places, a few at a time.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from playground.engine.constraint import Grammars
from playground.engine.llama_layout import BASE, PackedAdapter, pack
from playground.engine.llama_memory import AdapterSlots, KVCache
from playground.engine.llama_model import LlamaModel, Segment
from playground.engine.load import AdapterWeights, Loaded
from playground.engine.request import PLACES, Score, Text, parts
from playground.engine.scheduler import PREFILL_CHUNK, Scheduler
from playground.engine.sequence import LossSum
from playground.errors import AdapterError
from playground.methods.method import VirtualTokens

if TYPE_CHECKING:
    from playground.engine.engine import WorkerThread


@dataclass
class _Reading:
    """A text read with one adapter. read: tokens so far; states: of the scored places, as they come."""

    text: Text
    adapter: PackedAdapter
    slot: int | None = None
    read: int = 0
    states: list[Tensor] = field(default_factory=list)

    @property
    def start(self) -> int:
        """Tokens that the KV cache holds of it."""
        return self.read + self.adapter.virtual_tokens


class LlamaBackend:
    """Sequences of several callers share one batch. Safe to call from several threads."""

    def __init__(self, loaded: Loaded, ends: frozenset[int], compute: WorkerThread, grammars: Grammars) -> None:
        """On the worker thread."""
        self._compute = compute
        self.model = LlamaModel(loaded.model)
        self._carried = {name for group in self.model.groups for name in group.names}
        self.scheduler = Scheduler(self.model, loaded.tokenizer, ends, compute, grammars.constraint)
        compute.idle = self.scheduler.shrink

    def close(self) -> None:
        """Sequences in flight end with an error, and nothing here holds the model any longer."""

        def drop_model() -> None:
            self.scheduler.drop_adapters()
            self.model.close()

        if not self._compute.closed:
            self.scheduler.close()
            self._compute.close(drop_model)

    def put(self, adapter_id: str, key: str, weights: AdapterWeights, virtual: VirtualTokens | None = None) -> None:
        """Raises AdapterError for layers that this backend does not carry, and virtual tokens of another base."""
        if unknown := sorted(set(weights) - self._carried):
            raise AdapterError(
                f"{adapter_id} adapts {unknown[0]}, which the fast path does not carry. "
                "Train it on the linear layers of the body."
            )
        prefix = None if virtual is None else self._prefix(adapter_id, virtual)
        fresh = pack(key, weights, self.model.groups, self.model.norm, prefix)
        self.drop(adapter_id)
        self.scheduler.attached[adapter_id] = fresh

    def _prefix(self, adapter_id: str, virtual: VirtualTokens) -> Tensor:
        """The keys and values of virtual tokens; embeddings are prefilled once for them, here."""
        model = self.model
        if virtual.prefix:
            return virtual.keys_values(adapter_id, len(model.layers), model.kv_heads, model.head_dim)
        embedded, cache = virtual.embeddings(adapter_id, model.hidden), model.new_cache()
        model.prefill([Segment(0, [0] * virtual.count, 0)], cache, self.scheduler.slots_beside, embedded)
        return cache.save(0, virtual.count)

    def drop(self, adapter_id: str) -> None:
        """On the worker thread, as ``put``."""
        gone = self.scheduler.attached.pop(adapter_id, None)
        if gone is not None and not any(other.key == gone.key for other in list(self.scheduler.attached.values())):
            self.scheduler.slots.remove(gone.key)
            self.scheduler.slots_beside.remove(gone.key)

    def switch_ms(self, adapter_id: str) -> float:
        """What the next sequence pays to carry an attached adapter: a look-up where it has a slot, else the copy."""

        def work() -> float:
            packed = self.scheduler.find(adapter_id)
            started = time.perf_counter()
            slot = self.scheduler.slots_beside.acquire(packed)
            self.scheduler.slots_beside.select([slot])
            taken = (time.perf_counter() - started) * 1000
            self.scheduler.slots_beside.release(slot)
            return taken

        return self._compute.run(work)

    def logits(self, prompts: Sequence[Sequence[int]], adapter_id: str | None) -> Tensor:
        """Logits [prompts, vocabulary] of each prompt's last token."""
        packed = self.scheduler.find(adapter_id)
        readings = [_Reading(Text((*prompt, 0), len(prompt), adapter_id, False), packed) for prompt in prompts]
        self._read(self.scheduler.slots_beside, readings)  # the token after a prompt is not read

        @torch.inference_mode()
        def work() -> Tensor:
            return self.model.logits(torch.cat([state for one in readings for state in one.states]))

        return self._compute.run(work)

    def scores(self, texts: Sequence[Text]) -> Generator[tuple[int, Score] | None, None, None]:
        """As the Hugging Face backend's. A text that several ask for with the same weights, the base's above all, is
        read once for those that are read together."""
        adapters = [self.scheduler.find(text.adapter) for text in texts]
        yield None
        slots = self.model.new_adapter_slots()
        for part in parts([len(text.ids) for text in texts]):
            readings: dict[tuple[tuple[int, ...], int, str], _Reading] = {}
            asked = []
            for place in part:
                text = texts[place]
                both = (adapters[place], BASE) if text.divergence else (adapters[place],)
                keyed = [((text.ids, text.first, one.key), _Reading(text, one)) for one in both]
                asked.append((place, [readings.setdefault(*pair) for pair in keyed]))
            self._read(slots, list(readings.values()))
            for place, found in asked:
                yield place, self._compute.run(partial(self._score, *found))

    def _read(self, slots: AdapterSlots, readings: Sequence[_Reading]) -> None:
        """Prefill all of ``readings``, one job a chunk: sequences that decode take a step in between."""
        cache = self.model.new_cache()

        def begin() -> None:
            cache.ensure(len(readings), max(one.start + len(one.text.ids) for one in readings))
            for row, one in enumerate(readings):
                one.slot = slots.acquire(one.adapter)
                cache.restore(row, one.adapter.prefix)

        self._compute.run(begin)
        while self._compute.run(partial(self._read_chunk, cache, slots, readings)):
            pass
        for one in readings:
            slots.release(one.slot)

    def _read_chunk(self, cache: KVCache, slots: AdapterSlots, readings: Sequence[_Reading]) -> bool:
        segments, left = [], PREFILL_CHUNK
        for row, one in enumerate(readings):
            ids = one.text.ids[:-1][one.read : one.read + left]  # what comes after the last is not scored
            if ids:
                segments.append(Segment(row, ids, one.start, one.slot))
                left -= len(ids)
        if not segments:
            return False
        states = self.model.hidden_states(segments, cache, slots).split([len(segment.ids) for segment in segments])
        for segment, found in zip(segments, states, strict=True):
            one = readings[segment.row]
            not_scored = min(len(found), max(0, one.text.first - 1 - one.read))
            one.states.append(found[not_scored:].clone())  # not the whole block with it
            one.read += len(found)
        return True

    @torch.inference_mode()
    def _score(self, own: _Reading, base: _Reading | None = None) -> Score:
        tokens = torch.tensor(own.text.ids[own.text.first :], device=self.model.device)
        own_states, base_states = torch.cat(own.states), torch.cat(base.states) if base else None
        total = LossSum(base is not None)
        for begin in range(0, len(tokens), PLACES):
            places = slice(begin, begin + PLACES)
            base_logits = None if base_states is None else self.model.logits(base_states[places])
            total.add(self.model.logits(own_states[places]), tokens[places], base_logits)
        return total.score()
