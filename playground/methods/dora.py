"""DoRA: LoRA that learns the size of each output row apart from its direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from playground.methods.lora import Lora


class Dora(Lora):
    name = "dora"
    label = "DoRA"
    cost = "closer to full, slower"
    explain = (
        "DoRA is LoRA that learns the size and the direction of each layer's weights apart, which brings it closer to"
        " full fine-tuning at the same rank. It takes about half as long again to train; the file is hardly larger."
    )
    summary = "DoRA: LoRA that learns a layer's direction and size apart"
    paper = "Liu et al. 2024, arXiv:2402.09353"
    order = 3
    options = ("rslora",)
    dora = True
    blendable = False
    pace = 1.3
    kept = 5.8
    axolotl: Mapping[str, Any] | None = {"adapter": "lora", "lora_target_linear": True, "peft_use_dora": True}
