"""Adapter slots of the Llama backend: the adapters that sequences are using lie side by side in memory.

All rows of a decode step multiply all adapters in use at once and a mask selects each row's own share, so two products
a group of layers serve the whole batch (block-diagonal LoRA). Measured at 4 rows: 2.6 ms a step, against 5.0 for one
product per row. Selected, not multiplied: where another row's adapter overflows, infinity times 0 would be NaN. What is
in the slots is finite (``adapter_weights.fitted``). Switching to an adapter that has a slot is an index; another is
copied in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from playground.engine.adapter_weights import Beside, Masked, Neck, beside, numbered
from playground.engine.llama_layout import LinearGroup, PackedAdapter, Pair, Scales


class BankNecks:
    """The necks of a bank's selected rows. Those of one set of adapters are laid side by side once, and stay until a
    row carries one
    that is not among them."""

    def __init__(self) -> None:
        self._laid: list[Mapping[int, Sequence[Neck | None]]] = []
        self._beside: dict[tuple[int, int], Beside] = {}
        self._selected: dict[int, list[Masked | None]] = {}

    @property
    def bytes(self) -> int:
        return sum(laid.bytes for laid in list(self._beside.values()))

    def __bool__(self) -> bool:
        return bool(self._selected)

    def select(self, rows: Sequence[Mapping[int, Sequence[Neck | None]]]) -> None:
        """rows: what each row's adapter has, by place and part; {} = nothing."""
        if not any(rows):
            self._selected = {}
            return
        if not all(any(row is laid for laid in self._laid) for row in rows if row):
            self._laid, self._beside = [], {}
            for row in rows:
                if row and not any(row is laid for laid in self._laid):
                    self._laid.append(row)
        carried = [next((n for n, laid in enumerate(self._laid) if row and row is laid), None) for row in rows]
        masks: dict[tuple[object, ...], torch.Tensor] = {}
        self._selected = {}
        for place in sorted({place for row in rows for place in row}):
            parts = max(len(laid[place]) for laid in self._laid if place in laid)
            self._selected[place] = [self._masked(place, part, carried, masks) for part in range(parts)]

    def get(self, place: int) -> list[Masked | None] | None:
        """Of one group's layers, or None where no selected row has any."""
        return self._selected.get(place)

    def _masked(
        self, place: int, part: int, carried: Sequence[int | None], masks: dict[tuple[object, ...], torch.Tensor]
    ) -> Masked | None:
        necks, numbers = numbered([laid[place][part] if place in laid else None for laid in self._laid], carried)
        if not any(number is not None for number in numbers):
            return None
        if (place, part) not in self._beside:
            self._beside[place, part] = beside(necks)
        laid = self._beside[place, part]
        key = (laid.parts, *numbers)  # the same for nearly all layers
        if key not in masks:
            masks[key] = laid.mask(numbers)
        return laid, masks[key]


SLOTS_MIN = 4
"""Slots that are there from the start: coming back to one of so many adapters costs nothing."""


class AdapterSlots:
    """``acquire`` and ``release`` count users of a slot; ``select`` says which slot each row of the next decode step
    carries. Not for several threads at once."""

    def __init__(self, groups: Sequence[LinearGroup], dtype: torch.dtype, device: torch.device) -> None:
        self.groups = list(groups)
        self._dtype, self._device = dtype, device
        self._rank = 0
        self._slots: list[PackedAdapter | None] = []
        self._users: list[int] = []
        self._leaving: set[int] = set()
        self.a: list[torch.Tensor] = []
        self.b: list[torch.Tensor] = []
        self._targets: dict[tuple[int, int], list[torch.Tensor]] = {}
        self._chosen: tuple[int | None, ...] = ()
        self._first = self._last = 0
        self._masks: dict[int, torch.Tensor] = {}  # True where a column is not the row's own
        self._views_of: dict[tuple[int, int], list[tuple[torch.Tensor, torch.Tensor, int]]] = {}
        self._views: list[tuple[torch.Tensor, torch.Tensor, int]] = []
        self._scales: dict[int, Scales] = {}
        self._necks = BankNecks()
        self._fixed_masks: dict[int, dict[int, torch.Tensor]] = {}
        self.version = 0  # changes when the memory does

    @property
    def bytes(self) -> int:
        """Memory of the slots, used or not, and of the bottlenecks that lie side by side."""
        return self._necks.bytes + sum(tensor.numel() * tensor.element_size() for tensor in (*self.a, *self.b))

    def acquire(self, adapter: PackedAdapter | None) -> int | None:
        """An adapter's slot, filled where it has none yet; None for the base, and for a soft prompt alone."""
        if adapter is None or adapter.soft_prompt_only:
            return None
        slot = next((i for i, there in enumerate(self._slots) if there is not None and there.key == adapter.key), None)
        if slot is None:
            slot = self._free_slot()
            if adapter.rank > self._rank or slot >= self._room:
                self._grow(max(adapter.rank, self._rank), slot + 1)
            self._fill(slot, adapter)
        self._users[slot] += 1
        return slot

    def release(self, slot: int | None) -> None:
        """One user less. The adapter stays until its slot is needed, so that coming back to it is free."""
        if slot is not None:
            self._users[slot] -= 1
            if slot in self._leaving and not self._users[slot]:
                self._empty(slot)

    def remove(self, key: str) -> None:
        """Empty the slot of an adapter once no sequence uses it."""
        for slot, there in enumerate(self._slots):
            if there is not None and there.key == key:
                self._leaving.add(slot)
                if not self._users[slot]:
                    self._empty(slot)

    def select(self, slots: Sequence[int | None]) -> None:
        """Row i of the next decode steps carries the adapter in slots[i]; None = the base."""
        chosen = tuple(slots)
        if chosen == self._chosen:
            return
        self._chosen, self._masks = chosen, {}
        used = {slot for slot in chosen if slot is not None}
        self._first, self._last = (min(used), max(used) + 1) if used else (0, 0)
        if used and (len(used) > 1 or None in chosen):
            mask = self._mask(chosen, self._first, self._last)
            self._masks = {parts: self._widened(mask, parts).to(self._device) for parts in self._parts}
        carried = [self._slots[slot] if slot is not None else None for slot in chosen]
        places = {place for adapter in carried if adapter is not None for place in adapter.scales}
        self._scales = {place: self._stacked_scales(place, carried) for place in places}
        self._necks.select([adapter.necks if adapter is not None else {} for adapter in carried])
        self._set_views()

    def select_fixed(self, slots: Sequence[int | None]) -> bool:
        """``select`` for a captured step: all slots there is room for take part, and the masks stay where they are in
        memory. Returns whether any row carries an adapter. For rows without scales only."""
        self._chosen = ()
        self.select(slots)
        if self._first == self._last:
            return False
        rows = len(slots)
        if rows not in self._fixed_masks:
            self._fixed_masks[rows] = {
                parts: torch.ones(rows, self._room * parts * self._rank, dtype=torch.bool, device=self._device)
                for parts in self._parts
            }
        mask = self._mask(slots, 0, self._room)
        for parts, fixed in self._fixed_masks[rows].items():
            fixed.copy_(self._widened(mask, parts))
        self._first, self._last, self._masks, self._chosen = 0, self._room, self._fixed_masks[rows], ()
        self._set_views()
        return True

    @property
    def low_rank_only(self) -> bool:
        """Whether the selected rows carry low-rank products and nothing else."""
        return not self._scales and not self._necks

    def add(self, place: int, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add the selected rows' low-rank products of a group, in place: x [rows, in], y [rows, sum of outputs]."""
        if not self._views:
            return
        a, b, parts = self._views[place]
        middle = torch.mm(x, a)
        if self._masks:
            middle.masked_fill_(self._masks[parts], 0.0)
        y.addmm_(middle, b)

    def add_slot(self, place: int, slot: int | None, x: torch.Tensor, y: torch.Tensor) -> None:
        """The same for tokens that all carry one slot: x [tokens, in], y [tokens, sum of outputs]."""
        if slot is not None and self._rank:
            own = self._columns(place, slot, slot + 1)
            y.addmm_(torch.mm(x, self.a[place][own].t()), self.b[place][own])

    def bottlenecks(self, place: int) -> list[Masked | None] | None:
        """The selected rows' bottlenecks on each layer of a group, or None where none carries any."""
        return self._necks.get(place)

    def slot_bottlenecks(self, place: int, slot: int | None) -> tuple[Neck | None, ...]:
        """The same of one slot."""
        adapter = self._slots[slot] if slot is not None else None
        return adapter.necks.get(place, ()) if adapter is not None else ()

    def scales(self, place: int) -> Scales | None:
        """What the selected rows multiply a group by, [rows, ...] each, or None where none does."""
        return self._scales.get(place)

    def slot_scales(self, place: int, slot: int | None) -> Scales | None:
        """The same of one slot, [...] each."""
        adapter = self._slots[slot] if slot is not None else None
        return adapter.scales.get(place) if adapter is not None else None

    @property
    def _parts(self) -> set[int]:
        return {len(group.names) for group in self.groups}

    @property
    def _room(self) -> int:
        return 0 if not self.a else self.a[0].shape[0] // max(1, len(self.groups[0].names) * self._rank)

    def _columns(self, place: int, first: int, last: int) -> slice:
        """Rows of a and b that slots first .. last - 1 take in a group."""
        width = len(self.groups[place].names) * self._rank
        return slice(first * width, last * width)

    def _mask(self, slots: Sequence[int | None], first: int, last: int) -> torch.Tensor:
        """[rows, last - first]: False at each row's own slot."""
        mask = torch.ones(len(slots), last - first, dtype=torch.bool)
        for row, slot in enumerate(slots):
            if slot is not None:
                mask[row, slot - first] = False
        return mask

    def _widened(self, mask: torch.Tensor, parts: int) -> torch.Tensor:
        return mask.repeat_interleave(parts * self._rank, dim=1)

    def _set_views(self) -> None:
        """The views that the selected span of slots multiplies with, one for each group; made once for each span."""
        span = (self._first, self._last)
        if span not in self._views_of:
            self._views_of[span] = views = []
            for place, group in enumerate(self.groups if self._first < self._last and self._rank else ()):
                own = self._columns(place, *span)
                views.append((self.a[place][own].t(), self.b[place][own], len(group.names)))
        self._views = self._views_of[span]

    def _free_slot(self) -> int:
        """An empty slot among those that there is room for, else the first without users, else a new one."""
        missing = max(self._room, SLOTS_MIN) - len(self._slots)
        self._slots += [None] * missing
        self._users += [0] * missing
        if None in self._slots:
            return self._slots.index(None)
        if 0 in self._users:
            return self._users.index(0)
        self._slots.append(None)
        self._users.append(0)
        return len(self._slots) - 1

    def _grow(self, rank: int, slots: int) -> None:
        """More or wider slots; their adapters are copied again."""
        room = max(SLOTS_MIN, 1 << (slots - 1).bit_length())
        self._rank, self._targets, self._chosen, self._fixed_masks, self._views_of = rank, {}, (), {}, {}
        self.version += 1
        self.a, self.b = [], []
        for group in self.groups:
            width = room * len(group.names) * rank
            self.a.append(torch.zeros(width, group.inputs, dtype=self._dtype, device=self._device))
            self.b.append(torch.zeros(width, sum(group.outputs), dtype=self._dtype, device=self._device))
        for slot, adapter in enumerate(self._slots):
            if adapter is not None:
                self._fill(slot, adapter)

    def _fill(self, slot: int, adapter: PackedAdapter) -> None:
        if slot in self._chosen:
            self._chosen = ()
        full = all(pair is not None and pair[0].shape[0] == self._rank for group in adapter.matrices for pair in group)
        if self._slots[slot] is not None and not full:
            self._zero(slot)
        self._slots[slot] = adapter
        self._leaving.discard(slot)
        if not full:
            targets = [t for pair in self._targets_of(slot, adapter) for t in pair]
        elif not (targets := self._targets.get((slot, self._rank), [])):
            targets = self._targets[slot, self._rank] = [t for p in self._targets_of(slot, adapter) for t in p]
        sources = [tensor for group in adapter.matrices for pair in group if pair for tensor in pair]
        if sources:
            torch._foreach_copy_(targets, sources)

    def _empty(self, slot: int) -> None:
        self._zero(slot)
        self._slots[slot], self._chosen, self._necks = None, (), BankNecks()
        self._leaving.discard(slot)

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
        group = self.groups[place]
        rows = [adapter.scales.get(place) if adapter is not None else None for adapter in carried]

        def stacked(vectors: list[torch.Tensor | None], empty: float, width: int) -> torch.Tensor | None:
            if all(vector is None for vector in vectors):
                return None
            none = torch.full((width,), empty, dtype=self._dtype, device=self._device)
            return torch.stack([none if vector is None else vector for vector in vectors])

        inner = tuple(
            stacked([row.inner[part] if row else None for row in rows], 1.0, group.inputs)
            for part in range(len(group.names))
        )
        width = sum(group.outputs)
        return Scales(
            inner,
            stacked([row.outer if row else None for row in rows], 1.0, width),
            stacked([row.shift if row else None for row in rows], 0.0, width),
        )
