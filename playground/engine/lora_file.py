"""A PEFT LoRA folder -> the matrices for the slots. Reads safetensors only; the config's fields mean what PEFT says they mean."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from safetensors.torch import load_file

from playground.engine.slots import LoraWeights
from playground.errors import AdapterError

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight")


def read_lora(folder: Path) -> dict[str, LoraWeights]:
    """Module path -> weights, scale folded into b. Raises AdapterError for a method the batch does not carry."""
    config = json.loads((folder / "adapter_config.json").read_text())
    kind = config.get("peft_type")
    if kind != "LORA" or config.get("use_dora"):
        name = "DoRA" if config.get("use_dora") else kind
        raise AdapterError(
            f"{folder.name} is a {name} adapter; chatting runs LoRA adapters today. Import a LoRA, or train one here."
        )
    parts: dict[str, dict[str, object]] = {}
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise AdapterError(f"{folder.name} holds {key}, which is not a LoRA weight. Export it again as a plain LoRA.")
        parts.setdefault(match["module"], {})[match["part"]] = tensor
    weights = {}
    for module, pair in parts.items():
        if set(pair) != {"A", "B"}:
            raise AdapterError(f"{folder.name} holds half a pair for {module}. The file is damaged; export the adapter again.")
        a, b = pair["A"].float(), pair["B"].float()  # type: ignore[attr-defined]
        weights[module] = LoraWeights(a.t().contiguous(), (b * _scale(config, module, a.shape[0])).t().contiguous())
    return weights


def _scale(config: dict[str, object], module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732); alpha may differ by module."""
    alpha = float(config.get("lora_alpha") or rank)  # type: ignore[arg-type]
    patterns = config.get("alpha_pattern") or {}
    for pattern, value in patterns.items():  # type: ignore[attr-defined]
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = float(value)
            break
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
