"""P-tuning: token embeddings before the text, learned through a small network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from playground.errors import InputError
from playground.methods.config_rules import Rule, number, one_of, whole
from playground.methods.method import Options
from playground.methods.shapes import Shapes, hidden_size
from playground.methods.virtual import VirtualTokenMethod

if TYPE_CHECKING:
    from peft import PeftConfig, PromptEncoderConfig

ENCODER_MAX = 1024


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
    rank_info = "Stand before every prompt."
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
