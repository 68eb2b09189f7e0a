"""LoRA and QLoRA: a low-rank correction beside every linear layer."""

from __future__ import annotations

from typing import Any

from playground.methods.method import Method, Shapes, linear_shapes


def lora_weights(shapes: Shapes, rank: int) -> int:
    """A is (rank, in) and B is (out, rank) for every linear layer of the body."""
    return sum(rank * (rows + columns) for rows, columns in linear_shapes(shapes))


def lora_config(rank: int) -> Any:
    """LoRA on all linear layers, alpha = 2 * rank, no dropout: the runs are short."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, bias="none", target_modules="all-linear", task_type="CAUSAL_LM"
    )


METHODS = [
    Method(
        name="lora",
        label="LoRA",
        cost="right in most cases",
        explain=(
            "LoRA freezes the base and learns a small low-rank correction beside each linear layer, under 2 % of the weights. "
            "The result is a file of a few megabytes that can be laid over the base or taken off in a moment."
        ),
        paper="Hu et al. 2021, arXiv:2106.09685",
        order=1,
        learning_rate=1e-3,
        rank=8,
        trains=lora_weights,
        peft_config=lora_config,
    ),
    Method(
        name="qlora",
        label="QLoRA",
        cost="a third of the memory",
        explain=(
            "QLoRA is LoRA over a base squeezed to 4 bits (NF4, double quantisation) while it trains, so a larger base fits. "
            "It costs a little speed and accuracy; the adapter itself is an ordinary LoRA."
        ),
        paper="Dettmers et al. 2023, arXiv:2305.14314",
        order=2,
        learning_rate=1e-3,
        rank=8,
        trains=lora_weights,
        peft_config=lora_config,
        quantised=True,
    ),
]
