"""What an adapter does to one linear layer, in one formula for LoRA, rsLoRA, QLoRA-trained LoRA, DoRA and IA³.

    y = out_scale * (W (in_scale * x) + bias + x a b) + shift

A bottleneck (``bottleneck.py``) takes y further: y + up(act(down(y))).

LoRA: Hu et al. 2021, arXiv:2106.09685; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732; DoRA: Liu et al. 2024,
arXiv:2402.09353; IA³: Liu et al. 2022, arXiv:2205.05638.

Soft prompts put virtual tokens before the text. Prefix tuning (Li & Liang 2021, arXiv:2101.00190) and P-tuning v2 (Liu
et al. 2022, arXiv:2110.07602) learn keys and values for every layer: they lie at the start of the sequence's KV cache,
are not turned by positions, and the text's positions begin at their count. Prompt tuning (Lester et al. 2021,
arXiv:2104.08691) and P-tuning (Liu et al. 2021, arXiv:2103.10385) learn embeddings, which are read like a text's at
positions 0 ..; what they leave in the KV cache depends on nothing after them, so the Llama backend prefills them once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from playground.engine.bottleneck import Neck
from playground.errors import AdapterError
from playground.library.safetensors_header import check_magnitudes
from playground.methods.weights import FileModule


@dataclass(frozen=True)
class SoftPrompt:
    """Embeddings [tokens, hidden], or keys_values [layers, tokens, 2, kv_heads, head_dim], before the text."""

    embeddings: torch.Tensor | None = None
    keys_values: torch.Tensor | None = None

    @property
    def read(self) -> int:
        """Tokens that are read before the text."""
        return 0 if self.embeddings is None else self.embeddings.shape[0]

    @property
    def held(self) -> int:
        """Tokens that are in the cache before anything is read."""
        return 0 if self.keys_values is None else self.keys_values.shape[1]

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.embeddings, self.keys_values) if t is not None)


NO_SOFT_PROMPT = SoftPrompt()


@dataclass(frozen=True)
class ModuleWeights:
    """a [rank, in], b [out, rank] with the scale folded in; in_scale [in]; out_scale, shift [out]; neck: on the output.
    None = it has no effect."""

    a: torch.Tensor | None = None
    b: torch.Tensor | None = None
    in_scale: torch.Tensor | None = None
    out_scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    neck: Neck | None = None

    @property
    def rank(self) -> int:
        return 0 if self.a is None else self.a.shape[0]


AdapterWeights = Mapping[str, ModuleWeights]
"""By the path of the linear layer inside the base."""


def out_in(module: nn.Module) -> tuple[int, int] | None:
    """(out, in) of a layer that can carry an adapter, else None. GPT-2's Conv1D keeps its weight transposed."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if type(module).__name__ == "Conv1D" and weight is not None:
        return weight.shape[1], weight.shape[0]
    return None


def plain_weight(module: Any) -> torch.Tensor:
    """A linear layer's weight [out, in] in fp32; an NF4 one is unpacked."""
    weight = module.weight
    state = getattr(weight, "quant_state", None)
    if state is not None:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, state).float()
    return weight.data.t().float() if type(module).__name__ == "Conv1D" else weight.data.float()


def fitted(name: str, found: Mapping[str, FileModule], modules: Mapping[str, nn.Module]) -> dict[str, ModuleWeights]:
    """An adapter's file laid over a base's linear layers. Raises AdapterError when it was made for another base, or
    where a number is too large once it is scaled (``check_magnitudes``).

    name: the adapter's, for the error. modules: the base's linear layers by path.
    """
    weights = {}
    for path, part in found.items():
        module = modules.get(path)
        there = out_in(module) if module is not None else None
        neck = Neck(**vars(part.neck)) if part.neck is not None else None
        ends = (part.b, part.out_scale, part.magnitude, neck.up_bias if neck is not None else None)
        outputs = {t.shape[0] for t in ends if t is not None}
        inputs = {t.shape[-1] for t in (part.a, part.in_scale) if t is not None}
        if there is None or not (outputs <= {there[0]} and inputs <= {there[1]}):
            said = f"{there[1]} -> {there[0]}" if there else "no such layer"
            wide = " -> ".join(" and ".join(map(str, sorted(side))) or "any" for side in (inputs, outputs))
            raise AdapterError(
                f"{name} was trained on another base: {path} is {wide} in the adapter, here it is {said}. "
                "Choose the base it was trained on."
            )
        assert module is not None
        out_scale, shift = part.out_scale, None
        if part.magnitude is not None and part.a is not None and part.b is not None:
            norm = torch.linalg.vector_norm(plain_weight(module).cpu() + part.b @ part.a, dim=1)
            out_scale = part.magnitude / norm
            bias = getattr(module, "bias", None)
            if bias is not None:  # DoRA leaves the base's bias alone
                shift = (1 - out_scale) * bias.data.float().cpu()
        weights[path] = ModuleWeights(part.a, part.b, part.in_scale, out_scale, shift, neck)
    made = {"lora_B times its scale": "b", "the scale of its output": "out_scale", "the shift of its output": "shift"}
    tensors = {f"{path} ({said})": getattr(w, field) for path, w in weights.items() for said, field in made.items()}
    check_magnitudes(name, {key: tensor for key, tensor in tensors.items() if tensor is not None})
    return weights
