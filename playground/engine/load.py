"""A base folder -> the model in memory, ready to decode, and proof that its weights stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from playground.errors import BaseUnavailableError
from playground.gpu.device import accelerator, computes_bf16
from playground.library.files import digest


@dataclass(frozen=True)
class Loaded:
    """A model in memory. ``weights``: its parameters by name, as they were before anything was hooked onto it."""

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    weights: dict[str, torch.nn.Parameter]

    @cached_property
    def bytes(self) -> int:
        return sum(weight.nbytes for weight in self.weights.values())


def pick_device() -> tuple[torch.device, torch.dtype]:
    """A GPU in bf16 where it computes in it, else in fp16; the CPU in fp32 (bf16 there can be a hundred times
    slower)."""
    kind = accelerator()
    half = torch.bfloat16 if kind == "xpu" or (kind == "cuda" and computes_bf16()) else torch.float16
    return torch.device(kind), torch.float32 if kind == "cpu" else half


def load(folder: Path, *, dtype: torch.dtype | None = None, quantised: bool = False) -> Loaded:
    """Load ``folder`` for decoding. Raises BaseUnavailableError when it cannot be loaded.

    dtype: None = what suits the device. quantised: squeeze the weights to 4 bits as they are read (NF4 with double
    quantisation, Dettmers et al. 2023, arXiv:2305.14314); a folder that holds such weights already needs no asking."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device, suited = pick_device()
    dtype = dtype or suited
    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    options = safe | {"use_safetensors": True, "dtype": dtype}
    try:
        tokenizer, config = (kind.from_pretrained(folder, **safe) for kind in (AutoTokenizer, AutoConfig))
        packed = getattr(config, "quantization_config", None) is not None
        if quantised and not packed:
            options["quantization_config"] = nf4(dtype)
        if quantised or packed:
            options["device_map"] = {"": device}
        kind: Any = AutoModelForCausalLM
        model, about = kind.from_pretrained(folder, **options, output_loading_info=True)
        if lacking := sorted(about["missing_keys"]):
            raise ValueError(f"it lacks the weights {', '.join(lacking[:3])}, which would be made up.")
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, ArithmeticError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        reason = "its weights have other sizes than its config.json says." if "ignore_mismatched" in reason else reason
        raise BaseUnavailableError(
            f"The model in {folder.name} cannot be loaded: {reason} Choose another base."
        ) from error
    if "device_map" not in options:
        model = model.to(device)
    model = model.eval().requires_grad_(False)
    forbid_repacking(model)
    weights = dict(model.named_parameters())
    numbers = {name: weight for name, weight in weights.items() if weight.is_floating_point() and weight.numel()}
    largest = torch.stack(torch._foreach_norm(list(numbers.values()), float("inf"))).isfinite().tolist()
    if odd := next((name for name, sound in zip(numbers, largest, strict=True) if not sound), ""):
        why = f"The model in {folder.name} holds numbers in {odd} that are none (NaN or infinite)"
        raise BaseUnavailableError(f"{why}: its training diverged, or {dtype} does not hold them. Choose another base.")
    return Loaded(model, tokenizer, device, dtype, weights)


def nf4(dtype: torch.dtype, skip: list[str] | None = None) -> Any:
    """4-bit quantisation that computes in ``dtype``; skip: modules that stay as they are."""
    from transformers import BitsAndBytesConfig

    kind: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    return BitsAndBytesConfig(**kind, bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=skip)


def forbid_repacking(model: Any) -> None:
    """bitsandbytes rewrites 4-bit weights for AVX512-BF16 processors at the first forward pass without gradients, with
    scales rounded to bf16: they would no longer be the weights that were loaded, and their product has no gradient."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def live_fingerprint(loaded: Loaded) -> str:
    """Fingerprint of the weights as they are in memory now; equals the file's where the precision is the same."""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int8: "I8"}
    weights: dict[str, torch.Tensor] = dict(loaded.weights)
    for name, weight in loaded.weights.items():  # what unpacks those in 4 bits, by the names that a file gives it
        if (state := getattr(weight, "quant_state", None)) is not None:
            weights |= {f"{name}.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}

    def parts() -> Iterator[tuple[str, str, tuple[int, ...], Any]]:
        for name in sorted(weights):
            tensor = weights[name].detach().cpu().contiguous()
            content = tensor.view(torch.uint8).numpy().data.cast("B")
            yield name, names.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape), content

    return digest(parts())
