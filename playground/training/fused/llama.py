"""Packed sequences and the training step's forward pass over them, for the Llama family: the model's own modules and
weights, fewer sums around them.

A batch is one line of tokens: the prefix that all rows share, then the rest of each row. Every token has the position
and sees the tokens that it would in its row alone, and its gradient is the same
(``tests/training/test_packed_sequences.py``). A batch of B rows with p shared tokens of n each costs p + B (n - p)
tokens instead of B n.

LoRA layers that read the same input are one product; DoRA, IA3, bottlenecks and layers that are trained themselves are
called as they are. Other families, and methods whose virtual tokens stand before the text, train through their own
forward pass on padded rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from playground.data.render import Rendered
from playground.training.estimate import can_pack_sequences
from playground.training.fused.ops import AddNorm, AnswerLoss, Gated, Heads, LoraProducts, Pair, Rows, Turned

WORTH = 1 / 50
"""Share of a batch's tokens that sharing a prefix must save: below that the bookkeeping costs as much."""


class PackedSequenceCollator:
    """Builds ``input_ids`` and ``position_ids`` [1, tokens], ``spans`` [1 + rows], ``learned`` and ``labels`` [tokens
    that count].

    spans: tokens of the shared prefix (0 = none is shared), then those of each row's rest. learned: the place in the
    line that predicts each label. A row's last token predicts nothing, so it is not read."""

    def __call__(self, rows: Sequence[Rendered]) -> dict[str, Any]:
        shared = shared_tokens(rows)
        ids, positions = rows[0].prompt_ids[:shared], list(range(shared))
        spans, learned, labels = [shared], [], []
        for row in rows:
            first = len(ids) - shared + len(row.prompt_ids) - 1  # the place of the prompt's last token
            rest = (row.prompt_ids + row.completion_ids)[shared:-1]
            ids += rest
            positions += range(shared, shared + len(rest))
            spans.append(len(rest))
            read = {place for begin, end in row.read for place in range(begin, end)}
            for place, token in enumerate(row.completion_ids):
                if place not in read:
                    learned.append(first + place)
                    labels.append(token)
        found = {"spans": spans, "learned": learned, "labels": labels}
        line = {"input_ids": [ids], "position_ids": [positions]}
        return {name: torch.tensor(value, dtype=torch.long) for name, value in {**line, **found}.items()}


def shared_tokens(rows: Sequence[Rendered]) -> int:
    """How many tokens at the start of these rows are computed once for all of them; 0 where that saves less than
    ``WORTH``. The last token of a prompt is never among them: it predicts each row's answer."""
    if len(rows) < 2:
        return 0
    prompts = [row.prompt_ids for row in rows]
    low, high = min(prompts), max(prompts)  # what the first and the last in order have in common, all have
    most = min(map(len, prompts)) - 1
    common = next((place for place in range(most) if low[place] != high[place]), max(most, 0))
    return common if common * (len(rows) - 1) >= WORTH * sum(row.tokens for row in rows) else 0


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
    if type(head) is torch.nn.Linear and head.bias is None and states.dtype == head.weight.dtype:
        total: torch.Tensor = AnswerLoss.apply(states, head.weight, batch["labels"])
        return total
    return functional.cross_entropy(head(states).float(), batch["labels"], reduction="sum")


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
            [module(states) for module in modules]
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
    inner = mlp.act_fn(mlp.gate_proj(states)) * mlp.up_proj(states) if both is None else Gated.apply(both)
    return h, _one(mlp.down_proj, inner)


def _add_norm(h: torch.Tensor, more: torch.Tensor | None, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if h.dtype == norm.weight.dtype == torch.float32:
        total, out = AddNorm.apply(h, more, norm.weight, norm.variance_epsilon)
        return total, out
    total = h if more is None else h + more
    return total, norm(total)


def _one(module: Any, x: torch.Tensor) -> torch.Tensor:
    out = _product((module,), x)
    return module(x) if out is None else out


def _product(modules: tuple[Any, ...], x: torch.Tensor) -> torch.Tensor | None:
    """Their outputs side by side where all are plain LoRA in fp32; None where one is anything else."""
    pairs: list[Pair] = []
    factors: list[torch.Tensor] = []
    for module in modules:
        found = _pair(module)
        if found is None or x.dtype != torch.float32:
            return None
        pairs.append(found[0])
        factors += found[1]
    out: torch.Tensor = LoraProducts.apply(x, pairs, *factors)
    return out


def _pair(module: Any) -> tuple[Pair, tuple[torch.Tensor, torch.Tensor]] | None:
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
    if type(base) is torch.nn.Linear and base.weight.dtype == torch.float32:
        weight = base.weight
        return Pair(lambda: weight, base.bias, module.scaling[name], base.out_features), (a, b)
    if type(base).__name__ == "Linear4bit" and getattr(base.weight, "quant_state", None) is not None:
        from bitsandbytes.functional import dequantize_4bit

        packed = base.weight
        if base.compute_dtype not in (None, torch.float32):
            return None
        return Pair(
            lambda: dequantize_4bit(packed.data, packed.quant_state).to(torch.float32),
            base.bias,
            module.scaling[name],
            base.out_features,
        ), (a, b)
    return None


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model
