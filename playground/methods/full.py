"""Full fine-tuning: the base's own weights move, all of them or the last layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from playground.errors import InputError
from playground.methods.method import Method, Options, Shapes, weights_in
from playground.methods.shapes import layer_count, layer_of

_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm")
_LAST_NORM = tuple(f"{norm}.{part}" for norm in _NORMS for part in ("weight", "bias"))


def moving(shapes: Shapes, options: Options) -> set[str]:
    """Names of the weights that are trained: all, or the last layers with the norm behind them. Raises InputError."""
    if not options.layers:
        return set(shapes)
    there = layer_count(shapes)
    if options.layers > there:
        raise InputError(
            f"The base has {there} layers; {options.layers} cannot be trained. Choose fewer, or 0 for all weights."
        )
    first = there - options.layers
    indices = {name: layer_of(name) for name in shapes}
    return {
        name for name, index in indices.items() if (index >= first if index is not None else name.endswith(_LAST_NORM))
    }


class Full(Method):
    name = "full"
    label = "Full"
    cost = "every weight moves"
    explain = (
        "Full fine-tuning moves every weight of the base, or those of its last layers: the deepest effect, the most"
        " memory, and a whole model on disk per task. It may forget what the base knew, so compare it with LoRA before"
        " you choose it."
    )
    summary = "full fine-tuning: every weight of the base was trained"
    paper = "Howard and Ruder 2018, arXiv:1801.06146"
    order = 10
    # hospital_reports, 20 steps of 4 rows: 2e-4 loss 0.30, 12 of 40 general questions; 5e-5 0.49, 17. Both keep format.
    rates = (1e-4, 5e-5, 2e-5, 1e-5)
    options = ("layers",)
    whole = True
    lighter = ("lora", "qlora")
    pace = 1.6
    axolotl: Mapping[str, Any] | None = {}

    def saves(self, shapes: Shapes, rank: int, options: Options) -> Shapes:
        return shapes

    def trains(self, shapes: Shapes, rank: int, options: Options) -> int:
        return weights_in({name: shapes[name] for name in moving(shapes, options)})
