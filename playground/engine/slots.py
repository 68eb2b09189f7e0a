"""Stacked adapter slots beside each linear layer of the frozen base, so that one forward pass serves any mix of adapters.

For row b with slot k: ``y = W x + B[k] (A[k] x)``, the scale folded into B. Slot 0 is the base: zeros. The base's own
weights are never written. Ranks are padded with zeros to the widest one attached. (LoRA: Hu et al. 2021; the batched
form: S-LoRA, Sheng et al. 2023, arXiv:2311.03285.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass
class ActiveRows:
    """Which slot each row of the current forward pass uses: ``slots`` [rows], or None when all rows are the base."""

    slots: torch.Tensor | None = None


@dataclass(frozen=True)
class LoraWeights:
    """One module's adapter: a [in, rank], b [rank, out] with the scale folded in."""

    a: torch.Tensor
    b: torch.Tensor


@dataclass
class SlottedLinear:
    """The slots of one linear layer: a [slots, in, rank], b [slots, rank, out]."""

    inputs: int
    outputs: int
    active: ActiveRows
    a: torch.Tensor = field(init=False)
    b: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.a = torch.zeros(1, self.inputs, 0)
        self.b = torch.zeros(1, 0, self.outputs)

    def put(self, slot: int, weights: LoraWeights | None, dtype: torch.dtype, device: torch.device) -> None:
        """Write one slot (None = zeros), growing the stack where it is too short or too narrow."""
        rank = max(self.a.shape[2], weights.a.shape[1] if weights else 0)
        slots = max(self.a.shape[0], slot + 1)
        if (slots, rank) != (self.a.shape[0], self.a.shape[2]):
            a = torch.zeros(slots, self.inputs, rank, dtype=dtype, device=device)
            b = torch.zeros(slots, rank, self.outputs, dtype=dtype, device=device)
            a[: self.a.shape[0], :, : self.a.shape[2]] = self.a
            b[: self.b.shape[0], : self.b.shape[1]] = self.b
            self.a, self.b = a, b
        self.a[slot].zero_()
        self.b[slot].zero_()
        if weights:
            self.a[slot, :, : weights.a.shape[1]] = weights.a.to(dtype)
            self.b[slot, : weights.b.shape[0]] = weights.b.to(dtype)

    def add(self, module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """Forward hook: add each row's correction. x [rows, length, in], output [rows, length, out]."""
        slots = self.active.slots
        if slots is None or self.a.shape[2] == 0:
            return output
        x = args[0]
        return torch.baddbmm(output, torch.bmm(x, self.a[slots]), self.b[slots])

    @property
    def bytes(self) -> int:
        return self.a.numel() * self.a.element_size() + self.b.numel() * self.b.element_size()


def out_in(module: nn.Module) -> tuple[int, int] | None:
    """(out, in) of a layer that can carry slots, else None. GPT-2's Conv1D keeps its weight transposed."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D" and weight is not None:
        return weight.shape[1], weight.shape[0]
    return None
