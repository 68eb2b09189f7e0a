"""A base as the names and shapes of its weights tell of it: widths, layers, and the linear layers to adapt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playground.errors import InputError
from playground.methods.method import Shape, Shapes, linears, linears_ending
from playground.plain import plain_number

UNKNOWN_SHAPE: Shape = ()
"""Shape of a weight that is stored packed (a quantised base): it exists, but its file does not say how wide it is."""

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_FUSED_QKV = ("c_attn", "qkv_proj", "query_key_value", "Wqkv")
_INPUT_BY_OUTPUT = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})


def ends_of(shapes: Shapes, *groups: tuple[str, ...]) -> list[str]:
    """For each group of names that architectures use for one thing, those that this base's linear layers end in."""
    return [end for group in groups for end in group if linears_ending(shapes, [end])]


def layer_of(name: str) -> int | None:
    """Index of the decoder layer that a weight or module belongs to."""
    match = _LAYER.search(f"{name}.")
    return int(match[1]) if match else None


def layer_count(shapes: Shapes) -> int:
    return 1 + max((index for name in shapes if (index := layer_of(name)) is not None), default=-1)


def _embedding_width(shapes: Shapes) -> int | None:
    return next((shape[1] for name, shape in shapes.items() if len(shape) == 2 and name.endswith(EMBEDDINGS)), None)


def hidden_size(shapes: Shapes) -> int:
    """Width of a token's embedding. Raises InputError where a base has none."""
    if width := _embedding_width(shapes):
        return width
    raise InputError("This base has no embeddings of a known name. Choose LoRA, or another base.")


def key_value_size(shapes: Shapes) -> int:
    """Width of one layer's keys: key-value heads x their size. Raises InputError where the names do not tell."""
    all_linears = linears(shapes)
    for one in all_linears:
        place, _, last = one.name.rpartition(".")
        if last == "k_proj":
            return one.outputs
        if last in _FUSED_QKV:  # queries, keys and values in one; the output projection reads as many as queries
            after = (other.inputs for other in all_linears if other.name.startswith(f"{place}.") and other != one)
            return (one.outputs - (next(after, 0) or hidden_size(shapes))) // 2
    raise InputError("This base's keys and values have no known names. Choose LoRA, or prompt tuning.")


@dataclass(frozen=True)
class BaseLayout:
    """A base to check an adapter against. shapes: weight name -> shape as stored. config: the base's config.json.
    fingerprint: of the weights, '' = unknown. folder: where they were read from, None = nowhere."""

    shapes: Shapes
    config: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    folder: Path | None = None

    def weight(self, module: str) -> Shape | None:
        """Shape of ``<module>.weight``; checkpoints may leave out the first part of the name (``transformer.``)."""
        names = (module, module.partition(".")[2], f"model.{module}")
        return next((self.shapes[f"{name}.weight"] for name in names if f"{name}.weight" in self.shapes), None)

    def linear(self, module: str) -> tuple[int, int] | None:
        """(outputs, inputs) of a linear layer, (-1, -1) when stored packed, None when there is no such layer."""
        shape = None if f"{module}.weight".endswith(EMBEDDINGS) else self.weight(module)
        if shape == UNKNOWN_SHAPE:
            return -1, -1
        if shape is None or len(shape) != 2:
            return None
        # GPT-2 stores its layers as inputs x outputs; its head is an ordinary linear layer.
        turned = self.config.get("model_type") in _INPUT_BY_OUTPUT and not module.endswith("lm_head")
        return (shape[1], shape[0]) if turned else (shape[0], shape[1])

    def linears(self) -> list[str]:
        """Paths of the linear layers inside the decoder's layers, as the files name them."""
        names = (name.removesuffix(".weight") for name in self.shapes if name.endswith(".weight"))
        return [name for name in names if layer_of(name) is not None and self.linear(name) is not None]

    def layers_beside(self, names: Iterable[str], modules: Iterable[str]) -> set[int]:
        """Indices of the decoder layers of ``names`` in the stacks that an adapter's ``modules`` lie in. A file may
        hold other towers, and layers past the config's count that no model loads (next-token layers)."""
        stacks = {_stack(module) for module in modules}
        # as ``weight`` looks them up
        stacks |= {name for stack in stacks for name in (stack.partition(".")[2], f"model.{stack}".rstrip("."))}
        found = {index for name in names if (index := layer_of(name)) is not None and _stack(name) in stacks}
        return {index for index in found if index < (self._config_layers or index + 1)}

    @property
    def hidden(self) -> int | None:
        """Width of a token's embedding."""
        return _embedding_width(self.shapes) or self._number("hidden_size")

    @property
    def layers(self) -> int | None:
        found = layer_count(self.shapes)
        return min(found, self._config_layers or found) if found else self._config_layers

    @property
    def _config_layers(self) -> int | None:
        text = self.config.get("text_config")
        value = plain_number(text.get("num_hidden_layers")) if isinstance(text, Mapping) else None
        return int(value) if value else self._number("num_hidden_layers")

    @property
    def key_value_width(self) -> int | None:
        """Width of one layer's keys: key-value heads x their size."""
        for name, shape in self.shapes.items():
            if name.endswith(".k_proj.weight") and len(shape) == 2:
                return shape[0]
        heads = self._number("num_attention_heads") or self._number("n_head")
        if not heads or not self.hidden:
            return None
        return (self._number("num_key_value_heads") or heads) * (self._number("head_dim") or self.hidden // heads)

    def _number(self, key: str) -> int | None:
        value = plain_number(self.config.get(key))
        return int(value) if value else None


def _stack(name: str) -> str:
    """What stands before a layer's index: ``model`` in ``model.layers.3.mlp``."""
    match = _LAYER.search(f"{name}.")
    return name[: match.start()] if match else ""


def other_width(what: str, wide: object, base_wide: object) -> str:
    """The fault of an adapter that was trained on a base of another width."""
    return f"was trained on another base: {what} is {wide} wide, this base's is {base_wide}"


def linear_fault(module: str, inputs: int | None, outputs: int | None, base: BaseLayout | None) -> str:
    """Whether ``module`` is a linear layer of the base with so many inputs and outputs (None = any); '' = it is."""
    there = base.linear(module) if base is not None else (-1, -1)
    if there is None and base is not None and base.weight(module) is not None:
        return f"adapts {module}, which is no linear layer of this base; only such layers can carry an adapter here"
    if there is None:
        return f"was trained on another base: it adapts layer {module}, which this base does not have"
    if there == (-1, -1):
        return ""
    if inputs is not None and inputs != there[1]:
        return other_width(f"layer {module}", inputs, there[1])
    return "" if outputs in (None, there[0]) else other_width(f"the output of layer {module}", outputs, there[0])


def depth_fault(modules: Iterable[str], config: Mapping[str, Any], base: BaseLayout | None) -> str:
    """Same widths, other depth: where the config names layers by their ends only, all of the base's must be covered."""
    targets, modules = config.get("target_modules"), set(modules)
    picks = config.get("layers_to_transform") is not None or config.get("exclude_modules")
    if base is None or picks or not isinstance(targets, list):
        return ""
    ends = tuple(f".{t}" for t in targets if layer_of(t) is None)
    names = (name.removesuffix(".weight") for name in base.shapes if name.endswith(".weight"))
    here = base.layers_beside((m for m in modules if m.endswith(ends)), modules)
    there = base.layers_beside((name for name in names if name.endswith(ends)), modules)
    missing = len(there - here)
    return f"was trained on another base: it covers {len(here)} layers, this base has {len(there)}" if missing else ""
