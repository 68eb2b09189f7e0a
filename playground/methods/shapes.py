"""What a base looks like, from the shapes of its weights alone: widths, layers, and the linear layers that a method can adapt."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from playground.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]
"""A base's weights: tensor name -> shape, as its safetensors header states them."""

_OUTSIDE = ("embed", "lm_head", "wte", "wpe", "score")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_JOINED = ("c_attn", "qkv_proj", "query_key_value", "Wqkv")
"""Layers that hold queries, keys and values in one."""
_GPT2 = ("c_attn", "c_proj", "c_fc")


@dataclass(frozen=True)
class Linear:
    """A linear layer: its module's name, and how many outputs and inputs it has."""

    name: str
    outputs: int
    inputs: int

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]


def linears(shapes: Shapes) -> list[Linear]:
    """Every linear layer of the body, neither embeddings nor head."""
    turned = _is_turned(shapes)
    found = []
    for name, shape in shapes.items():
        if len(shape) == 2 and name.endswith(".weight") and not any(word in name for word in _OUTSIDE):
            module = name.removesuffix(".weight")
            outputs, inputs = reversed(shape) if turned and module.endswith(_GPT2) else shape
            found.append(Linear(module, outputs, inputs))
    return found


def _is_turned(shapes: Shapes) -> bool:
    """GPT-2 keeps its weights as inputs x outputs."""
    return any(name.endswith("c_attn.weight") and shape[1:] == (3 * shape[0],) for name, shape in shapes.items())


def linear_shapes(shapes: Shapes) -> list[tuple[int, int]]:
    """(out, in) of every linear layer of the body."""
    return [(one.outputs, one.inputs) for one in linears(shapes)]


def body_weights(shapes: Shapes) -> int:
    """Weights of all linear layers of the body."""
    return sum(rows * columns for rows, columns in linear_shapes(shapes))


def weights_in(shapes: Shapes) -> int:
    """Number of weights."""
    return sum(math.prod(shape) for shape in shapes.values())


total_weights = weights_in


def layer_of(name: str) -> int | None:
    """Index of the layer that a weight belongs to."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def layer_count(shapes: Shapes) -> int:
    """How many layers there are."""
    return 1 + max((index for name in shapes if (index := layer_of(name)) is not None), default=-1)


def hidden_size(shapes: Shapes) -> int:
    """Width of a token's embedding. Raises InputError where a base has none."""
    for name, shape in shapes.items():
        if len(shape) == 2 and name.endswith(("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")):
            return shape[1]
    raise InputError("This base has no embeddings of a known name. Choose LoRA, or another base.")


def key_value_size(shapes: Shapes) -> int:
    """Width of one layer's keys: key-value heads x their size. Raises InputError where the names do not tell."""
    for one in linears(shapes):
        if one.last == "k_proj":
            return one.outputs
        if one.last in _JOINED:
            queries = _attention_width(shapes, one) or hidden_size(shapes)
            return (one.outputs - queries) // 2
    raise InputError("This base's keys and values have no known names. Choose LoRA, or prompt tuning.")


def _attention_width(shapes: Shapes, joined: Linear) -> int | None:
    place = joined.name.rpartition(".")[0]
    return next(
        (one.inputs for one in linears(shapes) if one.name.startswith(f"{place}.") and one is not joined and one != joined), None
    )


def ends(shapes: Shapes, *groups: tuple[str, ...]) -> list[str]:
    """For each group of names that families use for one thing, the ends that this base's linear layers have, once each."""
    there = {one.name for one in linears(shapes)}
    return [end for group in groups for end in group if any(f".{name}".endswith(f".{end}") for name in there)]
