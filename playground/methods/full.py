"""Full fine-tuning: every weight moves."""

from __future__ import annotations

from playground.methods.method import Method, total_weights

METHODS = [
    Method(
        name="full",
        label="Full",
        cost="every weight moves",
        explain=(
            "Full fine-tuning moves every weight of the base: the deepest effect, the most memory, and a whole model on disk per task. "
            "It may forget what the base knew, so compare it with LoRA before you choose it."
        ),
        paper="Howard and Ruder 2018, arXiv:1801.06146",
        order=9,
        learning_rate=5e-5,
        rank=None,
        trains=lambda shapes, rank: total_weights(shapes),
        peft_config=lambda rank: None,
    )
]
