"""Activations that are computed a second time in the backward pass instead of kept: slower by about a third, so only where memory demands it."""

from __future__ import annotations

from typing import Any

import torch

from playground.gpu.device import find_device
from playground.training.peak import own_bytes
from playground.training.spec import RunSpec


def demanded(estimated_bytes: int, limit_bytes: int, free_bytes: int) -> bool:
    """Whether a run that is said to need so much goes past its own limit (0 = it has none), or past what is free for it."""
    return estimated_bytes > (min(limit_bytes, free_bytes) if limit_bytes else free_bytes)


def save_memory(model: Any, spec: RunSpec) -> bool:
    """Make the model recompute where its run would not fit otherwise. Returns whether it does.

    Keys and values that stand in a cache before the text cannot be recomputed; such a model stays as it is."""
    held = torch.cuda.memory_reserved() if torch.cuda.is_available() else own_bytes("VmRSS") or 0
    if not demanded(spec.estimated_memory_bytes, spec.limit_memory_bytes, find_device().free_bytes + held):
        return False
    if getattr(model, "_in_cache", False):
        return False
    model.recompute = True
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    if getattr(base, "supports_gradient_checkpointing", False):
        enable = (
            getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        )  # its newer name, its older
        enable({"use_reentrant": False})
    return True
