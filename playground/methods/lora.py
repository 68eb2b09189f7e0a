"""LoRA, QLoRA and DoRA: a low-rank correction beside every linear layer."""

from __future__ import annotations

import math
from typing import Any

from playground.methods.method import Method
from playground.methods.options import Options
from playground.methods.shapes import Shapes, linears


def lora_tensors(shapes: Shapes, rank: int, options: Options) -> dict[str, tuple[int, ...]]:
    """A is [rank, in] and B is [out, rank] for every linear layer of the body. PiSSA's start stands in the file as well: twice the rank."""
    held = 2 * rank if options.pissa else rank
    found: dict[str, tuple[int, ...]] = {}
    for one in linears(shapes):
        found[f"base_model.model.{one.name}.lora_A.weight"] = (held, one.inputs)
        found[f"base_model.model.{one.name}.lora_B.weight"] = (one.outputs, held)
    return found


def lora_weights(shapes: Shapes, rank: int, options: Options) -> int:
    return sum(rank * (one.outputs + one.inputs) for one in linears(shapes))


def lora_config(shapes: Shapes, rank: int, options: Options) -> Any:
    """LoRA on all linear layers, no dropout: the runs are short. The scale is 2 (rsLoRA: 2 sqrt(rank)), with PiSSA half of that.

    PiSSA needs no base that is rewritten: with the trained pair (B, A) stands the pair it began as, (-B0, A0), which never moves,
    so that the sum begins at zero over the base as it is. It is a plain LoRA of twice the rank at every moment.
    """
    from peft import LoraConfig

    held = 2 * rank if options.pissa else rank
    alpha: Any = 2 * rank
    if options.pissa and options.rslora:
        alpha = math.sqrt(2) * rank  # alpha / sqrt(2 rank) = sqrt(rank)
    return LoraConfig(
        r=held, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules="all-linear",
        task_type="CAUSAL_LM", use_rslora=options.rslora,
    )  # fmt: skip


def dora_tensors(shapes: Shapes, rank: int, options: Options) -> dict[str, tuple[int, ...]]:
    """LoRA's, and a size for every output."""
    sizes = {f"base_model.model.{one.name}.lora_magnitude_vector": (one.outputs,) for one in linears(shapes)}
    return {**lora_tensors(shapes, rank, options), **sizes}


def dora_config(shapes: Shapes, rank: int, options: Options) -> Any:
    config = lora_config(shapes, rank, options)
    config.use_dora = True
    return config


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
        rates=(2e-3, 1e-3, 5e-4, 2e-4),
        rank=8,
        saves=lora_tensors,
        trains=lora_weights,
        peft_config=lora_config,
        options=("rslora", "pissa"),
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
        rates=(2e-3, 1e-3, 5e-4, 2e-4),
        rank=8,
        saves=lora_tensors,
        trains=lora_weights,
        peft_config=lora_config,
        options=("rslora", "pissa"),
        quantised=True,
        pace=1.05,
        kept=4.7,
    ),
    Method(
        name="dora",
        label="DoRA",
        cost="closer to full, slower",
        explain=(
            "DoRA is LoRA that learns the size and the direction of each layer's weights apart, which brings it closer to full fine-tuning "
            "at the same rank. It takes about half as long again to train; the file is hardly larger."
        ),
        paper="Liu et al. 2024, arXiv:2402.09353",
        order=3,
        rates=(2e-3, 1e-3, 5e-4, 2e-4),
        rank=8,
        saves=dora_tensors,
        peft_config=dora_config,
        options=("rslora",),
        pace=1.3,
        kept=5.8,
    ),
]
