"""Bottleneck adapters: a narrow two-layer network behind attention and MLP (PEFT: ``bottleneck.py``)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from playground.errors import AdapterError, InputError
from playground.methods.config_rules import Rule, modules, one_of, whole
from playground.methods.method import (
    BEGIN,
    PLACEMENTS,
    BottleneckWeights,
    FileAdapter,
    FileModule,
    Method,
    Options,
    Shape,
    Shapes,
    linears_ending,
)
from playground.methods.shapes import BaseLayout, depth_fault, ends_of, linear_fault

if TYPE_CHECKING:
    import torch

    from playground.methods.bottleneck import BottleneckConfig

PEFT_NAME = "BOTTLENECK"
ACTIVATIONS = ("relu", "gelu", "silu")  # names in torch.nn.functional
ATTENTION_OUT = ("o_proj", "out_proj", "dense", "c_proj", "wo")
MLP_OUT = ("down_proj", "fc2", "c_proj", "dense_4h_to_h", "fc_out", "w2", "wo")
"""What architectures call the last linear layer of attention, and of the MLP."""
_ATTENTION = tuple(
    f"{at}.{end}" for at in ("self_attn", "attn", "attention", "self_attention") for end in ATTENTION_OUT
)
_MLP = tuple(f"{at}.{end}" for at in ("mlp", "feed_forward", "ffn") for end in MLP_OUT)


def targets(shapes: Shapes, options: Options) -> list[str]:
    """Ends of the layers whose output a bottleneck follows. Raises InputError where the names are unknown."""
    attention = ends_of(shapes, _ATTENTION)
    mlp = ends_of(shapes, _MLP) or ends_of(shapes, ("fc2",))  # OPT keeps its MLP in the block itself
    pfeiffer = options.placement == "pfeiffer"
    if not mlp or not (attention or pfeiffer):
        raise InputError("This base's attention or MLP ends in layers of no known name. Choose LoRA.")
    return mlp if pfeiffer else [*attention, *mlp]


def _part_shapes(width: int, outputs: int) -> dict[str, Shape]:
    """In the order of ``BottleneckWeights``."""
    down: dict[str, Shape] = {"down.weight": (width, outputs), "down.bias": (width,)}
    return {**down, "up.weight": (outputs, width), "up.bias": (outputs,)}


class Bottleneck(Method):
    name = "bottleneck"
    label = "Bottleneck"
    cost = "the first adapters"
    explain = (
        "Bottleneck adapters put a narrow two-layer network behind attention and MLP (Houlsby), or behind the MLP alone"
        " (Pfeiffer). Unlike LoRA they are not linear, so they cannot be merged into the base, and cost a little at"
        " every token."
    )
    summary = "bottleneck adapter: a narrow two-layer network after attention and MLP, or after the MLP alone"
    paper = "Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2020, arXiv:2005.00052"
    order = 5
    # hospital_reports, 20 steps of 4 rows: 4e-3 loss 0.34, 1 of 40 general questions; 1e-3 0.43, 12. Both keep format.
    rates = (2e-3, 1e-3, 5e-4, 2e-4)
    rank = 32
    rank_label = "Width"
    rank_info = "Of the bottleneck."
    options = ("placement",)
    pace = 0.9
    kept = 3.0
    imports = "playground.methods.bottleneck"

    peft_type = PEFT_NAME
    kind = "bottleneck"
    pattern = re.compile(r"base_model\.model\.(?P<module>[\w.]+)\.bottleneck_(?P<part>(?:down|up)\.(?:weight|bias))")
    required = ("r", "target_modules")
    settings: Mapping[str, Rule] = {
        "r": whole(1, 4096),
        "placement": one_of(*PLACEMENTS),
        "activation": one_of(*ACTIVATIONS),
        "target_modules": modules,
        "exclude_modules": modules,
    }

    def saves(self, shapes: Shapes, rank: int, options: Options) -> Shapes:
        """down [width, outputs] and up [outputs, width], each with a bias, behind every adapted layer."""
        return {
            f"{BEGIN}{one.name}.bottleneck_{part}": shape
            for one in linears_ending(shapes, targets(shapes, options))
            for part, shape in _part_shapes(rank, one.outputs).items()
        }

    def peft_config(self, shapes: Shapes, rank: int, options: Options) -> BottleneckConfig:
        from playground.methods.bottleneck import BottleneckConfig

        ends, placement = targets(shapes, options), options.placement or PLACEMENTS[0]
        return BottleneckConfig(r=rank, placement=placement, target_modules=ends, task_type="CAUSAL_LM")

    def register(self) -> None:
        from playground.methods.bottleneck import register

        register()

    def faults(self, shapes: Shapes, config: Mapping[str, Any], base: BaseLayout | None) -> Iterator[str]:
        layers, foreign = self.parts(shapes)
        yield from map(self.foreign, foreign)
        width = config.get("r")
        for module, parts in layers.items():
            outputs = (parts.get("up.bias") or (0,))[0]
            if not width or not outputs or parts != _part_shapes(width, outputs):
                said = ", ".join(f"{name} {list(shape)}" for name, shape in sorted(parts.items()))
                yield f"has layer {module} with {said}, which are no bottleneck {width} wide (r in its config)"
                continue
            yield linear_fault(module, None, outputs, base)
        yield depth_fault(layers, config, base)

    def read(self, name: str, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> FileAdapter:
        activation = config.get("activation", "gelu")
        if activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            words = f"{name}'s activation is {activation!r}; a bottleneck's is one of {known}. Train it again."
            raise AdapterError(words)
        self.checked_shapes(name, config, tensors)
        found = {}
        for module, part in self.parts(tensors)[0].items():
            down, down_bias, up, up_bias = (part[key] for key in _part_shapes(0, 0))
            found[module] = FileModule(neck=BottleneckWeights(down, down_bias, up, up_bias, activation))
        return FileAdapter(found)
