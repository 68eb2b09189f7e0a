"""Prompt tuning: token embeddings before the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from playground.methods.config_rules import Rule, nothing
from playground.methods.method import Options
from playground.methods.shapes import Shapes
from playground.methods.virtual import VirtualTokenMethod

if TYPE_CHECKING:
    from peft import PromptTuningConfig

_TEXTS = ("prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
"""What PEFT reads only where virtual tokens begin as a text (PromptTuningInit.TEXT)."""
_FETCHES = (
    "the vectors are in the file already, and this would fetch a tokenizer; set it to null (prompt_tuning_init: RANDOM)"
)


def _init(value: Any) -> str:
    return "" if value in (None, "RANDOM", "SAMPLE_VOCAB") else _FETCHES


class Prompt(VirtualTokenMethod):
    name = "prompt"
    label = "Prompt tuning"
    cost = "fewest weights of all"
    explain = (
        "Prompt tuning learns a few token embeddings that stand before every prompt, and nothing else: a prompt that no"
        " one could type. It is the weakest on small bases and catches up with their size; it may begin as a text of"
        " yours."
    )
    summary = "prompt tuning: learned token embeddings before the text"
    paper = "Lester et al. 2021, arXiv:2104.08691"
    order = 8
    # hospital_reports, 24 steps of 2 rows: 3e-2 loss 1.52, 1e-1 1.59, 3e-1 2.17. More steps help, larger ones do not.
    rates = (5e-2, 3e-2, 2e-2, 1e-2)
    rank_info = "Stand before every prompt."
    options = ("init_text",)
    peft_options = ("init_text",)
    pace = 1.3
    starts_as_tokens = True
    peft_type = "PROMPT_TUNING"
    settings: Mapping[str, Rule] = {
        **VirtualTokenMethod.settings,
        "prompt_tuning_init": _init,
        **dict.fromkeys(_TEXTS, nothing(_FETCHES)),
    }

    def peft_config(self, shapes: Shapes, rank: int, options: Options) -> PromptTuningConfig:
        """RANDOM also where the tokens begin as a text: they are put there afterwards, and whoever loads the file needs
        no tokenizer."""
        from peft import PromptTuningConfig

        return PromptTuningConfig(num_virtual_tokens=rank, prompt_tuning_init="RANDOM", task_type="CAUSAL_LM")

    def without_training(self, config: dict[str, Any]) -> list[str]:
        held = [config.pop(key, None) for key in _TEXTS]
        if config.get("prompt_tuning_init") == "TEXT":
            config["prompt_tuning_init"] = "RANDOM"
        said = (
            "the text and tokenizer that the virtual tokens began with are left out: the file holds what became of them"
        )
        return [said] if any(held) else []
