"""Full fine-tuning: the base's own weights move, all of them or the last layers."""

from __future__ import annotations

from playground.errors import InputError
from playground.methods.method import Method
from playground.methods.options import Options
from playground.methods.shapes import Shapes, layer_count, layer_of, weights_in

_LAST_NORM = ("norm.weight", "norm.bias", "ln_f.weight", "ln_f.bias", "final_layernorm.weight", "final_layernorm.bias",
              "final_layer_norm.weight", "final_layer_norm.bias")  # fmt: skip


def moving(shapes: Shapes, options: Options) -> set[str]:
    """Names of the weights that are trained: all, or the last layers with the norm behind them. Raises InputError."""
    if not options.layers:
        return set(shapes)
    there = layer_count(shapes)
    if options.layers > there:
        raise InputError(f"The base has {there} layers; {options.layers} cannot be trained. Choose fewer, or 0 for all weights.")
    return {
        name
        for name in shapes
        if ((index := layer_of(name)) is not None and index >= there - options.layers)
        or (index is None and name.endswith(_LAST_NORM))
    }  # fmt: skip


METHODS = [
    Method(
        name="full",
        label="Full",
        cost="every weight moves",
        explain=(
            "Full fine-tuning moves every weight of the base, or those of its last layers: the deepest effect, the most memory, and a whole "
            "model on disk per task. It may forget what the base knew, so compare it with LoRA before you choose it."
        ),
        paper="Howard and Ruder 2018, arXiv:1801.06146",
        order=10,
        # hospital_reports, 20 steps of 4 rows: 2e-4 loss 0.30, 12 of 40 general questions; 5e-5 0.49, 17 of 40. Both keep the format.
        rates=(1e-4, 5e-5, 2e-5, 1e-5),
        rank=None,
        saves=lambda shapes, rank, options: shapes,
        trains=lambda shapes, rank, options: weights_in({name: shapes[name] for name in moving(shapes, options)}),
        peft_config=lambda shapes, rank, options: None,
        options=("layers",),
        whole=True,
        pace=1.6,
    )
]
