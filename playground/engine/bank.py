"""Adapters of the lean path: each lies flat in one piece of memory, and joining the batch copies it into the row's place.

Gathering slots by index at every step costs more than the copy at the join (measured: 5.7 ms a step against 1 ms once).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from playground.engine.slots import LoraWeights


@dataclass(frozen=True)
class Group:
    """Linear layers that read the same input and are one product: names, input width, output widths."""

    names: tuple[str, ...]
    inputs: int
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where a group lies in a flat adapter: a [inputs, parts * rank] and one b [rank, out] for each part, as offsets."""

    group: Group
    a: int
    b: tuple[int, ...]


class Layout:
    """Offsets of every group for one rank; ``size`` floats in all."""

    def __init__(self, groups: Sequence[Group], rank: int) -> None:
        self.rank = rank
        self.places: list[Place] = []
        offset = 0
        for group in groups:
            a = offset
            offset += group.inputs * rank * len(group.names)
            b = []
            for width in group.outputs:
                b.append(offset)
                offset += rank * width
            self.places.append(Place(group, a, tuple(b)))
        self.size = offset

    def pack(self, weights: Mapping[str, LoraWeights], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """One adapter, flat, padded with zeros to this layout's rank."""
        flat = torch.zeros(self.size, dtype=dtype, device=device)
        for place in self.places:
            group = place.group
            a = flat[place.a : place.a + group.inputs * self.rank * len(group.names)].view(
                group.inputs, len(group.names), self.rank
            )
            for part, (name, width, offset) in enumerate(zip(group.names, group.outputs, place.b, strict=True)):
                if name in weights:
                    found = weights[name]
                    own = found.a.shape[1]
                    a[:, part, :own] = found.a
                    flat[offset : offset + self.rank * width].view(self.rank, width)[:own] = found.b
        return flat


class RowBank:
    """One flat adapter for each row of the batch. ``tuned``: how many rows carry an adapter at all."""

    def __init__(self, layout: Layout, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.layout = layout
        self._flat = torch.zeros(rows, layout.size, dtype=dtype, device=device)
        self._filled = [False] * rows

    def put(self, row: int, flat: torch.Tensor | None) -> None:
        """Give a row its adapter, or none."""
        if flat is not None:
            self._flat[row].copy_(flat)
        elif self._filled[row]:
            self._flat[row].zero_()
        self._filled[row] = flat is not None

    def any(self, rows: int) -> bool:
        """Whether one of the first ``rows`` rows carries an adapter."""
        return any(self._filled[:rows])

    def add(self, place: Place, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add each row's correction to its product, in place: x [rows, in], y [rows, sum of outputs]."""
        rows, rank, group = x.shape[0], self.layout.rank, place.group
        parts = len(group.names)
        a = self._flat[:rows, place.a : place.a + group.inputs * rank * parts].view(rows, group.inputs, parts * rank)
        middle = torch.bmm(x.unsqueeze(1), a)
        start = 0
        for part, (width, offset) in enumerate(zip(group.outputs, place.b, strict=True)):
            b = self._flat[:rows, offset : offset + rank * width].view(rows, rank, width)
            y[:, start : start + width].unsqueeze(1).baddbmm_(middle[:, :, part * rank : (part + 1) * rank], b)
            start += width

    def add_segment(self, place: Place, row: int, x: torch.Tensor, y: torch.Tensor) -> None:
        """The same for many tokens of one row: x [tokens, in], y [tokens, sum of outputs]."""
        if not self._filled[row]:
            return
        rank, group = self.layout.rank, place.group
        parts = len(group.names)
        flat = self._flat[row]
        middle = x @ flat[place.a : place.a + group.inputs * rank * parts].view(group.inputs, parts * rank)
        start = 0
        for part, (width, offset) in enumerate(zip(group.outputs, place.b, strict=True)):
            b = flat[offset : offset + rank * width].view(rank, width)
            y[:, start : start + width].addmm_(middle[:, part * rank : (part + 1) * rank], b)
            start += width
