"""The memory of models: what one takes, and room made for it."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from playground.errors import OutOfMemoryError, PlaygroundError, is_out_of_memory
from playground.gpu.device import CudaDevice, Device
from playground.gpu.manager import DeviceManager
from playground.library.bases import BaseShapes
from playground.methods.method import weights_in

T = TypeVar("T")
LOADED_FACTOR = 1.15  # memory of a loaded model per byte of its weights: buffers and working space come on top


def own_weights(shapes: BaseShapes) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's weights; a head tied to the embeddings is counted once."""
    tied = shapes.config.get("tie_word_embeddings", True)
    return {name: shape for name, shape in shapes.shapes.items() if not (tied and name == "lm_head.weight")}


def loaded_bytes(folder: Path, file_bytes: int, device: Device) -> int:
    """Bytes of a model's weights in memory, from its files' headers: a processor computes in fp32 and a GPU in half
    precision. file_bytes: of the files; what cannot be read, or is packed, is taken to stay as large."""
    try:
        shapes = BaseShapes.from_folder(folder)
    except PlaygroundError:
        return file_bytes
    packed = file_bytes if shapes.config.get("quantization_config") else 0
    return weights_in(own_weights(shapes)) * (2 if isinstance(device, CudaDevice) else 4) + packed


def kv_bytes_per_token(folder: Path, weight_bytes: int) -> int:
    """Bytes that one token takes in the KV cache, from the base's config."""
    config = json.loads((folder / "config.json").read_text())
    heads = config.get("num_attention_heads") or config.get("n_head") or 1
    hidden = config.get("hidden_size") or config.get("n_embd") or 1
    size = config.get("head_dim") or hidden // heads
    layers = int(config.get("num_hidden_layers") or config.get("n_layer") or 1)
    return 2 * layers * int(config.get("num_key_value_heads") or heads) * int(size) * weight_bytes


def make_room(manager: DeviceManager) -> list[str]:
    """Unload the models that idle and wait until they have gone; returns their names."""
    freed = manager.unload_idle()
    gc.collect()  # what failed for want of memory hangs on the frames of its error
    return freed


def retried(work: Callable[[], T], manager: DeviceManager, failed: str, hint: str = "Choose a smaller base") -> T:
    """``work()``; when memory runs out, once more after idle models have been unloaded. failed: what did not work,
    for a person; hint: what to do. Raises OutOfMemoryError."""
    freed: list[str] | None = None
    while True:
        try:
            return work()
        except Exception as error:  # every library has a class of its own for it
            if not is_out_of_memory(error):
                raise
            if freed is not None:
                also = f", not even after {', '.join(freed)} had made room" if freed else ""
                raise OutOfMemoryError(f"{failed}{also}. {hint}, or close other programs.") from error
        freed = make_room(manager)
