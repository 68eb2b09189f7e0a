"""The lean path's weights: those of modules that read the same input become one, and the modules keep views of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from playground.engine.packed import Group

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


def groups_of(layers: int, hidden: int, widths: tuple[int, int], inner: int) -> list[Group]:
    """Four groups a layer. widths: of all heads together, and of the key-value heads; inner: the MLP's."""
    wide, narrow = widths
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
