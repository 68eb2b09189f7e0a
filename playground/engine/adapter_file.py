"""A PEFT folder -> its matrices and vectors. Reads safetensors only; the config's fields mean what PEFT says they mean."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from playground.engine.bottlenecks import ACTIVATIONS, Neck
from playground.engine.virtual import VirtualTokens
from playground.engine.weights import FileAdapter, FileModule
from playground.errors import AdapterError
from playground.library.magnitudes import check_magnitudes, lora_scale
from playground.library.module_names import value_by_name

_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>A|B|magnitude_vector)(?:\.weight)?")
_IA3 = re.compile(r"base_model\.model\.(?P<module>.+)\.ia3_l")
_NECK = re.compile(r"base_model\.model\.(?P<module>.+)\.bottleneck_(?P<part>(?:down|up)\.(?:weight|bias))")
_VIRTUAL = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")


def read_adapter(folder: Path) -> FileAdapter:
    """What the file holds, in fp32. Raises AdapterError for a method the batch does not carry, or a damaged file."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8-sig"))
        if not isinstance(config, dict):
            raise ValueError("adapter_config.json holds no JSON object")
        # read, not mapped: a mapped file that is cut short ends the process, and load_file leaks 56 bytes a tensor (safetensors 0.8.0)
        held = (folder / "adapter_model.safetensors").read_bytes()
        tensors = {name: tensor.float() for name, tensor in sorted(load(held).items())}
    except (OSError, ValueError, RuntimeError, RecursionError, SafetensorError) as error:
        raise AdapterError(f"The adapter in {folder.name} cannot be read: {error}. Import it again.") from error
    if not any(tensor.numel() for tensor in tensors.values()):
        raise AdapterError(f"The adapter in {folder.name} holds no weights. Export it again.")
    check_magnitudes(folder.name, tensors)
    kind, name = config.get("peft_type"), folder.name
    try:
        if kind == "LORA":
            return FileAdapter(_lora(name, config, tensors))
        if kind == "IA3":
            return FileAdapter(_ia3(name, tensors))
        if kind == "BOTTLENECK":
            return FileAdapter(_necks(name, config, tensors))
        if kind in _VIRTUAL:
            return FileAdapter({}, _virtual(name, config, tensors))
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise AdapterError(f"{name}'s config is damaged: {error}. Export the adapter again.") from error
    raise AdapterError(
        f"{name} is a {kind} adapter; chatting runs LoRA, DoRA, IA3, bottleneck, prefix and prompt adapters. Import one of these, or "
        "train one here."
    )


def _lora(name: str, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, FileModule]:
    if config.get("target_parameters"):
        raise AdapterError(
            f"{name} adapts weights that are stacked by expert (target_parameters); chatting carries adapters on linear layers only. "
            "Train it on the attention layers."
        )
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _LORA.fullmatch(key)
        if key.endswith(".base_layer.weight"):
            raise AdapterError(
                f"{name} carries weights of the base itself ({key}). Save it again with save_embedding_layers=False."
            )
        if match is None:
            raise AdapterError(f"{name} holds {key}, which is not a LoRA weight. Export it again as a plain LoRA.")
        parts.setdefault(match["module"], {})[match["part"]] = tensor
    needed = {"A", "B"} | ({"magnitude_vector"} if config.get("use_dora") else set())
    alphas = value_by_name(f"{name}'s alpha_pattern", config.get("alpha_pattern") or {}, parts)
    found = {}
    for module, pair in parts.items():
        if set(pair) != needed:
            raise AdapterError(f"{name} holds only a part of {module}'s weights. The file is damaged; export the adapter again.")
        a, b = pair["A"], pair["B"]
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
            sizes = f"{list(a.shape)} and {list(b.shape)}"
            raise AdapterError(f"{name}'s matrices for {module} are {sizes}, which are no pair of one rank. Export it again.")
        found[module] = FileModule(
            a, b * lora_scale(config, alphas.get(module), a.shape[0]), magnitude=pair.get("magnitude_vector")
        )
    return found


def _ia3(name: str, tensors: dict[str, torch.Tensor]) -> dict[str, FileModule]:
    found = {}
    for key, tensor in tensors.items():
        match = _IA3.fullmatch(key)
        if match is None or tensor.dim() != 2 or 1 not in tensor.shape:
            raise AdapterError(f"{name} holds {key}, which is not an IA3 vector. Export it again as a plain IA3.")
        # [1, in] scales a feedforward layer's input, [out, 1] any other layer's output
        inner = tensor.shape[0] == 1
        found[match["module"]] = FileModule(in_scale=tensor[0]) if inner else FileModule(out_scale=tensor[:, 0])
    return found


def _necks(name: str, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, FileModule]:
    activation = config.get("activation", "gelu")
    if activation not in ACTIVATIONS:
        raise AdapterError(
            f"{name}'s activation is {activation!r}; a bottleneck's is one of {', '.join(ACTIVATIONS)}. Train it again."
        )
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _NECK.fullmatch(key)
        if match is None:
            raise AdapterError(f"{name} holds {key}, which is no part of a bottleneck. Export it again.")
        parts.setdefault(match["module"], {})[match["part"]] = tensor
    found = {}
    for module, part in parts.items():
        down, up = part.get("down.weight"), part.get("up.weight")
        width, outputs = down.shape if down is not None and down.dim() == 2 else (0, 0)
        right = {"down.weight": (width, outputs), "down.bias": (width,), "up.weight": (outputs, width), "up.bias": (outputs,)}
        if down is None or up is None or not width or {key: tuple(tensor.shape) for key, tensor in part.items()} != right:
            raise AdapterError(
                f"{name}'s matrices for {module} are no bottleneck. The file is damaged; export the adapter again."
            )
        found[module] = FileModule(neck=Neck(down, part["down.bias"], up, part["up.bias"], activation))
    return found


def _virtual(name: str, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> VirtualTokens:
    """PEFT saves what its encoder or its projection makes of the parameters, so that nothing is left to compute."""
    flat = tensors.get("prompt_embeddings")
    if flat is None or len(tensors) > 1 or flat.dim() != 2 or flat.shape[0] != config.get("num_virtual_tokens"):
        raise AdapterError(f"{name} does not hold the virtual tokens that its config tells of. Export the adapter again.")
    return VirtualTokens(flat, prefix=config["peft_type"] == "PREFIX_TUNING")
