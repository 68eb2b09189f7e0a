"""The path for any family: Hugging Face's forward pass and cache, our slots beside the linear layers.

Rows of one call are padded on the left and start together, one batch at a time; calls take turns step by step.

Long positions (LongRoPE, Ding et al. 2024, arXiv:2402.13753) take other frequencies past a turning point, for a whole batch at once:
a row that may pass it goes alone, and is read again there, because what is in its cache was turned by the other frequencies.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import torch

from playground.engine.compute import Compute
from playground.engine.load import Loaded
from playground.engine.request import Row, RowState
from playground.engine.slots import ActiveRows, SlottedLinear
from playground.engine.weights import AdapterWeights, out_in
from playground.engine.writer import Writer
from playground.errors import AdapterError, BaseUnavailableError


class ReferencePath:
    """Slots and batches over the loaded model. Steps and changes of slots run on the computing thread; ``lock`` guards the record of who uses which."""

    def __init__(self, loaded: Loaded, ends: frozenset[int], compute: Compute) -> None:
        """On the computing thread."""
        self._compute = compute
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
        self._asked = set(inspect.signature(loaded.model.forward).parameters)
        if "past_key_values" not in self._asked:
            raise BaseUnavailableError(f"{loaded.model.config.model_type} models keep no keys and values. Choose another base.")
        self._turn = _turn(loaded.model.config.get_text_config())

    @property
    def adapter_bytes(self) -> int:
        """Everything that the slots take, used or not."""
        return sum(linear.bytes for linear in self._linears.values())

    @property
    def held_bytes(self) -> int:
        """The share of it that attached adapters use."""
        slots = max((linear.a.shape[0] for linear in self._linears.values()), default=1)
        return self.adapter_bytes * len(self._slots) // slots

    @property
    def kept_bytes(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing runs between the steps of a batch, so there is nothing to stop."""

    def put(self, adapter_id: str, key: str, weights: AdapterWeights) -> None:
        """Into a free slot; rows that are using an older version keep theirs to their end."""
        with self.lock:
            slot = self._free_slot()
            slots = max([slot + 1, *(linear.a.shape[0] for linear in self._linears.values())])
            for name, linear in self._linears.items():
                linear.resize(slots)  # one index serves all layers
                linear.put(slot, weights.get(name))
            old = self._slots.get(adapter_id)
            self._slots[adapter_id] = slot
            self._clear(old)

    def drop(self, adapter_id: str) -> None:
        with self.lock:
            self._clear(self._slots.pop(adapter_id, None))

    def switch_ms(self, adapter_id: str) -> float:
        started = time.perf_counter()
        torch.tensor([self._slot(adapter_id)], device=self._loaded.device)
        return (time.perf_counter() - started) * 1000

    def logits(self, prompts: Sequence[Sequence[int]], adapter_id: str | None) -> torch.Tensor:
        """Logits [prompts, vocabulary] of each prompt's last token."""

        def work() -> torch.Tensor:
            found = []
            for prompt in prompts:
                ids = torch.tensor([list(prompt)], device=self._loaded.device)
                slots = torch.tensor([self._slot(adapter_id)], device=self._loaded.device)
                positions = torch.arange(len(prompt), device=self._loaded.device)[None]
                found.append(self._forward(ids, torch.ones_like(ids), positions, self.new_cache(), slots)[0])
            return torch.stack(found)

        return self._compute.run(work)

    def new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._loaded.model.config)

    def stream(self, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> Generator[list[RowState], None, None]:
        """Every row's state after each step."""
        with self.lock:
            slots = [self._slot(row.adapter) for row in rows]
            for slot in slots:
                self._users[slot] = self._users.get(slot, 0) + 1
        try:
            started = time.perf_counter()
            writers = [Writer(row, prompt, self._loaded.tokenizer, self._ends) for row, prompt in zip(rows, prompts, strict=True)]
            batches = [
                _Batch(self, [writers[i] for i in part], [prompts[i] for i in part], [slots[i] for i in part], started)
                for part in self._parts(rows, prompts)
            ]
            yield [replace(writer.state) for writer in writers]
            while any(batch.live for batch in batches):
                for batch in batches:
                    if batch.live:
                        self._compute.run(batch.step)
                yield [replace(writer.state) for writer in writers]
        finally:
            self._compute.run(lambda: self._leave(slots))

    def _leave(self, slots: Sequence[int]) -> None:
        with self.lock:
            for slot in slots:
                self._users[slot] -= 1
                if not self._users[slot]:
                    del self._users[slot]
                    self._clear(slot)

    def _slot(self, adapter_id: str | None) -> int:
        if adapter_id and adapter_id not in self._slots:
            raise AdapterError(f"{adapter_id} is not attached. Attach it first.")
        return self._slots[adapter_id] if adapter_id else 0

    def _free_slot(self) -> int:
        taken = {*self._slots.values(), *self._users}
        return next(slot for slot in range(1, len(taken) + 2) if slot not in taken)

    def _clear(self, slot: int | None) -> None:
        """Make a slot the base again, unless something still needs it; empty slots at the end give their memory back."""
        taken = {0, *self._slots.values(), *self._users}
        if slot is None or slot in taken:
            return
        kept = max(taken) + 1
        for linear in self._linears.values():
            if slot < kept:
                linear.put(slot, None)
            linear.resize(kept)

    def _parts(self, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Which rows are read together."""
        turn = self._turn
        alone = [i for i, row in enumerate(rows) if turn is not None and len(prompts[i]) + row.sampling.max_tokens > turn]
        together = [i for i in range(len(rows)) if i not in alone]
        return [part for part in (together, *([i] for i in alone)) if part]

    def _forward(self, ids: Any, mask: Any, positions: Any, cache: Any, slots: Any) -> torch.Tensor:
        """Logits [rows, vocabulary] of the last position; extends ``cache`` in place."""
        self._active.slots = slots if bool((slots > 0).any()) else None
        self._active.tokens = ids.numel()
        try:
            with torch.inference_mode():
                extra = {"position_ids": positions, "logits_to_keep": 1}
                out = self._loaded.model(
                    input_ids=ids,
                    attention_mask=mask,
                    past_key_values=cache,
                    use_cache=True,
                    **{name: value for name, value in extra.items() if name in self._asked},
                )
            logits: torch.Tensor = out.logits[:, -1]
            return logits
        finally:
            self._active.slots = None


class _Batch:
    """Rows under way together, with their shared cache. ``live``: writers that are not done; ``_rows``: writers that the cache holds."""

    def __init__(
        self,
        path: ReferencePath,
        writers: Sequence[Writer],
        prompts: Sequence[Sequence[int]],
        slots: Sequence[int],
        started: float,
    ) -> None:
        loaded = path._loaded
        self._path, self._writers, self._prompts, self._started = path, list(writers), prompts, started
        self.live, self._rows = list(range(len(writers))), list(range(len(writers)))
        self._pad = _pad_id(loaded)
        self._cache = path.new_cache()
        self._slots = torch.tensor(list(slots), device=loaded.device)
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(writers), longest), self._pad, dtype=torch.long)
        mask = torch.zeros((len(writers), longest), dtype=torch.long)
        for index, prompt in enumerate(prompts):
            ids[index, longest - len(prompt) :] = torch.tensor(prompt)
            mask[index, longest - len(prompt) :] = 1
        self._ids, self._mask = ids.to(loaded.device), mask.to(loaded.device)
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)

    def step(self) -> None:
        """One forward pass, one token for every live row; rows that are done leave."""
        if int(self._positions[0, -1]) == self._path._turn and self._ids.shape[1] == 1:
            self._read_again()
        logits = self._path._forward(self._ids, self._mask, self._positions, self._cache, self._slots)
        now = time.perf_counter() - self._started
        for place, index in enumerate(self._rows):
            if index in self.live:
                self._writers[index].take(logits[place], now)
        self.live = [index for index in self.live if not self._writers[index].state.finish]
        stay = [place for place, index in enumerate(self._rows) if index in self.live]
        if 0 < len(stay) < len(self._rows) and all(hasattr(layer, "batch_select_indices") for layer in self._cache.layers):
            keep = torch.tensor(stay, dtype=torch.long, device=self._mask.device)
            self._mask, self._positions, self._slots = self._mask[keep], self._positions[keep], self._slots[keep]
            self._cache.batch_select_indices(keep)
            self._rows = list(self.live)
        if self.live:  # where the cache cannot let go of a row, one that is done goes along on its last token
            last = [(self._writers[index].tokens or [self._pad])[-1] for index in self._rows]
            self._ids = torch.tensor(last, device=self._mask.device)[:, None]
            self._mask = torch.cat([self._mask, torch.ones_like(self._ids)], dim=1)
            self._positions = self._positions[:, -1:] + 1

    def _read_again(self) -> None:
        """Start the cache of a row that goes alone anew."""
        ids = [*self._prompts[0], *self._writers[0].tokens]
        self._cache = self._path.new_cache()
        self._ids = torch.tensor([ids], device=self._ids.device)
        self._positions = torch.arange(len(ids), device=self._ids.device)[None]


def _turn(config: Any) -> int | None:
    """The position from which on a model takes other frequencies, if it does."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    return int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)


def _pad_id(loaded: Loaded) -> int:
    tokenizer = loaded.tokenizer
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0))
