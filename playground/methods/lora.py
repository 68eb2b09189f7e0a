"""LoRA: a low-rank correction beside every linear layer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from playground.errors import AdapterError
from playground.methods.config_rules import (
    RANK_LIMIT,
    Rule,
    is_name,
    modules,
    nothing,
    number,
    patterns,
    switch,
    value_by_name,
    whole,
)
from playground.methods.method import BEGIN, Method, Options, Tensors, depth_fault, linear_fault
from playground.methods.shapes import BaseLayout, Linear, Shapes, linears, linears_ending
from playground.methods.weights import FileAdapter, FileModule

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

_SETTLED = ("orthogonal", "eva")
"""Ways to begin a LoRA that leave the base's weights alone (PEFT, LoraConfig.init_lora_weights); the file holds what
became of it."""


def _layer_list(value: Any) -> str:
    items = value if isinstance(value, list) else [value]
    return "" if value is None or not any(map(whole(0, 10_000), items)) else "it must be layer numbers"


def _layers_pattern(value: Any) -> str:
    items = value if isinstance(value, list) else [value]
    return "" if value is None or all(v == "" or is_name(v) for v in items) else "it must be a name"


def _init(value: Any) -> str:
    if value is None or isinstance(value, bool) or value in ("gaussian", "default"):
        return ""
    return (
        "it rewrites the weights of the base; convert the adapter to a plain LoRA (PEFT: "
        "path_initial_model_for_weight_conversion)"
    )


def lora_scale(config: Mapping[str, Any], alpha: float | None, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732). alpha: this module's own, None =
    the config's."""
    alpha = float(config.get("lora_alpha", 8) if alpha is None else alpha)
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


class Lora(Method):
    name = "lora"
    label = "LoRA"
    cost = "right in most cases"
    explain = (
        "LoRA freezes the base and learns a small low-rank correction beside each linear layer, under 2 % of the"
        " weights. The result is a file of a few megabytes that can be laid over the base or taken off in a moment."
    )
    summary = "LoRA: two small matrices beside each adapted layer"
    paper = "Hu et al. 2021, arXiv:2106.09685"
    order = 1
    rates = (2e-3, 1e-3, 5e-4, 2e-4)
    rank = 8
    options: tuple[str, ...] = ("rslora", "pissa")
    mergeable = True
    blendable = True
    axolotl: Mapping[str, Any] | None = {"adapter": "lora", "lora_target_linear": True}

    peft_type = "LORA"
    kind = "LoRA"
    pattern = re.compile(
        r"base_model\.model\.(?P<module>[\w.]+)\.lora_(?P<part>[AB](?=\.weight)|magnitude_vector)(?:\.weight)?"
    )
    required = ("r", "target_modules")
    settings: Mapping[str, Rule] = {
        "r": whole(1, RANK_LIMIT),
        "lora_alpha": number(1e-6, 65_536),
        "lora_dropout": number(0, 1),
        "target_modules": modules,
        "exclude_modules": modules,
        "layers_to_transform": _layer_list,
        "layers_pattern": _layers_pattern,
        "rank_pattern": patterns(whole(1, RANK_LIMIT)),
        "alpha_pattern": patterns(number(1e-6, 65_536)),
        "bias": lambda value: (
            "" if value == "none" else "it trains biases of the base; only 'none' leaves the base alone"
        ),
        "use_rslora": switch,
        "use_dora": switch,
        "fan_in_fan_out": switch,
        "init_lora_weights": _init,
        "layer_replication": nothing("it changes how many layers the base has"),
        "trainable_token_indices": nothing("it changes the embeddings of the base"),
    }
    targets: str | tuple[str, ...] = "all-linear"
    """The layers that it adapts: all, or those whose names end so."""
    dora = False
    """It learns the size of each output row apart."""

    def adapted(self, shapes: Shapes) -> list[Linear]:
        """The base's linear layers that get a correction."""
        return linears(shapes) if isinstance(self.targets, str) else linears_ending(shapes, self.targets)

    def saves(self, shapes: Shapes, rank: int, options: Options) -> Tensors:
        """A is [rank, in] and B is [out, rank], DoRA's sizes [out]. PiSSA's start stands in the file as well: twice the
        rank."""
        held = 2 * rank if options.pissa else rank
        found: dict[str, tuple[int, ...]] = {}
        for one in self.adapted(shapes):
            found[f"{BEGIN}{one.name}.lora_A.weight"] = (held, one.inputs)
            found[f"{BEGIN}{one.name}.lora_B.weight"] = (one.outputs, held)
            if self.dora:
                found[f"{BEGIN}{one.name}.lora_magnitude_vector"] = (one.outputs,)
        return found

    def trains(self, shapes: Shapes, rank: int, options: Options) -> int:
        return sum(rank * (one.outputs + one.inputs) + self.dora * one.outputs for one in self.adapted(shapes))

    def peft_config(self, shapes: Shapes, rank: int, options: Options) -> LoraConfig:
        """No dropout: the runs are short. The scale is 2 (rsLoRA: 2 sqrt(rank)), with PiSSA half of that.

        PiSSA needs no base that is rewritten: with the trained pair (B, A) stands the pair it began as, (-B0, A0),
        which never moves,
        so that the sum begins at zero over the base as it is. It is a plain LoRA of twice the rank at every moment.
        """
        from peft import LoraConfig

        alpha: Any = 2 * rank
        if options.pissa and options.rslora:
            alpha = math.sqrt(2) * rank  # alpha / sqrt(2 rank) = sqrt(rank)
        targets = self.targets if isinstance(self.targets, str) else list(self.targets)
        return LoraConfig(
            r=2 * rank if options.pissa else rank,
            lora_alpha=alpha,
            lora_dropout=0.0,
            bias="none",
            target_modules=targets,
            task_type="CAUSAL_LM",
            use_rslora=options.rslora,
            use_dora=self.dora,
        )

    def accepts(self, config: Mapping[str, Any]) -> bool:
        return super().accepts(config) and bool(config.get("use_dora")) == self.dora

    def without_training(self, config: dict[str, Any]) -> list[str]:
        how = config.get("init_lora_weights")
        if how not in _SETTLED:
            return []
        config["init_lora_weights"] = True
        config.pop("eva_config", None)
        return [f"init_lora_weights {how} is left out: it is how training began"]

    def faults(self, shapes: Tensors, config: Mapping[str, Any], base: BaseLayout | None) -> Iterator[str]:
        layers, foreign = self.parts(shapes)
        yield from map(self.foreign, foreign)
        ranks = {config["r"], *(config.get("rank_pattern") or {}).values()}
        dora = bool(config.get("use_dora"))
        for module, parts in layers.items():
            down, up, magnitude = (parts.get(part) for part in ("A", "B", "magnitude_vector"))
            if down is None or up is None:
                yield f"lacks lora_{'A' if down is None else 'B'} for layer {module}"
                continue
            pair = len(down) == len(up) == 2 and down[0] == up[1] and 1 <= down[0] <= RANK_LIMIT
            if not pair or 0 in (down[1], up[0]):
                sizes = f"lora_A {list(down)} and lora_B {list(up)}"
                yield f"has layer {module} with {sizes}, which are no pair of a rank from 1 to {RANK_LIMIT}"
                continue
            if down[0] not in ranks:
                yield f"has rank {down[0]} in layer {module}, but its config says {', '.join(map(str, sorted(ranks)))}"
            if magnitude != ((up[0],) if dora else None):
                yield (
                    f"has a DoRA magnitude of shape {magnitude} in layer {module}, while its config says use_dora"
                    f" {dora}"
                )
            yield linear_fault(module, down[1], up[0], base)
        yield depth_fault(layers, config, base)

    def factors(self, config: Mapping[str, Any], shapes: Tensors, whose: str = "") -> dict[str, float]:
        matches = {name: match for name in shapes if (match := self.pattern.fullmatch(name)) and match["part"] == "B"}
        names = [match["module"] for match in matches.values()]
        alphas = value_by_name(f"{whose}alpha_pattern", config.get("alpha_pattern") or {}, names)
        return {
            name: lora_scale(config, alphas.get(match["module"]), shapes[name][1]) for name, match in matches.items()
        }

    def read(self, name: str, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> FileAdapter:
        if config.get("target_parameters"):
            raise AdapterError(
                f"{name} adapts weights that are stacked by expert (target_parameters); chatting carries adapters on"
                " linear layers only. Train it on the attention layers."
            )
        layers, foreign = self.parts(tensors)
        if foreign and foreign[0].endswith(".base_layer.weight"):
            raise AdapterError(
                f"{name} carries weights of the base itself ({foreign[0]}). Save it again with"
                " save_embedding_layers=False."
            )
        if foreign:
            raise AdapterError(
                f"{name} holds {foreign[0]}, which is not a LoRA weight. Export it again as a plain LoRA."
            )
        needed = {"A", "B"} | ({"magnitude_vector"} if config.get("use_dora") else set())
        for module, pair in layers.items():
            if set(pair) != needed:
                raise AdapterError(
                    f"{name} holds only a part of {module}'s weights. The file is damaged; export the adapter again."
                )
            a, b = tuple(pair["A"].shape), tuple(pair["B"].shape)
            if len(a) != 2 or len(b) != 2 or a[0] != b[1] or not a[0]:
                sizes = f"{list(a)} and {list(b)}"
                raise AdapterError(
                    f"{name}'s matrices for {module} are {sizes}, which are no pair of one rank. Export it again."
                )
        factors = self.factors(config, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, f"{name}'s ")
        return FileAdapter(
            {
                module: FileModule(
                    pair["A"],
                    pair["B"] * factors[f"{BEGIN}{module}.lora_B.weight"],
                    magnitude=pair.get("magnitude_vector"),
                )
                for module, pair in layers.items()
            }
        )
