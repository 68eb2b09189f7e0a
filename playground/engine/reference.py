"""The path for any family: Hugging Face's forward pass and cache, our slots beside the linear layers.

Rows of one call are padded on the left and start together, ``ROWS_MAX`` at a time: the next when those have ended; calls take turns step
by step.

Long positions (LongRoPE, Ding et al. 2024, arXiv:2402.13753) take other frequencies past a turning point, for a whole batch at once:
a row that may pass it goes alone, and is read again there, because what is in its cache was turned by the other frequencies.
Sliding windows count places of the cache: a row with keys and values before its text goes alone there, without padding in between.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import torch

from playground.engine.compute import Compute
from playground.engine.load import Loaded
from playground.engine.padded import Padded, padded
from playground.engine.reference_batch import Batch
from playground.engine.reference_scoring import scores
from playground.engine.request import ROWS_MAX, Row, RowState
from playground.engine.scoring import Score, Text
from playground.engine.slots import ActiveRows, SlottedLinear
from playground.engine.virtual import NOTHING, Start, VirtualTokens
from playground.engine.weights import AdapterWeights, out_in
from playground.engine.writer import Writer
from playground.errors import AdapterError, BaseUnavailableError


class ReferencePath:
    """Slots and batches over the loaded model. Steps and changes of slots run on the computing thread; ``lock`` guards the record of who uses which."""

    def __init__(self, loaded: Loaded, ends: frozenset[int], compute: Compute) -> None:
        """On the computing thread."""
        self._compute = compute
        self.loaded, self._ends = loaded, ends
        self.lock = threading.RLock()
        self._active = ActiveRows()
        self._linears: dict[str, SlottedLinear] = {}
        for name, module in loaded.model.named_modules():
            sides = out_in(module)
            if sides is not None:
                self._linears[name] = SlottedLinear(sides[1], sides[0], self._active, loaded.dtype, loaded.device)
                self._linears[name].hook(module)
        self._slots: dict[str, int] = {}
        self._starts: dict[str, Start] = {}
        self._users: dict[int, int] = {}
        self._asked = set(inspect.signature(loaded.model.forward).parameters)
        if "past_key_values" not in self._asked:
            raise BaseUnavailableError(f"{loaded.model.config.model_type} models keep no keys and values. Choose another base.")
        self.turn = _turn(loaded.model.config.get_text_config())
        self._windowed = any(getattr(layer, "is_sliding", False) for layer in self.new_cache().layers)
        self.pad = _pad_id(loaded)

    @property
    def adapter_bytes(self) -> int:
        """Everything that the slots take, used or not, and what stands before texts."""
        return self._slot_bytes + self._start_bytes

    @property
    def held_bytes(self) -> int:
        """The share of it that attached adapters use."""
        slots = max((linear.a.shape[0] for linear in self._linears.values()), default=1)
        return self._slot_bytes * sum(slot > 0 for slot in list(self._slots.values())) // slots + self._start_bytes

    @property
    def _slot_bytes(self) -> int:
        return sum(linear.bytes for linear in self._linears.values())

    @property
    def _start_bytes(self) -> int:
        return sum(start.bytes for start in list(self._starts.values()))

    @property
    def kept_bytes(self) -> int:
        return 0

    def forget(self) -> None:
        """Nothing is kept from one question to the next."""

    def close(self) -> None:
        """Rows in flight end with an error, and nothing here holds the model any longer."""
        self._compute.close(self._let_go)

    def _let_go(self) -> None:
        self._linears = {}
        self.loaded = replace(self.loaded, model=None, weights={})

    def put(self, adapter_id: str, key: str, weights: AdapterWeights, virtual: VirtualTokens | None = None) -> None:
        """Into a free slot; rows that are using an older version keep theirs to their end. Raises AdapterError for virtual tokens
        that this base cannot carry."""
        start = NOTHING if virtual is None else self._start(adapter_id, virtual)
        with self.lock:
            slot = self._free_slot() if weights else 0  # slot 0 leaves every layer as it is
            slots = max([slot + 1, *(linear.a.shape[0] for linear in self._linears.values())])
            for name, linear in self._linears.items() if slot else ():
                linear.resize(slots)  # one index serves all layers
                linear.put(slot, weights.get(name))
            old = self._slots.get(adapter_id)
            self._slots[adapter_id], self._starts[adapter_id] = slot, start
            self._clear(old)

    def drop(self, adapter_id: str) -> None:
        with self.lock:
            self._starts.pop(adapter_id, None)
            self._clear(self._slots.pop(adapter_id, None))

    def _start(self, adapter_id: str, virtual: VirtualTokens) -> Start:
        loaded = self.loaded
        if not virtual.prefix:
            hidden = int(loaded.model.get_input_embeddings().weight.shape[-1])
            if "inputs_embeds" not in self._asked:
                raise AdapterError(f"{adapter_id} is embeddings before the text; this base reads token ids only. Train a LoRA.")
            return Start(embeddings=virtual.embeddings(adapter_id, hidden).to(loaded.device, loaded.dtype))
        shapes = self._kept_shapes()
        if len(set(shapes)) != 1 or None in shapes:
            raise AdapterError(
                f"{adapter_id} is keys and values for every layer; this base ({loaded.model.config.model_type}) has layers that keep "
                "none, or of another shape. Train prompt tuning or a LoRA."
            )
        assert shapes[0] is not None
        found = virtual.keys_values(adapter_id, len(shapes), *shapes[0])
        return Start(keys_values=found.to(loaded.device, loaded.dtype).contiguous())

    def _kept_shapes(self) -> list[tuple[int, int] | None]:
        """(heads, width) of the keys that each layer keeps, None where it keeps no keys and values: one token is read to see them."""
        cache, one = self.new_cache(), torch.zeros((1, 1), dtype=torch.long, device=self.loaded.device)
        self.forward(Padded(one, None, torch.ones_like(one), one, cache), torch.zeros_like(one[0]))
        found = []
        for layer in cache.layers:
            keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
            plain = keys is not None and values is not None and keys.dim() == 4 and keys.shape == values.shape
            found.append((int(keys.shape[1]), int(keys.shape[3])) if plain and keys is not None else None)
        return found

    def switch_ms(self, adapter_id: str) -> float:
        started = time.perf_counter()
        torch.tensor([self._slot(adapter_id)], device=self.loaded.device)
        return (time.perf_counter() - started) * 1000

    def logits(self, prompts: Sequence[Sequence[int]], adapter_id: str | None) -> torch.Tensor:
        """Logits [prompts, vocabulary] of each prompt's last token."""

        def work() -> torch.Tensor:
            slot = torch.tensor([self._slot(adapter_id)], device=self.loaded.device)
            start = self._starts[adapter_id] if adapter_id else NOTHING
            return torch.stack([self.forward(self.begun([prompt], [start]), slot)[0] for prompt in prompts])

        return self._compute.run(work)

    def begun(self, texts: Sequence[Sequence[int]], starts: Sequence[Start]) -> Padded:
        """Rows that have read nothing yet."""
        with torch.inference_mode():
            return padded(self.loaded.model, self.new_cache(), texts, starts, self.pad)

    def new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.loaded.model.config)

    def stream(self, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> Generator[list[RowState], None, None]:
        """Every row's state after each step."""
        slots, starts = self._held([row.adapter for row in rows])
        try:
            started = time.perf_counter()
            writers = [Writer(row, prompt, self.loaded.tokenizer, self._ends) for row, prompt in zip(rows, prompts, strict=True)]
            yield [replace(writer.state) for writer in writers]
            for begin in range(0, len(rows), ROWS_MAX):
                batches = [
                    Batch(
                        self,
                        [writers[i] for i in part],
                        [prompts[i] for i in part],
                        [slots[i] for i in part],
                        [starts[i] for i in part],
                        started,
                    )
                    for part in self._parts(range(len(rows))[begin : begin + ROWS_MAX], rows, prompts, starts)
                ]
                while any(batch.live for batch in batches):
                    for batch in batches:
                        if batch.live:
                            self._compute.run(batch.step)
                    yield [replace(writer.state) for writer in writers]
        finally:
            with contextlib.suppress(BaseUnavailableError):  # the base has left, and its slots with it
                self._compute.run(lambda: self._leave(slots))

    def scores(self, texts: Sequence[Text]) -> Generator[tuple[int, Score] | None, None, None]:
        """(place among ``texts``, its score) as they are done; first None, once the rows hold their adapters."""
        slots, starts = self._held([text.adapter for text in texts])
        try:
            yield None
            yield from scores(self._scored, texts, slots, starts, self._alone)
        finally:
            with contextlib.suppress(BaseUnavailableError):  # the base has left, and its slots with it
                self._compute.run(lambda: self._leave(slots))

    def _scored(
        self, ids: Sequence[Sequence[int]], starts: Sequence[Start], slots: Sequence[int], columns: tuple[int, int]
    ) -> torch.Tensor:
        def work() -> torch.Tensor:
            given = self.begun(ids, starts)
            length = given.ids.shape[1]
            first, last = max(0, length - columns[0]), length - columns[1]
            device = self.loaded.device
            logits = self._columns(given, torch.tensor(list(slots), device=device), torch.arange(first, last, device=device))
            return logits if "logits_to_keep" in self._asked else logits[:, first:last]

        return self._compute.run(work)

    def _alone(self, text: Text, start: Start) -> bool:
        """As with rows that are written: ``_parts``."""
        length = start.read + start.held + len(text.ids)
        return (self.turn is not None and length > self.turn) or (self._windowed and start.held > 0)

    def _held(self, adapters: Sequence[str | None]) -> tuple[list[int], list[Start]]:
        """Each row's slot and what stands before its text, which stay until ``_leave``."""
        with self.lock:
            slots = [self._slot(name) for name in adapters]
            starts = [self._starts[name] if name else NOTHING for name in adapters]
            for slot in slots:
                self._users[slot] = self._users.get(slot, 0) + 1
        return slots, starts

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

    def _parts(
        self, places: Sequence[int], rows: Sequence[Row], prompts: Sequence[Sequence[int]], starts: Sequence[Start]
    ) -> list[list[int]]:
        """Which of the rows at these places are read together."""
        alone = []
        for i in places:
            length = starts[i].read + starts[i].held + len(prompts[i]) + rows[i].sampling.max_tokens
            if (self.turn is not None and length > self.turn) or (self._windowed and starts[i].held):
                alone.append(i)
        together = [i for i in places if i not in alone]
        return [part for part in (together, *([i] for i in alone)) if part]

    def forward(self, given: Padded, slots: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocabulary] of the last position; extends the cache in place."""
        return self._columns(given, slots, 1)[:, -1]

    def _columns(self, given: Padded, slots: torch.Tensor, keep: int | torch.Tensor) -> torch.Tensor:
        """Logits [rows, columns, vocabulary] of the last ``keep`` columns, or of those that it names (all, where the family names
        none)."""
        numbers = tuple(slots.tolist())
        self._active.slots = slots if any(numbers) else None
        self._active.numbers, self._active.tokens = numbers, given.ids.numel()
        try:
            with torch.inference_mode():
                extra = {"position_ids": given.positions, "logits_to_keep": keep}
                read = {"input_ids": given.ids} if given.embedded is None else {"inputs_embeds": given.embedded}
                out = self.loaded.model(
                    **read,
                    attention_mask=given.mask,
                    past_key_values=given.cache,
                    use_cache=True,
                    **{name: value for name, value in extra.items() if name in self._asked},
                )
            logits: torch.Tensor = out.logits
            return logits
        finally:
            self._active.slots = None


def _turn(config: Any) -> int | None:
    """The position from which on a model takes other frequencies, if it does."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    return int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)


def _pad_id(loaded: Loaded) -> int:
    tokenizer = loaded.tokenizer
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0))
