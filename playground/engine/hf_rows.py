"""Rows of one Hugging Face forward pass: adapter slots beside each linear layer, padding, and soft prompts.

Row b carries slot k and gets the formula of ``load.py`` with that slot's matrices, vectors and bottleneck
(S-LoRA's batched form, Sheng et al. 2023, arXiv:2311.03285). Slot 0 is the base: zeros and ones. A row is read as
[padding | embeddings | text], behind [padding | keys and values] in the KV cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from playground.engine.load import ModuleWeights, Neck, StackedNecks, stacked
from playground.errors import AdapterError


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
        return sum(t.nbytes for t in (self.embeddings, self.keys_values) if t is not None)


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
    """The slots of one linear layer: a [slots, in, rank], b [slots, rank, out]; vectors and necks if any."""

    def __init__(
        self, module: nn.Module, sides: tuple[int, int], active: ActiveRows, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Works beside ``module`` from now on. sides: its outputs and inputs."""
        (self._outputs, self._inputs), self._active, self._dtype = sides, active, dtype
        self._ranks = [0]
        self.a = torch.zeros(1, self._inputs, 0, dtype=dtype, device=device)
        self.b = torch.zeros(1, 0, self._outputs, dtype=dtype, device=device)
        self._vectors: dict[str, Tensor] = {}
        self._necks: dict[int, Neck] = {}
        self._stacked: tuple[tuple[int, ...], StackedNecks | None, Tensor | None] = ((), None, None)
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
                self._vectors[name] = self.a.new_full((len(self._ranks), vector.shape[0]), empty)
            if name in self._vectors:
                self._vectors[name][slot] = empty if vector is None else vector.to(self.a)
        self._necks.pop(slot, None)
        if weights.neck is not None:
            self._necks[slot] = weights.neck.to(self._dtype, self.a.device)
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
        self.a = _resized(self.a, (slots, self._inputs, rank))
        self.b = _resized(self.b, (slots, rank, self._outputs))
        kept = self._vectors if slots > 1 else {}  # one slot is the base's alone
        self._vectors = {name: _resized(v, (slots, v.shape[1]), VECTORS[name]) for name, v in kept.items()}

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
        return stacks + sum(t.nbytes for t in (self.a, self.b, *self._vectors.values(), *necks) if t is not None)


def _resized(old: Tensor, shape: tuple[int, ...], empty: float = 0.0) -> Tensor:
    new, kept = old.new_full(shape, empty), tuple(slice(min(sides)) for sides in zip(old.shape, shape, strict=True))
    new[kept] = old[kept]
    return new


@dataclass
class Padded:
    """Inputs of a forward pass: ids [rows, length]; embedded [rows, length, hidden] in their place, or None; mask
    [rows, held + length], None where nothing is padding: a model given one looks at all of it, and may write one down
    of [length, held + length]; positions [rows, length]; the KV cache, which holds ``held`` places."""

    ids: Tensor
    embedded: Tensor | None
    mask: Tensor | None
    positions: Tensor
    cache: Any

    def split(self, columns: int) -> tuple[Padded, Padded | None]:
        """The first columns, and the rest, to be read after them."""
        if (length := self.ids.shape[1]) <= columns:
            return self, None
        parts = []
        for part, end in ((slice(None, columns), columns), (slice(columns, None), length)):
            mask = None if self.mask is None else self.mask[:, : self.mask.shape[1] - length + end]
            embedded = None if self.embedded is None else self.embedded[:, part]
            parts.append(Padded(self.ids[:, part], embedded, mask, self.positions[:, part], self.cache))
        return parts[0], parts[1]


@torch.inference_mode()
def padded(model: Any, texts: Sequence[Sequence[int]], prompts: Sequence[SoftPrompt], pad_id: int) -> Padded:
    """A batch of which nothing has been read yet. texts: each row's token ids; prompts: the soft prompt before each."""
    rows, cache = list(enumerate(zip(prompts, texts, strict=True))), new_cache(model)
    held = max(prompt.held for prompt in prompts)
    longest = max(prompt.read + len(text) for _, (prompt, text) in rows)
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), held + longest), dtype=torch.long)
    for row, (prompt, text) in rows:
        ids[row, longest - len(text) :] = torch.tensor(text)
        mask[row, held + longest - len(text) - prompt.read :] = 1
        mask[row, held - prompt.held : held] = 1
    padding, positions = not bool(mask.all()), (mask.cumsum(1) - 1).clamp(min=0)[:, held:].to(model.device)
    ids, embedded = ids.to(model.device), None
    if held:
        sample = next(prompt.keys_values for prompt in prompts if prompt.keys_values is not None)
        layers, _, _, heads, width = sample.shape
        before = sample.new_zeros(layers, 2, len(rows), heads, held, width)
        for row, (prompt, _) in rows:
            if prompt.keys_values is not None:
                before[:, :, row, :, held - prompt.held :] = prompt.keys_values.permute(0, 2, 3, 1, 4)
        for layer, (keys, values) in enumerate(before):
            cache.update(keys, values, layer)
    if any(prompt.read for prompt in prompts):
        embedded = model.get_input_embeddings()(ids).clone()
        for row, (prompt, text) in rows:
            if prompt.embeddings is not None:
                end = longest - len(text)
                embedded[row, end - prompt.read : end] = prompt.embeddings.to(embedded.dtype)
    return Padded(ids, embedded, mask.to(model.device) if padding else None, positions, cache)


def new_cache(model: Any) -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)
