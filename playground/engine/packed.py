"""An attached adapter as the lean path keeps it: laid out by the groups of layers that are one product, ready to be copied in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from playground.engine.bottlenecks import Neck
from playground.engine.weights import AdapterWeights, ModuleWeights


@dataclass(frozen=True)
class Group:
    """Linear layers that read the same input and are one product: names, input width, output widths."""

    names: tuple[str, ...]
    inputs: int
    outputs: tuple[int, ...]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """(start, end) of each layer's outputs in the group's product."""
        ends = [sum(self.outputs[: part + 1]) for part in range(len(self.outputs))]
        return [(end - width, end) for end, width in zip(ends, self.outputs, strict=True)]


@dataclass(frozen=True)
class Scales:
    """What an adapter, or a batch's rows, multiply a group by: inner for each part [.., in], outer and shift [.., outputs]."""

    inner: tuple[torch.Tensor | None, ...]
    outer: torch.Tensor | None
    shift: torch.Tensor | None


Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Packed:
    """An attached adapter. key stands for its weights; rank: its widest. matrices: for each group and part a [rank, in] and
    b [rank, out], or None. scales, necks: by group, where it has any. start: keys and values before the text [layers, tokens, 2,
    kv_heads, head_dim], or None."""

    key: str
    rank: int
    matrices: tuple[tuple[Pair | None, ...], ...]
    scales: dict[int, Scales]
    necks: dict[int, tuple[Neck | None, ...]] = field(default_factory=dict)
    start: torch.Tensor | None = None

    @property
    def lead(self) -> int:
        """Tokens that its rows' caches hold before the text."""
        return 0 if self.start is None else self.start.shape[1]

    @property
    def bare(self) -> bool:
        """Whether it leaves every layer as it is."""
        return not self.scales and not self.necks and not any(pair for group in self.matrices for pair in group)

    @property
    def bytes(self) -> int:
        tensors = [tensor for group in self.matrices for pair in group if pair for tensor in pair]
        tensors += [t for scales in self.scales.values() for t in (*scales.inner, scales.outer, scales.shift) if t is not None]
        tensors += [t for parts in self.necks.values() for neck in parts if neck is not None for t in neck.tensors]
        tensors += [self.start] if self.start is not None else []
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def pack(
    key: str,
    weights: AdapterWeights,
    groups: Sequence[Group],
    dtype: torch.dtype,
    device: torch.device,
    start: torch.Tensor | None = None,
) -> Packed:
    """Lay an adapter's weights out by the model's groups; b is turned, so that joining a batch is plain copying. start: as ``Packed``
    has it."""

    def here(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, dtype).contiguous()

    def joined(group: Group, parts: Sequence[torch.Tensor | None], empty: float) -> torch.Tensor | None:
        if all(part is None for part in parts):
            return None
        widths = zip(parts, group.outputs, strict=True)
        return here(torch.cat([torch.full((width,), empty) if part is None else part for part, width in widths]))

    matrices, scales, necks = [], {}, {}
    for place, group in enumerate(groups):
        found = [weights.get(name, ModuleWeights()) for name in group.names]
        matrices.append(tuple((here(m.a), here(m.b.t())) if m.a is not None and m.b is not None else None for m in found))
        inner = tuple(None if m.in_scale is None else here(m.in_scale) for m in found)
        outer, shift = joined(group, [m.out_scale for m in found], 1.0), joined(group, [m.shift for m in found], 0.0)
        if outer is not None or shift is not None or any(vector is not None for vector in inner):
            scales[place] = Scales(inner, outer, shift)
        if any(m.neck is not None for m in found):
            necks[place] = tuple(None if m.neck is None else m.neck.to(dtype, device) for m in found)
    before = None if start is None else here(start)
    return Packed(key, max((m.rank for m in weights.values()), default=0), tuple(matrices), scales, necks, before)
