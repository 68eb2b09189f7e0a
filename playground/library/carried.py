"""What a base can carry beside what fits it by its shapes: the one list that import, training, comparing, exporting and the engine ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from playground.library.base_shapes import layer_of
from playground.library.files import plain_number, plain_text

BODY_ONLY = ("llama", "mistral", "qwen2", "qwen3")
"""Families of the fast path: adapters lie on the linear layers of the decoder's layers, whatever path serves them on this device."""
_KEEPS = ("full_attention", "sliding_attention", "chunked_attention")


def cannot_run(peft_type: object, modules: Iterable[str], lead: int, base: Mapping[str, Any]) -> str:
    """Why an adapter cannot be asked on a base, or "".

    modules: the layers it changes; lead: tokens that it puts before the text; base: the base's config.json.
    """
    text = base.get("text_config") if isinstance(base.get("text_config"), Mapping) else base
    assert isinstance(text, Mapping)
    outside = sorted(name for name in modules if layer_of(name) is None)
    if outside and base.get("model_type") in BODY_ONLY:
        return (
            f"adapts {plain_text(outside[0])}, which lies outside the decoder's layers: this base runs adapters on the linear layers inside "
            'them. Train it without it (PEFT: target_modules="all-linear" leaves the head out)'
        )
    places = plain_number(text.get("max_position_embeddings") or text.get("n_positions"))
    if places and lead >= places:
        return f"puts {lead} tokens before the text, and this base holds {places}. Train it with fewer"
    kinds = text.get("layer_types")
    if peft_type == "PREFIX_TUNING" and isinstance(kinds, list) and any(kind not in _KEEPS for kind in kinds):
        return "is keys and values for every layer, and this base has layers that keep none. Train prompt tuning or a LoRA"
    return ""
