"""Prefix tuning: keys and values of every layer before the text, learned through a small network; P-tuning v2: the
same, learned directly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from playground.methods.config_rules import Rule, switch
from playground.methods.method import Options
from playground.methods.shapes import Shapes, key_value_size, layer_count
from playground.methods.virtual import VirtualTokenMethod

if TYPE_CHECKING:
    from peft import PeftConfig, PrefixTuningConfig

ENCODER = 256
"""Width of the MLP that a prefix is learned through."""


class Prefix(VirtualTokenMethod):
    name = "prefix"
    label = "Prefix tuning"
    cost = "a learned beginning in every layer"
    explain = (
        "Prefix tuning learns keys and values that every layer reads before the text, through a small network that"
        " steadies the learning and is left behind afterwards. The base stays as it is, and the file is small."
    )
    summary = "prefix tuning: learned keys and values before the text, in every layer, trained through a small network"
    paper = "Li and Liang 2021, arXiv:2101.00190"
    order = 6
    # hospital_reports, 20 steps of 4 rows: 5e-3 loss 0.51, 2e-3 0.56; 1.5e-2 diverges. Both forget much.
    rates = (1e-2, 5e-3, 3e-3, 1e-3)
    rank_info = "Read by every layer before the text."
    pace = 0.95
    deep = True
    projected = True
    """Learned through the network; the file is the same either way."""
    peft_type = "PREFIX_TUNING"
    settings: Mapping[str, Rule] = {**VirtualTokenMethod.settings, "prefix_projection": switch}

    def trains(self, shapes: Shapes, rank: int, options: Options) -> int:
        """An embedding a virtual token, and the MLP that makes keys and values of it."""
        if not self.projected:
            return super().trains(shapes, rank, options)
        wide, out = key_value_size(shapes), layer_count(shapes) * 2 * key_value_size(shapes)
        return rank * wide + (wide + 1) * ENCODER + (ENCODER + 1) * out

    def peft_config(self, shapes: Shapes, rank: int, options: Options) -> PrefixTuningConfig:
        from peft import PrefixTuningConfig

        config = PrefixTuningConfig(num_virtual_tokens=rank, prefix_projection=self.projected, task_type="CAUSAL_LM")
        if self.projected:
            config.encoder_hidden_size = ENCODER
        return config

    def accepts(self, config: Mapping[str, Any]) -> bool:
        return super().accepts(config) and bool(config.get("prefix_projection")) == self.projected

    def resumed(self, config: PeftConfig) -> PeftConfig:
        """A finished prefix goes on without the network."""
        config.prefix_projection = False  # type: ignore[attr-defined]
        return config


class PTuningV2(Prefix):
    name = "p-tuning-v2"
    label = "P-tuning v2"
    cost = "the same without the network"
    explain = (
        "P-tuning v2 learns the keys and values before the text directly, as deep prompts in every layer. "
        "They begin as those of real tokens, so that the base is not thrown off its way at the start."
    )
    summary = "P-tuning v2: learned keys and values before the text, in every layer, trained directly"
    paper = "Liu et al. 2021, arXiv:2110.07602"
    order = 7
    # hospital_reports, 20 steps of 4 rows: 1e-1 loss 0.56, 0 of 40 general questions; 4e-2 0.73, 4; 1e-2 is too slow.
    rates = (6e-2, 4e-2, 2e-2, 1e-2)
    options = ("init_text",)
    pace = 1.0
    projected = False
    starts_as_tokens = True
