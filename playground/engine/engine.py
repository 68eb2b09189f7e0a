"""One frozen base with its attached adapters: rows of any mix of them decode in one batch.

Two paths, one interface. The lean path (Llama family: ``lean.py``, ``scheduler.py``) batches continuously: rows join and leave
between steps. The reference path serves any other family: Hugging Face's forward pass and cache, our slots beside the linear
layers; its rows are padded on the left and start together, one batch at a time. ``path`` says which one it is, and why.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from playground.data.render import encode
from playground.engine.bank import Layout
from playground.engine.lean import LeanModel, unfit
from playground.engine.load import Loaded, live_fingerprint, load
from playground.engine.lora_file import read_lora
from playground.engine.request import AdapterFile, Row, RowState
from playground.engine.sampling import Sampler
from playground.engine.scheduler import Adapter, Scheduler
from playground.engine.slots import ActiveRows, LoraWeights, SlottedLinear, out_in
from playground.errors import AdapterError, InputError


class Engine:
    """A resident: one base in memory and the adapters attached to it. Safe to call from several threads.

    reference: take the reference path even where the lean one would serve.
    """

    def __init__(self, folder: Path, *, reference: bool = False) -> None:
        self.loaded: Loaded = load(folder)
        self._fingerprint: str | None = None
        self._lock = threading.RLock()
        self._hashing = threading.Lock()
        self._active = ActiveRows()
        self._slots: dict[str, int] = {}
        self._files: dict[str, AdapterFile] = {}
        self._no_effect: set[str] = set()
        self._linears: dict[str, SlottedLinear] = {}
        self._stops = _stop_ids(self.loaded)
        reason = "asked for" if reference else unfit(self.loaded.model)
        self.path = f"reference ({reason})" if reason else "lean"
        for name, module in self.loaded.model.named_modules():
            sides = out_in(module)
            if sides is not None:
                self._linears[name] = SlottedLinear(inputs=sides[1], outputs=sides[0], active=self._active)
                if reason:
                    module.register_forward_hook(self._linears[name].add)
        self._scheduler: Scheduler | None = None
        if not reason:
            self._lean = LeanModel(self.loaded.model)
            self._weights: dict[str, dict[str, LoraWeights]] = {}
            self._layout: Layout = self._lean.layout(0)
            self._flat: dict[str, torch.Tensor] = {}
            self._scratch = torch.empty(0)
            self._carried = {name for group in self._lean.groups for name in group.names}
            self._scheduler = Scheduler(self._lean, self._stops, self._decoded, self._adapter_of, lambda: self._layout)

    # -- adapters ------------------------------------------------------------------------------------------------

    def attach(self, adapter: AdapterFile) -> float:
        """Put an adapter into a free slot, replacing an older version of itself. Returns milliseconds; raises AdapterError
        when it does not fit this base, and then nothing has changed."""
        started = time.perf_counter()
        with self._lock:
            known = self._files.get(adapter.id)
            if known is not None and known.sha256 == adapter.sha256:
                return 0.0
            weights = read_lora(Path(adapter.path))
            for name, pair in weights.items():
                linear = self._linears.get(name)
                if linear is None or (linear.inputs, linear.outputs) != (pair.a.shape[0], pair.b.shape[1]):
                    there = f"{linear.inputs} -> {linear.outputs}" if linear else "no such layer"
                    raise AdapterError(
                        f"{adapter.id} was trained on another base: {name} is {pair.a.shape[0]} -> {pair.b.shape[1]} in the adapter, "
                        f"here it is {there}. Choose the base it was trained on."
                    )
            if self._scheduler is None:
                self._fill_slot(adapter.id, weights)
            else:
                self._pack(adapter.id, weights)
            self._files[adapter.id] = adapter
            flat = all(float(pair.b.abs().max()) == 0.0 for pair in weights.values())
            (self._no_effect.add if flat else self._no_effect.discard)(adapter.id)
        return (time.perf_counter() - started) * 1000

    def detach(self, adapter_id: str) -> None:
        """Forget an adapter; its slot is zeroed and free again. Unknown ids are ignored."""
        with self._lock:
            slot = self._slots.pop(adapter_id, None)
            self._files.pop(adapter_id, None)
            self._no_effect.discard(adapter_id)
            if self._scheduler is not None:
                self._weights.pop(adapter_id, None)
                self._flat.pop(adapter_id, None)
            if slot is not None:
                for linear in self._linears.values():
                    linear.put(slot, None, self.loaded.dtype, self.loaded.device)

    def attached(self) -> dict[str, AdapterFile]:
        """Attached adapters by id."""
        with self._lock:
            return dict(self._files)

    def has_no_effect(self, adapter_id: str) -> bool:
        """Whether an attached adapter changes nothing at all."""
        return adapter_id in self._no_effect

    def select_ms(self, adapter_id: str | None) -> float:
        """Milliseconds that making an attached adapter the active one takes: what the next row pays to carry it."""
        with self._lock:
            if self._scheduler is None:
                started = time.perf_counter()
                self._active.slots = torch.tensor([self._slot(adapter_id)], device=self.loaded.device)
                self._active.slots = None
                return (time.perf_counter() - started) * 1000
            found = self._adapter_of(adapter_id)
            if found is None:
                return 0.0
            if self._scratch.shape != found.flat.shape:
                self._scratch = torch.zeros_like(found.flat)
            started = time.perf_counter()
            self._scratch.copy_(found.flat)
            return (time.perf_counter() - started) * 1000

    @property
    def fingerprint(self) -> str:
        """The weights as they were at load: hashed once, right after it, while nobody waits (0.4 s for 538 MB)."""
        with self._hashing:
            if self._fingerprint is None:
                self._fingerprint = live_fingerprint(self.loaded)
            return self._fingerprint

    @property
    def adapter_bytes(self) -> int:
        """Memory that attached adapters take."""
        if self._scheduler is not None:
            with self._lock:
                packed = sum(flat.numel() * flat.element_size() for flat in self._flat.values())
                return packed + sum(
                    4 * (pair.a.numel() + pair.b.numel()) for kept in self._weights.values() for pair in kept.values()
                )
        return sum(linear.bytes for linear in self._linears.values())

    def check_fingerprint(self) -> tuple[str, bool, float]:
        """(fingerprint of the weights as they are now, whether it is the one at load, seconds it took)."""
        before = self.fingerprint
        started = time.perf_counter()
        now = live_fingerprint(self.loaded)
        return now, now == before, time.perf_counter() - started

    # -- decoding ------------------------------------------------------------------------------------------------

    def stream(self, rows: Sequence[Row]) -> Iterator[list[RowState]]:
        """Decode ``rows`` together; yields every row's state after each step. Close the iterator to stop.

        Raises InputError when a prompt and its reply do not fit the base's context.
        """
        prompts = [encode(self.loaded.tokenizer, row.prompt) for row in rows]
        self._fits(prompts, rows)
        if self._scheduler is not None:
            ticket = self._scheduler.submit(rows, prompts)
            try:
                yield from ticket
            finally:
                ticket.cancel()
            return
        batch = _Batch(self, rows, prompts)
        yield batch.states
        while batch.live:
            with self._lock:
                batch.step()
            yield batch.states

    def _decoded(self, tokens: list[int], final: bool) -> str:
        return _text(self.loaded.tokenizer, tokens, final=final)

    def _adapter_of(self, adapter_id: str | None) -> Adapter | None:
        """A row's adapter under the current layout. Raises AdapterError when it is not attached."""
        if adapter_id is None:
            return None
        with self._lock:
            if adapter_id not in self._files:
                raise AdapterError(f"{adapter_id} is not attached. Attach it first.")
            return Adapter(self._files[adapter_id].sha256, self._weights[adapter_id], self._flat[adapter_id])

    def _pack(self, adapter_id: str, weights: dict[str, LoraWeights]) -> None:
        """Lay an adapter flat; a wider rank than any before it changes the layout, and all are laid anew."""
        strange = sorted(set(weights) - self._carried)
        if strange:
            raise AdapterError(
                f"{adapter_id} adapts {strange[0]}, which the fast path does not carry. Train it on the linear layers of the body."
            )
        rank = max((pair.a.shape[1] for pair in weights.values()), default=0)
        if rank > self._layout.rank:
            layout = self._lean.layout(rank)
            flat = {name: layout.pack(kept, self.loaded.dtype, self.loaded.device) for name, kept in self._weights.items()}
            self._layout, self._flat = layout, flat
        self._flat[adapter_id] = self._layout.pack(weights, self.loaded.dtype, self.loaded.device)
        self._weights[adapter_id] = weights

    def _fill_slot(self, adapter_id: str, weights: dict[str, LoraWeights]) -> None:
        slot = self._slots.get(adapter_id) or self._free_slot()
        for name, linear in self._linears.items():
            if name in weights or slot < linear.a.shape[0]:
                linear.put(slot, weights.get(name), self.loaded.dtype, self.loaded.device)
        self._level()
        self._slots[adapter_id] = slot

    def _forward(self, ids: Any, mask: Any, positions: Any, cache: Any, slots: Any) -> torch.Tensor:
        """Logits [rows, vocabulary] of the last position; extends ``cache`` in place."""
        self._active.slots = slots if bool((slots > 0).any()) else None
        try:
            with torch.inference_mode():
                out = self.loaded.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            return out.logits[:, -1]
        finally:
            self._active.slots = None

    def _slot(self, adapter_id: str | None) -> int:
        if adapter_id is None:
            return 0
        if adapter_id not in self._slots:
            raise AdapterError(f"{adapter_id} is not attached. Attach it first.")
        return self._slots[adapter_id]

    def _free_slot(self) -> int:
        used = set(self._slots.values())
        return next(slot for slot in range(1, len(used) + 2) if slot not in used)

    def _level(self) -> None:
        """Every stack holds the same number of slots, so that one index serves all layers."""
        slots = max(linear.a.shape[0] for linear in self._linears.values())
        for linear in self._linears.values():
            if linear.a.shape[0] < slots:
                linear.put(slots - 1, None, self.loaded.dtype, self.loaded.device)

    def _fits(self, prompts: Sequence[Sequence[int]], rows: Sequence[Row]) -> None:
        limit = getattr(self.loaded.model.config, "max_position_embeddings", None)
        for prompt, row in zip(prompts, rows, strict=True):
            if limit and len(prompt) + row.sampling.max_tokens > limit:
                raise InputError(
                    f"The prompt is {len(prompt)} tokens and the reply may take {row.sampling.max_tokens}; this base holds {limit}. "
                    "Shorten the prompt, use fewer shots, or clear the conversation."
                )


class _Batch:
    """Rows under way together, with their shared cache."""

    def __init__(self, engine: Engine, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> None:
        from transformers import DynamicCache

        self._engine, self._started = engine, time.perf_counter()
        self.states = [RowState(prompt_tokens=len(prompt)) for prompt in prompts]
        self.live = list(range(len(rows)))
        self._samplers = [Sampler(row.sampling) for row in rows]
        self._limits = [row.sampling.max_tokens for row in rows]
        self._tokens: list[list[int]] = [[] for _ in rows]
        self._cache = DynamicCache()
        device = engine.loaded.device
        self._slots = torch.tensor([engine._slot(row.adapter) for row in rows], device=device)
        longest = max(len(prompt) for prompt in prompts)
        self._ids = torch.full((len(rows), longest), _pad_id(engine.loaded), dtype=torch.long)
        self._mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for index, prompt in enumerate(prompts):
            self._ids[index, longest - len(prompt) :] = torch.tensor(prompt)
            self._mask[index, longest - len(prompt) :] = 1
        self._ids, self._mask = self._ids.to(device), self._mask.to(device)
        self._positions = (self._mask.cumsum(1) - 1).clamp(min=0)

    def step(self) -> None:
        """One forward pass, one token for every live row; rows that are done leave."""
        logits = self._engine._forward(self._ids, self._mask, self._positions, self._cache, self._slots)
        now = time.perf_counter() - self._started
        stay, picked = [], []
        for place, index in enumerate(self.live):
            token = self._samplers[index].pick(logits[place])
            state = self.states[index]
            state.seconds = now
            if state.first_token_s is None:
                state.first_token_s = now
            if token in self._engine._stops:
                state.finish = "stop"
            else:
                self._tokens[index].append(token)
                state.completion_tokens = len(self._tokens[index])
                if state.completion_tokens >= self._limits[index]:
                    state.finish = "length"
            state.text = _text(self._engine.loaded.tokenizer, self._tokens[index], final=bool(state.finish))
            if not state.finish:
                stay.append(place)
                picked.append(token)
        if len(stay) < len(self.live):
            keep = torch.tensor(stay, dtype=torch.long, device=self._mask.device)
            self._mask, self._positions, self._slots = self._mask[keep], self._positions[keep], self._slots[keep]
            if stay:
                self._cache.batch_select_indices(keep)
        self.live = [self.live[place] for place in stay]
        if stay:
            self._ids = torch.tensor(picked, device=self._mask.device)[:, None]
            self._mask = torch.cat([self._mask, torch.ones_like(self._ids)], dim=1)
            self._positions = self._positions[:, -1:] + 1


def _text(tokenizer: Any, tokens: list[int], *, final: bool) -> str:
    """Decoded reply; while it grows, a character whose bytes are not all there yet is held back."""
    text = str(tokenizer.decode(tokens, skip_special_tokens=True))
    return text if final else text.rstrip("�")


def _pad_id(loaded: Loaded) -> int:
    tokenizer = loaded.tokenizer
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0))


def _stop_ids(loaded: Loaded) -> set[int]:
    """Every token that ends a reply, by the tokenizer and by the model's own generation settings."""
    ids: set[int] = set()
    for value in (loaded.tokenizer.eos_token_id, getattr(loaded.model.generation_config, "eos_token_id", None)):
        ids |= set(value) if isinstance(value, list) else ({value} if value is not None else set())
    return ids
