"""Stacked adapter slots beside each linear layer of a Hugging Face model, so that one forward pass serves any mix of
adapters.

Row b carries slot k and gets the formula of ``adapter_weights.py`` with that slot's matrices, vectors and bottleneck.
Slot 0 is the
base: zeros and ones. The base's own weights are never written. Ranks are padded with zeros to the widest one there.
(The batched form: S-LoRA, Sheng et al. 2023, arXiv:2311.03285.)


Batches for the Hugging Face backend: sequences padded on the left, with their soft prompts; and scoring over them.

A row is read as [padding | embeddings before the text | text]. Keys and values before the text lie in the KV cache
already, as [padding | keys and values]; so padding may stand between them and the text, and the attention mask and
positions leave it out.

Scored rows are never read in pieces, and the logits are always the model's own: some families change them after the
head, or read a long row otherwise than its start. Where a batch has more scored places than may be held at once, it is
read again for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from playground.engine.adapter_weights import NO_SOFT_PROMPT, Masked, ModuleWeights, Neck, SoftPrompt, beside
from playground.engine.request import PLACES, Score, Text, parts
from playground.engine.sequence import token_divergences, token_losses
from playground.errors import AdapterError


@dataclass
class SlottedNecks:
    """One layer's bottlenecks on the reference path, by slot."""

    dtype: torch.dtype
    device: torch.device
    _held: dict[int, Neck] = field(default_factory=dict)
    _known: tuple[tuple[int, ...], Masked | None] = ((), None)

    @property
    def bytes(self) -> int:
        laid = self._known[1]
        return sum(neck.bytes for neck in self._held.values()) + (laid[0].bytes if laid is not None else 0)

    def put(self, slot: int, neck: Neck | None) -> None:
        """Write one slot; None = none."""
        if neck is not None:
            self._held[slot] = neck.to(self.dtype, self.device)
        else:
            self._held.pop(slot, None)
        self._known = ((), None)

    def __bool__(self) -> bool:
        return bool(self._held)

    def keep(self, slots: int) -> None:
        """Drop those from this slot on."""
        for slot in [slot for slot in self._held if slot >= slots]:
            self.put(slot, None)

    def add(self, y: torch.Tensor, slots: tuple[int, ...]) -> torch.Tensor:
        """y [rows, length, out] with each row's own added, by the rows' slots."""
        if self._known[0] != slots:
            there = sorted({slot for slot in slots if slot in self._held})
            laid = beside([self._held[slot] for slot in there]) if there else None
            numbers = [there.index(slot) if slot in there else None for slot in slots]
            self._known = (slots, (laid, laid.mask(numbers)) if laid is not None else None)
        known = self._known[1]
        if known is None:
            return y
        found = y.to(self.dtype).reshape(-1, y.shape[-1])
        known[0].add(found, known[1].repeat_interleave(y.shape[1], 0))
        return found.view(y.shape)


@dataclass
class ActiveRows:
    """Which slot each row of the current forward pass uses: ``slots`` [rows], or None when all rows are the base;
    numbers: the same.
    tokens: how many of them that pass reads, in all rows together."""

    slots: torch.Tensor | None = None
    numbers: tuple[int, ...] = ()
    tokens: int = 0


@dataclass
class SlottedLinear:
    """The slots of one linear layer: a [slots, in, rank], b [slots, rank, out]; in_scale [slots, in], out_scale and
    shift [slots, out] once an adapter has them."""

    inputs: int
    outputs: int
    active: ActiveRows
    dtype: torch.dtype
    device: torch.device
    a: torch.Tensor = field(init=False)
    b: torch.Tensor = field(init=False)
    necks: SlottedNecks = field(init=False)
    in_scale: torch.Tensor | None = None
    out_scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None

    _ranks: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        self.necks = SlottedNecks(self.dtype, self.device)
        self.a = torch.zeros(1, self.inputs, 0, dtype=self.dtype, device=self.device)
        self.b = torch.zeros(1, 0, self.outputs, dtype=self.dtype, device=self.device)

    def hook(self, module: nn.Module) -> None:
        """Work beside ``module`` from now on."""
        module.register_forward_pre_hook(self.before)
        module.register_forward_hook(self.after)

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
        self.in_scale = self._vector(self.in_scale, slot, weights.in_scale, self.inputs, 1.0)
        self.out_scale = self._vector(self.out_scale, slot, weights.out_scale, self.outputs, 1.0)
        self.shift = self._vector(self.shift, slot, weights.shift, self.outputs, 0.0)
        self.necks.put(slot, weights.neck)

    def resize(self, slots: int) -> None:
        """So many slots, as wide as the widest of them needs. What they hold stays, new ones are the base."""
        self._ranks = [*self._ranks[:slots], *[0] * (slots - len(self._ranks))]
        self.necks.keep(slots)
        rank = max(self._ranks)
        if (slots, rank) == (self.a.shape[0], self.a.shape[2]):
            return
        kept, wide = min(slots, self.a.shape[0]), min(rank, self.a.shape[2])
        a = torch.zeros(slots, self.inputs, rank, dtype=self.dtype, device=self.device)
        b = torch.zeros(slots, rank, self.outputs, dtype=self.dtype, device=self.device)
        a[:kept, :, :wide] = self.a[:kept, :, :wide]
        b[:kept, :wide] = self.b[:kept, :wide]
        self.a, self.b = a, b
        self.in_scale = self._resized(self.in_scale, slots, 1.0)
        self.out_scale = self._resized(self.out_scale, slots, 1.0)
        self.shift = self._resized(self.shift, slots, 0.0)

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Forward pre-hook: scale each row's input."""
        slots = self.active.slots
        if slots is None or self.in_scale is None:
            return None
        x = self._by_rows(args[0], slots)
        return ((x * self.in_scale[slots].unsqueeze(1)).view(args[0].shape), *args[1:])

    def after(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """Forward hook: correct each row's output."""
        slots = self.active.slots
        if slots is None or not (self.a.shape[2] or self.out_scale is not None or self.shift is not None or self.necks):
            return output
        y = self._by_rows(output, slots)
        if self.a.shape[2]:
            x = self._by_rows(args[0], slots).to(self.dtype)
            y = torch.baddbmm(y.to(self.dtype), torch.bmm(x, self.a[slots]), self.b[slots])
        if self.out_scale is not None:
            y = y * self.out_scale[slots].unsqueeze(1)
        if self.shift is not None:
            y = y + self.shift[slots].unsqueeze(1)
        if self.necks:
            y = self.necks.add(y, self.active.numbers)
        return y.view(output.shape)

    def _by_rows(self, x: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """[rows, length, width], also where a family hands all tokens on in one list."""
        if x.dim() == 3 and x.shape[0] == slots.shape[0]:
            return x
        if x.numel() != self.active.tokens * x.shape[-1]:
            raise AdapterError(
                "This base sends a row's tokens to different layers (a mixture of experts), and such a layer carries "
                "no adapter in a batch. Train the adapter on the attention layers."
            )
        return x.reshape(slots.shape[0], -1, x.shape[-1])

    @property
    def bytes(self) -> int:
        stacks = (self.a, self.b, self.in_scale, self.out_scale, self.shift)
        return self.necks.bytes + sum(stack.numel() * stack.element_size() for stack in stacks if stack is not None)

    def _vector(
        self, stack: torch.Tensor | None, slot: int, vector: torch.Tensor | None, width: int, empty: float
    ) -> torch.Tensor | None:
        """A stack with one slot's vector written; None while no slot has any."""
        if stack is None:
            if vector is None:
                return None
            stack = torch.full((len(self._ranks), width), empty, dtype=self.dtype, device=self.device)
        stack[slot] = empty if vector is None else vector.to(self.device, self.dtype)
        return stack

    def _resized(self, stack: torch.Tensor | None, slots: int, empty: float) -> torch.Tensor | None:
        """A stack with so many slots; None when there are none but the base's."""
        if stack is None or slots == 1:
            return None
        kept = min(slots, stack.shape[0])
        sized = torch.full((slots, stack.shape[1]), empty, dtype=self.dtype, device=self.device)
        sized[:kept] = stack[:kept]
        return sized


@dataclass
class Padded:
    """Inputs of a forward pass: ids [rows, length]; embedded [rows, length, hidden] in their place, or None; mask
    [rows, held + length], positions [rows, length]; the KV cache, which holds ``held`` places."""

    ids: torch.Tensor
    embedded: torch.Tensor | None
    mask: torch.Tensor
    positions: torch.Tensor
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


def _embedded(
    model: Any, ids: torch.Tensor, texts: Sequence[Sequence[int]], prompts: Sequence[SoftPrompt]
) -> torch.Tensor | None:
    if not any(prompt.read for prompt in prompts):
        return None
    found: torch.Tensor = model.get_input_embeddings()(ids).clone()
    for row, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        if prompt.embeddings is not None:
            end = ids.shape[1] - len(text)
            found[row, end - prompt.read : end] = prompt.embeddings.to(found.dtype)
    return found


Logits = Callable[[Sequence[Sequence[int]], Sequence[SoftPrompt], Sequence[int], tuple[int, int]], torch.Tensor]
"""(token ids of rows, soft prompt of each, slot of each, (begin, end) counted back from the right edge) -> logits
[rows, begin - end, vocabulary] of these columns."""


@dataclass
class _Sums:
    loss: float = 0.0
    divergence: float = 0.0
    base_loss: float = 0.0


def scores(
    logits: Logits,
    texts: Sequence[Text],
    slots: Sequence[int],
    prompts: Sequence[SoftPrompt],
    alone: Callable[[int, SoftPrompt], bool],
) -> Iterator[tuple[int, Score]]:
    """(place among ``texts``, its score) as they are done. alone: whether a row must not share a batch."""
    together = [place for place, text in enumerate(texts) if not alone(len(text.ids), prompts[place])]
    batches = [[together[i] for i in part] for part in parts([len(texts[place].ids) for place in together])]
    batches += [[place] for place in range(len(texts)) if place not in set(together)]
    for batch in batches:
        rows = [texts[place] for place in batch]
        sums = [_Sums() for _ in batch]
        longest, wide = max(text.scored for text in rows), max(1, PLACES // len(rows))
        for begin in range(longest, 0, -wide):
            columns = begin, max(0, begin - wide)
            _add(logits, rows, [slots[place] for place in batch], [prompts[place] for place in batch], columns, sums)
        for place, text, total in zip(batch, rows, sums, strict=True):
            count = text.scored
            extra = (total.divergence / count, total.base_loss / count) if text.divergence else (None, None)
            yield place, Score(count, total.loss / count, *extra)


def _add(
    logits: Logits,
    rows: Sequence[Text],
    slots: Sequence[int],
    prompts: Sequence[SoftPrompt],
    columns: tuple[int, int],
    sums: Sequence[_Sums],
) -> None:
    """Add these columns' losses to the rows' sums; without the last token, column c predicts the token at -c."""
    ids = [text.ids[:-1] for text in rows]
    begin, end = columns
    own_logits = logits(ids, prompts, slots, columns)
    wanted = [place for place, text in enumerate(rows) if text.divergence]
    base_logits = None
    if wanted:
        base_logits = logits([ids[p] for p in wanted], [NO_SOFT_PROMPT] * len(wanted), [0] * len(wanted), columns)
    for place, (text, total) in enumerate(zip(rows, sums, strict=True)):
        count = min(begin, text.scored) - end
        if count <= 0:
            continue
        tokens = torch.tensor(text.ids[len(text.ids) - end - count : len(text.ids) - end], device=own_logits.device)
        own = own_logits[place, -count:]
        total.loss += float(token_losses(own, tokens).sum())
        if base_logits is not None and place in wanted:
            base = base_logits[wanted.index(place), -count:]
            total.base_loss += float(token_losses(base, tokens).sum())
            total.divergence += float(token_divergences(own, base).sum())
