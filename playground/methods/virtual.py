"""What methods share that put virtual tokens before the text, as keys and values of every layer or as embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from playground.errors import AdapterError
from playground.methods.config_rules import Rule, whole
from playground.methods.method import Method, Options, Tensors, other_width
from playground.methods.shapes import BaseLayout, Shapes, hidden_size, key_value_size, layer_count
from playground.methods.weights import FileAdapter, VirtualTokens

if TYPE_CHECKING:
    import torch

TOKENS = "prompt_embeddings"
"""The one tensor of the file: PEFT saves what an encoder or a projection makes of its parameters."""


class VirtualTokenMethod(Method):
    rank = 20
    rank_label = "Virtual tokens"
    rank_info = "Stand before every prompt."
    virtual = True
    kept = 1.8
    kind = "prompt or prefix"
    required = ("num_virtual_tokens",)
    settings: Mapping[str, Rule] = {
        "num_virtual_tokens": whole(1, 1024),
        "token_dim": whole(1, 65_536, optional=True),
        "num_transformer_submodules": whole(1, 1, optional=True),
        "num_attention_heads": whole(1, 1024, optional=True),
        "num_layers": whole(1, 1024, optional=True),
        "encoder_hidden_size": whole(1, 65_536, optional=True),
    }

    def saves(self, shapes: Shapes, rank: int, options: Options) -> Tensors:
        """[tokens, hidden], or [tokens, layers x 2 x width of a layer's keys]."""
        return {TOKENS: (rank, layer_count(shapes) * 2 * key_value_size(shapes) if self.deep else hidden_size(shapes))}

    def faults(self, shapes: Tensors, config: Mapping[str, Any], base: BaseLayout | None) -> Iterator[str]:
        yield from (self.foreign(name) for name in shapes if name != TOKENS)
        shape = shapes.get(TOKENS)
        if shape is None or len(shape) != 2 or shape[0] != config["num_virtual_tokens"]:
            has = f"has {TOKENS} of shape {None if shape is None else list(shape)}"
            yield f"{has}; its config says {config['num_virtual_tokens']} virtual tokens"
            return
        depth, wide = config.get("num_layers"), config.get("token_dim")
        if wide is not None and shape[1] != wide * (2 * depth if self.deep and depth else 1):
            said = f"token_dim {wide}, num_layers {depth}"
            yield f"has virtual tokens {shape[1]} wide, which is not what its config says ({said})"
        if base is None:
            return
        if depth is not None and base.layers is not None and depth != base.layers:
            yield f"was trained on another base: it has {depth} layers, this base has {base.layers}"
        if not self.deep and base.hidden is not None and shape[1] != base.hidden:
            yield other_width("a virtual token", shape[1], base.hidden)
        if self.deep and base.layers and base.key_value_width and shape[1] != 2 * base.layers * base.key_value_width:
            yield other_width("the keys and values of all layers", shape[1], 2 * base.layers * base.key_value_width)

    def read(self, name: str, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> FileAdapter:
        flat = tensors.get(TOKENS)
        if flat is None or len(tensors) > 1 or flat.dim() != 2 or flat.shape[0] != config.get("num_virtual_tokens"):
            raise AdapterError(
                f"{name} does not hold the virtual tokens that its config tells of. Export the adapter again."
            )
        return FileAdapter({}, VirtualTokens(flat, prefix=self.deep))
