"""A lean forward pass for the Llama family, in plain torch over the loaded model's own weights.

The same sums as Hugging Face's modules, without their overhead: q, k, v and gate, up are one product each, adapters are
added per row from a bank, and the cache is written in place. Proved equal in tests/engine/test_lean.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch.nn import functional

from playground.engine.bank import Bank
from playground.engine.cache import RowCache
from playground.engine.lean_layers import DOWN, GATE_UP, OUT, QKV, Layer, groups_of, joined, layer_of
from playground.engine.packed import Group, Scales
from playground.engine.products import Products
from playground.library.carried import BODY_ONLY

ROPES = ("default", "linear", "llama3")
SMALL = 100_000
"""Models whose layers have fewer numbers are not worth measuring for."""


@dataclass(frozen=True)
class Segment:
    """Tokens of one row that are read at once. start: tokens of the row that are in the cache already.
    slot: where its adapter lies in the bank, None = the base."""

    row: int
    ids: Sequence[int]
    start: int
    slot: int | None = None


def unfit(model: Any) -> str:
    """Why a model needs the reference path, or "" when this one serves it."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    if config.model_type not in BODY_ONLY:
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
    """Reads prompts and writes tokens for rows of a cache. Not for several threads at once.

    Weights are kept as views [in, out]. On a CPU in fp32 they are moved to whichever layout is read faster there; the model's
    own parameters become views of the same memory, so nothing is held twice and no value changes.
    """

    def __init__(self, model: Any) -> None:
        config, body = model.config, model.model
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.hidden, self.eps = config.hidden_size, config.rms_norm_eps
        self.dtype, self.device = model.lm_head.weight.dtype, model.lm_head.weight.device
        largest = (2 * config.intermediate_size, config.hidden_size)
        tuned = self.device.type == "cpu" and self.dtype == torch.float32 and largest[0] * largest[1] >= SMALL
        for parameter in (parameter for parameter in model.parameters() if parameter.dim() == 1):
            parameter.data = parameter.data.clone()  # nothing keeps the file mapped once the weights below are copied out of it
        self.layers = [layer_of(layer, columns=False) for layer in body.layers]
        self.head = joined([model.lm_head], columns=False)
        self._embedding = body.embed_tokens.weight
        self.norm = body.norm.weight.data
        self._rotary = body.rotary_emb
        self._cos = self._sin = torch.empty(0)
        self.version = 0  # changes when the rotary tables move in memory
        widths = (self.heads * self.head_dim, self.kv_heads * self.head_dim)
        self.groups = groups_of(len(self.layers), self.hidden, widths, self.layers[0].down.shape[0])
        self.product = Products(self.weights, self._one_step if tuned else None)
        if tuned and len(self.layers) > 1:
            self._lay(body.layers, model.lm_head)

    def close(self) -> None:
        """Let go of the weights, whoever still holds this object; it reads nothing after that."""
        self.layers = []
        self.head = self._embedding = self.norm = self._cos = self._sin = torch.empty(0, 0)
        self._rotary, self.product = None, Products(self.weights, None)

    def weights(self) -> list[torch.Tensor]:
        """What a decode step multiplies by, [in, out] each, in its order."""
        return [w for layer in self.layers for w in (layer.qkv, layer.out, layer.gate_up, layer.down)] + [self.head]

    def _lay(self, layers: Sequence[Any], head: Any) -> None:
        """Every fourth layer is laid by columns, and what decode steps then show decides for all. One layer's memory is held twice."""
        tried = range(1, len(layers), 4)
        for number in tried:
            self.layers[number] = layer_of(layers[number], columns=True)
        columns = self.product.by_columns()
        for number, layer in enumerate(layers):
            if (number in tried) != columns:
                self.layers[number] = layer_of(layer, columns)
        if columns:
            self.head = joined([head], columns)

    @torch.inference_mode()
    def _one_step(self, rows: int) -> None:
        """A decode step over nobody's rows, for its time."""
        cache, bank = RowCache(1, self.kv_heads, self.head_dim, self.dtype, self.device), self.new_bank()
        cache.ensure(rows, 1)
        cache.share(len(self.layers))
        self.ready_for(1)
        bank.select([None] * rows)
        ids, positions = torch.zeros(2, rows, dtype=torch.long, device=self.device)
        places = torch.arange(rows, device=self.device) * cache.length
        self.decode(ids, positions, places, 1, cache, bank, even=True)

    def new_cache(self) -> RowCache:
        return RowCache(len(self.layers), self.kv_heads, self.head_dim, self.dtype, self.device)

    def new_bank(self) -> Bank:
        return Bank(self.groups, self.dtype, self.device)

    @torch.inference_mode()
    def read(
        self, segments: Sequence[Segment], cache: RowCache, bank: Bank, embedded: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Read prompts, or parts of them, for several rows together; returns logits [segments, vocabulary] of each last token.
        embedded: [tokens, hidden] in place of what the tokens' ids stand for."""
        states = self.states(segments, cache, bank, embedded)
        ends = list(accumulate(len(segment.ids) for segment in segments))
        return self.logits(states[[end - 1 for end in ends]])

    @torch.inference_mode()
    def states(
        self, segments: Sequence[Segment], cache: RowCache, bank: Bank, embedded: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The same up to the head: what the last layer makes of every token, [tokens, hidden], the segments one after another."""
        ids = torch.tensor([token for segment in segments for token in segment.ids], device=self.device)
        spans, at = [], 0
        for segment in segments:
            spans.append((at, at + len(segment.ids)))
            at += len(segment.ids)
        positions = torch.cat([torch.arange(s.start, s.start + len(s.ids), device=self.device) for s in segments])
        rows = torch.cat([torch.full((len(s.ids),), s.row, device=self.device) for s in segments])
        cache.ensure(max(s.row for s in segments) + 1, max(s.start + len(s.ids) for s in segments))
        places = rows * cache.length + positions
        self.ready_for(max(s.start + len(s.ids) for s in segments))
        cos, sin = self._cos[positions], self._sin[positions]

        def apply(place: int, x: torch.Tensor, weight: torch.Tensor, bias: Any = None, residual: Any = None) -> torch.Tensor:
            pieces = [
                (begin, end, scales)
                for segment, (begin, end) in zip(segments, spans, strict=True)
                if (scales := bank.segment_scales(place, segment.slot)) is not None
            ]

            def add(y: torch.Tensor) -> None:
                for segment, (begin, end) in zip(segments, spans, strict=True):
                    bank.add_segment(place, segment.slot, x[begin:end], y[begin:end])

            def narrow(y: torch.Tensor) -> None:
                for segment, (begin, end) in zip(segments, spans, strict=True):
                    necks = bank.segment_necks(place, segment.slot)
                    for neck, (first, last) in zip(necks, self.groups[place].spans, strict=False):
                        if neck is not None:
                            neck.add(y[begin:end, first:last])

            return self._apply(self.groups[place], x, weight, bias, residual, pieces, add, narrow)

        x = functional.embedding(ids, self._embedding) if embedded is None else embedded.to(self.device, self.dtype)
        for number, layer in enumerate(self.layers):
            q = self._attend(layer, number, x, cos, sin, cache, places, apply)
            mixed = torch.empty_like(q)
            for segment, (begin, end) in zip(segments, spans, strict=True):
                total = segment.start + end - begin
                keys, values = cache.keys_values(number, segment.row, total)
                mask = None
                if segment.start:
                    seen = torch.arange(total, device=self.device)[None] <= positions[begin:end, None]
                    mask = _additive(seen, self.dtype)
                got = functional.scaled_dot_product_attention(
                    q[begin:end].transpose(0, 1)[None],
                    keys.transpose(0, 1)[None],
                    values.transpose(0, 1)[None],
                    attn_mask=mask,
                    is_causal=mask is None,
                    enable_gqa=True,
                )
                mixed[begin:end] = got[0].transpose(0, 1)
            x = self._rest(layer, number, x, mixed.flatten(1), apply)
        return x

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], lengths: Sequence[int], cache: RowCache, bank: Bank) -> torch.Tensor:
        """One token for each of rows 0 .. n-1, whose caches hold ``lengths`` tokens and whose adapters ``bank`` has selected;
        returns logits [n, vocabulary]."""
        longest = max(lengths) + 1
        cache.ensure(len(tokens), longest)
        self.ready_for(longest)
        ids, positions = torch.tensor([tokens, lengths], device=self.device)
        places = torch.arange(len(tokens), device=self.device) * cache.length + positions
        with self.product.watched(len(tokens)):
            return self.decode(ids, positions, places, longest, cache, bank, even=min(lengths) + 1 == longest)

    def decode(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        places: torch.Tensor,
        length: int,
        cache: RowCache,
        bank: Bank,
        *,
        even: bool = False,
    ) -> torch.Tensor:
        """``step`` on tensors alone: ids, positions [rows]; places [rows]: where each row's keys and values go, as
        ``RowCache.write`` numbers them; length: past the furthest position, at most the cache's. even: every
        row has come to that length, so nothing needs masking. Reads no tensor back, so that it can be captured."""
        count, groups = ids.shape[0], self.heads // self.kv_heads
        cos, sin = self._cos[positions], self._sin[positions]
        mask = None
        if not even:
            seen = torch.arange(length, device=self.device)[None] <= positions[:, None]
            mask = _additive(seen, self.dtype)[:, None, None].expand(count, 1, groups, length)

        def apply(place: int, x: torch.Tensor, weight: torch.Tensor, bias: Any = None, residual: Any = None) -> torch.Tensor:
            scales, necks = bank.scales(place), bank.necks(place)
            if scales is None and necks is None:
                y = self.product(x, weight, bias, residual)
                bank.add(place, x, y)
                return y

            def narrow(y: torch.Tensor) -> None:
                for neck, (first, last) in zip(necks or (), self.groups[place].spans, strict=False):
                    if neck is not None:
                        neck[0].add(y[:, first:last], neck[1])

            pieces = [] if scales is None else [(0, count, scales)]
            return self._apply(self.groups[place], x, weight, bias, residual, pieces, lambda y: bank.add(place, x, y), narrow)

        x = functional.embedding(ids, self._embedding)
        for number, layer in enumerate(self.layers):
            q = self._attend(layer, number, x, cos, sin, cache, places, apply)
            keys, values = cache.keys_values(number, slice(0, count), length)
            query = q.view(count, self.kv_heads, groups, self.head_dim)
            mixed = functional.scaled_dot_product_attention(query, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask)
            x = self._rest(layer, number, x, mixed.reshape(count, -1), apply)
        return self.logits(x)

    def _apply(
        self,
        group: Group,
        x: Any,
        weight: Any,
        bias: Any,
        residual: Any,
        pieces: Sequence[tuple[int, int, Scales]],
        add: Any,
        narrow: Any,
    ) -> torch.Tensor:
        """A group's product where some tokens' adapters do more than add: pieces = (first, past the last, what they scale by); add,
        narrow: put the low-rank products and the bottlenecks onto it."""
        source, parts = x, len(group.names)
        if parts == 1 and any(scales.inner[0] is not None for _, _, scales in pieces):
            source = x.clone()
            for begin, end, scales in pieces:
                if scales.inner[0] is not None:
                    source[begin:end] *= scales.inner[0]
        y = self.product(source, weight, bias)
        for begin, end, scales in pieces if parts > 1 else ():  # parts that scale a shared input differently: theirs again
            for vector, (first, last) in zip(scales.inner, group.spans, strict=True):
                if vector is not None:
                    y[begin:end, first:last] = torch.mm(x[begin:end] * vector, weight[:, first:last])
                    if bias is not None:
                        y[begin:end, first:last] += bias[first:last]
        add(y)
        for begin, end, scales in pieces:
            if scales.outer is not None:
                y[begin:end] *= scales.outer
            if scales.shift is not None:
                y[begin:end] += scales.shift
        narrow(y)
        return y if residual is None else y.add_(residual)

    def _attend(
        self, layer: Layer, number: int, x: Any, cos: Any, sin: Any, cache: RowCache, places: Any, apply: Any
    ) -> torch.Tensor:
        """Queries [tokens, heads, head_dim], turned to their positions; keys and values go into the cache."""
        source = functional.rms_norm(x, (x.shape[-1],), layer.attention_norm, self.eps)
        y = apply(4 * number + QKV, source, layer.qkv, layer.qkv_bias)
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        turned = y[:, : wide + narrow].view(-1, self.heads + self.kv_heads, self.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            turned[:, : self.heads] = functional.rms_norm(turned[:, : self.heads], (self.head_dim,), layer.q_norm, self.eps)
            turned[:, self.heads :] = functional.rms_norm(turned[:, self.heads :], (self.head_dim,), layer.k_norm, self.eps)
        # rotary position embedding (Su et al. 2021), halves layout; sin carries the sign of the first half
        halves = turned.roll(self.head_dim // 2, -1).view(-1, wide + narrow)
        y[:, : wide + narrow].mul_(cos).addcmul_(halves, sin)
        cache.write(number, places, y[:, wide:])
        return turned[:, : self.heads]

    def _rest(self, layer: Layer, number: int, x: Any, mixed: Any, apply: Any) -> torch.Tensor:
        x = apply(4 * number + OUT, mixed, layer.out, layer.out_bias, x)
        source = functional.rms_norm(x, (x.shape[-1],), layer.mlp_norm, self.eps)
        gate, up = apply(4 * number + GATE_UP, source, layer.gate_up).chunk(2, dim=1)
        result: torch.Tensor = apply(4 * number + DOWN, functional.silu(gate).mul_(up), layer.down, None, x)
        return result

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] of ``states`` -> [tokens, vocabulary]."""
        return self.product(functional.rms_norm(x, (x.shape[-1],), self.norm, self.eps), self.head)

    def ready_for(self, length: int) -> None:
        """Make the table of cos and signed sin [positions, all heads of q and k together] reach to ``length``."""
        if length > self._cos.shape[0]:
            places = torch.arange(-(-length // 1024) * 1024, device=self.device)[None]
            cos, sin = self._rotary(torch.empty(1, 1, dtype=self.dtype, device=self.device), places)
            sin = torch.cat((-sin[..., : self.head_dim // 2], sin[..., self.head_dim // 2 :]), dim=-1)
            self._cos, self._sin = (table[0].repeat(1, self.heads + self.kv_heads) for table in (cos, sin))
            self.version += 1


def _additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where seen, minus infinity elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
