"""Stacked adapter slots beside each linear layer of a Hugging Face model, so that one forward pass serves any mix of
adapters.

Row b carries slot k and gets the formula of ``adapter_weights.py`` with that slot's matrices, vectors and bottleneck.
Slot 0 is the
base: zeros and ones. The base's own weights are never written. Ranks are padded with zeros to the widest one there.
(The batched form: S-LoRA, Sheng et al. 2023, arXiv:2311.03285.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from playground.engine.adapter_weights import ModuleWeights
from playground.engine.bottleneck import SlottedNecks
from playground.errors import AdapterError


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
