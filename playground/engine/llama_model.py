"""The Llama family's forward pass in plain torch, over the loaded model's own weights.

The same sums as Hugging Face's modules without their overhead: q, k, v and gate, up are one product each, adapters are
added per sequence from the adapter slots, and the KV cache is written in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import CausalBias, causal_lower_right

from playground.engine.llama_layout import (
    DOWN,
    GATE_UP,
    OUT,
    QKV,
    HalfProducts,
    Layer,
    MatmulLayouts,
    Packed,
    Weight,
    groups_of,
    is_packed,
    joined,
    layer_of,
    product,
)
from playground.engine.llama_memory import AdapterSlots, CarriedBy, KVCache, Products
from playground.engine.sequence import send
from playground.library.bases import BODY_ONLY

ROPES = ("default", "linear", "llama3")
LIKELIEST = 32
"""Logits of a token that are computed in fp32 where the others are in half precision."""
SMALL = 100_000
"""Models whose layers have fewer numbers are not worth measuring for."""


@dataclass(frozen=True)
class Segment:
    """A chunk of a sequence to prefill. start: its tokens in the KV cache; slot: its adapter's, None = the base."""

    row: int
    ids: Sequence[int]
    start: int
    slot: int | None = None


def unfit(model: Any) -> str:
    """Why a model needs the Hugging Face backend, or "" when this one serves it."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    inner = getattr(config, "hidden_act", "silu") != "silu" or getattr(config, "mlp_bias", False)
    quantised = getattr(config, "quantization_config", None) is not None
    reasons = (
        (config.model_type not in BODY_ONLY, f"{config.model_type} models"),
        (quantised and not getattr(model, "is_loaded_in_4bit", False), "bases quantised otherwise than in 4 bits"),
        (quantised and is_packed(model.get_output_embeddings()), "bases with a quantised head"),
        (sliding and config.model_type != "llama", "sliding windows"),
        (rope.get("rope_type", "default") not in ROPES, f"{rope.get('rope_type')} position scaling"),
        (inner, "this activation"),
    )
    return next((why for so, why in reasons if so), "")


class LlamaModel:
    """Prefill and decode for sequences of a KV cache. Not for several threads at once.

    Weights are kept as views [in, out]. On a CPU in fp32 they are moved to whichever layout is read faster there; the
    model's own parameters become views of the same memory, so nothing is held twice and no value changes. There, half
    precision is for the weights, what is multiplied by them, and the KV cache; adapters and all other sums are fp32.
    dtype: of those; stored: of weights and KV cache."""

    def __init__(self, model: Any) -> None:
        config, body = model.config, model.model
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.hidden, self.eps = config.hidden_size, config.rms_norm_eps
        self.stored, self.device = model.lm_head.weight.dtype, model.lm_head.weight.device
        here = self.device.type == "cpu"
        self.dtype = torch.float32 if here else self.stored
        large = 2 * config.intermediate_size * config.hidden_size >= SMALL
        measured = large and here and self.stored == torch.float32
        for parameter in model.parameters():
            if parameter.dim() == 1:  # nothing keeps the file mapped once the weights below are copied out of it
                parameter.data = parameter.data.clone()
        self.layers = [layer_of(layer, columns=False) for layer in body.layers]
        for one in self.layers:
            one.vectors_to(self.dtype)
        self.head = joined([model.lm_head], columns=False)
        measured = measured and len(self.weights()) > 4 * len(self.layers)  # in 4 bits there is nothing to choose
        self.embedding = body.embed_tokens.weight
        self.norm = body.norm.weight.data.to(self.dtype)
        self._rotary = body.rotary_emb
        self.cos = self.sin = torch.empty(0)
        self.version = 0  # changes when the rotary tables move in memory
        widths = (self.heads * self.head_dim, self.kv_heads * self.head_dim)
        self.groups = groups_of(len(self.layers), self.hidden, widths, self.layers[0].down.shape[0])
        self.matmul: MatmulLayouts | HalfProducts
        if self.stored != self.dtype:
            self.matmul = HalfProducts(self.weights())
            return
        self.matmul = layouts = MatmulLayouts(self.weights, self._decode_for_timing if measured else None)
        if measured and len(self.layers) > 1:
            self._choose_layout(layouts, body.layers, model.lm_head)

    def close(self) -> None:
        """Drop the weights, whoever still holds this object; it computes nothing after that."""
        self.layers = []
        self.head = self.embedding = self.norm = self.cos = self.sin = torch.empty(0, 0)
        self._rotary, self.matmul = None, MatmulLayouts(self.weights, None)

    def weights(self) -> list[Tensor]:
        """What a decode step multiplies by, [in, out] each, in its order; but for what is in 4 bits."""
        found = [w for layer in self.layers for w in (layer.qkv, layer.out, layer.gate_up, layer.down)]
        return [w for w in found if isinstance(w, Tensor)] + [self.head]

    def _choose_layout(self, layouts: MatmulLayouts, layers: Sequence[Any], head: Any) -> None:
        """Lay every fourth layer by columns, time decode steps, and take the faster layout for all."""
        tried = range(1, len(layers), 4)
        for number in tried:
            self.layers[number] = layer_of(layers[number], columns=True)
        columns = layouts.by_columns()
        for number, layer in enumerate(layers):
            if (number in tried) != columns:
                self.layers[number] = layer_of(layer, columns)
        if columns:
            self.head = joined([head], columns)

    @torch.inference_mode()
    def _decode_for_timing(self, rows: int) -> None:
        cache, adapters = KVCache(1, self.kv_heads, self.head_dim, self.stored, self.device), self.new_adapter_slots()
        cache.ensure(rows, 1)
        cache.share(len(self.layers))
        self.extend_rotary(1)
        adapters.select([None] * rows)
        inputs = torch.zeros(3, rows, dtype=torch.long, device=self.device)
        inputs[2] = torch.arange(rows) * cache.length
        self.decode_tensors(inputs, 1, cache, adapters.selected, even=True)

    def new_cache(self, reserve_bytes: int = 0) -> KVCache:
        return KVCache(len(self.layers), self.kv_heads, self.head_dim, self.stored, self.device, reserve_bytes)

    def new_adapter_slots(self) -> AdapterSlots:
        return AdapterSlots(self.groups, self.dtype, self.device)

    @torch.inference_mode()
    def prefill(
        self, segments: Sequence[Segment], cache: KVCache, adapters: AdapterSlots, embedded: Tensor | None = None
    ) -> Tensor:
        """Prefill chunks of several sequences together; logits [segments, vocabulary] of each chunk's last token.
        embedded: [tokens, hidden] in place of the ids' embeddings."""
        states = self.hidden_states(segments, cache, adapters, embedded)
        return self.logits(torch.stack([states[end - 1] for end in accumulate(len(one.ids) for one in segments)]))

    @torch.inference_mode()
    def hidden_states(
        self, segments: Sequence[Segment], cache: KVCache, adapters: AdapterSlots, embedded: Tensor | None = None
    ) -> Tensor:
        """``prefill`` up to the head: the last layer's output [tokens, hidden], the packed segments in their order."""
        longest = max(s.start + len(s.ids) for s in segments)
        cache.ensure(max(s.row for s in segments) + 1, longest)
        self.extend_rotary(longest)
        if embedded is None:
            ids = torch.tensor([token for segment in segments for token in segment.ids])
            embedded = functional.embedding(send(ids, self.device), self.embedding)
        return _Prefill(self, segments, cache, adapters).run(embedded.to(self.device, self.dtype))

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], lengths: Sequence[int], cache: KVCache, adapters: AdapterSlots) -> Tensor:
        """A decode step: one token for each of rows 0 .. n-1, whose caches hold ``lengths`` tokens and whose adapters
        are selected; returns logits [n, vocabulary]."""
        longest = max(lengths) + 1
        cache.ensure(len(tokens), longest)
        self.extend_rotary(longest)
        places = [row * cache.length + length for row, length in enumerate(lengths)]
        inputs, even = send(torch.tensor([tokens, lengths, places]), self.device), min(lengths) + 1 == longest
        with self.matmul.watched(len(tokens)):
            return self.decode_tensors(inputs, longest, cache, adapters.selected, even=even)

    def decode_tensors(
        self, inputs: Tensor, length: int, cache: KVCache, adapters: Products, *, even: bool = False
    ) -> Tensor:
        """``decode`` on tensors alone; it reads none back, so that it can be captured.

        inputs [3, rows]: ids, positions, and where keys and values go, as ``KVCache.write`` numbers places; length:
        past the furthest position, at most the cache's; even: all rows have that length, so nothing is masked."""
        step = _Decode(self, inputs, length, cache, adapters, even)
        return self.logits(step.run(functional.embedding(inputs[0], self.embedding).to(self.dtype)))

    def multiply(self, x: Tensor, weight: Weight, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """``residual + x @ weight + bias``, new."""
        if not isinstance(weight, Packed):
            return self.matmul(x, weight, bias, residual)
        return weight(x) if residual is None else weight(x).add_(residual)

    def logits(self, x: Tensor) -> Tensor:
        """[tokens, hidden] of ``hidden_states`` -> [tokens, vocabulary]."""
        normed = functional.rms_norm(x, (x.shape[-1],), self.norm, self.eps)
        logits = self.matmul(normed, self.head)
        if self.stored == self.dtype:
            return logits
        # rounded to 8 bits, the likeliest would often be equal
        likeliest = logits.topk(min(LIKELIEST, logits.shape[1])).indices
        exact = torch.bmm(self.head.t()[likeliest].float(), normed[:, :, None])[:, :, 0]
        return logits.scatter_(1, likeliest, exact)

    def extend_rotary(self, length: int) -> None:
        """Make the tables of cos and signed sin [positions, head_dim] reach to ``length``."""
        if length > self.cos.shape[0]:
            places = torch.arange(-(-length // 1024) * 1024, device=self.device)[None]
            cos, sin = self._rotary(torch.empty(1, 1, dtype=self.dtype, device=self.device), places)
            sin = torch.cat((-sin[..., : self.head_dim // 2], sin[..., self.head_dim // 2 :]), dim=-1)
            self.cos, self.sin = cos[0], sin[0]
            self.version += 1


class _Forward:
    """One pass over packed tokens; subclasses say where low-rank products and attention come from.

    positions, places [tokens]: rotary positions, and where keys and values go in the KV cache. carried: by tokens, the
    scales and bottlenecks that they carry."""

    def __init__(
        self, model: LlamaModel, cache: KVCache, positions: Tensor, places: Tensor, carried: CarriedBy
    ) -> None:
        self.model, self.cache, self.places, self.carried = model, cache, places, carried
        self.cos, self.sin = model.cos[positions][:, None], model.sin[positions][:, None]  # of every head
        self.changed = {group for _, one in carried for group in (*one.scales, *one.necks)}

    def add_low_rank(self, group: int, x: Tensor, y: Tensor) -> None:
        """Add the tokens' low-rank products of a group, in place: x [tokens, in], y [tokens, sum of outputs]."""
        raise NotImplementedError

    def attention(self, number: int, q: Tensor) -> Tensor:
        """A layer's attention of q [tokens, heads, head_dim] over the KV cache -> [tokens, heads * head_dim]."""
        raise NotImplementedError

    def run(self, x: Tensor) -> Tensor:
        """Embeddings [tokens, hidden] -> the last layer's output."""
        model = self.model
        for number, layer in enumerate(model.layers):
            mixed = self.attention(number, self._queries(number, layer, x))
            x = self.linear(4 * number + OUT, mixed, layer.out, layer.out_bias, x)
            normed = functional.rms_norm(x, (x.shape[-1],), layer.mlp_norm, model.eps)
            gate, up = self.linear(4 * number + GATE_UP, normed, layer.gate_up).chunk(2, dim=1)
            x = self.linear(4 * number + DOWN, functional.silu(gate).mul_(up), layer.down, None, x)
        return x

    def _queries(self, number: int, layer: Layer, x: Tensor) -> Tensor:
        """Queries [tokens, heads, head_dim] with rotary positions; keys and values go into the KV cache."""
        model = self.model
        normed = functional.rms_norm(x, (x.shape[-1],), layer.attention_norm, model.eps)
        y = self.linear(4 * number + QKV, normed, layer.qkv, layer.qkv_bias)
        wide, narrow = model.heads * model.head_dim, model.kv_heads * model.head_dim
        turned = y[:, : wide + narrow].view(-1, model.heads + model.kv_heads, model.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k, size = turned[:, : model.heads], turned[:, model.heads :], (model.head_dim,)
            turned[:, : model.heads] = functional.rms_norm(q, size, layer.q_norm, model.eps)
            turned[:, model.heads :] = functional.rms_norm(k, size, layer.k_norm, model.eps)
        # rotary position embedding (Su et al. 2021), halves layout; sin carries the sign of the first half
        halves = turned.roll(model.head_dim // 2, -1)
        turned.mul_(self.cos).addcmul_(halves, self.sin)
        self.cache.write(number, self.places, y[:, wide:].to(model.stored))
        return turned[:, : model.heads].to(model.stored)

    def linear(
        self, group: int, x: Tensor, weight: Weight, bias: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """A group's product with everything that adapters may do to it; see ``load``."""
        if group not in self.changed:
            y = self.model.multiply(x, weight, bias, residual)
            self.add_low_rank(group, x, y)
            return y
        parts, source = self.model.groups[group].spans, x
        scales = [(rows, one.scales[group]) for rows, one in self.carried if group in one.scales]
        if len(parts) == 1 and any(s.inner[0] is not None for _, s in scales):
            source = x.clone()
            for rows, s in scales:
                if s.inner[0] is not None:
                    source[rows] *= s.inner[0]
        y = self.model.multiply(source, weight, bias)
        for rows, s in scales if len(parts) > 1 else ():
            for number, (vector, (first, last)) in enumerate(zip(s.inner, parts, strict=True)):
                if vector is not None:  # layers that scale a shared input differently: theirs again
                    scaled = x[rows] * vector
                    y[rows, first:last] = (
                        weight.part(number, scaled)
                        if isinstance(weight, Packed)
                        else product(scaled, weight[:, first:last])
                    )
                    if bias is not None:
                        y[rows, first:last] += bias[first:last]
        self.add_low_rank(group, x, y)
        for rows, s in scales:
            if s.outer is not None:
                y[rows] *= s.outer
            if s.shift is not None:
                y[rows] += s.shift
        for rows, one in self.carried:
            for neck, (first, last) in zip(one.necks.get(group, ()), parts, strict=False):
                if neck is not None:
                    neck.add(y[rows, first:last])
        return y if residual is None else y.add_(residual)


class _Prefill(_Forward):
    """Chunks of several sequences, packed; each sees its own sequence alone."""

    def __init__(self, model: LlamaModel, segments: Sequence[Segment], cache: KVCache, adapters: AdapterSlots) -> None:
        device, ends = model.device, accumulate(len(s.ids) for s in segments)
        self.segments = [(slice(end - len(s.ids), end), s) for s, end in zip(segments, ends, strict=True)]
        self.positions = torch.cat([torch.arange(s.start, s.start + len(s.ids), device=device) for s in segments])
        rows = torch.cat([torch.full((len(s.ids),), s.row, device=device) for s in segments])
        carried: CarriedBy = [
            (own, adapter) for own, s in self.segments if (adapter := adapters.adapter(s.slot)) is not None
        ]
        super().__init__(model, cache, self.positions, rows * cache.length + self.positions, carried)
        self.adapters = adapters
        self.masks = [
            mask_of(len(s.ids), s.start + len(s.ids), model.stored, device) for s in segments
        ]  # of all layers

    def add_low_rank(self, group: int, x: Tensor, y: Tensor) -> None:
        for own, segment in self.segments:
            self.adapters.add_slot(group, segment.slot, x[own], y[own])

    def attention(self, number: int, q: Tensor) -> Tensor:
        mixed = q.new_empty(q.shape, dtype=self.model.dtype)
        for (own, segment), mask in zip(self.segments, self.masks, strict=True):
            keys, values = self.cache.keys_values(number, segment.row, segment.start + len(segment.ids))
            mixed[own] = attend(q[own], keys, values, mask)
        return mixed.flatten(1)


class _Decode(_Forward):
    """One token a sequence, with the adapters that are selected for it."""

    def __init__(
        self, model: LlamaModel, inputs: Tensor, length: int, cache: KVCache, adapters: Products, even: bool
    ) -> None:
        _, positions, places = inputs
        super().__init__(model, cache, positions, places, [(slice(None), adapters.selected)])
        self.count, self.length, self.group_size = len(positions), length, model.heads // model.kv_heads
        self.adapters, self.mask = adapters, None
        if not even:
            seen = torch.arange(length, device=model.device)[None] <= positions[:, None]
            mask = _additive(seen, model.stored)[:, None, None]
            self.mask = mask.expand(self.count, 1, self.group_size, length)

    def add_low_rank(self, group: int, x: Tensor, y: Tensor) -> None:
        self.adapters.add(group, x, y)

    def attention(self, number: int, q: Tensor) -> Tensor:
        keys, values = self.cache.keys_values(number, slice(0, self.count), self.length)
        query = q.view(self.count, self.model.kv_heads, self.group_size, self.model.head_dim)
        mixed = functional.scaled_dot_product_attention(
            query, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=self.mask
        )
        return mixed.reshape(self.count, -1).to(self.model.dtype)


def mask_of(tokens: int, total: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """What the last ``tokens`` of a sequence may see of all its ``total``; None where each sees those before it and
    itself alone (``attend``). On CUDA it is a shape that kernels know, without memory: a mask of numbers would leave
    them only the path that writes every head's scores down."""
    if tokens in (1, total):
        return None
    if device.type == "cuda":
        return causal_lower_right(tokens, total)
    places = torch.arange(total, device=device)
    return _additive(places[None] <= places[total - tokens :, None], dtype)


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Causal attention of a sequence's last tokens: q [tokens, heads, head_dim]; keys, values [total, kv_heads,
    head_dim]; mask: ``mask_of``. Returns [tokens, heads, head_dim]."""
    (tokens, heads, width), kv_heads = q.shape, keys.shape[1]
    causal = mask is None and tokens > 1
    if not (q.is_cuda or isinstance(mask, CausalBias)):
        query, key, value = (tensor.transpose(0, 1)[None] for tensor in (q, keys, values))
        got = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, enable_gqa=True
        )
        return got[0].transpose(0, 1)
    # heads that share keys and values as a batch: where flash attention is not to be had (before Ampere, or in fp32)
    # no other fused kernel takes ``enable_gqa``
    query = q.view(tokens, kv_heads, -1, width).permute(2, 1, 0, 3)
    key, value = (tensor.transpose(0, 1).expand(heads // kv_heads, -1, -1, -1) for tensor in (keys, values))
    got = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    return got.permute(2, 1, 0, 3).reshape(tokens, heads, width)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where seen, minus infinity elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
