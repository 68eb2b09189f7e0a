"""A PEFT folder -> its matrices and vectors. Reads safetensors only; the config's fields mean what PEFT says they
mean."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load

from playground.errors import AdapterError
from playground.library.safetensors_header import check_magnitudes
from playground.methods import method_for
from playground.methods.weights import FileAdapter


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
