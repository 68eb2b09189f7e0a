"""The backend for any family: Hugging Face's forward pass and KV cache, our adapter slots beside the linear layers.

Sequences of one call are padded on the left and start together, ``ROWS_MAX`` at a time. Long positions (LongRoPE, Ding
et al. 2024, arXiv:2402.13753) take other frequencies past a turning point, for a whole batch at once: a sequence that
may pass it goes alone, and is read again there. Sliding windows count places of the KV cache: a sequence with keys and
values before its text goes alone there, without padding in between.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from playground.engine.constraint import Grammars
from playground.engine.hf_rows import NO_SOFT_PROMPT, ActiveRows, Padded, SlottedLinear, SoftPrompt, new_cache, padded
from playground.engine.load import AdapterWeights, Loaded, out_in
from playground.engine.request import PLACES, ROWS_MAX, Row, RowState, Score, Text, parts
from playground.engine.sequence import Generation, LossSum, rows_of, sample, send
from playground.errors import AdapterError, BaseUnavailableError
from playground.methods.method import VirtualTokens

if TYPE_CHECKING:
    from playground.engine.engine import WorkerThread


PREFILL_TOKENS = 2048
"""Prompt tokens that one forward pass reads, in all rows together; what other callers ask comes in between."""
_Carried = tuple[int, SoftPrompt]
"""A row's slot, and what stands before its text."""


class HfBackend:
    """Forward passes, slots and their record belong to the worker thread; other threads call them through it."""

    def __init__(self, loaded: Loaded, ends: frozenset[int], compute: WorkerThread, grammars: Grammars) -> None:
        """On the worker thread."""
        self._compute = compute
        self.loaded, self._ends, self._grammars = loaded, ends, grammars
        self._active = ActiveRows()
        self._linears: dict[str, SlottedLinear] = {}
        for name, module in loaded.model.named_modules():
            if (sides := out_in(module)) is not None:
                self._linears[name] = SlottedLinear(module, sides, self._active, loaded.dtype, loaded.device)
        self._slots: dict[str, int] = {}
        self._soft_prompts: dict[str, SoftPrompt] = {}
        self._users: Counter[int] = Counter()
        self._inputs = set(inspect.signature(loaded.model.forward).parameters)
        if "past_key_values" not in self._inputs:
            raise BaseUnavailableError(
                f"{loaded.model.config.model_type} models keep no keys and values. Choose another base."
            )
        self.turning_point = _turning_point(loaded.model.config.get_text_config())
        layers = new_cache(loaded.model).layers
        self._windowed = any(getattr(layer, "is_sliding", False) for layer in layers)
        plain = all(type(layer).__name__ == "DynamicLayer" for layer in layers) and self.turning_point is None
        self.prefill_tokens = PREFILL_TOKENS if plain and layers else None
        """None: recurrent states, windows and long positions are read at once."""
        tokenizer = loaded.tokenizer
        self.pad_id = int(tokenizer.eos_token_id or 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id)

    @property
    def adapter_bytes(self) -> int:
        """Everything that the slots take, used or not, and soft prompts."""
        return sum(linear.bytes for linear in self._linears.values()) + self._soft_prompt_bytes

    @property
    def held_bytes(self) -> int:
        """The share of it that attached adapters use."""
        slots = max((linear.a.shape[0] for linear in self._linears.values()), default=1)
        used = sum(slot > 0 for slot in list(self._slots.values()))
        return (self.adapter_bytes - self._soft_prompt_bytes) * used // slots + self._soft_prompt_bytes

    @property
    def _soft_prompt_bytes(self) -> int:
        return sum(prompt.bytes for prompt in list(self._soft_prompts.values()))

    @property
    def cache_bytes(self) -> int:
        return 0

    def clear_prefix_cache(self) -> None:
        """There is none."""

    def close(self) -> None:
        """Sequences in flight end with an error, and nothing here holds the model any longer."""

        def drop_model() -> None:
            self._linears, self.loaded = {}, replace(self.loaded, model=None, weights={})

        self._compute.close(drop_model)

    # -- adapters, on the worker thread ---------------------------------------------------------------------------

    def put(self, adapter_id: str, key: str, weights: AdapterWeights, virtual: VirtualTokens | None = None) -> None:
        """Into a free slot; sequences keep an older version to their end. Raises AdapterError for what does not fit."""
        prompt = NO_SOFT_PROMPT if virtual is None else self._soft_prompt(adapter_id, virtual)
        slot = self._free_slot() if weights else 0  # slot 0 leaves every layer as it is
        slots = max([slot + 1, *(linear.a.shape[0] for linear in self._linears.values())])
        for name, linear in self._linears.items() if slot else ():
            linear.resize(slots)  # one index serves all layers
            linear.put(slot, weights.get(name))
        old = self._slots.get(adapter_id)
        self._slots[adapter_id], self._soft_prompts[adapter_id] = slot, prompt
        self._clear(old)

    def drop(self, adapter_id: str) -> None:
        self._soft_prompts.pop(adapter_id, None)
        self._clear(self._slots.pop(adapter_id, None))

    def _soft_prompt(self, adapter_id: str, virtual: VirtualTokens) -> SoftPrompt:
        loaded = self.loaded
        if not virtual.prefix:
            hidden = int(loaded.model.get_input_embeddings().weight.shape[-1])
            if "inputs_embeds" not in self._inputs:
                raise AdapterError(
                    f"{adapter_id} is embeddings before the text; this base reads token ids only. Train a LoRA."
                )
            return SoftPrompt(embeddings=virtual.embeddings(adapter_id, hidden).to(loaded.device, loaded.dtype))
        shapes = self._cache_shapes()
        if len(set(shapes)) != 1 or shapes[0] is None:
            raise AdapterError(
                f"{adapter_id} is keys and values for every layer; this base ({loaded.model.config.model_type}) has "
                "layers that keep none, or of another shape. Train prompt tuning or a LoRA."
            )
        found = virtual.keys_values(adapter_id, len(shapes), *shapes[0])
        return SoftPrompt(keys_values=found.to(loaded.device, loaded.dtype).contiguous())

    def _cache_shapes(self) -> list[tuple[int, int] | None]:
        """(heads, width) of the keys that each layer caches, None where it caches none; found by reading one token."""
        given = self.padded([[0]], [NO_SOFT_PROMPT])
        self.forward(given, [0])
        found: list[tuple[int, int] | None] = []
        for layer in given.cache.layers:
            keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
            plain = keys is not None and values is not None and keys.dim() == 4 and keys.shape == values.shape
            found.append((int(keys.shape[1]), int(keys.shape[3])) if plain and keys is not None else None)
        return found

    @contextlib.contextmanager
    def _holding(self, adapters: Sequence[str | None]) -> Iterator[list[_Carried]]:
        """Each row's slot and soft prompt, which stay until the end."""

        def hold() -> list[_Carried]:
            found = [self._carried(name) for name in adapters]
            self._users.update(slot for slot, _ in found)
            return found

        def release() -> None:
            for slot, _ in held:
                self._users[slot] -= 1
                if not self._users[slot]:
                    del self._users[slot]
                    self._clear(slot)

        held = self._compute.run(hold)
        try:
            yield held
        finally:
            with contextlib.suppress(BaseUnavailableError):  # the base has left, and its slots with it
                self._compute.run(release)

    def _carried(self, adapter_id: str | None) -> _Carried:
        if not adapter_id:
            return 0, NO_SOFT_PROMPT
        if adapter_id not in self._slots:
            raise AdapterError(f"{adapter_id} is not attached. Attach it first.")
        return self._slots[adapter_id], self._soft_prompts[adapter_id]

    def _free_slot(self) -> int:
        taken = {*self._slots.values(), *self._users}
        return next(slot for slot in range(1, len(taken) + 2) if slot not in taken)

    def _clear(self, slot: int | None) -> None:
        """Make a slot the base again, unless it is still needed; empty slots at the end are freed."""
        taken = {0, *self._slots.values(), *self._users}
        if slot is None or slot in taken:
            return
        kept = max(taken) + 1
        for linear in self._linears.values():
            if slot < kept:
                linear.put(slot, None)
            linear.resize(kept)

    # -- decoding and scoring -------------------------------------------------------------------------------------

    def switch_ms(self, adapter_id: str) -> float:
        started = time.perf_counter()
        torch.tensor([self._carried(adapter_id)[0]], device=self.loaded.device)
        return (time.perf_counter() - started) * 1000

    def logits(self, prompts: Sequence[Sequence[int]], adapter_id: str | None) -> Tensor:
        """Logits [prompts, vocabulary] of each prompt's last token."""

        def work() -> Tensor:
            slot, soft = self._carried(adapter_id)
            return torch.stack([self.forward(self.padded([prompt], [soft]), [slot])[0] for prompt in prompts])

        return self._compute.run(work)

    def stream(self, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> Generator[list[RowState], None, None]:
        """Every row's state after each step."""
        with self._holding([row.adapter for row in rows]) as held:
            started = time.perf_counter()
            sequences = [
                _Sequence(row, self._begun(row, ids), ids, *carried)
                for row, ids, carried in zip(rows, prompts, held, strict=True)
            ]
            yield [replace(one.reply.state) for one in sequences]
            for begin in range(0, len(rows), ROWS_MAX):
                together: list[_Sequence] = []
                alone: list[_Sequence] = []
                for one in sequences[begin : begin + ROWS_MAX]:
                    longest = len(one.prompt) + one.row.sampling.max_tokens
                    (alone if self._goes_alone(longest, one.soft) else together).append(one)
                batches = [_Batch(self, part, started) for part in (together, *([one] for one in alone)) if part]
                while live := [batch for batch in batches if batch.live]:
                    for batch in live:
                        self._compute.run(batch.step)
                    yield [replace(one.reply.state) for one in sequences]

    def _begun(self, row: Row, ids: Sequence[int]) -> Generation:
        held = self._grammars.constraint(row) if row.sampling.format else None
        return Generation(row, ids, self.loaded.tokenizer, self._ends, held)

    def scores(self, texts: Sequence[Text]) -> Generator[tuple[int, Score] | None, None, None]:
        """(place among ``texts``, its score) as they are done; first None, once the rows hold their adapters. Rows are
        read whole, to the model's own logits: families may change them after the head, or read a long row otherwise."""
        with self._holding([text.adapter for text in texts]) as held:
            yield None
            alone = [place for place, text in enumerate(texts) if self._goes_alone(len(text.ids), held[place][1])]
            together = [place for place in range(len(texts)) if place not in alone]
            batches = [[together[i] for i in part] for part in parts([len(texts[place].ids) for place in together])]
            for batch in [*batches, *([place] for place in alone)]:
                rows = [(texts[place], *held[place]) for place in batch]
                yield from zip(batch, self._scored(rows), strict=True)

    def _scored(self, rows: Sequence[tuple[Text, int, SoftPrompt]]) -> list[Score]:
        """Rows that are read together, and again where they have more scored places than may be held at once."""
        sums = [LossSum(text.divergence) for text, _, _ in rows]
        read = [(text.ids[:-1], slot, soft) for text, slot, soft in rows]  # so the place at -c predicts the token at -c
        measured = [number for number, (text, _, _) in enumerate(rows) if text.divergence]
        wide = max(1, PLACES // len(rows))
        for begin in range(max(text.scored for text, _, _ in rows), 0, -wide):
            end = max(0, begin - wide)
            own = self._last_logits(read, begin, end)
            base = [(read[number][0], 0, NO_SOFT_PROMPT) for number in measured]
            base_logits = dict(zip(measured, self._last_logits(base, begin, end), strict=True)) if base else {}
            for number, ((text, _, _), total) in enumerate(zip(rows, sums, strict=True)):
                if (count := min(begin, text.scored) - end) > 0:
                    last = len(text.ids) - end
                    tokens = torch.tensor(text.ids[last - count : last], device=own.device)
                    there = base_logits.get(number)
                    total.add(own[number, -count:], tokens, None if there is None else there[-count:])
        return [total.score() for total in sums]

    def _last_logits(self, rows: Sequence[tuple[Sequence[int], int, SoftPrompt]], begin: int, end: int) -> Tensor:
        """Logits [rows, begin - end, vocabulary] of these columns, counted back from the right edge."""

        def work() -> Tensor:
            ids, slots, soft = zip(*rows, strict=True)
            given = self.padded(ids, soft)
            length = given.ids.shape[1]
            first, last = max(0, length - begin), length - end
            logits = self._columns(given, slots, torch.arange(first, last, device=self.loaded.device))
            return logits if "logits_to_keep" in self._inputs else logits[:, first:last]

        return self._compute.run(work)

    def _goes_alone(self, tokens: int, soft: SoftPrompt) -> bool:
        """Whether a sequence that may reach so many tokens must not share a batch."""
        past = self.turning_point is not None and soft.read + soft.held + tokens > self.turning_point
        return past or (self._windowed and soft.held > 0)

    def padded(self, texts: Sequence[Sequence[int]], soft: Sequence[SoftPrompt]) -> Padded:
        return padded(self.loaded.model, texts, soft, self.pad_id)

    def forward(self, given: Padded, slots: Sequence[int]) -> Tensor:
        """Logits [rows, vocabulary] of the last position; extends the KV cache in place."""
        return self._columns(given, slots, 1)[:, -1]

    @torch.inference_mode()
    def _columns(self, given: Padded, slots: Sequence[int], keep: int | Tensor) -> Tensor:
        """Logits [rows, columns, vocabulary] of the last ``keep`` columns, or of those named (else of all)."""
        self._active.slots = send(torch.tensor(slots), self.loaded.device) if any(slots) else None
        self._active.numbers, self._active.tokens = tuple(slots), given.ids.numel()
        read: dict[str, Any] = {"input_ids": given.ids} if given.embedded is None else {"inputs_embeds": given.embedded}
        read |= {"attention_mask": given.mask, "past_key_values": given.cache, "use_cache": True}
        extra = {"position_ids": given.positions, "logits_to_keep": keep}
        read |= {name: value for name, value in extra.items() if name in self._inputs}
        try:
            logits: Tensor = self.loaded.model(**read).logits
            return logits
        finally:
            self._active.slots = None


@dataclass
class _Sequence:
    row: Row
    reply: Generation
    prompt: Sequence[int]
    slot: int
    soft: SoftPrompt


class _Batch:
    """Sequences under way together, with their shared KV cache."""

    def __init__(self, backend: HfBackend, rows: list[_Sequence], started: float) -> None:
        self._backend, self._rows, self._started = backend, rows, started
        self._given: Padded | None = None
        self._unread: Padded | None = None

    @property
    def live(self) -> bool:
        return any(not row.reply.state.finish for row in self._rows)

    def step(self) -> None:
        """One forward pass: a part of the prompts, or one token for every live sequence; those that are done leave."""
        backend, given = self._backend, self._unread or self._given
        turning = backend.turning_point  # there all is prefilled again
        if given is None or (turning is not None and int(given.positions[0, -1]) == turning):
            texts = [[*row.prompt, *row.reply.tokens] for row in self._rows]
            given = backend.padded(texts, [row.soft for row in self._rows])
        if backend.prefill_tokens is not None:
            given, self._unread = given.split(max(1, backend.prefill_tokens // len(self._rows)))
        logits = backend.forward(given, [row.slot for row in self._rows])
        if self._unread is not None:
            return
        writing = [number for number, row in enumerate(self._rows) if not row.reply.state.finish]
        drawn = sample([self._rows[number].reply for number in writing], rows_of(logits, writing))
        now = time.perf_counter() - self._started
        for number, one in zip(writing, drawn, strict=True):
            self._rows[number].reply.add(one, now)
        stay = [number for number, row in enumerate(self._rows) if not row.reply.state.finish]
        mask, positions = given.mask, given.positions
        selectable = all(hasattr(layer, "batch_select_indices") for layer in given.cache.layers)
        if 0 < len(stay) < len(self._rows) and selectable:
            keep = send(torch.tensor(stay), positions.device)
            mask, positions = None if mask is None else mask[keep], positions[keep]
            given.cache.batch_select_indices(keep)
            self._rows = [self._rows[number] for number in stay]
        if stay:  # where the cache cannot drop a row, one that is done goes along on its last token
            last = [(row.reply.tokens or [backend.pad_id])[-1] for row in self._rows]
            ids = send(torch.tensor(last), positions.device)[:, None]
            mask = None if mask is None else torch.cat([mask, torch.ones_like(ids)], dim=1)
            self._given = Padded(ids, None, mask, positions[:, -1:] + 1, given.cache)


def _turning_point(config: Any) -> int | None:
    """The position from which on a model takes other frequencies, if it does."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    return int(rope.get("original_max_position_embeddings") or config.max_position_embeddings)
