"""Bottleneck adapters: a narrow two-layer network behind attention and MLP. The PEFT method itself stands in ``tuners/bottleneck.py``."""

from __future__ import annotations

from typing import Any

from playground.errors import InputError
from playground.methods.method import Method
from playground.methods.options import Options
from playground.methods.shapes import Shapes, ends, linears

_ATTENTION = tuple(f"{place}.{last}" for place in ("self_attn", "attn", "attention", "self_attention")
                   for last in ("o_proj", "out_proj", "dense", "c_proj", "wo"))  # fmt: skip
_MLP = tuple(f"{place}.{last}" for place in ("mlp", "feed_forward", "ffn") for last in ("down_proj", "fc2", "c_proj", "dense_4h_to_h", "fc_out", "w2", "wo"))  # fmt: skip


def targets(shapes: Shapes, options: Options) -> list[str]:
    """Ends of the layers whose output a bottleneck follows. Raises InputError where the names are unknown."""
    attention, mlp = ends(shapes, _ATTENTION), ends(shapes, _MLP)
    pfeiffer = options.placement == "pfeiffer"
    if not mlp or not (attention or pfeiffer):
        raise InputError("This base's attention or MLP ends in layers of no known name. Choose LoRA.")
    return mlp if pfeiffer else [*attention, *mlp]


def bottleneck_tensors(shapes: Shapes, rank: int, options: Options) -> dict[str, tuple[int, ...]]:
    """down [width, outputs] and up [outputs, width], each with a bias, behind every adapted layer."""
    places = tuple(f".{end}" for end in targets(shapes, options))
    found: dict[str, tuple[int, ...]] = {}
    for one in linears(shapes):
        if f".{one.name}".endswith(places):
            stem = f"base_model.model.{one.name}.bottleneck"
            found |= {f"{stem}_down.weight": (rank, one.outputs), f"{stem}_down.bias": (rank,)}
            found |= {f"{stem}_up.weight": (one.outputs, rank), f"{stem}_up.bias": (one.outputs,)}
    return found


def bottleneck_config(shapes: Shapes, rank: int, options: Options) -> Any:
    from playground.methods.bottleneck import BottleneckConfig

    return BottleneckConfig(
        r=rank, placement=options.placement or "houlsby", target_modules=targets(shapes, options), task_type="CAUSAL_LM"
    )


METHODS = [
    Method(
        name="bottleneck",
        label="Bottleneck",
        cost="the first adapters",
        explain=(
            "Bottleneck adapters put a narrow two-layer network behind attention and MLP (Houlsby), or behind the MLP alone (Pfeiffer). "
            "Unlike LoRA they are not linear, so they cannot be merged into the base, and cost a little at every token."
        ),
        paper="Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2020, arXiv:2005.00052",
        order=5,
        # hospital_reports, 20 steps of 4 rows: 4e-3 loss 0.34, 1 of 40 general questions; 1e-3 0.43, 12 of 40. Both keep the format.
        rates=(2e-3, 1e-3, 5e-4, 2e-4),
        rank=32,
        saves=bottleneck_tensors,
        peft_config=bottleneck_config,
        rank_label="Width",
        rank_info="Of the bottleneck.",
        options=("placement",),
        pace=0.9,
        kept=3.0,
    )
]
