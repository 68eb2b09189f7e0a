"""Are an adapter's numbers such as training makes them? A huge one makes every reply overflow that is written with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playground.errors import AdapterError
from playground.library.files import plain_text
from playground.library.module_names import value_by_name
from playground.library.safetensors_header import damaged

if TYPE_CHECKING:
    import torch

LARGEST = 1e4
"""No number of an adapter is larger, its scale included: trained ones stay far below, and half precision (65504) holds it."""
_BEGIN, _END = "base_model.model.", ".lora_B.weight"


def check_magnitudes(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise AdapterError that names the first tensor with a number past LARGEST, an infinite one, or one that is none. name: the
    adapter's."""
    import torch

    filled = {key: tensor for key, tensor in tensors.items() if tensor.numel()}
    norms = torch.stack(torch._foreach_norm([t.float() for t in filled.values()], float("inf"))).tolist() if filled else []
    for key, norm in zip(filled, norms, strict=True):
        if not norm <= LARGEST:
            raise AdapterError(
                f"{name} holds {norm:.3g} in {plain_text(key)}, which is not a number that training makes: at most {LARGEST:g} is "
                "taken. Train it again at a lower learning rate."
            )


def check_file(file: Path, config: Mapping[str, Any]) -> None:
    """The same for the tensors of a safetensors file, read one at a time; for a LoRA's also as ``config`` scales them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as held:
            keys = held.keys()
            modules = {key: key.removeprefix(_BEGIN).removesuffix(_END) for key in keys if key.endswith(_END)}
            alphas = value_by_name("alpha_pattern", config.get("alpha_pattern") or {}, modules.values())
            for key in keys:
                tensor = held.get_tensor(key)
                check_magnitudes("This adapter", {key: tensor})
                if key in modules:
                    scaled = tensor.float() * lora_scale(config, alphas.get(modules[key]), tensor.shape[1])
                    check_magnitudes("This adapter", {f"{key} (times its scale)": scaled})
    except SafetensorError as error:
        raise damaged(file, plain_text(str(error), 120)) from error


def lora_scale(config: Mapping[str, Any], alpha: float | None, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732). alpha: this module's own, None = the config's."""
    alpha = float(config.get("lora_alpha", 8) if alpha is None else alpha)
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
