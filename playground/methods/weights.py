"""What an adapter's file holds, in terms of the engine's formula (``engine/adapter_weights.py``). Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from playground.errors import AdapterError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BottleneckWeights:
    """One layer's bottleneck: down [r, out], down_bias [r], up [out, r], up_bias [out]; activation: between them."""

    down: torch.Tensor
    down_bias: torch.Tensor
    up: torch.Tensor
    up_bias: torch.Tensor
    activation: str


@dataclass(frozen=True)
class FileModule:
    """One linear layer's part: a [rank, in], b [out, rank] with the scale folded in; in_scale [in]; out_scale [out];
    magnitude: DoRA's learned norm of each output row [out], a scale only together with the base's weight. None = it has
    no effect."""

    a: torch.Tensor | None = None
    b: torch.Tensor | None = None
    in_scale: torch.Tensor | None = None
    out_scale: torch.Tensor | None = None
    magnitude: torch.Tensor | None = None
    neck: BottleneckWeights | None = None


@dataclass(frozen=True)
class VirtualTokens:
    """Before the text. flat: [tokens, layers * 2 * kv_heads * head_dim] where ``prefix``, else [tokens, hidden]."""

    flat: torch.Tensor
    prefix: bool

    @property
    def count(self) -> int:
        return self.flat.shape[0]

    def keys_values(self, name: str, layers: int, kv_heads: int, head_dim: int) -> torch.Tensor:
        """[layers, tokens, 2, kv_heads, head_dim], keys first. name: the adapter's, for the AdapterError."""
        self._check_width(name, "keys and values are", layers * 2 * kv_heads * head_dim)
        return self.flat.view(self.count, layers, 2, kv_heads, head_dim).transpose(0, 1)

    def embeddings(self, name: str, hidden: int) -> torch.Tensor:
        """[tokens, hidden]. Raises AdapterError as above."""
        self._check_width(name, "embeddings are", hidden)
        return self.flat

    def _check_width(self, name: str, what: str, here: int) -> None:
        if (wide := self.flat.shape[1]) != here:
            raise AdapterError(
                f"{name} was trained on another base: its {what} {wide} numbers wide, this base's {here}. "
                "Choose the base it was trained on."
            )


@dataclass(frozen=True)
class FileAdapter:
    """All that a file holds: modules by the path of their linear layer, and the tokens it puts before the text."""

    modules: Mapping[str, FileModule]
    virtual: VirtualTokens | None = None
