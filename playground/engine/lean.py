"""A lean forward pass for the Llama family, in plain torch over the loaded model's own weights.

The same sums as Hugging Face's modules, without their overhead: q, k, v and gate, up are one product each, adapters are
added per row from a bank, and the cache is written in place. Proved equal in tests/engine/test_lean.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from playground.engine.bank import Group, Layout, RowBank
from playground.engine.cache import RowCache
from playground.engine.products import Products

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROPES = ("default", "linear", "llama3")
QKV, OUT, GATE_UP, DOWN = range(4)


@dataclass
class _Layer:
    """Weights of one decoder layer; ``qkv`` and ``gate_up`` are stacked along their outputs."""

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    out: torch.Tensor
    out_bias: torch.Tensor | None
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


@dataclass(frozen=True)
class Segment:
    """Tokens of one row that are read at once. start: tokens of the row that are in the cache already."""

    row: int
    ids: Sequence[int]
    start: int


def unfit(model: Any) -> str:
    """Why a model needs the reference path, or "" when this one serves it."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    if config.model_type not in FAMILIES:
        return f"{config.model_type} models"
    if getattr(config, "quantization_config", None) is not None:
        return "quantised bases"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True) and config.model_type != "llama":
        return "sliding windows"
    if rope.get("rope_type", "default") not in ROPES:
        return f"{rope.get('rope_type')} position scaling"
    if getattr(config, "hidden_act", "silu") != "silu" or getattr(config, "mlp_bias", False):
        return "this activation"
    return ""


class LeanModel:
    """Reads prompts and writes tokens for rows of a cache. Not for several threads at once."""

    def __init__(self, model: Any) -> None:
        config, body = model.config, model.model
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps = config.rms_norm_eps
        self.embed = body.embed_tokens.weight.data
        self.head = model.lm_head.weight.data
        self.head_bias = None
        self.norm = body.norm.weight.data
        self.layers = [self._layer(layer) for layer in body.layers]
        self._rotary = body.rotary_emb
        self._cos = self._sin = torch.empty(0)
        self.groups = self._groups(len(self.layers), config.hidden_size)
        self.dtype, self.device = self.embed.dtype, self.embed.device
        every = [weight for layer in self.layers for weight in (layer.qkv, layer.out, layer.gate_up, layer.down)]
        self.product = Products([*every, self.head])

    def new_cache(self) -> RowCache:
        return RowCache(len(self.layers), self.kv_heads, self.head_dim, self.dtype, self.device)

    def layout(self, rank: int) -> Layout:
        return Layout(self.groups, rank)

    @torch.inference_mode()
    def read(self, segments: Sequence[Segment], cache: RowCache, bank: RowBank) -> torch.Tensor:
        """Read prompts, or parts of them, for several rows together; returns logits [segments, vocabulary] of each last token."""
        ids = torch.tensor([token for segment in segments for token in segment.ids], device=self.device)
        spans, at = [], 0
        for segment in segments:
            spans.append((at, at + len(segment.ids)))
            at += len(segment.ids)
        positions = torch.cat([torch.arange(s.start, s.start + len(s.ids), device=self.device) for s in segments])
        rows = torch.cat([torch.full((len(s.ids),), s.row, device=self.device) for s in segments])
        cache.ensure(max(s.row for s in segments) + 1, max(s.start + len(s.ids) for s in segments))
        places = rows * cache.length + positions
        cos, sin = self._rope(positions)
        x = functional.embedding(ids, self.embed)

        def add(place: int, source: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            for segment, (begin, end) in zip(segments, spans, strict=True):
                bank.add_segment(bank.layout.places[place], segment.row, source[begin:end], y[begin:end])
            return y

        for number, layer in enumerate(self.layers):
            q, k, v = self._qkv(layer, number, x, cos, sin, functional.linear, add)
            cache.write(number, places, k, v)
            mixed = torch.empty_like(q)
            for segment, (begin, end) in zip(segments, spans, strict=True):
                total = segment.start + end - begin
                keys = cache.k[number][segment.row, :total].transpose(0, 1)[None]
                values = cache.v[number][segment.row, :total].transpose(0, 1)[None]
                query = q[begin:end].transpose(0, 1)[None]
                mask = None
                if segment.start:
                    seen = torch.arange(total, device=self.device)[None] <= positions[begin:end, None]
                    mask = torch.zeros(end - begin, total, dtype=self.dtype, device=self.device).masked_fill_(
                        ~seen, float("-inf")
                    )
                got = functional.scaled_dot_product_attention(
                    query, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=True
                )
                mixed[begin:end] = got[0].transpose(0, 1)
            x = self._rest(layer, number, x, mixed.flatten(1), functional.linear, add)
        last = x[[end - 1 for _, end in spans]]
        return self._logits(last)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], lengths: Sequence[int], cache: RowCache, bank: RowBank) -> torch.Tensor:
        """One token for each of rows 0 .. n-1, whose caches hold ``lengths`` tokens; returns logits [n, vocabulary]."""
        count, longest = len(tokens), max(lengths) + 1
        cache.ensure(count, longest)
        positions = torch.tensor(lengths, device=self.device)
        places = torch.arange(count, device=self.device) * cache.length + positions
        cos, sin = self._rope(positions)
        seen = torch.arange(longest, device=self.device)[None] <= positions[:, None]
        mask = torch.zeros(count, 1, 1, longest, dtype=self.dtype, device=self.device).masked_fill_(
            ~seen[:, None, None], float("-inf")
        )
        tuned = bank.any(count)
        groups = self.heads // self.kv_heads
        mask = mask.expand(count, 1, groups, longest)

        def add(place: int, source: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            if tuned:
                bank.add(bank.layout.places[place], source, y)
            return y

        x = functional.embedding(torch.tensor(tokens, device=self.device), self.embed)
        for number, layer in enumerate(self.layers):
            q, k, v = self._qkv(layer, number, x, cos, sin, self.product, add)
            cache.write(number, places, k, v)
            keys = cache.k[number][:count, :longest].transpose(1, 2)
            values = cache.v[number][:count, :longest].transpose(1, 2)
            query = q.view(count, self.kv_heads, groups, self.head_dim)
            mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            x = self._rest(layer, number, x, mixed.reshape(count, -1), self.product, add)
        return self._logits(x)

    def _qkv(self, layer: _Layer, number: int, x: Any, cos: Any, sin: Any, multiply: Any, add: Any) -> tuple[Any, Any, Any]:
        source = functional.rms_norm(x, (x.shape[-1],), layer.attention_norm, self.eps)
        y = add(4 * number + QKV, source, multiply(source, layer.qkv, layer.qkv_bias))
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        q = y[:, :wide].view(-1, self.heads, self.head_dim)
        k = y[:, wide : wide + narrow].view(-1, self.kv_heads, self.head_dim)
        v = y[:, wide + narrow :].view(-1, self.kv_heads, self.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            q = functional.rms_norm(q, (self.head_dim,), layer.q_norm, self.eps)
            k = functional.rms_norm(k, (self.head_dim,), layer.k_norm, self.eps)
        return _turned(q, cos, sin), _turned(k, cos, sin), v

    def _rest(self, layer: _Layer, number: int, x: Any, mixed: Any, multiply: Any, add: Any) -> Any:
        x = x + add(4 * number + OUT, mixed, multiply(mixed, layer.out, layer.out_bias))
        source = functional.rms_norm(x, (x.shape[-1],), layer.mlp_norm, self.eps)
        y = add(4 * number + GATE_UP, source, multiply(source, layer.gate_up))
        gate, up = y.chunk(2, dim=1)
        inner = functional.silu(gate) * up
        return x + add(4 * number + DOWN, inner, multiply(inner, layer.down))

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(functional.rms_norm(x, (x.shape[-1],), self.norm, self.eps), self.head)

    def _rope(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [tokens, 1, head_dim] from a table that grows as it is needed."""
        needed = int(positions.max()) + 1
        if needed > self._cos.shape[0]:
            size = -(-needed // 1024) * 1024
            places = torch.arange(size, device=self.device)[None]
            cos, sin = self._rotary(torch.empty(1, 1, dtype=self.dtype, device=self.device), places)
            self._cos, self._sin = cos[0].unsqueeze(1), sin[0].unsqueeze(1)
        return self._cos[positions], self._sin[positions]

    def _layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
        return _Layer(
            attention_norm=layer.input_layernorm.weight.data,
            qkv=_stacked([q, k, v]),
            qkv_bias=None if q.bias is None else torch.cat([q.bias.data, k.bias.data, v.bias.data]),
            q_norm=getattr(getattr(attention, "q_norm", None), "weight", None),
            k_norm=getattr(getattr(attention, "k_norm", None), "weight", None),
            out=attention.o_proj.weight.data,
            out_bias=None if attention.o_proj.bias is None else attention.o_proj.bias.data,
            mlp_norm=layer.post_attention_layernorm.weight.data,
            gate_up=_stacked([mlp.gate_proj, mlp.up_proj]),
            down=mlp.down_proj.weight.data,
        )

    def _groups(self, layers: int, hidden: int) -> list[Group]:
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        inner = self.layers[0].down.shape[1]
        groups = []
        for number in range(layers):
            at, mlp = f"model.layers.{number}.self_attn.", f"model.layers.{number}.mlp."
            groups += [
                Group((at + "q_proj", at + "k_proj", at + "v_proj"), hidden, (wide, narrow, narrow)),
                Group((at + "o_proj",), wide, (hidden,)),
                Group((mlp + "gate_proj", mlp + "up_proj"), hidden, (inner, inner)),
                Group((mlp + "down_proj",), inner, (hidden,)),
            ]
        return groups


def _stacked(modules: Sequence[Any]) -> torch.Tensor:
    """Their weights as one; each module's weight becomes a view of it, so nothing is held twice and no value changes."""
    whole = torch.cat([module.weight.data for module in modules])
    start = 0
    for module in modules:
        end = start + module.weight.shape[0]
        module.weight.data = whole[start:end]
        start = end
    return whole


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (Su et al. 2021), halves layout: x [tokens, heads, head_dim]."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin
