"""Who sees whom among rows laid end to end, and rotary positions, over q, k and v side by side in one tensor [tokens, (heads + 2 kv) * d]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

SHORT = 256
"""Tokens of a row up to which its attention weights are kept for the gradient: measured a third faster than torch's own on a CPU, and
0.1 MB a head at most."""


@dataclass(frozen=True)
class Heads:
    """heads of queries, kv heads of keys and of values, each d wide. scale: of the products of queries and keys."""

    heads: int
    kv: int
    d: int
    scale: float

    @property
    def turned(self) -> int:
        """Columns of queries and keys."""
        return (self.heads + self.kv) * self.d


class Rows:
    """spans: tokens of the shared beginning, then those of each row's rest. A row sees the beginning and itself up to each token."""

    def __init__(self, spans: list[int], like: torch.Tensor) -> None:
        shared, longest = spans[0], max(spans)
        self.spans = spans
        self.shared = shared
        blocked = torch.full((longest, shared + longest), float("-inf"), dtype=like.dtype, device=like.device)
        self.mask = blocked.triu(shared + 1)
        self._short = like.device.type == "cpu" and like.dtype == torch.float32 and shared + longest <= SHORT

    def attend(self, qkv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """[tokens, heads * d], queries and keys turned already."""
        if self._short:
            kept: torch.Tensor = ShortAttention.apply(qkv, self, heads)
            return kept
        parts = [part.view(len(part), heads.heads + 2 * heads.kv, heads.d) for part in qkv.split(self.spans)]
        out = []
        for place, part in enumerate(parts):
            if not len(part):
                continue
            begun = place > 0 and self.shared > 0
            seen = torch.cat((parts[0][:, heads.heads :], part[:, heads.heads :])) if begun else part[:, heads.heads :]
            mask = self.mask[: len(part), : len(seen)] if begun else None
            group = heads.heads // heads.kv
            queries = part[:, : heads.heads].unflatten(1, (heads.kv, group)).permute(1, 2, 0, 3)
            keys, values = (side.transpose(0, 1)[:, None].expand(-1, group, -1, -1) for side in seen.chunk(2, dim=1))
            found = functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=heads.scale
            )
            out.append(found.permute(2, 0, 1, 3).reshape(len(part), -1))
        return torch.cat(out)

    def pieces(self, heads: Heads, qkv: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor, bool]]:
        """For each row: (its place, queries [kv, group * n, d], what it sees [seen, 2 kv, d], its mask, whether the beginning is in it)."""
        at = 0
        for place, n in enumerate(self.spans):
            if not n:
                continue
            here = slice(at, at + n)
            part, begun = qkv[here], place > 0 and self.shared > 0
            seen = (
                torch.cat((qkv[: self.shared, -2 * heads.kv * heads.d :], part[:, -2 * heads.kv * heads.d :]))
                if begun
                else part[:, -2 * heads.kv * heads.d :]
            )
            first = 0 if begun else self.shared
            yield (
                here,
                grouped(part[:, : heads.heads * heads.d], heads),
                seen.unflatten(1, (2 * heads.kv, heads.d)),
                self.mask[:n, first : first + len(seen)],
                begun,
            )
            at += n


def grouped(x: torch.Tensor, heads: Heads) -> torch.Tensor:
    """[n, heads * d] -> [kv, group * n, d]: the heads that share keys and values are one product."""
    n = len(x)
    return x.view(n, heads.kv, -1, heads.d).permute(1, 2, 0, 3).reshape(heads.kv, -1, heads.d)


def put(x: torch.Tensor, there: torch.Tensor, heads: Heads) -> None:
    """The way back, into ``there`` [n, heads * d]."""
    n = len(there)
    there.unflatten(1, (heads.kv, -1, heads.d)).copy_(x.view(heads.kv, -1, n, heads.d).permute(2, 0, 1, 3))


class ShortAttention(torch.autograd.Function):
    """Attention of short rows: q, k, v side by side [tokens, (heads + 2 kv) * d] -> [tokens, heads * d]."""

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, rows: Rows, heads: Heads) -> torch.Tensor:
        out = qkv.new_empty(len(qkv), heads.heads * heads.d)
        kept = []
        for here, q, seen, mask, _ in rows.pieces(heads, qkv):
            scores = torch.bmm(q, seen[:, : heads.kv].permute(1, 2, 0)).mul_(heads.scale)
            scores.unflatten(1, (-1, len(mask))).add_(mask)
            weights = torch.softmax(scores, dim=-1)
            put(torch.bmm(weights, seen[:, heads.kv :].transpose(0, 1)), out[here], heads)
            kept.append(weights)
        ctx.save_for_backward(qkv, *kept)
        ctx.rows, ctx.heads = rows, heads
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        qkv, *kept = ctx.saved_tensors
        rows, heads = ctx.rows, ctx.heads
        back = torch.empty_like(qkv)
        first = qkv.new_zeros(rows.shared, 2 * heads.kv, heads.d)
        for weights, (here, q, seen, _, begun) in zip(kept, rows.pieces(heads, qkv), strict=True):
            asked = grouped(gradient[here], heads)
            to_v = torch.bmm(weights.transpose(1, 2), asked).transpose(0, 1)
            raw = torch.bmm(asked, seen[:, heads.kv :].permute(1, 2, 0))
            raw = torch._softmax_backward_data(raw, weights, -1, weights.dtype).mul_(heads.scale)
            put(torch.bmm(raw, seen[:, : heads.kv].transpose(0, 1)), back[here, : heads.heads * heads.d], heads)
            to_k = torch.bmm(raw.transpose(1, 2), q).transpose(0, 1)
            if begun:
                first[:, : heads.kv] += to_k[: rows.shared]
                first[:, heads.kv :] += to_v[: rows.shared]
                to_k, to_v = to_k[rows.shared :], to_v[rows.shared :]
            sides = back[here, heads.heads * heads.d :].unflatten(1, (2 * heads.kv, heads.d))
            sides[:, : heads.kv] = to_k
            sides[:, heads.kv :] = to_v
        if rows.shared:
            back[: rows.shared, heads.heads * heads.d :].unflatten(1, (2 * heads.kv, heads.d)).add_(first)
        return back, None, None


class Turned(torch.autograd.Function):
    """Rotary positions (Su et al. 2021, arXiv:2104.09864) for the queries and keys of q, k, v side by side, halves apart as the Llama
    family has them; in place. cos, sin [tokens, 1, d / 2]."""

    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: Heads) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.heads = heads
        ctx.mark_dirty(qkv)
        _turn(qkv, cos, sin, heads)
        return qkv

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        back = gradient.clone()
        _turn(back, cos, -sin, ctx.heads)
        return back, None, None, None


def _turn(qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, heads: Heads) -> None:
    a, b = qkv[:, : heads.turned].unflatten(1, (-1, heads.d)).chunk(2, dim=-1)
    old = a * sin
    a.mul_(cos).addcmul_(b, sin, value=-1)
    b.mul_(cos).add_(old)
