"""The sums of a training step that are written out by hand, with their gradients: fewer passes over memory than module by module.

Each is what the modules compute, to rounding (``tests/training/test_flat.py``). All but ``AnswerLoss`` take and give fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

ROWS_AT_ONCE = 128
"""Tokens whose logits are held at a time: 25 MB with a vocabulary of 49,152."""


@dataclass(frozen=True)
class Pair:
    """A frozen weight [out, in], fetched when it is needed, its bias [out] or None, and the LoRA pair's scale."""

    weight: Callable[[], torch.Tensor]
    bias: torch.Tensor | None
    scale: float
    outputs: int


class LoraProducts(torch.autograd.Function):
    """Several LoRA layers of one input at once: x [tokens, in] -> [tokens, sum of outs]. pairs: one ``Pair`` a layer; then A [r, in] and
    B [out, r] of each. Base, correction and their gradients are added up in place; A's products are one for all layers."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, pairs: Sequence[Pair], *factors: torch.Tensor) -> torch.Tensor:
        downs, ups = factors[::2], factors[1::2]
        inner = x @ (downs[0] if len(downs) == 1 else torch.cat(downs)).t()
        out = x.new_empty(x.shape[0], sum(pair.outputs for pair in pairs))
        at = of = 0
        for pair, down, up in zip(pairs, downs, ups, strict=True):
            part = out[:, at : at + pair.outputs]
            if pair.bias is None:
                torch.mm(x, pair.weight().t(), out=part)
            else:
                torch.addmm(pair.bias, x, pair.weight().t(), out=part)
            part.addmm_(inner[:, of : of + down.shape[0]], up.t(), alpha=pair.scale)
            at, of = at + pair.outputs, of + down.shape[0]
        ctx.pairs = pairs
        ctx.save_for_backward(x, inner, *factors)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        x, inner, *factors = ctx.saved_tensors
        downs, ups = factors[::2], factors[1::2]
        back = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        deep = torch.empty_like(inner)
        found: list[torch.Tensor] = []
        at = of = 0
        for place, (pair, down, up) in enumerate(zip(ctx.pairs, downs, ups, strict=True)):
            part, rank = gradient[:, at : at + pair.outputs], slice(of, of + down.shape[0])
            torch.mm(part, up * pair.scale, out=deep[:, rank])
            found.append(torch.mm(part.t(), inner[:, rank]).mul_(pair.scale))
            if back is not None:
                if place:
                    back.addmm_(part, pair.weight())
                else:
                    torch.mm(part, pair.weight(), out=back)
            at, of = at + pair.outputs, of + down.shape[0]
        joined = downs[0] if len(downs) == 1 else torch.cat(downs)
        if back is not None:
            back.addmm_(deep, joined)
        first = torch.mm(deep.t(), x).split([down.shape[0] for down in downs])
        return back, None, *[one for pair in zip(first, found, strict=True) for one in pair]


class AddNorm(torch.autograd.Function):
    """(h + more, RMS norm of that sum), both [tokens, width]; ``more`` may be None."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, more: torch.Tensor | None, weight: torch.Tensor, eps: float) -> Any:
        total = h if more is None else h + more
        size = torch.linalg.vector_norm(total, dim=-1, keepdim=True)
        factor = size.square_().div_(total.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(total, factor, weight)
        ctx.alone = more is None
        ctx.set_materialize_grads(False)  # of the last sum nothing is asked
        out = (total * factor).mul_(weight)
        return (total.view_as(total) if more is None else total), out

    @staticmethod
    def backward(ctx: Any, straight: torch.Tensor | None, gradient: torch.Tensor) -> Any:
        total, factor, weight = ctx.saved_tensors
        moved = None
        if ctx.needs_input_grad[2]:
            moved = (gradient * total).mul_(factor).sum(0)
        if not (ctx.needs_input_grad[0] or ctx.needs_input_grad[1]):
            return None, None, moved, None
        inner = gradient * weight
        share = torch.linalg.vecdot(inner, total)[:, None].mul_(factor * factor * factor).div_(-total.shape[-1])
        back = inner.mul_(factor).addcmul_(total, share)
        if straight is not None:
            back.add_(straight)
        return back, None if ctx.alone else back, moved, None


class Gated(torch.autograd.Function):
    """silu(gate) * up of [tokens, 2 width], gate first."""

    @staticmethod
    def forward(ctx: Any, both: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, dim=1)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (both,) = ctx.saved_tensors
        gate, up = both.chunk(2, dim=1)
        back = torch.empty_like(both)
        to_gate, to_up = back.chunk(2, dim=1)
        torch.mul(gradient, torch.nn.functional.silu(gate), out=to_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=to_gate)
        return back


class AnswerLoss(torch.autograd.Function):
    """Sum of the cross-entropies of h [tokens, width] under a head [vocabulary, width], labels [tokens]. The gradient is made along
    the way, a few rows at a time, so that the logits of all tokens never stand in memory."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        total = h.new_zeros((), dtype=torch.float32)
        back = torch.empty_like(h) if ctx.needs_input_grad[0] else None
        moved = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        for rows, wanted, place in zip(
            h.split(ROWS_AT_ONCE), labels.split(ROWS_AT_ONCE), range(0, len(h), ROWS_AT_ONCE), strict=True
        ):
            logs = torch.log_softmax((rows @ head.t()).float(), dim=1)
            total -= logs.gather(1, wanted[:, None]).sum()
            if back is None and moved is None:
                continue
            share = logs.exp_()
            share[torch.arange(len(wanted), device=h.device), wanted] -= 1
            share = share.to(h.dtype)
            if back is not None:
                torch.mm(share, head, out=back[place : place + len(rows)])
            if moved is not None:
                moved.addmm_(share.t(), rows)
        ctx.save_for_backward(back, moved)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        back, moved = ctx.saved_tensors
        return None if back is None else back * gradient, None if moved is None else moved * gradient, None
