"""Which bases' forward pass is written out for training (``lean.py``), told from their config.json; no torch, so that planning can ask too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROPES = ("default", "linear", "llama3")


def written_out(config: Mapping[str, Any]) -> bool:
    """Whether rows of this base can be laid end to end: no sliding windows, plain rotary positions, silu, no dropout in attention."""
    family = config.get("model_type")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    slides = config.get("sliding_window") and config.get("use_sliding_window", True) and family != "llama"
    return (
        family in FAMILIES
        and not slides
        and (rope.get("rope_type") or rope.get("type") or "default") in ROPES
        and config.get("hidden_act", "silu") == "silu"
        and not config.get("attention_dropout")
    )
