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

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn
from torch.nn import functional

from playground.errors import AdapterError
from playground.library.files import check_magnitudes
from playground.methods import method_for
from playground.methods.bottleneck_method import ACTIVATIONS as NAMES
from playground.methods.weights import BottleneckWeights, FileAdapter, FileModule


def read_adapter(folder: Path) -> FileAdapter:
    """What the file holds, in fp32. Raises AdapterError for a method the batch does not carry, or a damaged file."""
    name = folder.name
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8-sig"))
        if not isinstance(config, dict):
            raise ValueError("adapter_config.json holds no JSON object")
        # read, not mapped: a mapped file that is cut short ends the process, and load_file leaks 56 bytes a tensor
        # (safetensors 0.8.0)
        held = (folder / "adapter_model.safetensors").read_bytes()
        tensors = {key: tensor.float() for key, tensor in sorted(load(held).items())}
    except (OSError, ValueError, RuntimeError, RecursionError, SafetensorError) as error:
        raise AdapterError(f"The adapter in {name} cannot be read: {error}. Import it again.") from error
    if not any(tensor.numel() for tensor in tensors.values()):
        raise AdapterError(f"The adapter in {name} holds no weights. Export it again.")
    check_magnitudes(name, tensors)
    method = method_for(config)
    if method is None:
        raise AdapterError(
            f"{name} is a {config.get('peft_type')} adapter; chatting runs LoRA, DoRA, IA3, bottleneck, prefix and"
            " prompt adapters. Import one of these, or train one here."
        )
    try:
        return method.read(name, config, tensors)
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise AdapterError(f"{name}'s config is damaged: {error}. Export the adapter again.") from error


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {name: getattr(functional, name) for name in NAMES}


@dataclass(frozen=True)
class Neck(BottleneckWeights):
    """One layer's bottleneck, as a batch computes it."""

    @property
    def width(self) -> int:
        return self.down.shape[0]

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.down, self.down_bias, self.up, self.up_bias

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)

    def to(self, dtype: torch.dtype, device: torch.device) -> Neck:
        down, down_bias, up, up_bias = (tensor.to(device, dtype).contiguous() for tensor in self.tensors)
        return Neck(down, down_bias, up, up_bias, self.activation)

    def add(self, y: torch.Tensor) -> None:
        """In place, for tokens that all carry it: y [tokens, out]."""
        inner = ACTIVATIONS[self.activation](torch.addmm(self.down_bias, y, self.down.t()))
        y.addmm_(inner, self.up.t()).add_(self.up_bias)


@dataclass(frozen=True)
class Beside:
    """Several necks of one layer: down [all columns, out], bias [all columns], up [all columns, out]. Each neck has a
    column for each
    of its inner numbers and one that is always act(1), over which its up_bias is divided; parts: (activation, from, to)
    of each."""

    down: torch.Tensor
    bias: torch.Tensor
    up: torch.Tensor
    parts: tuple[tuple[str, int, int], ...]

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.down, self.bias, self.up))

    def mask(self, carried: Sequence[int | None]) -> torch.Tensor:
        """[rows, all columns]: True where the column is of no neck that the row carries; carried: that neck's number,
        None = none."""
        mask = torch.ones(len(carried), self.down.shape[0], dtype=torch.bool)
        for row, number in enumerate(carried):
            if number is not None:
                _, begin, end = self.parts[number]
                mask[row, begin:end] = False
        return mask.to(self.down.device)

    def add(self, y: torch.Tensor, mask: torch.Tensor) -> None:
        """In place: y [rows, out], each without what its mask covers."""
        inner = torch.addmm(self.bias, y, self.down.t())
        if len({activation for activation, _, _ in self.parts}) == 1:
            inner = ACTIVATIONS[self.parts[0][0]](inner)
        else:
            inner = torch.cat(
                [ACTIVATIONS[activation](inner[:, begin:end]) for activation, begin, end in self.parts], dim=1
            )
        y.addmm_(inner.masked_fill_(mask, 0.0), self.up)


def beside(necks: Sequence[Neck]) -> Beside:
    """At least one."""
    down, bias, up, parts, end = [], [], [], [], 0
    for neck in necks:
        one = torch.ones_like(neck.down_bias[:1])
        down += [neck.down, torch.zeros_like(neck.down[:1])]
        bias += [neck.down_bias, one]
        up += [neck.up.t(), (neck.up_bias / ACTIVATIONS[neck.activation](one))[None]]
        parts.append((neck.activation, end, end + neck.width + 1))
        end += neck.width + 1
    return Beside(torch.cat(down), torch.cat(bias), torch.cat(up), tuple(parts))


Masked = tuple[Beside, torch.Tensor]
"""What the rows of a batch carry on one layer: several necks, and whose is whose."""


def numbered(necks: Sequence[Neck | None], carried: Sequence[int | None]) -> tuple[list[Neck], list[int | None]]:
    """Necks without gaps, and the rows' numbers among them; carried: their numbers among ``necks``, None = none."""
    there = [number for number, neck in enumerate(necks) if neck is not None]
    return [neck for neck in necks if neck is not None], [there.index(n) if n in there else None for n in carried]


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
