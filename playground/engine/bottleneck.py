"""Bottleneck adapters in a batch: h + up(act(down(h))) on each row's output of a linear layer, with that row's own
matrices.

Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2020, arXiv:2005.00052. Those of all rows lie side by side and
every row multiplies all of them; a mask between the two products selects its own, as ``bank.py`` does for LoRA. The
reference path does
the same on each layer's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from playground.methods.bottleneck_method import ACTIVATIONS as NAMES
from playground.methods.weights import BottleneckWeights

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {name: getattr(functional, name) for name in NAMES}


@dataclass(frozen=True)
class Neck(BottleneckWeights):
    """One layer's bottleneck, as a batch computes it."""

    @property
    def width(self) -> int:
        return self.down.shape[0]

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.down, self.down_bias, self.up, self.up_bias

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)

    def to(self, dtype: torch.dtype, device: torch.device) -> Neck:
        down, down_bias, up, up_bias = (tensor.to(device, dtype).contiguous() for tensor in self.tensors)
        return Neck(down, down_bias, up, up_bias, self.activation)

    def add(self, y: torch.Tensor) -> None:
        """In place, for tokens that all carry it: y [tokens, out]."""
        inner = ACTIVATIONS[self.activation](torch.addmm(self.down_bias, y, self.down.t()))
        y.addmm_(inner, self.up.t()).add_(self.up_bias)


@dataclass(frozen=True)
class Beside:
    """Several necks of one layer: down [all columns, out], bias [all columns], up [all columns, out]. Each neck has a
    column for each
    of its inner numbers and one that is always act(1), over which its up_bias is divided; parts: (activation, from, to)
    of each."""

    down: torch.Tensor
    bias: torch.Tensor
    up: torch.Tensor
    parts: tuple[tuple[str, int, int], ...]

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.down, self.bias, self.up))

    def mask(self, carried: Sequence[int | None]) -> torch.Tensor:
        """[rows, all columns]: True where the column is of no neck that the row carries; carried: that neck's number,
        None = none."""
        mask = torch.ones(len(carried), self.down.shape[0], dtype=torch.bool)
        for row, number in enumerate(carried):
            if number is not None:
                _, begin, end = self.parts[number]
                mask[row, begin:end] = False
        return mask.to(self.down.device)

    def add(self, y: torch.Tensor, mask: torch.Tensor) -> None:
        """In place: y [rows, out], each without what its mask covers."""
        inner = torch.addmm(self.bias, y, self.down.t())
        if len({activation for activation, _, _ in self.parts}) == 1:
            inner = ACTIVATIONS[self.parts[0][0]](inner)
        else:
            inner = torch.cat(
                [ACTIVATIONS[activation](inner[:, begin:end]) for activation, begin, end in self.parts], dim=1
            )
        y.addmm_(inner.masked_fill_(mask, 0.0), self.up)


def beside(necks: Sequence[Neck]) -> Beside:
    """At least one."""
    down, bias, up, parts, end = [], [], [], [], 0
    for neck in necks:
        one = torch.ones_like(neck.down_bias[:1])
        down += [neck.down, torch.zeros_like(neck.down[:1])]
        bias += [neck.down_bias, one]
        up += [neck.up.t(), (neck.up_bias / ACTIVATIONS[neck.activation](one))[None]]
        parts.append((neck.activation, end, end + neck.width + 1))
        end += neck.width + 1
    return Beside(torch.cat(down), torch.cat(bias), torch.cat(up), tuple(parts))


Masked = tuple[Beside, torch.Tensor]
"""What the rows of a batch carry on one layer: several necks, and whose is whose."""


def numbered(necks: Sequence[Neck | None], carried: Sequence[int | None]) -> tuple[list[Neck], list[int | None]]:
    """Necks without gaps, and the rows' numbers among them; carried: their numbers among ``necks``, None = none."""
    there = [number for number, neck in enumerate(necks) if neck is not None]
    return [neck for neck in necks if neck is not None], [there.index(n) if n in there else None for n in carried]


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
