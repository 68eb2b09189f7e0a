"""QLoRA: LoRA over a base in 4 bits while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from playground.methods.lora import Lora


class QLora(Lora):
    name = "qlora"
    label = "QLoRA"
    cost = "a third of the memory"
    explain = (
        "QLoRA is LoRA over a base squeezed to 4 bits (NF4, double quantisation) while it trains, so a larger base"
        " fits. It costs a little speed and accuracy; the adapter itself is an ordinary LoRA."
    )
    summary = "QLoRA: LoRA, trained on a base held in 4 bits"
    paper = "Dettmers et al. 2023, arXiv:2305.14314"
    order = 2
    quantised = True
    writes = "lora"
    pace = 1.05
    kept = 4.7
    axolotl: Mapping[str, Any] | None = {"adapter": "qlora", "lora_target_linear": True}

    def accepts(self, config: Mapping[str, Any]) -> bool:
        return config.get("peft_type") == self.peft_type
