"""The fast path, for the Llama family: the lean model, the adapters attached to it, and the scheduler that batches over both."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

import torch

from playground.engine.compute import GONE, Compute
from playground.engine.lean import LeanModel, Segment
from playground.engine.lean_scoring import scores
from playground.engine.load import Loaded
from playground.engine.packed import Packed, pack
from playground.engine.request import Row, RowState
from playground.engine.scheduler import Scheduler
from playground.engine.scoring import Score, Text
from playground.engine.virtual import VirtualTokens
from playground.engine.weights import AdapterWeights
from playground.errors import AdapterError, BaseUnavailableError


class LeanPath:
    """Rows of several callers share one batch. Safe to call from several threads."""

    def __init__(self, loaded: Loaded, ends: frozenset[int], compute: Compute) -> None:
        """On the computing thread."""
        self._compute = compute
        self.model = LeanModel(loaded.model)
        self._packed: dict[str, Packed] = {}
        self._carried = {name for group in self.model.groups for name in group.names}
        self.scheduler = Scheduler(self.model, loaded.tokenizer, ends, self._find, compute)
        compute.idle = self.scheduler.shrink
        self._aside = self.model.new_bank()

    @property
    def adapter_bytes(self) -> int:
        """Everything that adapters take: attached ones, and the slots of those in use."""
        return self.held_bytes + self.scheduler.bank_bytes + self._aside.bytes

    @property
    def held_bytes(self) -> int:
        """What attached adapters take, and what dropping them gives back."""
        return sum(packed.bytes for packed in list(self._packed.values()))

    @property
    def kept_bytes(self) -> int:
        return self.scheduler.kept_bytes

    def forget(self) -> None:
        """Kept beginnings; the next rows read theirs anew."""
        self._compute.run(self.scheduler.prefixes.clear)

    def close(self) -> None:
        """Rows in flight end with an error, and nothing here holds the model any longer."""
        if not self._compute.closed:
            self.scheduler.close()
            self._compute.close(self._let_go)

    def _let_go(self) -> None:
        self._packed = {}
        self._aside = self.model.new_bank()
        self.model.close()

    def put(self, adapter_id: str, key: str, weights: AdapterWeights, virtual: VirtualTokens | None = None) -> None:
        """Raises AdapterError for an adapter on layers that this path does not carry, or with virtual tokens of another base."""
        strange = sorted(set(weights) - self._carried)
        if strange:
            raise AdapterError(
                f"{adapter_id} adapts {strange[0]}, which the fast path does not carry. Train it on the linear layers of the body."
            )
        start = None if virtual is None else self._start(adapter_id, virtual)
        fresh = pack(key, weights, self.model.groups, self.model.dtype, self.model.device, start)
        self.drop(adapter_id)
        self._packed[adapter_id] = fresh

    def _start(self, adapter_id: str, virtual: VirtualTokens) -> torch.Tensor:
        """What virtual tokens leave in a row's cache; embeddings are read once for it, here."""
        model = self.model
        if virtual.prefix:
            return virtual.keys_values(adapter_id, len(model.layers), model.kv_heads, model.head_dim)
        embedded, cache = virtual.embeddings(adapter_id, model.hidden), model.new_cache()
        model.read([Segment(0, [0] * virtual.count, 0)], cache, self._aside, embedded)
        return cache.save(0, virtual.count)

    def drop(self, adapter_id: str) -> None:
        """On the computing thread, as ``put``."""
        gone = self._packed.pop(adapter_id, None)
        if gone is not None and not any(other.key == gone.key for other in list(self._packed.values())):
            self.scheduler.drop(gone.key)
            self._aside.drop(gone.key)

    def switch_ms(self, adapter_id: str) -> float:
        """What the next row pays to carry an attached adapter: nothing but a look where it lies in a bank, else the copy."""

        def work() -> float:
            packed = self._find(adapter_id)
            started = time.perf_counter()
            slot = self._aside.take(packed)
            self._aside.select([slot])
            taken = (time.perf_counter() - started) * 1000
            self._aside.release(slot)
            return taken

        return self._compute.run(work)

    def logits(self, prompts: Sequence[Sequence[int]], adapter_id: str | None) -> torch.Tensor:
        """Logits [prompts, vocabulary] of each prompt's last token."""

        def work() -> torch.Tensor:
            packed = self._find(adapter_id) if adapter_id else None
            slot, cache = self._aside.take(packed), self.model.new_cache()
            lead = packed.lead if packed else 0
            cache.ensure(len(prompts), lead + max(len(prompt) for prompt in prompts))
            for row in range(len(prompts)):
                cache.begin(row, packed.start if packed else None)
            found = self.model.read([Segment(row, list(p), lead, slot) for row, p in enumerate(prompts)], cache, self._aside)
            self._aside.release(slot)
            return found

        return self._compute.run(work)

    def stream(self, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> Generator[list[RowState], None, None]:
        """Every row's state after each round."""
        ticket = self.scheduler.submit(rows, prompts)
        try:
            yield from ticket
        finally:
            ticket.cancel()

    def scores(self, texts: Sequence[Text]) -> Generator[tuple[int, Score] | None, None, None]:
        """(place among ``texts``, its score) as they are done; first None, once the rows hold their adapters."""
        adapters = [self._find(text.adapter) if text.adapter else None for text in texts]
        yield None
        yield from scores(self.model, self._compute, texts, adapters)

    def _find(self, adapter_id: str) -> Packed:
        if self._compute.closed:
            raise BaseUnavailableError(GONE)
        if adapter_id not in self._packed:
            raise AdapterError(f"{adapter_id} is not attached. Attach it first.")
        return self._packed[adapter_id]
