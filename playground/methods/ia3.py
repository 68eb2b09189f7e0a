"""IA3: a learned scale for keys, values and the MLP's inner channels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from playground.errors import InputError
from playground.methods.config_rules import Rule, modules, switch
from playground.methods.method import BEGIN, FileAdapter, FileModule, Method, Options, Shapes, linears_ending
from playground.methods.shapes import BaseLayout, depth_fault, ends_of, linear_fault

if TYPE_CHECKING:
    import torch
    from peft import IA3Config

_KEYS = ("k_proj", "key", "qkv_proj", "c_attn", "query_key_value", "Wqkv")
_VALUES = ("v_proj", "value")
_INNER = ("down_proj", "fc2", "mlp.c_proj", "dense_4h_to_h", "fc_out", "w2")


def _targets(shapes: Shapes) -> tuple[list[str], list[str]]:
    """(ends of the layers whose output is scaled, of those whose input is). Raises InputError for unknown names."""
    outer, inner = ends_of(shapes, _KEYS, _VALUES), ends_of(shapes, _INNER)
    if not outer or not inner:
        raise InputError("This base's keys or MLP have no known names, so IA3 has no place in it. Choose LoRA.")
    return outer, inner


class IA3(Method):
    name = "ia3"
    label = "IA³"
    cost = "the smallest file"
    explain = (
        "IA³ learns one scale for each channel of the keys, the values and the inner MLP, a few ten thousand numbers in"
        " all. It turns up or down what the base can do already, so it suits style and format more than new knowledge."
    )
    summary = "IA3: one learned scale for each channel of some layers"
    paper = "Liu et al. 2022, arXiv:2205.05638"
    order = 4
    # hospital_reports, 20 steps of 4 rows: 6e-2 loss 0.43, 7 of 40 general questions; 2e-2 0.55, 18. Both keep format.
    rates = (3e-2, 2e-2, 1e-2, 5e-3)
    mergeable = True
    pace = 0.9
    kept = 3.0

    peft_type = "IA3"
    kind = "IA3"
    pattern = re.compile(r"base_model\.model\.(?P<module>[\w.]+)\.(?P<part>ia3_l)")
    required = ("target_modules",)
    settings: Mapping[str, Rule] = {
        "target_modules": modules,
        "exclude_modules": modules,
        "feedforward_modules": modules,
        "fan_in_fan_out": switch,
        "init_ia3_weights": switch,
    }

    def saves(self, shapes: Shapes, rank: int, options: Options) -> Shapes:
        """[outputs, 1] on keys and values, [1, inputs] on the MLP's last layer."""
        outer, inner = _targets(shapes)
        scaled = {one.name for one in linears_ending(shapes, inner)}
        return {
            f"{BEGIN}{one.name}.ia3_l": (1, one.inputs) if one.name in scaled else (one.outputs, 1)
            for one in linears_ending(shapes, [*outer, *inner])
        }

    def peft_config(self, shapes: Shapes, rank: int, options: Options) -> IA3Config:
        from peft import IA3Config

        outer, inner = _targets(shapes)
        return IA3Config(target_modules=[*outer, *inner], feedforward_modules=inner, task_type="CAUSAL_LM")

    def modules(self, tensors: Shapes) -> dict[str, bool]:
        return {module: parts["ia3_l"][:1] == (1,) for module, parts in self.parts(tensors)[0].items()}

    def written_out(self, config: dict[str, Any], modules: Mapping[str, bool]) -> None:
        """PEFT wants the feedforward layers among the targets, name by name."""
        super().written_out(config, modules)
        config["feedforward_modules"] = [name for name in sorted(modules) if modules[name]]

    def faults(self, shapes: Shapes, config: Mapping[str, Any], base: BaseLayout | None) -> Iterator[str]:
        found, feeds = set(), config.get("feedforward_modules") or []
        for name, shape in shapes.items():
            match = self.pattern.fullmatch(name)
            if not match:
                yield self.foreign(name)
            elif len(shape) != 2 or 1 not in shape:
                yield f"has {name} of shape {list(shape)}; an IA3 vector is [outputs, 1] or [1, inputs]"
            else:
                module = match["module"]
                found.add(module)
                inner = shape[0] == 1 if isinstance(feeds, str) else module.endswith(tuple(feeds))
                if inner != (shape[0] == 1) and shape != (1, 1):
                    yield f"has {name} of shape {list(shape)}, which is not what its feedforward_modules say"
                yield linear_fault(module, shape[1] if inner else None, None if inner else shape[0], base)
        yield depth_fault(found, config, base)

    def read(self, name: str, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> FileAdapter:
        """[1, in] scales a feedforward layer's input, [out, 1] any other layer's output."""
        found = {}
        for module, inner in self.modules(self.checked_shapes(name, config, tensors)).items():
            vector = tensors[f"{BEGIN}{module}.ia3_l"].flatten()
            found[module] = FileModule(in_scale=vector) if inner else FileModule(out_scale=vector)
        return FileAdapter(found)
