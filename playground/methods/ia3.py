"""IA3: a learned scale for keys, values and the MLP's inner channels."""

from __future__ import annotations

from typing import Any

from playground.errors import InputError
from playground.methods.method import Method
from playground.methods.options import Options
from playground.methods.shapes import Shapes, ends, linears

_KEYS = ("k_proj", "key", "qkv_proj", "c_attn", "query_key_value", "Wqkv")
_VALUES = ("v_proj", "value")
_INNER = ("down_proj", "fc2", "mlp.c_proj", "dense_4h_to_h", "fc_out", "w2")


def targets(shapes: Shapes) -> tuple[list[str], list[str]]:
    """(ends of the adapted layers, those of them whose input is scaled). Raises InputError where the names are unknown."""
    outer, inner = ends(shapes, _KEYS, _VALUES), ends(shapes, _INNER)
    if not outer or not inner:
        raise InputError("This base's keys or MLP have no known names, so IA3 has no place in it. Choose LoRA.")
    return [*outer, *inner], inner


def ia3_tensors(shapes: Shapes, rank: int, options: Options) -> dict[str, tuple[int, ...]]:
    """[outputs, 1] on keys and values, [1, inputs] on the MLP's last layer."""
    places, inner = (tuple(f".{end}" for end in some) for some in targets(shapes))
    return {
        f"base_model.model.{one.name}.ia3_l": (1, one.inputs) if f".{one.name}".endswith(inner) else (one.outputs, 1)
        for one in linears(shapes)
        if f".{one.name}".endswith(places)
    }


def ia3_config(shapes: Shapes, rank: int, options: Options) -> Any:
    from peft import IA3Config

    places, inner = targets(shapes)
    return IA3Config(target_modules=places, feedforward_modules=inner, task_type="CAUSAL_LM")


METHODS = [
    Method(
        name="ia3",
        label="IA³",
        cost="the smallest file",
        explain=(
            "IA³ learns one scale for each channel of the keys, the values and the inner MLP, a few ten thousand numbers in all. "
            "It turns up or down what the base can do already, so it suits style and format more than new knowledge."
        ),
        paper="Liu et al. 2022, arXiv:2205.05638",
        order=4,
        # hospital_reports, 20 steps of 4 rows: 6e-2 loss 0.43, 7 of 40 general questions; 2e-2 0.55, 18 of 40. Both keep the format.
        rates=(3e-2, 2e-2, 1e-2, 5e-3),
        rank=None,
        saves=ia3_tensors,
        peft_config=ia3_config,
        pace=0.9,
        kept=3.0,
    )
]
