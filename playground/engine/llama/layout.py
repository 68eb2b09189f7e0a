"""How weights and adapters lie in memory on the Llama backend: modules that read the same input are one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch

from playground.engine.adapter_weights import AdapterWeights, ModuleWeights
from playground.engine.bottleneck import Neck


@dataclass(frozen=True)
class LinearGroup:
    """Linear layers that read the same input and are one product: names, input width, output widths."""

    names: tuple[str, ...]
    inputs: int
    outputs: tuple[int, ...]

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """(start, end) of each layer's outputs in the group's product."""
        return list(pairwise(accumulate(self.outputs, initial=0)))


@dataclass(frozen=True)
class Scales:
    """What an adapter, or rows, scale a group by: inner for each part [.., in], outer and shift [.., outputs]."""

    inner: tuple[torch.Tensor | None, ...]
    outer: torch.Tensor | None
    shift: torch.Tensor | None


Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class PackedAdapter:
    """An attached adapter, laid out by the model's groups and ready to be copied into a slot.

    key stands for its weights; rank: its widest. matrices: for each group and part a [rank, in] and b [rank, out], or
    None.
    scales, necks: by group, where it has any. prefix: keys and values before the text [layers, tokens, 2, kv_heads,
    head_dim], or None."""

    key: str
    rank: int
    matrices: tuple[tuple[Pair | None, ...], ...]
    scales: dict[int, Scales]
    necks: dict[int, tuple[Neck | None, ...]] = field(default_factory=dict)
    prefix: torch.Tensor | None = None

    @property
    def virtual_tokens(self) -> int:
        """Tokens that the KV cache holds before the text."""
        return 0 if self.prefix is None else self.prefix.shape[1]

    @property
    def soft_prompt_only(self) -> bool:
        """Whether it leaves every layer as it is."""
        return not self.scales and not self.necks and not any(pair for group in self.matrices for pair in group)

    @property
    def bytes(self) -> int:
        tensors = [tensor for group in self.matrices for pair in group if pair for tensor in pair]
        tensors += [
            t for scales in self.scales.values() for t in (*scales.inner, scales.outer, scales.shift) if t is not None
        ]
        tensors += [t for parts in self.necks.values() for neck in parts if neck is not None for t in neck.tensors]
        tensors += [self.prefix] if self.prefix is not None else []
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def pack(
    key: str,
    weights: AdapterWeights,
    groups: Sequence[LinearGroup],
    dtype: torch.dtype,
    device: torch.device,
    prefix: torch.Tensor | None = None,
) -> PackedAdapter:
    """Lay an adapter's weights out by the model's groups; b is transposed, so that filling a slot is plain copying."""

    def here(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, dtype).contiguous()

    def joined(group: LinearGroup, parts: Sequence[torch.Tensor | None], empty: float) -> torch.Tensor | None:
        if all(part is None for part in parts):
            return None
        widths = zip(parts, group.outputs, strict=True)
        return here(torch.cat([torch.full((width,), empty) if part is None else part for part, width in widths]))

    matrices, scales, necks = [], {}, {}
    for place, group in enumerate(groups):
        found = [weights.get(name, ModuleWeights()) for name in group.names]
        matrices.append(
            tuple((here(m.a), here(m.b.t())) if m.a is not None and m.b is not None else None for m in found)
        )
        inner = tuple(None if m.in_scale is None else here(m.in_scale) for m in found)
        outer, shift = joined(group, [m.out_scale for m in found], 1.0), joined(group, [m.shift for m in found], 0.0)
        if outer is not None or shift is not None or any(vector is not None for vector in inner):
            scales[place] = Scales(inner, outer, shift)
        if any(m.neck is not None for m in found):
            necks[place] = tuple(None if m.neck is None else m.neck.to(dtype, device) for m in found)
    rank = max((m.rank for m in weights.values()), default=0)
    return PackedAdapter(key, rank, tuple(matrices), scales, necks, None if prefix is None else here(prefix))


QKV, OUT, GATE_UP, DOWN = range(4)


@dataclass
class Layer:
    """Weights of one decoder layer, [in, out] each; ``qkv`` and ``gate_up`` are several modules' side by side."""

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


def layer_of(layer: Any, columns: bool) -> Layer:
    """One decoder layer of a loaded model. columns: keep each weight as [in, out] in memory, else as [out, in]."""
    attention, mlp = layer.self_attn, layer.mlp
    q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
    return Layer(
        attention_norm=layer.input_layernorm.weight.data,
        qkv=joined([q, k, v], columns),
        qkv_bias=None if q.bias is None else torch.cat([q.bias.data, k.bias.data, v.bias.data]),
        q_norm=getattr(getattr(attention, "q_norm", None), "weight", None),
        k_norm=getattr(getattr(attention, "k_norm", None), "weight", None),
        out=joined([attention.o_proj], columns),
        out_bias=None if attention.o_proj.bias is None else attention.o_proj.bias.data,
        mlp_norm=layer.post_attention_layernorm.weight.data,
        gate_up=joined([mlp.gate_proj, mlp.up_proj], columns),
        down=joined([mlp.down_proj], columns),
    )


def joined(modules: Sequence[Any], columns: bool) -> torch.Tensor:
    """Weights of modules that read the same input, as one [in, outputs together]; theirs become views of it."""
    weights = [module.weight.data for module in modules]
    shape = (sum(weight.shape[0] for weight in weights), weights[0].shape[1])
    if columns:
        whole = torch.empty(shape[1], shape[0], dtype=weights[0].dtype, device=weights[0].device)
        torch.cat([weight.t() for weight in weights], dim=1, out=whole)
    else:
        whole = torch.cat(weights).t()
    start = 0
    for module, weight in zip(modules, weights, strict=True):
        module.weight.data = whole[:, start : start + weight.shape[0]].t()
        start += weight.shape[0]
    return whole


def groups_of(layers: int, hidden: int, widths: tuple[int, int], inner: int) -> list[LinearGroup]:
    """Four groups a layer. widths: of all heads together, and of the key-value heads; inner: the MLP's."""
    wide, narrow = widths
    groups = []
    for number in range(layers):
        at, mlp = f"model.layers.{number}.self_attn.", f"model.layers.{number}.mlp."
        groups += [
            LinearGroup((at + "q_proj", at + "k_proj", at + "v_proj"), hidden, (wide, narrow, narrow)),
            LinearGroup((at + "o_proj",), wide, (hidden,)),
            LinearGroup((mlp + "gate_proj", mlp + "up_proj"), hidden, (inner, inner)),
            LinearGroup((mlp + "down_proj",), inner, (hidden,)),
        ]
    return groups
