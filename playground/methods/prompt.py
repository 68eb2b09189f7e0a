"""Prompt tuning: token embeddings before the text; P-tuning: the same, learned through a small network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from playground.errors import InputError
from playground.methods.config_rules import Rule, nothing, number, one_of, whole
from playground.methods.method import Options
from playground.methods.shapes import Shapes, hidden_size
from playground.methods.virtual import VirtualTokenMethod

if TYPE_CHECKING:
    from peft import PeftConfig, PromptEncoderConfig, PromptTuningConfig

_TEXTS = ("prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
"""What PEFT reads only where virtual tokens begin as a text (PromptTuningInit.TEXT)."""
_FETCHES = (
    "the vectors are in the file already, and this would fetch a tokenizer; set it to null (prompt_tuning_init: RANDOM)"
)
ENCODER_MAX = 1024


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
    options = ("init_text",)
    peft_options = ("init_text",)
    pace = 1.3
    starts_as_tokens = True
    peft_type = "PROMPT_TUNING"
    settings: Mapping[str, Rule] = {
        **VirtualTokenMethod.settings,
        "prompt_tuning_init": lambda value: "" if value in (None, "RANDOM", "SAMPLE_VOCAB") else _FETCHES,
        **dict.fromkeys(_TEXTS, nothing(_FETCHES)),
    }

    def peft_config(self, shapes: Shapes, rank: int, options: Options) -> PromptTuningConfig:
        """RANDOM also where the tokens begin as a text: whoever loads the file then needs no tokenizer."""
        from peft import PromptTuningConfig

        return PromptTuningConfig(num_virtual_tokens=rank, prompt_tuning_init="RANDOM", task_type="CAUSAL_LM")

    def without_training(self, config: dict[str, Any]) -> list[str]:
        held = [config.pop(key, None) for key in _TEXTS]
        if config.get("prompt_tuning_init") == "TEXT":
            config["prompt_tuning_init"] = "RANDOM"
        said = "the text and tokenizer that the virtual tokens began with are left out"
        return [f"{said}: the file holds what became of them"] if any(held) else []


class PTuning(VirtualTokenMethod):
    name = "p-tuning"
    label = "P-tuning"
    cost = "prompt tuning through a network"
    explain = (
        "P-tuning learns token embeddings before the prompt through a small network, the prompt encoder, which ties"
        " them together while they are learned. Only what it makes is kept, so the file is that of prompt tuning."
    )
    summary = "P-tuning: learned token embeddings before the text, trained through a small network"
    paper = "Liu et al. 2021, arXiv:2103.10385"
    order = 9
    # hospital_reports, 24 steps of 2 rows: 2e-3 loss 2.27, 6e-3 2.33, 2e-2 2.17. It needs more steps.
    rates = (3e-3, 2e-3, 1e-3, 5e-4)
    pace = 1.3
    peft_type = "P_TUNING"
    settings: Mapping[str, Rule] = {
        **VirtualTokenMethod.settings,
        "encoder_reparameterization_type": one_of("MLP", "LSTM", None),
        "encoder_num_layers": whole(1, 16, optional=True),
        "encoder_dropout": number(0, 1),
    }

    def trains(self, shapes: Shapes, rank: int, options: Options) -> int:
        """An embedding a virtual token, and the prompt encoder's three layers."""
        wide = hidden_size(shapes)
        inner = min(wide, ENCODER_MAX)
        return rank * wide + (wide + 1) * inner + (inner + 1) * inner + (inner + 1) * wide

    def peft_config(self, shapes: Shapes, rank: int, options: Options) -> PromptEncoderConfig:
        from peft import PromptEncoderConfig

        inner = min(hidden_size(shapes), ENCODER_MAX)
        return PromptEncoderConfig(num_virtual_tokens=rank, encoder_hidden_size=inner, task_type="CAUSAL_LM")

    def resumed(self, config: PeftConfig) -> PeftConfig:
        raise InputError(
            "A P-tuning adapter holds what its network made, not the network, so it cannot be gone on from. Choose"
            " another start."
        )
