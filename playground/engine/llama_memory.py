"""What sequences keep in memory on the Llama backend: KV cache, prefix cache, adapter slots.

The adapters in use lie side by side. All rows of a decode step multiply all of them at once and a mask selects each
row's own share, so two products a group of layers serve the whole batch (block-diagonal LoRA): 2.6 ms a step of 4 rows,
against 5.0 for one product per row. Selected, not multiplied: where another row's adapter overflows, infinity times 0
would be NaN. Switching to an adapter that has a slot is an index; another is copied in.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from playground.engine.llama_layout import LinearGroup, PackedAdapter, Pair, Scales
from playground.engine.load import MaskedNecks, StackedNecks, stacked
from playground.engine.request import ROWS_MAX
from playground.engine.sequence import send

STEP = 256
"""Room grows by this many tokens at a time."""
RESERVED_LENGTH = 8192
"""Tokens a row, at most, that room is taken for before they are needed."""
PREFIX_MIN = 16
"""Shorter prefixes are not worth a copy."""
PREFIX_BYTES = 256 * 1024 * 1024
SLOTS_MIN = 4
"""Slots that are there from the start: coming back to one of so many adapters costs nothing."""


class KVCache:
    """One block a layer, [rows, length, 2, kv_heads, head_dim], written by one index_copy; behind it is one
    place more, ``scratch``, for a captured step's padding rows. The caller keeps rows compact with ``move``."""

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        reserve_bytes: int = 0,
    ) -> None:
        """reserve_bytes: as much is taken at once, and past it room grows in larger parts: captured steps end when the
        memory moves. 0 = no more than is needed."""
        self._shape, self._reserve, self._asked = (2, kv_heads, head_dim), reserve_bytes, (0, 0)
        self._layers, self._dtype, self._device = layers, dtype, device
        self.rows, self.length = 0, 0
        self.version = 0  # changes when the memory does
        self.blocks: list[Tensor] = []
        self._flat: list[Tensor] = []  # what they are views of: [rows * length + 1, 2 * kv_heads * head_dim]

    @property
    def bytes(self) -> int:
        """Of all rows; the one scratch place is not counted."""
        return sum(block.nbytes for block in self.blocks)

    @property
    def scratch(self) -> int:
        """The place past all rows, in the numbering of ``write``."""
        return self.rows * self.length

    def ensure(self, rows: int, length: int) -> None:
        """Room for this many rows and tokens; what is there stays."""
        if rows <= self.rows and length <= self.length:
            return
        self._asked = max(self._asked[0], rows), max(self._asked[1], length)
        new_rows, new_length = self._room(*self._asked)
        kept_rows, kept_length = min(self.rows, new_rows), min(self.length, new_length)
        old, self.blocks, self._flat = self.blocks, [], []
        for _ in range(self._layers):
            # zeros, not empty: a masked place may hold anything but NaN
            flat = torch.zeros(
                new_rows * new_length + 1, math.prod(self._shape), dtype=self._dtype, device=self._device
            )
            block = flat[:-1].view(new_rows, new_length, *self._shape)
            if old:
                block[:kept_rows, :kept_length] = old.pop(0)[:kept_rows, :kept_length]
            self.blocks.append(block)
            self._flat.append(flat)
        self.rows, self.length = new_rows, new_length
        self.version += 1

    def _room(self, rows: int, length: int) -> tuple[int, int]:
        """Rows and tokens to take where so many are needed."""
        length = -(-length // STEP) * STEP
        if not self._reserve:
            return rows, length
        part = max(STEP, (1 << length.bit_length()) // 8)  # at most a quarter of it
        rows, length = 1 << (rows - 1).bit_length(), -(-length // part) * part
        token = self._layers * math.prod(self._shape) * self._dtype.itemsize
        while rows < ROWS_MAX and 2 * rows * length * token <= self._reserve:
            rows *= 2
        return rows, max(length, min(self._reserve // (rows * token) // STEP * STEP, RESERVED_LENGTH))

    def share(self, layers: int) -> None:
        """Make so many layers write into the one there is: for a step whose keys and values nobody needs."""
        self.blocks, self._flat = self.blocks * layers, self._flat * layers

    def shrink(self) -> None:
        """Free all memory. Only when no row is in use."""
        self.rows, self.length, self.blocks, self._flat, self._asked = 0, 0, [], [], (0, 0)
        self.version += 1

    def write(self, layer: int, places: Tensor, kv: Tensor) -> None:
        """kv [tokens, 2 * kv_heads * head_dim], keys first, at ``places`` = row * length + position, or ``scratch``."""
        self._flat[layer].index_copy_(0, places, kv)

    def keys_values(self, layer: int, rows: slice | int, length: int) -> tuple[Tensor, Tensor]:
        """Views [..., length, kv_heads, head_dim] of keys and of values."""
        block = self.blocks[layer][rows, :length] if isinstance(rows, slice) else self.blocks[layer][rows][:length]
        keys, values = block.unbind(-3)
        return keys, values

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy a row's first ``tokens`` over another row's."""
        for block in self.blocks:
            block[target, :tokens] = block[source, :tokens]

    def clear(self, row: int, tokens: int) -> None:
        """Zero a row's first ``tokens``."""
        for block in self.blocks:
            block[row, :tokens].zero_()

    def save(self, row: int, tokens: int) -> Tensor:
        """A copy of a row's first ``tokens``, [layers, tokens, 2, kv_heads, head_dim]."""
        return torch.stack([block[row, :tokens] for block in self.blocks])

    def restore(self, row: int, saved: Tensor | None, tokens: int | None = None) -> None:
        """Write the first ``tokens`` (None = all) of what ``save`` gave at a row's start; saved None: nothing."""
        if saved is not None:
            for layer, part in zip(self.blocks, saved[:, :tokens], strict=True):
                layer[row, : part.shape[0]] = part


class PrefixCache:
    """KV caches of sequences that have ended, so that the next question with the same system prompt is prefilled
    quickly. Keyed by adapter and by salt (whose they are); past PREFIX_BYTES the least recently used ones go first.
    bytes: of all that are kept; other threads may read it at any time."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, tuple[int, ...]], Tensor] = OrderedDict()
        self.bytes = 0

    def add(self, adapter: PackedAdapter, tokens: Sequence[int], cache: KVCache, row: int, salt: str = "") -> None:
        """Keep a row's KV cache, with its virtual tokens. salt: whose it is, "" = anybody's."""
        key = (adapter.key, salt, tuple(tokens))
        if key not in self._kept:
            self._kept[key] = cache.save(row, adapter.virtual_tokens + len(tokens))
            self.bytes += self._kept[key].nbytes
        self._kept.move_to_end(key)
        while self._kept and self.bytes > PREFIX_BYTES:
            self.bytes -= self._kept.popitem(last=False)[1].nbytes

    def longest(self, adapter: str, tokens: Sequence[int], salt: str = "") -> tuple[int, Tensor | None]:
        """(tokens, saved KV cache) of the longest known prefix of ``tokens`` under this salt or under none."""
        best, found = 0, None
        for key in self._kept:
            if key[0] == adapter and key[1] in ("", salt) and (length := common_prefix(key[2], tokens)) > best:
                best, found = length, key
        if found is None:
            return 0, None
        self._kept.move_to_end(found)
        return best, self._kept[found]

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(a), len(b)))


class NeckStacks:
    """The bottlenecks of a step's rows. Those of one set of adapters are stacked once, and stay until a row carries
    another adapter."""

    def __init__(self) -> None:
        self._adapters: dict[str, PackedAdapter] = {}
        self._stacked: dict[tuple[int, int], StackedNecks] = {}

    @property
    def bytes(self) -> int:
        return sum(necks.bytes for necks in list(self._stacked.values()))

    def select(self, carried: Sequence[PackedAdapter | None]) -> dict[int, list[MaskedNecks | None]]:
        """By group, what the rows carry on each of its layers. carried: each row's adapter."""
        fresh = {adapter.key: adapter for adapter in carried if adapter is not None and adapter.necks}
        if not fresh.keys() <= self._adapters.keys():
            self._adapters, self._stacked = fresh, {}
        known = {key: number for number, key in enumerate(self._adapters)}
        numbers = [known.get(adapter.key) if adapter is not None else None for adapter in carried]
        masks: dict[tuple[object, ...], Tensor] = {}  # the same for nearly all layers
        layers = {place: len(necks) for adapter in fresh.values() for place, necks in adapter.necks.items()}

        def masked(place: int, part: int) -> MaskedNecks | None:
            necks = [one.necks[place][part] if place in one.necks else None for one in self._adapters.values()]
            if all(number is None or necks[number] is None for number in numbers):
                return None
            if (place, part) not in self._stacked:
                self._stacked[place, part] = stacked(necks)
            found = self._stacked[place, part]
            key = (found.parts, *numbers)
            if key not in masks:
                masks[key] = found.mask(numbers)
            return MaskedNecks(found, masks[key])

        return {place: [masked(place, part) for part in range(count)] for place, count in layers.items()}


class Selected(NamedTuple):
    """By group: what a step's rows scale it by, [rows, ...] each, and the bottlenecks on each of its layers."""

    scales: dict[int, Scales]
    necks: dict[int, list[MaskedNecks | None]]


@dataclass
class Products:
    """The low-rank products of a decode step's rows. views: for each group a [in, columns], b [columns, out], and how
    many layers it has; masks: by that number, True where a column is not the row's own; none: all are every row's."""

    views: list[tuple[Tensor, Tensor, int]]
    masks: dict[int, Tensor]
    selected: Selected

    def add(self, place: int, x: Tensor, y: Tensor) -> None:
        """Add the rows' low-rank products of a group, in place: x [rows, in], y [rows, sum of outputs]."""
        if not self.views:
            return
        a, b, parts = self.views[place]
        middle = torch.mm(x, a)
        if self.masks:
            middle.masked_fill_(self.masks[parts], 0.0)
        y.addmm_(middle, b)


CarriedBy = list[tuple[slice, PackedAdapter | Selected]]


@dataclass
class _Slot:
    """users: sequences that use it; leaving: emptied with the last of them. targets: where a full one is copied."""

    adapter: PackedAdapter | None = None
    users: int = 0
    leaving: bool = False
    targets: list[Tensor] | None = None


class AdapterSlots:
    """``acquire`` and ``release`` count users of a slot; ``select`` says which slot each row of the next decode step
    carries. Not for several threads at once."""

    def __init__(self, groups: Sequence[LinearGroup], dtype: torch.dtype, device: torch.device) -> None:
        self.groups = list(groups)
        self._dtype, self._device = dtype, device
        self._parts = {len(group.names) for group in groups}
        self._rank = 0
        self._slots: list[_Slot] = []
        self.a: list[Tensor] = []
        self.b: list[Tensor] = []
        self._chosen: tuple[int | None, ...] = ()
        self._fixed: dict[int, tuple[tuple[int | None, ...], Products]] = {}
        self._views_of: dict[tuple[int, int], list[tuple[Tensor, Tensor, int]]] = {}
        self._necks, self.selected = NeckStacks(), Products([], {}, Selected({}, {}))
        self.version = 0  # changes when the memory does

    @property
    def bytes(self) -> int:
        """Memory of the slots, used or not, and of stacked bottlenecks."""
        return self._necks.bytes + sum(tensor.nbytes for tensor in (*self.a, *self.b))

    def acquire(self, adapter: PackedAdapter) -> int | None:
        """An adapter's slot, filled where it has none yet; None for the base, and for a soft prompt alone."""
        if adapter.soft_prompt_only:
            return None
        slot = next((i for i, one in enumerate(self._slots) if one.adapter and one.adapter.key == adapter.key), None)
        if slot is None:
            slot = self._free_slot()
            if adapter.rank > self._rank or slot >= self._room:
                self._grow(max(adapter.rank, self._rank), slot + 1)
            self._fill(slot, adapter)
        self._slots[slot].users += 1
        return slot

    def release(self, slot: int | None) -> None:
        """One user less. The adapter stays until its slot is needed, so that coming back to it is free."""
        if slot is not None:
            self._slots[slot].users -= 1
            self._empty_if_left(slot)

    def remove(self, key: str) -> None:
        for slot, there in enumerate(self._slots):
            if there.adapter is not None and there.adapter.key == key:
                there.leaving = True
                self._empty_if_left(slot)

    def select(self, slots: Sequence[int | None]) -> None:
        """Row i of the next decode steps carries the adapter in slots[i]; None = the base."""
        chosen = tuple(slots)
        if chosen == self._chosen:
            return
        used = {slot for slot in chosen if slot is not None}
        self._chosen, first, last = chosen, min(used, default=0), max(used, default=-1) + 1
        masks = self._masks_of(chosen, first, last) if len(used) > 1 or (used and None in chosen) else {}
        carried = [self.adapter(slot) for slot in chosen]
        places = {place for adapter in carried if adapter is not None for place in adapter.scales}
        scales = {place: self._stacked_scales(place, carried) for place in places}
        self.selected = Products(self._views(first, last), masks, Selected(scales, self._necks.select(carried)))

    def fixed(self, rows: int) -> Products | None:
        """For a captured step, the selected rows and the base's after them: all slots there is room for take part, and
        the masks stay where they are in memory. None where no row carries one. For low-rank adapters only."""
        if not self.selected.views:
            return None
        chosen, products = self._fixed.get(rows, ((), None))
        if products is None or chosen != self._chosen:
            masks = self._masks_of([*self._chosen, *[None] * (rows - len(self._chosen))], 0, self._room)
            if products is None:
                products = Products(self._views(0, self._room), masks, Selected({}, {}))
            else:
                for parts, mask in masks.items():
                    products.masks[parts].copy_(mask)
            self._fixed[rows] = self._chosen, products
        return products

    def add_slot(self, place: int, slot: int | None, x: Tensor, y: Tensor) -> None:
        """Add the low-rank products of a group, in place, for tokens that all carry one slot.

        x [tokens, in], y [tokens, sum of outputs]."""
        if slot is not None and self._rank:
            own = self._columns(place, slot, slot + 1)
            y.addmm_(torch.mm(x, self.a[place][own].t()), self.b[place][own])

    def adapter(self, slot: int | None) -> PackedAdapter | None:
        return self._slots[slot].adapter if slot is not None else None

    @property
    def _room(self) -> int:
        return 0 if not self.a else self.a[0].shape[0] // max(1, len(self.groups[0].names) * self._rank)

    def _columns(self, place: int, first: int, last: int) -> slice:
        """Rows of a and b that slots first .. last - 1 take in a group."""
        width = len(self.groups[place].names) * self._rank
        return slice(first * width, last * width)

    def _masks_of(self, slots: Sequence[int | None], first: int, last: int) -> dict[int, Tensor]:
        """By the number of a group's layers: [rows, columns of slots first .. last - 1], False at each row's own."""
        mask = torch.ones(len(slots), last - first, dtype=torch.bool)
        for row, slot in enumerate(slots):
            if slot is not None:
                mask[row, slot - first] = False
        wide = {parts: mask.repeat_interleave(parts * self._rank, dim=1) for parts in self._parts}
        return {parts: send(mask, self._device) for parts, mask in wide.items()}

    def _views(self, first: int, last: int) -> list[tuple[Tensor, Tensor, int]]:
        """What a span of slots multiplies with, as ``Products`` has it; made once for each span."""
        if (first, last) not in self._views_of:
            self._views_of[first, last] = views = []
            for place, group in enumerate(self.groups if first < last and self._rank else ()):
                own = self._columns(place, first, last)
                views.append((self.a[place][own].t(), self.b[place][own], len(group.names)))
        return self._views_of[first, last]

    def _free_slot(self) -> int:
        """An empty slot among those that there is room for, else the first without users, else a new one."""
        self._slots += [_Slot() for _ in range(max(self._room, SLOTS_MIN) - len(self._slots))]
        if all(one.users for one in self._slots):
            self._slots.append(_Slot())
        unused = [slot for slot, one in enumerate(self._slots) if not one.users]
        return next((slot for slot in unused if self._slots[slot].adapter is None), unused[0])

    def _grow(self, rank: int, slots: int) -> None:
        """More or wider slots; their adapters are copied again."""
        room = max(SLOTS_MIN, 1 << (slots - 1).bit_length())
        self._rank, self._chosen, self._fixed, self._views_of = rank, (), {}, {}
        self.version += 1
        self.a, self.b = [], []
        for group in self.groups:
            width = room * len(group.names) * rank
            self.a.append(torch.zeros(width, group.inputs, dtype=self._dtype, device=self._device))
            self.b.append(torch.zeros(width, sum(group.outputs), dtype=self._dtype, device=self._device))
        for slot, one in enumerate(self._slots):
            one.targets = None
            if one.adapter is not None:
                self._fill(slot, one.adapter)

    def _fill(self, slot: int, adapter: PackedAdapter) -> None:
        if slot in self._chosen:
            self._chosen = ()
        full = all(pair is not None and pair[0].shape[0] == self._rank for group in adapter.matrices for pair in group)
        own = self._slots[slot]
        if own.adapter is not None and not full:
            self._zero(slot)
        own.adapter, own.leaving = adapter, False
        targets = own.targets if full else None
        if targets is None:
            targets = [tensor for pair in self._targets_of(slot, adapter) for tensor in pair]
            if full:  # the same views for every adapter that fills the slot
                own.targets = targets
        if targets:
            torch._foreach_copy_(targets, [t for group in adapter.matrices for pair in group if pair for t in pair])

    def _empty_if_left(self, slot: int) -> None:
        own = self._slots[slot]
        if own.leaving and not own.users:
            self._zero(slot)
            own.adapter, own.leaving, self._chosen = None, False, ()
            self._necks, self.selected = NeckStacks(), Products([], {}, Selected({}, {}))

    @torch.inference_mode()
    def _zero(self, slot: int) -> None:
        for place in range(len(self.a)):
            own = self._columns(place, slot, slot + 1)
            self.a[place][own].zero_()
            self.b[place][own].zero_()

    def _targets_of(self, slot: int, adapter: PackedAdapter) -> Iterator[Pair]:
        """Where each of an adapter's pairs belongs: its rows of a, and of b its rows and its layer's columns."""
        for place, (group, pairs) in enumerate(zip(self.groups, adapter.matrices, strict=True)):
            for part, (pair, (start, end)) in enumerate(zip(pairs, group.spans, strict=True)):
                if pair is not None:
                    row = (slot * len(group.names) + part) * self._rank
                    own = slice(row, row + pair[0].shape[0])
                    yield self.a[place][own], self.b[place][own, start:end]

    def _stacked_scales(self, place: int, carried: Sequence[PackedAdapter | None]) -> Scales:
        """The rows' vectors of one group; ones and zeros for rows that have none."""
        group, width = self.groups[place], sum(self.groups[place].outputs)
        rows = [adapter.scales.get(place) if adapter is not None else None for adapter in carried]

        def over(vectors: list[Tensor | None], empty: float, width: int) -> Tensor | None:
            if all(vector is None for vector in vectors):
                return None
            none = torch.full((width,), empty, dtype=self._dtype, device=self._device)
            return torch.stack([none if vector is None else vector for vector in vectors])

        inner = (
            over([row.inner[n] if row else None for row in rows], 1.0, group.inputs) for n in range(len(group.names))
        )
        outer = over([row.outer if row else None for row in rows], 1.0, width)
        return Scales(tuple(inner), outer, over([row.shift if row else None for row in rows], 0.0, width))
