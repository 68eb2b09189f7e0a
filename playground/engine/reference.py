"""The path for any family: Hugging Face's forward pass and cache, our slots beside the linear layers.

Rows of one call are padded on the left and start together, one batch at a time; calls take turns step by step.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from typing import Any

import torch

from playground.engine.load import Loaded
from playground.engine.request import Row, RowState
from playground.engine.slots import ActiveRows, SlottedLinear
from playground.engine.weights import AdapterWeights, out_in
from playground.engine.writer import Writer


class ReferencePath:
    """Slots and batches over the loaded model. ``lock`` is held for each step and each change of a slot."""

    def __init__(self, loaded: Loaded, ends: frozenset[int]) -> None:
        self._loaded, self._ends = loaded, ends
        self.lock = threading.RLock()
        self._active = ActiveRows()
        self._linears: dict[str, SlottedLinear] = {}
        for name, module in loaded.model.named_modules():
            sides = out_in(module)
            if sides is not None:
                self._linears[name] = SlottedLinear(sides[1], sides[0], self._active, loaded.dtype, loaded.device)
                self._linears[name].hook(module)
        self._slots: dict[str, int] = {}
        self._users: dict[int, int] = {}

    @property
    def adapter_bytes(self) -> int:
        """Everything that the slots take, used or not."""
        return sum(linear.bytes for linear in self._linears.values())

    @property
    def held_bytes(self) -> int:
        """The share of it that attached adapters use."""
        slots = max((linear.a.shape[0] for linear in self._linears.values()), default=1)
        return self.adapter_bytes * len(self._slots) // slots

    def put(self, adapter_id: str, key: str, weights: AdapterWeights) -> None:
        """Into a free slot; rows that are using an older version keep theirs to their end."""
        with self.lock:
            slot = self._free_slot()
            for name, linear in self._linears.items():
                if name in weights or slot < linear.a.shape[0]:
                    linear.put(slot, weights.get(name))
            slots = max(linear.a.shape[0] for linear in self._linears.values())
            for linear in self._linears.values():  # one index serves all layers
                linear.grow(slots, linear.a.shape[2])
            old = self._slots.get(adapter_id)
            self._slots[adapter_id] = slot
            self._clear(old)

    def drop(self, adapter_id: str) -> None:
        with self.lock:
            self._clear(self._slots.pop(adapter_id, None))

    def switch_ms(self, adapter_id: str) -> float:
        started = time.perf_counter()
        torch.tensor([self._slots[adapter_id]], device=self._loaded.device)
        return (time.perf_counter() - started) * 1000

    def logits(self, prompts: Sequence[Sequence[int]], adapter_id: str | None) -> torch.Tensor:
        """Logits [prompts, vocabulary] of each prompt's last token."""
        from transformers import DynamicCache

        found = []
        for prompt in prompts:
            ids = torch.tensor([list(prompt)], device=self._loaded.device)
            slots = torch.tensor([self._slots[adapter_id] if adapter_id else 0], device=self._loaded.device)
            positions = torch.arange(len(prompt), device=self._loaded.device)[None]
            with self.lock:
                found.append(
                    self._forward(ids, torch.ones_like(ids), positions, DynamicCache(config=self._loaded.model.config), slots)[0]
                )
        return torch.stack(found)

    def stream(self, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> Generator[list[RowState], None, None]:
        """Every row's state after each step."""
        with self.lock:
            slots = [self._slots[row.adapter] if row.adapter else 0 for row in rows]
            for slot in slots:
                self._users[slot] = self._users.get(slot, 0) + 1
        try:
            batch = _Batch(self, rows, prompts, slots)
            yield batch.states
            while batch.live:
                with self.lock:
                    batch.step()
                yield batch.states
        finally:
            with self.lock:
                for slot in slots:
                    self._users[slot] -= 1
                    if not self._users[slot]:
                        del self._users[slot]
                        self._clear(slot)

    def _free_slot(self) -> int:
        taken = {*self._slots.values(), *self._users}
        return next(slot for slot in range(1, len(taken) + 2) if slot not in taken)

    def _clear(self, slot: int | None) -> None:
        """Make a slot the base again, unless something still needs it."""
        if slot and slot not in self._users and slot not in self._slots.values():
            for linear in self._linears.values():
                linear.put(slot, None)

    def _forward(self, ids: Any, mask: Any, positions: Any, cache: Any, slots: Any) -> torch.Tensor:
        """Logits [rows, vocabulary] of the last position; extends ``cache`` in place."""
        self._active.slots = slots if bool((slots > 0).any()) else None
        try:
            with torch.inference_mode():
                out = self._loaded.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            logits: torch.Tensor = out.logits[:, -1]
            return logits
        finally:
            self._active.slots = None


class _Batch:
    """Rows under way together, with their shared cache."""

    def __init__(self, path: ReferencePath, rows: Sequence[Row], prompts: Sequence[Sequence[int]], slots: Sequence[int]) -> None:
        from transformers import DynamicCache

        loaded = path._loaded
        self._path, self._started = path, time.perf_counter()
        self._writers = [Writer(row, prompt, loaded.tokenizer, path._ends) for row, prompt in zip(rows, prompts, strict=True)]
        self.states = [writer.state for writer in self._writers]
        self.live = list(range(len(rows)))
        self._cache = DynamicCache(config=loaded.model.config)
        self._slots = torch.tensor(list(slots), device=loaded.device)
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(rows), longest), _pad_id(loaded), dtype=torch.long)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for index, prompt in enumerate(prompts):
            ids[index, longest - len(prompt) :] = torch.tensor(prompt)
            mask[index, longest - len(prompt) :] = 1
        self._ids, self._mask = ids.to(loaded.device), mask.to(loaded.device)
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)

    def step(self) -> None:
        """One forward pass, one token for every live row; rows that are done leave."""
        logits = self._path._forward(self._ids, self._mask, self._positions, self._cache, self._slots)
        now = time.perf_counter() - self._started
        stay = []
        for place, index in enumerate(self.live):
            self._writers[index].take(logits[place], now)
            if not self.states[index].finish:
                stay.append(place)
        if stay and len(stay) < len(self.live):
            keep = torch.tensor(stay, dtype=torch.long, device=self._mask.device)
            self._mask, self._positions, self._slots = self._mask[keep], self._positions[keep], self._slots[keep]
            self._cache.batch_select_indices(keep)
        self.live = [self.live[place] for place in stay]
        if self.live:
            last = [self._writers[index].tokens[-1] for index in self.live]
            self._ids = torch.tensor(last, device=self._mask.device)[:, None]
            self._mask = torch.cat([self._mask, torch.ones_like(self._ids)], dim=1)
            self._positions = self._positions[:, -1:] + 1


def _pad_id(loaded: Loaded) -> int:
    tokenizer = loaded.tokenizer
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0))
