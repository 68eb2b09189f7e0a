"""Load a base to train on, and lay a method over it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from playground.methods.method import Method


def training_dtype() -> torch.dtype:
    """bf16 where CUDA computes in it; fp32 on a CPU, where bf16 can be a hundred times slower."""
    return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32


def load_for_training(folder: Path, method: Method, rank: int, seed: int) -> Any:
    """The base, in NF4 where the method asks for it, with the method's trainable part on top. Seeded."""
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(seed)
    options: dict[str, Any] = {
        "trust_remote_code": False,
        "local_files_only": True,
        "use_safetensors": True,
        "dtype": training_dtype(),
    }
    if method.quantised:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=training_dtype(),
        )
        options["device_map"] = {"": 0 if torch.cuda.is_available() else "cpu"}
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    model.config.use_cache = False
    config = method.peft_config(rank)
    if config is None:
        return model
    from peft import get_peft_model, prepare_model_for_kbit_training

    if method.quantised:
        _keep_differentiable(model)
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of settings that are ours on purpose
        return get_peft_model(model, config)


def _keep_differentiable(model: Any) -> None:
    """bitsandbytes repacks 4-bit weights for AVX512-BF16 processors at the first evaluation, for good, and the repacked product
    has no gradient: training after an evaluation would silently learn next to nothing. So it must not repack here."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def weights_of(model: Any) -> tuple[int, int]:
    """(trained, all) weights; a 4-bit weight counts as one."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = 0
    for p in model.parameters():
        total += p.quant_state.shape.numel() if getattr(p, "quant_state", None) is not None else p.numel()
    return trained, total
