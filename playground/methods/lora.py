"""LoRA, a low-rank correction beside every linear layer; QLoRA, the same over a base in 4 bits while it trains; DoRA,
which learns the size of each output row apart from its direction."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from playground.errors import AdapterError
from playground.methods import config_rules as rules
from playground.methods.config_rules import RANK_LIMIT, Rule
from playground.methods.method import (
    BEGIN,
    FileAdapter,
    FileModule,
    Linear,
    Method,
    Options,
    Shapes,
    linears,
    linears_ending,
)
from playground.methods.shapes import BaseLayout, depth_fault, linear_fault

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

_SETTLED = ("orthogonal", "eva")
"""Ways to begin a LoRA that leave the base's weights alone (PEFT, LoraConfig.init_lora_weights); the file holds what
became of it."""
_BEGINS = rules.one_of(None, True, False, "gaussian", "default")
_REWRITES = (
    "it rewrites the weights of the base; convert the adapter to a plain LoRA (PEFT: "
    "path_initial_model_for_weight_conversion)"
)


def _each(rule: Rule, why: str) -> Rule:
    """One value that ``rule`` allows, a list of such, or null."""
    return lambda v: "" if v is None or not any(map(rule, v if isinstance(v, list) else [v])) else why


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
        "r": rules.whole(1, RANK_LIMIT),
        "lora_alpha": rules.number(1e-6, 65_536),
        "lora_dropout": rules.number(0, 1),
        "target_modules": rules.modules,
        "exclude_modules": rules.modules,
        "layers_to_transform": _each(rules.whole(0, 10_000), "it must be layer numbers"),
        "layers_pattern": _each(lambda v: "" if v == "" or rules.is_name(v) else "no name", "it must be a name"),
        "rank_pattern": rules.patterns(rules.whole(1, RANK_LIMIT)),
        "alpha_pattern": rules.patterns(rules.number(1e-6, 65_536)),
        "bias": lambda v: "" if v == "none" else "it trains biases of the base; only 'none' leaves the base alone",
        "use_rslora": rules.switch,
        "use_dora": rules.switch,
        "fan_in_fan_out": rules.switch,
        "init_lora_weights": lambda v: _REWRITES if _BEGINS(v) else "",
        "layer_replication": rules.nothing("it changes how many layers the base has"),
        "trainable_token_indices": rules.nothing("it changes the embeddings of the base"),
    }
    targets: str | tuple[str, ...] = "all-linear"  # the layers that it adapts: all, or those whose names end so
    dora = False  # it learns the size of each output row apart

    def adapted(self, shapes: Shapes) -> list[Linear]:
        return linears(shapes) if isinstance(self.targets, str) else linears_ending(shapes, self.targets)

    def saves(self, shapes: Shapes, rank: int, options: Options) -> Shapes:
        """A is [rank, in] and B is [out, rank], DoRA's sizes [out]; twice the rank with PiSSA, whose start is kept."""
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
        which never moves, so that the sum begins at zero. It is a plain LoRA of twice the rank at every moment."""
        from peft import LoraConfig

        alpha: Any = 2 * rank
        if options.pissa and options.rslora:
            alpha = math.sqrt(2) * rank  # alpha / sqrt(2 rank) = sqrt(rank)
        return LoraConfig(
            r=2 * rank if options.pissa else rank,
            lora_alpha=alpha,
            target_modules=self.targets if isinstance(self.targets, str) else list(self.targets),
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

    def faults(self, shapes: Shapes, config: Mapping[str, Any], base: BaseLayout | None) -> Iterator[str]:
        layers, foreign = self.parts(shapes)
        yield from map(self.foreign, foreign)
        ranks = {config.get("r"), *(config.get("rank_pattern") or {}).values()}
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
                has = f"has a DoRA magnitude of shape {magnitude} in layer {module}"
                yield f"{has}, while its config says use_dora {dora}"
            yield linear_fault(module, down[1], up[0], base)
        yield depth_fault(layers, config, base)

    def factors(self, config: Mapping[str, Any], shapes: Shapes, whose: str = "") -> dict[str, float]:
        matches = {name: match for name in shapes if (match := self.pattern.fullmatch(name)) and match["part"] == "B"}
        names = [match["module"] for match in matches.values()]
        alphas = rules.value_by_name(f"{whose}alpha_pattern", config.get("alpha_pattern") or {}, names)
        return {
            name: lora_scale(config, alphas.get(match["module"]), shapes[name][1]) for name, match in matches.items()
        }

    def read(self, name: str, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> FileAdapter:
        if config.get("target_parameters"):
            raise AdapterError(
                f"{name} adapts weights that are stacked by expert (target_parameters); chatting carries adapters on"
                " linear layers only. Train it on the attention layers."
            )
        shapes = self.checked_shapes(name, config, tensors)
        scales = self.factors(config, shapes, f"{name}'s ")
        found = {}
        for module, part in self.parts(tensors)[0].items():
            b = part["B"] * scales[f"{BEGIN}{module}.lora_B.weight"]
            found[module] = FileModule(part["A"], b, magnitude=part.get("magnitude_vector"))
        return FileAdapter(found)


class QLora(Lora):
    name = "qlora"
    label = "QLoRA"
    cost = "a third of the memory"
    explain = (
        "QLoRA is LoRA over a base squeezed to 4 bits (NF4, double quantisation) while it trains, so a larger base"
        " fits. It costs a little speed and accuracy; the adapter itself is an ordinary LoRA."
    )
    summary = "QLoRA: LoRA, trained on a base held in 4 bits"
    paper = "Dettmers et al. 2023, arXiv:2305.14314"
    order = 2
    quantised = True
    writes = "lora"
    pace = 1.05
    kept = 4.7
    axolotl: Mapping[str, Any] | None = {"adapter": "qlora", "lora_target_linear": True}

    def accepts(self, config: Mapping[str, Any]) -> bool:
        return config.get("peft_type") == self.peft_type


class Dora(Lora):
    name = "dora"
    label = "DoRA"
    cost = "closer to full, slower"
    explain = (
        "DoRA is LoRA that learns the size and the direction of each layer's weights apart, which brings it closer to"
        " full fine-tuning at the same rank. It takes about half as long again to train; the file is hardly larger."
    )
    summary = "DoRA: LoRA that learns a layer's direction and size apart"
    paper = "Liu et al. 2024, arXiv:2402.09353"
    order = 3
    options = ("rslora",)
    dora = True
    blendable = False
    pace = 1.3
    kept = 5.8
    axolotl: Mapping[str, Any] | None = {"adapter": "lora", "lora_target_linear": True, "peft_use_dora": True}
