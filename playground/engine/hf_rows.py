"""Rows of one Hugging Face forward pass: adapter slots beside each linear layer, padding, and soft prompts.

Row b carries slot k and gets the formula of ``adapter_weights.py`` with that slot's matrices, vectors and bottleneck.
Slot 0 is the base: zeros and ones. The base's own weights are never written. Ranks are padded with zeros to the widest
one there. (The batched form: S-LoRA, Sheng et al. 2023, arXiv:2311.03285.)

A row is read as [padding | embeddings before the text | text]. Keys and values before the text lie in the KV cache
already, as [padding | keys and values]; so padding may stand between them and the text, and the attention mask and
positions leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from playground.engine.adapter_weights import ModuleWeights, Neck, StackedNecks, stacked
from playground.errors import AdapterError
from playground.gpu.device import bytes_of


@dataclass(frozen=True)
class SoftPrompt:
    """Embeddings [tokens, hidden], or keys_values [layers, tokens, 2, kv_heads, head_dim], before the text."""

    embeddings: Tensor | None = None
    keys_values: Tensor | None = None

    @property
    def read(self) -> int:
        """Tokens that are read before the text."""
        return 0 if self.embeddings is None else self.embeddings.shape[0]

    @property
    def held(self) -> int:
        """Tokens that are in the cache before anything is read."""
        return 0 if self.keys_values is None else self.keys_values.shape[1]

    @property
    def bytes(self) -> int:
        return bytes_of(self.embeddings, self.keys_values)


NO_SOFT_PROMPT = SoftPrompt()


VECTORS = {"in_scale": 1.0, "out_scale": 1.0, "shift": 0.0}
"""Fields of ``ModuleWeights`` that are vectors, and what leaves a row as it is."""


@dataclass
class ActiveRows:
    """Slots of the current forward pass's rows: [rows], None when all are the base; numbers: the same as integers.
    tokens: how many that pass reads, in all rows together."""

    slots: Tensor | None = None
    numbers: tuple[int, ...] = ()
    tokens: int = 0


class SlottedLinear:
    """The slots of one linear layer: a [slots, in, rank], b [slots, rank, out]; in_scale [slots, in], out_scale and
    shift [slots, out] and necks once an adapter has them."""

    def __init__(self, inputs: int, outputs: int, active: ActiveRows, dtype: torch.dtype, device: torch.device) -> None:
        self._inputs, self._outputs, self._active = inputs, outputs, active
        self._dtype, self._device = dtype, device
        self._ranks = [0]
        self.a = torch.zeros(1, inputs, 0, dtype=dtype, device=device)
        self.b = torch.zeros(1, 0, outputs, dtype=dtype, device=device)
        self._vectors: dict[str, Tensor] = {}
        self._necks: dict[int, Neck] = {}
        self._stacked: tuple[tuple[int, ...], StackedNecks | None, Tensor | None] = ((), None, None)

    def hook(self, module: nn.Module) -> None:
        """Work beside ``module`` from now on."""
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)

    def put(self, slot: int, weights: ModuleWeights | None) -> None:
        """Write one slot (None = the base again), which must be there; other slots stay as they are."""
        weights = weights or ModuleWeights()
        self._ranks[slot] = weights.rank
        self.resize(len(self._ranks))
        self.a[slot].zero_()
        self.b[slot].zero_()
        if weights.a is not None and weights.b is not None:
            self.a[slot, :, : weights.rank] = weights.a.t()
            self.b[slot, : weights.rank] = weights.b.t()
        for name, empty in VECTORS.items():
            vector: Tensor | None = getattr(weights, name)
            if vector is not None and name not in self._vectors:
                shape = len(self._ranks), vector.shape[0]
                self._vectors[name] = torch.full(shape, empty, dtype=self._dtype, device=self._device)
            if name in self._vectors:
                self._vectors[name][slot] = empty if vector is None else vector.to(self._device, self._dtype)
        self._necks.pop(slot, None)
        if weights.neck is not None:
            self._necks[slot] = weights.neck.to(self._dtype, self._device)
        self._stacked = ((), None, None)

    def resize(self, slots: int) -> None:
        """So many slots, as wide as the widest of them needs. What they hold stays, new ones are the base."""
        self._ranks = [*self._ranks[:slots], *[0] * (slots - len(self._ranks))]
        if any(slot >= slots for slot in self._necks):
            self._necks = {slot: neck for slot, neck in self._necks.items() if slot < slots}
            self._stacked = ((), None, None)
        rank = max(self._ranks)
        if (slots, rank) == (self.a.shape[0], self.a.shape[2]):
            return
        kept, wide = min(slots, self.a.shape[0]), min(rank, self.a.shape[2])
        a = torch.zeros(slots, self._inputs, rank, dtype=self._dtype, device=self._device)
        b = torch.zeros(slots, rank, self._outputs, dtype=self._dtype, device=self._device)
        a[:kept, :, :wide] = self.a[:kept, :, :wide]
        b[:kept, :wide] = self.b[:kept, :wide]
        self.a, self.b = a, b
        for name in list(self._vectors):
            if slots == 1:  # the base's alone
                del self._vectors[name]
                continue
            sized = torch.full(
                (slots, self._vectors[name].shape[1]), VECTORS[name], dtype=self._dtype, device=self._device
            )
            sized[:kept] = self._vectors[name][:kept]
            self._vectors[name] = sized

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Forward pre-hook: scale each row's input."""
        slots = self._active.slots
        if slots is None or "in_scale" not in self._vectors:
            return None
        x = self._by_rows(args[0], slots)
        return ((x * self._vectors["in_scale"][slots].unsqueeze(1)).view(args[0].shape), *args[1:])

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Forward hook: correct each row's output."""
        slots = self._active.slots
        if slots is None or not (self.a.shape[2] or self._vectors or self._necks):
            return output
        y = self._by_rows(output, slots)
        if self.a.shape[2]:
            x = self._by_rows(args[0], slots).to(self._dtype)
            y = torch.baddbmm(y.to(self._dtype), torch.bmm(x, self.a[slots]), self.b[slots])
        if "out_scale" in self._vectors:
            y = y * self._vectors["out_scale"][slots].unsqueeze(1)
        if "shift" in self._vectors:
            y = y + self._vectors["shift"][slots].unsqueeze(1)
        if self._necks:
            y = self._through_necks(y, self._active.numbers)
        return y.view(output.shape)

    def _through_necks(self, y: Tensor, slots: tuple[int, ...]) -> Tensor:
        """y [rows, length, out] with each row's own bottleneck added, by the rows' slots."""
        if self._stacked[0] != slots:
            there = sorted(set(slots) & self._necks.keys())
            necks = stacked([self._necks[slot] for slot in there]) if there else None
            carried = [there.index(slot) if slot in there else None for slot in slots]
            self._stacked = (slots, necks, None if necks is None else necks.mask(carried))
        _, necks, mask = self._stacked
        if necks is None or mask is None:
            return y
        found = y.to(self._dtype).reshape(-1, y.shape[-1])
        necks.add(found, mask.repeat_interleave(y.shape[1], 0))
        return found.view(y.shape)

    def _by_rows(self, x: Tensor, slots: Tensor) -> Tensor:
        """[rows, length, width], also where a family hands all tokens on in one list."""
        if x.dim() == 3 and x.shape[0] == slots.shape[0]:
            return x
        if x.numel() != self._active.tokens * x.shape[-1]:
            raise AdapterError(
                "This base sends a row's tokens to different layers (a mixture of experts), and such a layer carries "
                "no adapter in a batch. Train the adapter on the attention layers."
            )
        return x.reshape(slots.shape[0], -1, x.shape[-1])

    @property
    def bytes(self) -> int:
        necks = [tensor for neck in self._necks.values() for tensor in neck.tensors]
        stacks = 0 if self._stacked[1] is None else self._stacked[1].bytes
        return stacks + bytes_of(self.a, self.b, *self._vectors.values(), *necks)


@dataclass
class Padded:
    """Inputs of a forward pass: ids [rows, length]; embedded [rows, length, hidden] in their place, or None; mask
    [rows, held + length], positions [rows, length]; the KV cache, which holds ``held`` places."""

    ids: Tensor
    embedded: Tensor | None
    mask: Tensor
    positions: Tensor
    cache: Any


def padded(
    model: Any, cache: Any, texts: Sequence[Sequence[int]], prompts: Sequence[SoftPrompt], pad_id: int
) -> Padded:
    """texts: each row's token ids; prompts: the soft prompt before each; cache: an empty one."""
    device, count = model.device, len(texts)
    held = max(prompt.held for prompt in prompts)
    longest = max(prompt.read + len(text) for prompt, text in zip(prompts, texts, strict=True))
    ids = torch.full((count, longest), pad_id, dtype=torch.long)
    mask = torch.zeros((count, held + longest), dtype=torch.long)
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        ids[row, longest - len(text) :] = torch.tensor(text)
        mask[row, held + longest - len(text) - prompt.read :] = 1
        mask[row, held - prompt.held : held] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, held:]
    if held:
        _fill(cache, prompts, held)
    return Padded(ids, _embedded(model, ids, texts, prompts), mask, positions, cache)


def _fill(cache: Any, prompts: Sequence[SoftPrompt], held: int) -> None:
    """Each row's keys and values at the end of the first ``held`` places of every layer."""
    sample = next(prompt.keys_values for prompt in prompts if prompt.keys_values is not None)
    layers, _, _, heads, width = sample.shape
    for layer in range(layers):
        both = torch.zeros(2, len(prompts), heads, held, width, dtype=sample.dtype, device=sample.device)
        for row, prompt in enumerate(prompts):
            if prompt.keys_values is not None:
                both[:, row, :, held - prompt.held :] = prompt.keys_values[layer].permute(1, 2, 0, 3)
        cache.update(both[0], both[1], layer)


def _embedded(model: Any, ids: Tensor, texts: Sequence[Sequence[int]], prompts: Sequence[SoftPrompt]) -> Tensor | None:
    if not any(prompt.read for prompt in prompts):
        return None
    found: Tensor = model.get_input_embeddings()(ids).clone()
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        if prompt.embeddings is not None:
            end = ids.shape[1] - len(text)
            found[row, end - prompt.read : end] = prompt.embeddings.to(found.dtype)
    return found
