"""The Llama family's forward pass in plain torch, over the loaded model's own weights.

The same sums as Hugging Face's modules without their overhead: q, k, v and gate, up are one product each, adapters are
added per sequence from the adapter slots, and the KV cache is written in place. Proved equal in
tests/engine/test_llama.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from playground.engine.llama_layout import (
    DOWN,
    GATE_UP,
    OUT,
    QKV,
    Layer,
    MatmulLayouts,
    Scales,
    groups_of,
    joined,
    layer_of,
)
from playground.engine.llama_memory import AdapterSlots, KVCache
from playground.library.bases import BODY_ONLY

ROPES = ("default", "linear", "llama3")
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
    if config.model_type not in BODY_ONLY:
        return f"{config.model_type} models"
    if getattr(config, "quantization_config", None) is not None:
        return "quantised bases"
    if sliding and config.model_type != "llama":
        return "sliding windows"
    if rope.get("rope_type", "default") not in ROPES:
        return f"{rope.get('rope_type')} position scaling"
    if getattr(config, "hidden_act", "silu") != "silu" or getattr(config, "mlp_bias", False):
        return "this activation"
    return ""


class LlamaModel:
    """Prefill and decode for sequences of a KV cache. Not for several threads at once.

    Weights are kept as views [in, out]. On a CPU in fp32 they are moved to whichever layout is read faster there; the
    model's own parameters become views of the same memory, so nothing is held twice and no value changes."""

    def __init__(self, model: Any) -> None:
        config, body = model.config, model.model
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.hidden, self.eps = config.hidden_size, config.rms_norm_eps
        self.dtype, self.device = model.lm_head.weight.dtype, model.lm_head.weight.device
        large = 2 * config.intermediate_size * config.hidden_size >= SMALL
        measured = large and self.device.type == "cpu" and self.dtype == torch.float32
        for parameter in model.parameters():
            if parameter.dim() == 1:  # nothing keeps the file mapped once the weights below are copied out of it
                parameter.data = parameter.data.clone()
        self.layers = [layer_of(layer, columns=False) for layer in body.layers]
        self.head = joined([model.lm_head], columns=False)
        self.embedding = body.embed_tokens.weight
        self.norm = body.norm.weight.data
        self._rotary = body.rotary_emb
        self.cos = self.sin = torch.empty(0)
        self.version = 0  # changes when the rotary tables move in memory
        widths = (self.heads * self.head_dim, self.kv_heads * self.head_dim)
        self.groups = groups_of(len(self.layers), self.hidden, widths, self.layers[0].down.shape[0])
        self.matmul = MatmulLayouts(self.weights, self._decode_for_timing if measured else None)
        if measured and len(self.layers) > 1:
            self._choose_layout(body.layers, model.lm_head)

    def close(self) -> None:
        """Drop the weights, whoever still holds this object; it computes nothing after that."""
        self.layers = []
        self.head = self.embedding = self.norm = self.cos = self.sin = torch.empty(0, 0)
        self._rotary, self.matmul = None, MatmulLayouts(self.weights, None)

    def weights(self) -> list[Tensor]:
        """What a decode step multiplies by, [in, out] each, in its order."""
        return [w for layer in self.layers for w in (layer.qkv, layer.out, layer.gate_up, layer.down)] + [self.head]

    def _choose_layout(self, layers: Sequence[Any], head: Any) -> None:
        """Lay every fourth layer by columns, time decode steps, and take the faster layout for all."""
        tried = range(1, len(layers), 4)
        for number in tried:
            self.layers[number] = layer_of(layers[number], columns=True)
        columns = self.matmul.by_columns()
        for number, layer in enumerate(layers):
            if (number in tried) != columns:
                self.layers[number] = layer_of(layer, columns)
        if columns:
            self.head = joined([head], columns)

    @torch.inference_mode()
    def _decode_for_timing(self, rows: int) -> None:
        cache, adapters = KVCache(1, self.kv_heads, self.head_dim, self.dtype, self.device), self.new_adapter_slots()
        cache.ensure(rows, 1)
        cache.share(len(self.layers))
        self.extend_rotary(1)
        adapters.select([None] * rows)
        ids, positions = torch.zeros(2, rows, dtype=torch.long, device=self.device)
        places = torch.arange(rows, device=self.device) * cache.length
        self.decode_tensors(ids, positions, places, 1, cache, adapters, even=True)

    def new_cache(self) -> KVCache:
        return KVCache(len(self.layers), self.kv_heads, self.head_dim, self.dtype, self.device)

    def new_adapter_slots(self) -> AdapterSlots:
        return AdapterSlots(self.groups, self.dtype, self.device)

    @torch.inference_mode()
    def prefill(
        self, segments: Sequence[Segment], cache: KVCache, adapters: AdapterSlots, embedded: Tensor | None = None
    ) -> Tensor:
        """Prefill chunks of several sequences together; logits [segments, vocabulary] of each chunk's last token.
        embedded: [tokens, hidden] in place of the ids' embeddings."""
        states = self.hidden_states(segments, cache, adapters, embedded)
        ends = list(accumulate(len(segment.ids) for segment in segments))
        return self.logits(states[[end - 1 for end in ends]])

    @torch.inference_mode()
    def hidden_states(
        self, segments: Sequence[Segment], cache: KVCache, adapters: AdapterSlots, embedded: Tensor | None = None
    ) -> Tensor:
        """``prefill`` up to the head: the last layer's output [tokens, hidden], the packed segments in their order."""
        longest = max(s.start + len(s.ids) for s in segments)
        cache.ensure(max(s.row for s in segments) + 1, longest)
        self.extend_rotary(longest)
        if embedded is None:
            ids = torch.tensor([token for segment in segments for token in segment.ids], device=self.device)
            embedded = functional.embedding(ids, self.embedding)
        return _Prefill(self, segments, cache, adapters).run(embedded.to(self.device, self.dtype))

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], lengths: Sequence[int], cache: KVCache, adapters: AdapterSlots) -> Tensor:
        """A decode step: one token for each of rows 0 .. n-1, whose caches hold ``lengths`` tokens and whose adapters
        are selected; returns logits [n, vocabulary]."""
        longest = max(lengths) + 1
        cache.ensure(len(tokens), longest)
        self.extend_rotary(longest)
        ids, positions = torch.tensor([tokens, lengths], device=self.device)
        places = torch.arange(len(tokens), device=self.device) * cache.length + positions
        with self.matmul.watched(len(tokens)):
            even = min(lengths) + 1 == longest
            return self.decode_tensors(ids, positions, places, longest, cache, adapters, even=even)

    def decode_tensors(
        self,
        ids: Tensor,
        positions: Tensor,
        places: Tensor,
        length: int,
        cache: KVCache,
        adapters: AdapterSlots,
        *,
        even: bool = False,
    ) -> Tensor:
        """``decode`` on tensors alone; it reads none back, so that it can be captured.

        ids, positions [rows]; places [rows]: where keys and values go, as ``KVCache.write`` numbers them; length: past
        the furthest position, at most the cache's; even: all rows have that length, so nothing is masked."""
        step = _Decode(self, positions, places, length, cache, adapters, even)
        return self.logits(step.run(functional.embedding(ids, self.embedding)))

    def logits(self, x: Tensor) -> Tensor:
        """[tokens, hidden] of ``hidden_states`` -> [tokens, vocabulary]."""
        return self.matmul(functional.rms_norm(x, (x.shape[-1],), self.norm, self.eps), self.head)

    def extend_rotary(self, length: int) -> None:
        """Make the table of cos and signed sin [positions, all heads of q and k together] reach to ``length``."""
        if length > self.cos.shape[0]:
            places = torch.arange(-(-length // 1024) * 1024, device=self.device)[None]
            cos, sin = self._rotary(torch.empty(1, 1, dtype=self.dtype, device=self.device), places)
            sin = torch.cat((-sin[..., : self.head_dim // 2], sin[..., self.head_dim // 2 :]), dim=-1)
            self.cos, self.sin = (table[0].repeat(1, self.heads + self.kv_heads) for table in (cos, sin))
            self.version += 1


class _Forward:
    """One forward pass over packed tokens; subclasses say how adapters and attention apply to them.

    positions, places [tokens]: rotary positions, and where keys and values go in the KV cache."""

    def __init__(
        self, model: LlamaModel, positions: Tensor, places: Tensor, cache: KVCache, adapters: AdapterSlots
    ) -> None:
        self.model, self.cache, self.adapters, self.places = model, cache, adapters, places
        self.cos, self.sin = model.cos[positions], model.sin[positions]

    def scales(self, group: int) -> list[tuple[int, int, Scales]]:
        """(first token, past the last, what they scale by) of a group's adapters that scale."""
        raise NotImplementedError

    def add_low_rank(self, group: int, x: Tensor, y: Tensor) -> None:
        raise NotImplementedError

    def add_bottlenecks(self, group: int, y: Tensor) -> None:
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
        halves = turned.roll(model.head_dim // 2, -1).view(-1, wide + narrow)
        y[:, : wide + narrow].mul_(self.cos).addcmul_(halves, self.sin)
        self.cache.write(number, self.places, y[:, wide:])
        return turned[:, : model.heads]

    def linear(
        self, group: int, x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """A group's product with everything that adapters may do to it; see ``adapter_weights``."""
        scales, spans, source = self.scales(group), self.model.groups[group].spans, x
        if len(spans) == 1 and any(s.inner[0] is not None for _, _, s in scales):
            source = x.clone()
            for begin, end, s in scales:
                if s.inner[0] is not None:
                    source[begin:end] *= s.inner[0]
        y = self.model.matmul(source, weight, bias)
        for begin, end, s in scales if len(spans) > 1 else ():
            for vector, (first, last) in zip(s.inner, spans, strict=True):
                if vector is not None:  # layers that scale a shared input differently: theirs again
                    y[begin:end, first:last] = torch.mm(x[begin:end] * vector, weight[:, first:last])
                    if bias is not None:
                        y[begin:end, first:last] += bias[first:last]
        self.add_low_rank(group, x, y)
        for begin, end, s in scales:
            if s.outer is not None:
                y[begin:end] *= s.outer
            if s.shift is not None:
                y[begin:end] += s.shift
        self.add_bottlenecks(group, y)
        return y if residual is None else y.add_(residual)


class _Prefill(_Forward):
    """Chunks of several sequences, packed; each sees its own sequence alone."""

    def __init__(self, model: LlamaModel, segments: Sequence[Segment], cache: KVCache, adapters: AdapterSlots) -> None:
        device = model.device
        positions = torch.cat([torch.arange(s.start, s.start + len(s.ids), device=device) for s in segments])
        rows = torch.cat([torch.full((len(s.ids),), s.row, device=device) for s in segments])
        super().__init__(model, positions, rows * cache.length + positions, cache, adapters)
        bounds = pairwise(accumulate((len(s.ids) for s in segments), initial=0))
        self.positions = positions
        self.segments = [(segment, begin, end) for segment, (begin, end) in zip(segments, bounds, strict=True)]
        found = [(adapters.adapter(segment.slot), begin, end) for segment, begin, end in self.segments]
        self.adapted = [(adapter, begin, end) for adapter, begin, end in found if adapter is not None]

    def scales(self, group: int) -> list[tuple[int, int, Scales]]:
        found = [(begin, end, adapter.scales.get(group)) for adapter, begin, end in self.adapted]
        return [(begin, end, scales) for begin, end, scales in found if scales is not None]

    def add_low_rank(self, group: int, x: Tensor, y: Tensor) -> None:
        for segment, begin, end in self.segments:
            self.adapters.add_slot(group, segment.slot, x[begin:end], y[begin:end])

    def add_bottlenecks(self, group: int, y: Tensor) -> None:
        for adapter, begin, end in self.adapted:
            for neck, (first, last) in zip(adapter.necks.get(group, ()), self.model.groups[group].spans, strict=False):
                if neck is not None:
                    neck.add(y[begin:end, first:last])

    def attention(self, number: int, q: Tensor) -> Tensor:
        mixed = torch.empty_like(q)
        for segment, begin, end in self.segments:
            total = segment.start + end - begin
            keys, values = self.cache.keys_values(number, segment.row, total)
            mask = None
            if segment.start:
                seen = torch.arange(total, device=q.device)[None] <= self.positions[begin:end, None]
                mask = _additive(seen, q.dtype)
            got = functional.scaled_dot_product_attention(
                q[begin:end].transpose(0, 1)[None],
                keys.transpose(0, 1)[None],
                values.transpose(0, 1)[None],
                attn_mask=mask,
                is_causal=mask is None,
                enable_gqa=True,
            )
            mixed[begin:end] = got[0].transpose(0, 1)
        return mixed.flatten(1)


class _Decode(_Forward):
    """One token a sequence, with the adapters that the slots have selected."""

    def __init__(
        self,
        model: LlamaModel,
        positions: Tensor,
        places: Tensor,
        length: int,
        cache: KVCache,
        adapters: AdapterSlots,
        even: bool,
    ) -> None:
        super().__init__(model, positions, places, cache, adapters)
        self.count, self.length, self.group_size = len(positions), length, model.heads // model.kv_heads
        self.mask = None
        if not even:
            seen = torch.arange(length, device=model.device)[None] <= positions[:, None]
            mask = _additive(seen, model.dtype)[:, None, None]
            self.mask = mask.expand(self.count, 1, self.group_size, length)

    def scales(self, group: int) -> list[tuple[int, int, Scales]]:
        scales = self.adapters.scales.get(group)
        return [] if scales is None else [(0, self.count, scales)]

    def add_low_rank(self, group: int, x: Tensor, y: Tensor) -> None:
        self.adapters.add(group, x, y)

    def add_bottlenecks(self, group: int, y: Tensor) -> None:
        necks = self.adapters.necks.of.get(group, ())
        for neck, (first, last) in zip(necks, self.model.groups[group].spans, strict=False):
            if neck is not None:
                neck[0].add(y[:, first:last], neck[1])

    def linear(
        self, group: int, x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        if group in self.adapters.scales or group in self.adapters.necks.of:
            return super().linear(group, x, weight, bias, residual)
        y = self.model.matmul(x, weight, bias, residual)
        self.adapters.add(group, x, y)
        return y

    def attention(self, number: int, q: Tensor) -> Tensor:
        keys, values = self.cache.keys_values(number, slice(0, self.count), self.length)
        query = q.view(self.count, self.model.kv_heads, self.group_size, self.model.head_dim)
        mixed = functional.scaled_dot_product_attention(
            query, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=self.mask
        )
        return mixed.reshape(self.count, -1)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where seen, minus infinity elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
