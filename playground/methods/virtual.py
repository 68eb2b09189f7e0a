"""Methods that put virtual tokens before the text: as keys and values of every layer, or as embeddings."""

from __future__ import annotations

from typing import Any

from playground.methods.method import Method
from playground.methods.options import Options
from playground.methods.shapes import Shapes, hidden_size, key_value_size, layer_count

PREFIX_ENCODER = 256
"""Width of the MLP that a prefix is learned through."""
PROMPT_ENCODER_MAX = 1024


def prefix_tensors(shapes: Shapes, rank: int, options: Options) -> dict[str, tuple[int, ...]]:
    """Keys and values of every layer for every virtual token: [tokens, layers x 2 x width of a layer's keys]."""
    return {"prompt_embeddings": (rank, layer_count(shapes) * 2 * key_value_size(shapes))}


def prefix_weights(shapes: Shapes, rank: int, options: Options) -> int:
    """An embedding a virtual token, and the MLP that makes keys and values of it."""
    wide, out = key_value_size(shapes), layer_count(shapes) * 2 * key_value_size(shapes)
    return rank * wide + (wide + 1) * PREFIX_ENCODER + (PREFIX_ENCODER + 1) * out


def prompt_tensors(shapes: Shapes, rank: int, options: Options) -> dict[str, tuple[int, ...]]:
    """One embedding a virtual token."""
    return {"prompt_embeddings": (rank, hidden_size(shapes))}


def p_tuning_weights(shapes: Shapes, rank: int, options: Options) -> int:
    """An embedding a virtual token, and the prompt encoder's three layers."""
    wide, inner = hidden_size(shapes), _encoder(shapes)
    return rank * wide + (wide + 1) * inner + (inner + 1) * inner + (inner + 1) * wide


def _encoder(shapes: Shapes) -> int:
    return min(hidden_size(shapes), PROMPT_ENCODER_MAX)


def prefix_config(shapes: Shapes, rank: int, options: Options) -> Any:
    from peft import PrefixTuningConfig

    return PrefixTuningConfig(
        num_virtual_tokens=rank, prefix_projection=True, encoder_hidden_size=PREFIX_ENCODER, task_type="CAUSAL_LM"
    )


def deep_prompt_config(shapes: Shapes, rank: int, options: Options) -> Any:
    from peft import PrefixTuningConfig

    return PrefixTuningConfig(num_virtual_tokens=rank, prefix_projection=False, task_type="CAUSAL_LM")


def prompt_config(shapes: Shapes, rank: int, options: Options) -> Any:
    """RANDOM also where the tokens begin as a text: they are put there afterwards, and whoever loads the file needs no tokenizer."""
    from peft import PromptTuningConfig

    return PromptTuningConfig(num_virtual_tokens=rank, prompt_tuning_init="RANDOM", task_type="CAUSAL_LM")


def p_tuning_config(shapes: Shapes, rank: int, options: Options) -> Any:
    from peft import PromptEncoderConfig

    return PromptEncoderConfig(num_virtual_tokens=rank, encoder_hidden_size=_encoder(shapes), task_type="CAUSAL_LM")


_COMMON: dict[str, Any] = {"rank_label": "Virtual tokens", "virtual": True, "kept": 1.8}

METHODS = [
    Method(
        name="prefix",
        label="Prefix tuning",
        cost="a learned beginning in every layer",
        explain=(
            "Prefix tuning learns keys and values that every layer reads before the text, through a small network that steadies the learning "
            "and is left behind afterwards. The base stays as it is, and the file is small."
        ),
        paper="Li and Liang 2021, arXiv:2101.00190",
        order=6,
        # hospital_reports, 20 steps of 4 rows: 5e-3 loss 0.51, 2e-3 0.56; 1.5e-2 diverges. Both keep the format and forget much.
        rates=(1e-2, 5e-3, 3e-3, 1e-3),
        rank=20,
        saves=prefix_tensors,
        trains=prefix_weights,
        peft_config=prefix_config,
        rank_info="Read by every layer before the text.",
        pace=0.95,
        **_COMMON,
    ),
    Method(
        name="p-tuning-v2",
        label="P-tuning v2",
        cost="the same without the network",
        explain=(
            "P-tuning v2 learns the keys and values before the text directly, as deep prompts in every layer. "
            "They begin as those of real tokens, so that the base is not thrown off its way at the start."
        ),
        paper="Liu et al. 2021, arXiv:2110.07602",
        order=7,
        # hospital_reports, 20 steps of 4 rows: 1e-1 loss 0.56, 0 of 40 general questions; 4e-2 0.73, 4 of 40; 1e-2 is too slow.
        rates=(6e-2, 4e-2, 2e-2, 1e-2),
        rank=20,
        saves=prefix_tensors,
        peft_config=deep_prompt_config,
        rank_info="Read by every layer before the text.",
        options=("init_text",),
        pace=1.0,
        **_COMMON,
    ),
    Method(
        name="prompt",
        label="Prompt tuning",
        cost="fewest weights of all",
        explain=(
            "Prompt tuning learns a few token embeddings that stand before every prompt, and nothing else: a prompt that no one could type. "
            "It is the weakest on small bases and catches up with their size; it may begin as a text of yours."
        ),
        paper="Lester et al. 2021, arXiv:2104.08691",
        order=8,
        # hospital_reports, 24 steps of 2 rows: 3e-2 loss 1.52, 1e-1 1.59, 3e-1 2.17. More steps help, larger ones do not.
        rates=(5e-2, 3e-2, 2e-2, 1e-2),
        rank=20,
        saves=prompt_tensors,
        peft_config=prompt_config,
        rank_info="Stand before every prompt.",
        options=("init_text",),
        pace=1.3,
        **_COMMON,
    ),
    Method(
        name="p-tuning",
        label="P-tuning",
        cost="prompt tuning through a network",
        explain=(
            "P-tuning learns token embeddings before the prompt through a small network, the prompt encoder, which ties them together while "
            "they are learned. Only what it makes is kept, so the file is that of prompt tuning."
        ),
        paper="Liu et al. 2021, arXiv:2103.10385",
        order=9,
        # hospital_reports, 24 steps of 2 rows: 2e-3 loss 2.27, 6e-3 2.33, 2e-2 2.17. It needs more steps.
        rates=(3e-3, 2e-3, 1e-3, 5e-4),
        rank=20,
        saves=prompt_tensors,
        trains=p_tuning_weights,
        peft_config=p_tuning_config,
        rank_info="Stand before every prompt.",
        pace=1.3,
        **_COMMON,
    ),
]
