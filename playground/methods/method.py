"""What every fine-tuning method tells the rest of the app about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
"""A base's weights: tensor name -> shape, as its safetensors header states them."""


@dataclass(frozen=True)
class Method:
    """One way to fine-tune.

    name: as on the command line. label: as on a button. cost: a few words beside it.
    explain: two sentences for a person. paper: where it comes from.
    learning_rate, rank, batch_size: sensible defaults; rank None = the method has none.
    trains: (base shapes, rank) -> number of weights that will be trained.
    peft_config: (rank) -> a PEFT config, or None where every weight is trained.
    quantised: the base is loaded in NF4 while training.
    """

    name: str
    label: str
    cost: str
    explain: str
    paper: str
    order: int
    learning_rate: float
    rank: int | None
    trains: Callable[[Shapes, int], int]
    peft_config: Callable[[int], Any]
    quantised: bool = False


def linear_shapes(shapes: Shapes) -> list[tuple[int, int]]:
    """(out, in) of every linear layer inside the body: two-dimensional weights that are neither embeddings nor the head."""
    outside = ("embed", "lm_head", "wte", "wpe")
    return [
        (shape[0], shape[1])
        for name, shape in shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and not any(word in name for word in outside)
    ]


def total_weights(shapes: Shapes) -> int:
    """Number of weights in the base."""
    total = 0
    for shape in shapes.values():
        size = 1
        for side in shape:
            size *= side
        total += size
    return total
