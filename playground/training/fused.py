"""Packed sequences and the training step's forward pass over them, for the Llama family: the model's own modules and
weights, fewer sums around them, gradients written out by hand.

A batch is one line of tokens: the prefix that all rows share, then the rest of each row. Every token has the position,
sees the tokens and gets the gradient that it would in its row alone. B rows of n tokens that share p cost p + B (n - p)
tokens instead of B n. LoRA layers that read the same input are one product; all other layers are called as they are.
Operations give what they take, fp32 or the half precision of a base that stays; attention takes q, k and v side by side
in one tensor [tokens, (heads + 2 kv) * d]. On a processor without autocast a base in bf16 is that in its products
alone: what goes into them is rounded; all else, the adapter and its gradients too, stays in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from playground.training.spec import can_pack_sequences

ROWS_AT_ONCE = 128  # tokens whose logits are held at a time: 25 MB with a vocabulary of 49,152
SHORT = 256  # tokens of a row up to which its attention weights are kept for the gradient: a third faster on a CPU


@dataclass(frozen=True)
class Pair:
    """A frozen weight [out, in], fetched when it is needed, its bias [out] or None, and the LoRA pair's scale. Those of
    one product have one dtype."""

    weight: Callable[[], torch.Tensor]
    bias: torch.Tensor | None
    scale: float
    outputs: int
    dtype: torch.dtype


class LoraProducts(torch.autograd.Function):
    """Several LoRA layers of one input at once: x [tokens, in] -> [tokens, sum of outs]. pairs: one ``Pair`` a layer;
    then A [r, in] and B [out, r] of each, in fp32. Base, correction and their gradients are added up in place; A's
    products are one for all layers."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, pairs: Sequence[Pair], *factors: torch.Tensor) -> torch.Tensor:
        factors = tuple(factor.to(x.dtype) for factor in factors)
        downs, ups = factors[::2], factors[1::2]
        inner = x @ (downs[0] if len(downs) == 1 else torch.cat(downs)).t()
        out = x.new_empty(x.shape[0], sum(pair.outputs for pair in pairs))
        rounded = x if pairs[0].dtype == x.dtype else x.to(pairs[0].dtype)
        at = of = 0
        for pair, down, up in zip(pairs, downs, ups, strict=True):
            part = out[:, at : at + pair.outputs]
            if pair.dtype != x.dtype:
                part.copy_(torch.mm(rounded, pair.weight().t()))
                if pair.bias is not None:
                    part.add_(pair.bias)
            elif pair.bias is None:
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
                if pair.dtype != x.dtype:
                    share = torch.mm(part.to(pair.dtype), pair.weight())
                    back = back.add_(share) if place else back.copy_(share)
                elif place:
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
    """Sum of the cross-entropies of h [tokens, width] under a head [vocabulary, width], labels [tokens]. The gradient
    is made along the way, a few rows at a time, so that the logits of all tokens never stand in memory; in fp16 made
    larger meanwhile, since a GradScaler comes too late for what has vanished here."""

    @staticmethod
    def forward(ctx: Any, h: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        kind = h.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.dtype
        larger = 1024.0 if dtype == torch.float16 else 1.0
        total = h.new_zeros((), dtype=torch.float32)
        back = torch.empty_like(h, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        moved = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        states, matrix = h.to(dtype), head.to(dtype)
        with torch.autocast(kind, enabled=False):
            for place in range(0, len(h), ROWS_AT_ONCE):
                rows, wanted = states[place : place + ROWS_AT_ONCE], labels[place : place + ROWS_AT_ONCE]
                logs = torch.log_softmax((rows @ matrix.t()).float(), dim=1)
                total -= logs.gather(1, wanted[:, None]).sum()
                if back is None and moved is None:
                    continue
                share = logs.exp_()
                share[torch.arange(len(wanted), device=h.device), wanted] -= 1
                share = share.mul_(larger).to(dtype)
                if back is not None:
                    back[place : place + len(rows)] = (share @ matrix).float().div_(larger)
                if moved is not None:
                    moved.add_(share.t() @ rows, alpha=1 / larger)
        ctx.save_for_backward(back, moved)
        ctx.dtype = h.dtype
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        back, moved = ctx.saved_tensors
        half = ctx.dtype  # h's own
        return None if back is None else (back * gradient).to(half), None if moved is None else moved * gradient, None


@dataclass(frozen=True)
class Heads:
    """heads of queries, kv heads of keys and of values, each d wide. scale: of the products of queries and keys."""

    heads: int
    kv: int
    d: int
    scale: float


class Rows:
    """spans: tokens of the shared prefix, then of each row's rest; a row attends to the prefix and itself, causally."""

    def __init__(self, spans: list[int], like: torch.Tensor) -> None:
        self.spans, self.shared, self.longest = spans, spans[0], max(spans)
        shape = (self.longest, self.shared + self.longest)
        blocked = torch.full(shape, float("-inf"), dtype=like.dtype, device=like.device)
        self.mask = blocked.triu(self.shared + 1)
        self._on_cpu = like.device.type == "cpu"
        if not self._on_cpu:  # where row r's token t stands when all rows are as long as the longest: r * longest + t
            places = [row * self.longest + at for row, n in enumerate(spans[1:]) for at in range(n)]
            self.places = torch.tensor(places, device=like.device)

    def attend(self, qkv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """[tokens, heads * d], queries and keys turned already."""
        if not self._on_cpu:
            return self.attend_at_once(qkv, heads, self.places)
        if qkv.dtype == torch.float32 and self.shared + self.longest <= SHORT:
            kept: torch.Tensor = ShortAttention.apply(qkv, self, heads)
            return kept
        out = []
        for _, q, seen, mask, prefixed in self.pieces(heads, qkv):
            queries = q.unflatten(1, (heads.kv, -1, heads.d)).permute(1, 2, 0, 3)
            keys, values = (
                side.transpose(0, 1)[:, None].expand(-1, queries.shape[1], -1, -1) for side in seen.chunk(2, dim=1)
            )
            found = functional.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=mask.to(q.dtype) if prefixed else None,
                is_causal=not prefixed,
                scale=heads.scale,
            )
            out.append(found.permute(2, 0, 1, 3).reshape(len(q), -1))
        return torch.cat(out)

    def attend_at_once(self, qkv: torch.Tensor, heads: Heads, places: torch.Tensor) -> torch.Tensor:
        """The same in one product for the prefix and one for all rows, padded at their end where no token looks: a
        GPU would wait for the calls of many small ones."""
        rows = qkv.new_zeros(len(self.spans) - 1, self.longest, qkv.shape[1])
        rows = rows.flatten(0, 1).index_copy(0, places, qkv[self.shared :]).unflatten(0, (-1, self.longest))
        wide, prefix = heads.heads * heads.d, qkv[None, : self.shared]
        seen = torch.cat((prefix[..., wide:].expand(len(rows), -1, -1), rows[..., wide:]), dim=1)
        mask = self.mask.to(qkv.dtype) if self.shared else None
        out = [_attended(rows[..., :wide], seen, mask, heads).flatten(0, 1).index_select(0, places)]
        if self.shared:
            out.insert(0, _attended(prefix[..., :wide], prefix[..., wide:], None, heads)[0])
        return torch.cat(out)

    def pieces(
        self, heads: Heads, qkv: torch.Tensor
    ) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor, bool]]:
        """For each row: (its place, queries [n, heads * d], what it sees [seen, 2 kv, d], its mask, whether the prefix
        is in it)."""
        wide, at = heads.heads * heads.d, 0
        sides = qkv[:, wide:].unflatten(1, (2 * heads.kv, heads.d))
        for place, n in enumerate(self.spans):
            if not n:
                continue
            here, prefixed = slice(at, at + n), place > 0 and self.shared > 0
            seen = torch.cat((sides[: self.shared], sides[here])) if prefixed else sides[here]
            first = 0 if prefixed else self.shared
            yield here, qkv[here, :wide], seen, self.mask[:n, first : first + len(seen)], prefixed
            at += n


def _attended(q: torch.Tensor, seen: torch.Tensor, mask: torch.Tensor | None, heads: Heads) -> torch.Tensor:
    """[rows, n, heads * d] of queries as wide and keys beside values [rows, seen, 2 kv * d]; without a mask causal."""
    group = heads.heads // heads.kv
    queries = q.unflatten(2, (-1, heads.d)).transpose(1, 2)
    keys, values = (
        side.transpose(1, 2).repeat_interleave(group, dim=1)
        for side in seen.unflatten(2, (2, heads.kv, heads.d)).unbind(2)
    )
    found = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=heads.scale
    )
    return found.transpose(1, 2).flatten(2)


def grouped(x: torch.Tensor, heads: Heads) -> torch.Tensor:
    """[n, heads * d] -> [kv, group * n, d]: the heads that share keys and values are one product."""
    return x.view(len(x), heads.kv, -1, heads.d).permute(1, 2, 0, 3).reshape(heads.kv, -1, heads.d)


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
            scores = torch.bmm(grouped(q, heads), seen[:, : heads.kv].permute(1, 2, 0)).mul_(heads.scale)
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
        for weights, (here, q, seen, _, prefixed) in zip(kept, rows.pieces(heads, qkv), strict=True):
            asked = grouped(gradient[here], heads)
            to_v = torch.bmm(weights.transpose(1, 2), asked).transpose(0, 1)
            raw = torch.bmm(asked, seen[:, heads.kv :].permute(1, 2, 0))
            raw = torch._softmax_backward_data(raw, weights, -1, weights.dtype).mul_(heads.scale)
            put(torch.bmm(raw, seen[:, : heads.kv].transpose(0, 1)), back[here, : heads.heads * heads.d], heads)
            to_k = torch.bmm(raw.transpose(1, 2), grouped(q, heads)).transpose(0, 1)
            if prefixed:
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
    """Rotary positions (Su et al. 2021, arXiv:2104.09864) for the queries and keys of q, k, v side by side, halves
    apart as the Llama family has them; in place. cos, sin [tokens, 1, d / 2]."""

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
    a, b = qkv[:, : (heads.heads + heads.kv) * heads.d].unflatten(1, (-1, heads.d)).chunk(2, dim=-1)
    old = a * sin
    a.mul_(cos).addcmul_(b, sin, value=-1)
    b.mul_(cos).add_(old)


def fits(model: Any) -> bool:
    """Whether a model, with its adapter, can be trained on packed sequences."""
    if getattr(model, "peft_config", None) and model.active_peft_config.is_prompt_learning:
        return False
    several = torch.cuda.device_count() > 1  # each would take a slice of the packed sequence
    return not several and can_pack_sequences(_base(model).config.to_dict())


def packed_loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Sum of the cross-entropies of a ``PackedSequenceCollator`` batch, in nats."""
    base = _base(model)
    body = base.model
    h = body.embed_tokens(batch["input_ids"])[0]
    if h.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        h = h.float()
    cos, sin = (side[0, :, None, : side.shape[-1] // 2] for side in body.rotary_emb(h[None], batch["position_ids"]))
    rows = Rows(batch["spans"].tolist(), h)
    recompute = getattr(model, "recompute", False) and torch.is_grad_enabled()
    more: torch.Tensor | None = None
    for place, layer in enumerate(body.layers, 1):
        kept = batch["learned"] if place == len(body.layers) else None
        if recompute:
            h, more = checkpoint(_layer, layer, h, more, cos, sin, rows, kept, use_reentrant=False)
        else:
            h, more = _layer(layer, h, more, cos, sin, rows, kept)
    _, states = _add_norm(h, more, body.norm)
    head = base.lm_head
    if type(head) is torch.nn.Linear and head.bias is None:
        total: torch.Tensor = AnswerLoss.apply(states, head.weight, batch["labels"])
        return total
    return functional.cross_entropy(_called(head, states).float(), batch["labels"], reduction="sum")


def _layer(
    layer: Any, h: torch.Tensor, more: torch.Tensor | None, cos: Any, sin: Any, rows: Rows, kept: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One decoder layer. The stream is ``h + more``: the sum is made with the next norm. kept: the places that are
    still needed after attention; None = all."""
    attention, mlp = layer.self_attn, layer.mlp
    h, states = _add_norm(h, more, layer.input_layernorm)
    modules = (attention.q_proj, attention.k_proj, attention.v_proj)
    d = attention.head_dim
    heads = Heads(attention.config.num_attention_heads, attention.config.num_key_value_heads, d, attention.scaling)
    qkv = _product(modules, states)
    if qkv is None or hasattr(attention, "q_norm"):
        q, k, v = (
            [_called(module, states) for module in modules]
            if qkv is None
            else qkv.split([heads.heads * d, heads.kv * d, heads.kv * d], dim=1)
        )
        if hasattr(attention, "q_norm"):
            q, k = (
                norm(x.unflatten(1, (-1, d))).flatten(1) for norm, x in ((attention.q_norm, q), (attention.k_norm, k))
            )
        qkv = torch.cat((q, k, v), dim=1)
    mixed = rows.attend(Turned.apply(qkv, cos, sin, heads), heads)
    if kept is not None:
        h, mixed = h.index_select(0, kept), mixed.index_select(0, kept)
    h, states = _add_norm(h, _one(attention.o_proj, mixed), layer.post_attention_layernorm)
    both = _product((mlp.gate_proj, mlp.up_proj), states)
    if both is None:
        inner = mlp.act_fn(_called(mlp.gate_proj, states)) * _called(mlp.up_proj, states)
    else:
        inner = Gated.apply(both)
    return h, _one(mlp.down_proj, inner)


def _called(module: Any, x: torch.Tensor) -> torch.Tensor:
    """A linear layer, adapted or not, whose base may be in another precision."""
    weight = module.weight
    kind = weight.dtype if weight.is_floating_point() else x.dtype
    out: torch.Tensor = module(x) if kind == x.dtype else module(x.to(kind)).to(x.dtype)
    return out


def _add_norm(h: torch.Tensor, more: torch.Tensor | None, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if h.dtype == torch.float32:
        total, out = AddNorm.apply(h, more, norm.weight.float(), norm.variance_epsilon)
        return total, out
    total = h if more is None else h + more
    if type(norm.weight) is torch.nn.Parameter and norm.weight.dtype == total.dtype:  # sums in fp32, kept in neither
        states = functional.rms_norm(total, total.shape[-1:], norm.weight, norm.variance_epsilon)
        return total, states.to(total.dtype)
    return total, norm(total)


def _one(module: Any, x: torch.Tensor) -> torch.Tensor:
    out = _product((module,), x)
    return _called(module, x) if out is None else out


def _product(modules: tuple[Any, ...], x: torch.Tensor) -> torch.Tensor | None:
    """Their outputs side by side where all are plain LoRA over weights of x's precision; None where one is anything
    else, or where autocast decides."""
    if x.dtype == torch.float32 and torch.is_autocast_enabled(x.device.type):
        return None
    pairs: list[Pair] = []
    factors: list[torch.Tensor] = []
    for module in modules:
        found = _pair(module, x.dtype)
        if found is None:
            return None
        pairs.append(found[0])
        factors += found[1]
    out: torch.Tensor = LoraProducts.apply(x, pairs, *factors)
    return out


def _pair(module: Any, dtype: torch.dtype) -> tuple[Pair, tuple[torch.Tensor, torch.Tensor]] | None:
    name = "default"
    if not hasattr(module, "lora_A") or list(module.active_adapters) != [name] or name not in module.lora_A:
        return None
    if module.disable_adapters or module.merged or module.lora_variant or module.lora_bias.get(name):
        return None
    if getattr(module.lora_dropout[name], "p", 0.0):
        return None
    base, a, b = module.get_base_layer(), module.lora_A[name].weight, module.lora_B[name].weight
    if base.weight.requires_grad or a.dtype != torch.float32:
        return None
    rounds = dtype == torch.float32 and base.weight.dtype == torch.bfloat16 and base.weight.device.type == "cpu"
    if type(base) is torch.nn.Linear and (rounds or base.weight.dtype == dtype):
        weight = base.weight
        return Pair(lambda: weight, base.bias, module.scaling[name], base.out_features, weight.dtype), (a, b)
    if type(base).__name__ == "Linear4bit" and getattr(base.weight, "quant_state", None) is not None:
        from bitsandbytes.functional import dequantize_4bit

        packed = base.weight
        if base.compute_dtype not in (None, dtype):
            return None
        return Pair(
            lambda: dequantize_4bit(packed.data, packed.quant_state).to(dtype),
            base.bias,
            module.scaling[name],
            base.out_features,
            dtype,
        ), (a, b)
    return None


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model
