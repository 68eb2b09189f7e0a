"""A base folder -> the model in memory, ready to decode, and proof that its weights stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from playground.errors import BaseUnavailableError
from playground.library.fingerprint import digest


@dataclass(frozen=True)
class Loaded:
    """A model in memory. ``weights``: its parameters by name, as they were before anything was hooked onto it."""

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    weights: dict[str, torch.nn.Parameter]

    @property
    def bytes(self) -> int:
        return sum(p.numel() * p.element_size() for p in self.weights.values())


def pick_device() -> tuple[torch.device, torch.dtype]:
    """CUDA in bf16, Apple's GPU in fp16, else the CPU in fp32 (bf16 there can be a hundred times slower)."""
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if torch.backends.mps.is_available():
        return torch.device("mps"), torch.float16
    return torch.device("cpu"), torch.float32


def load(folder: Path) -> Loaded:
    """Load ``folder`` for decoding. Raises BaseUnavailableError in words when it cannot be loaded."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device, dtype = pick_device()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, use_safetensors=True, dtype=dtype
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise BaseUnavailableError(f"The model in {folder.name} cannot be loaded: {reason} Choose another base.") from error
    model: Any = loaded
    model = model.to(device).eval().requires_grad_(False)
    return Loaded(model, tokenizer, device, dtype, dict(model.named_parameters()))


def live_fingerprint(loaded: Loaded) -> str:
    """Fingerprint of the weights as they are in memory now; equals the file's where the precision is the same."""
    return digest(_live(loaded.weights))


def _live(weights: dict[str, torch.nn.Parameter]) -> Iterable[tuple[str, str, tuple[int, ...], Any]]:
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int8: "I8"}
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        yield (
            name,
            names.get(tensor.dtype, str(tensor.dtype)),
            tuple(tensor.shape),
            tensor.view(torch.uint8).numpy().data.cast("B"),
        )
