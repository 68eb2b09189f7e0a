"""Stacked adapter slots beside each linear layer of a Hugging Face model, so that one forward pass serves any mix of adapters.

Row b carries slot k and gets the formula of ``weights.py`` with that slot's matrices and vectors. Slot 0 is the base: zeros and
ones. The base's own weights are never written. Ranks are padded with zeros to the widest one attached. (The batched form: S-LoRA,
Sheng et al. 2023, arXiv:2311.03285.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from playground.engine.weights import ModuleWeights


@dataclass
class ActiveRows:
    """Which slot each row of the current forward pass uses: ``slots`` [rows], or None when all rows are the base."""

    slots: torch.Tensor | None = None


@dataclass
class SlottedLinear:
    """The slots of one linear layer: a [slots, in, rank], b [slots, rank, out]; in_scale [slots, in], out_scale and shift
    [slots, out] once an adapter has them."""

    inputs: int
    outputs: int
    active: ActiveRows
    dtype: torch.dtype
    device: torch.device
    a: torch.Tensor = field(init=False)
    b: torch.Tensor = field(init=False)
    in_scale: torch.Tensor | None = None
    out_scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.a = torch.zeros(1, self.inputs, 0, dtype=self.dtype, device=self.device)
        self.b = torch.zeros(1, 0, self.outputs, dtype=self.dtype, device=self.device)

    def hook(self, module: nn.Module) -> None:
        """Work beside ``module`` from now on."""
        module.register_forward_pre_hook(self.before)
        module.register_forward_hook(self.after)

    def put(self, slot: int, weights: ModuleWeights | None) -> None:
        """Write one slot (None = the base again), growing the stacks where they are too short or too narrow. Stacks are replaced
        or written only at this slot, so rows that carry another go on undisturbed."""
        weights = weights or ModuleWeights()
        self.grow(max(self.a.shape[0], slot + 1), max(self.a.shape[2], weights.rank))
        self.a[slot].zero_()
        self.b[slot].zero_()
        if weights.a is not None and weights.b is not None:
            self.a[slot, :, : weights.rank] = weights.a.t()
            self.b[slot, : weights.rank] = weights.b.t()
        self.in_scale = self._vector(self.in_scale, slot, weights.in_scale, self.inputs, 1.0)
        self.out_scale = self._vector(self.out_scale, slot, weights.out_scale, self.outputs, 1.0)
        self.shift = self._vector(self.shift, slot, weights.shift, self.outputs, 0.0)

    def grow(self, slots: int, rank: int) -> None:
        """Room for so many slots of this rank; what is there stays."""
        if (slots, rank) == (self.a.shape[0], self.a.shape[2]):
            return
        a = torch.zeros(slots, self.inputs, rank, dtype=self.dtype, device=self.device)
        b = torch.zeros(slots, rank, self.outputs, dtype=self.dtype, device=self.device)
        a[: self.a.shape[0], :, : self.a.shape[2]] = self.a
        b[: self.b.shape[0], : self.b.shape[1]] = self.b
        self.a, self.b = a, b

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Forward pre-hook: scale each row's input. x [rows, length, in]."""
        slots = self.active.slots
        if slots is None or self.in_scale is None:
            return None
        return (args[0] * self._picked(self.in_scale, slots, 1.0), *args[1:])

    def after(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """Forward hook: correct each row's output [rows, length, out]."""
        slots = self.active.slots
        if slots is None:
            return output
        if self.a.shape[2]:
            x = args[0].to(self.dtype)
            output = torch.baddbmm(output.to(self.dtype), torch.bmm(x, self.a[slots]), self.b[slots])
        if self.out_scale is not None:
            output = output * self._picked(self.out_scale, slots, 1.0)
        if self.shift is not None:
            output = output + self._picked(self.shift, slots, 0.0)
        return output

    @property
    def bytes(self) -> int:
        stacks = (self.a, self.b, self.in_scale, self.out_scale, self.shift)
        return sum(stack.numel() * stack.element_size() for stack in stacks if stack is not None)

    def _vector(
        self, stack: torch.Tensor | None, slot: int, vector: torch.Tensor | None, width: int, empty: float
    ) -> torch.Tensor | None:
        if stack is None and vector is None:
            return None
        slots = self.a.shape[0]
        if stack is None or stack.shape[0] < slots:
            grown = torch.full((slots, width), empty, dtype=self.dtype, device=self.device)
            if stack is not None:
                grown[: stack.shape[0]] = stack
            stack = grown
        stack[slot] = empty if vector is None else vector.to(self.device, self.dtype)
        return stack

    def _picked(self, stack: torch.Tensor, slots: torch.Tensor, empty: float) -> torch.Tensor:
        """[rows, 1, width]; a slot that came after this stack last grew has nothing in it."""
        if int(slots.max()) >= stack.shape[0]:
            grown = torch.full((int(slots.max()) + 1, stack.shape[1]), empty, dtype=self.dtype, device=self.device)
            grown[: stack.shape[0]] = stack
            stack = grown
        return stack[slots].unsqueeze(1)
