"""How weights and adapters lie in memory on the Llama backend, and how they are multiplied.

Modules that read the same input are one product. A few rows against a large weight are bound by reading it, and
processors differ in what reads it at full speed: with AVX2 alone ``weight @ x.T`` was two to four times faster than
``linear``; with AVX-512 a weight by columns ([in, out]) is 1.2 to 1.5 times faster than one by rows. What is timed is a
whole decode step: a few weights that fit the processor's cache say nothing about it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor

from playground.engine.load import AdapterWeights, ModuleWeights, Neck
from playground.engine.request import ROWS_MAX
from playground.gpu.precision import can_pack, packed


@dataclass(frozen=True)
class LinearGroup:
    """Linear layers that read the same input and are one product: names, input width, output widths."""

    names: tuple[str, ...]
    inputs: int
    outputs: tuple[int, ...]

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """(start, end) of each layer's outputs in the group's product."""
        return list(pairwise(accumulate(self.outputs, initial=0)))


@dataclass(frozen=True)
class Scales:
    """What an adapter, or rows, scale a group by: inner for each part [.., in], outer and shift [.., outputs]."""

    inner: tuple[Tensor | None, ...]
    outer: Tensor | None
    shift: Tensor | None


Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class PackedAdapter:
    """An attached adapter, laid out by the model's groups and ready to be copied into a slot.

    key stands for its weights; rank: its widest. matrices: for each group and part a [rank, in] and b [rank, out].
    prefix: keys and values before the text [layers, tokens, 2, kv_heads, head_dim]."""

    key: str
    rank: int
    matrices: tuple[tuple[Pair | None, ...], ...]
    scales: dict[int, Scales]
    necks: dict[int, tuple[Neck | None, ...]] = field(default_factory=dict)
    prefix: Tensor | None = None

    @property
    def virtual_tokens(self) -> int:
        """Tokens that the KV cache holds before the text."""
        return 0 if self.prefix is None else self.prefix.shape[1]

    @property
    def soft_prompt_only(self) -> bool:
        """Whether it leaves every layer as it is."""
        return not self.scales and not self.necks and not any(pair for group in self.matrices for pair in group)

    @property
    def bytes(self) -> int:
        tensors = [tensor for group in self.matrices for pair in group if pair for tensor in pair]
        tensors += [t for parts in self.necks.values() for neck in parts if neck is not None for t in neck.tensors]
        scales = [t for scales in self.scales.values() for t in (*scales.inner, scales.outer, scales.shift)]
        return sum(tensor.nbytes for tensor in (self.prefix, *tensors, *scales) if tensor is not None)


def pack(
    key: str, weights: AdapterWeights, groups: Sequence[LinearGroup], like: Tensor, prefix: Tensor | None = None
) -> PackedAdapter:
    """Lay an adapter's weights out by the model's groups, on the device and in the precision of ``like``; b is
    transposed, so that filling a slot is plain copying."""

    def here(tensor: Tensor) -> Tensor:
        return tensor.to(like).contiguous()

    def joined(group: LinearGroup, parts: Sequence[Tensor | None], empty: float) -> Tensor | None:
        if all(part is None for part in parts):
            return None
        widths = zip(parts, group.outputs, strict=True)
        return here(torch.cat([torch.full((width,), empty) if part is None else part for part, width in widths]))

    matrices, scales, necks = [], {}, {}
    for place, group in enumerate(groups):
        found = [weights.get(name, ModuleWeights()) for name in group.names]
        pairs = [(here(m.a), here(m.b.t())) if m.a is not None and m.b is not None else None for m in found]
        matrices.append(tuple(pairs))
        inner = tuple(None if m.in_scale is None else here(m.in_scale) for m in found)
        outer, shift = joined(group, [m.out_scale for m in found], 1.0), joined(group, [m.shift for m in found], 0.0)
        if outer is not None or shift is not None or any(vector is not None for vector in inner):
            scales[place] = Scales(inner, outer, shift)
        if any(m.neck is not None for m in found):
            necks[place] = tuple(None if m.neck is None else m.neck.to(like.dtype, like.device) for m in found)
    rank = max((m.rank for m in weights.values()), default=0)
    return PackedAdapter(key, rank, tuple(matrices), scales, necks, None if prefix is None else here(prefix))


BASE = PackedAdapter("", 0, (), {})
"""No adapter."""
QKV, OUT, GATE_UP, DOWN = range(4)


class Packed:
    """Layers in 4 bits that read the same input, in a weight's place: each multiplies by itself and adds its bias."""

    def __init__(self, modules: Sequence[Any]) -> None:
        self._modules = list(modules)
        self.shape = (modules[0].in_features, sum(module.out_features for module in modules))

    def __call__(self, x: Tensor) -> Tensor:
        """x [tokens, in] -> [tokens, outputs together]."""
        return torch.cat([module(x) for module in self._modules], dim=1)

    def part(self, number: int, x: Tensor) -> Tensor:
        """The outputs of one layer alone."""
        found: Tensor = self._modules[number](x)
        return found


Weight = Tensor | Packed


def is_packed(module: Any) -> bool:
    return getattr(module.weight, "quant_state", None) is not None


@dataclass
class Layer:
    """Weights of one decoder layer, [in, out] each; ``qkv`` and ``gate_up`` are several modules' side by side. Biases
    are None where the weight adds them."""

    attention_norm: Tensor
    qkv: Weight
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Weight
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Weight
    down: Weight

    def vectors_to(self, dtype: torch.dtype) -> None:
        """Norms and biases in this precision."""
        for name in ("attention_norm", "qkv_bias", "q_norm", "k_norm", "out_bias", "mlp_norm"):
            if (vector := getattr(self, name)) is not None:
                setattr(self, name, vector.to(dtype))


def layer_of(layer: Any, columns: bool) -> Layer:
    """One decoder layer of a loaded model. columns: keep each weight as [in, out] in memory, else as [out, in]."""
    attention, mlp = layer.self_attn, layer.mlp
    q, k, v = attention.q_proj, attention.k_proj, attention.v_proj

    def weight(*modules: Any) -> Weight:
        return Packed(modules) if any(map(is_packed, modules)) else joined(modules, columns)

    def bias(*modules: Any) -> Tensor | None:
        if modules[0].bias is None or any(map(is_packed, modules)):
            return None
        return torch.cat([module.bias.data for module in modules])

    return Layer(
        attention_norm=layer.input_layernorm.weight.data,
        qkv=weight(q, k, v),
        qkv_bias=bias(q, k, v),
        q_norm=getattr(getattr(attention, "q_norm", None), "weight", None),
        k_norm=getattr(getattr(attention, "k_norm", None), "weight", None),
        out=weight(attention.o_proj),
        out_bias=bias(attention.o_proj),
        mlp_norm=layer.post_attention_layernorm.weight.data,
        gate_up=weight(mlp.gate_proj, mlp.up_proj),
        down=weight(mlp.down_proj),
    )


def joined(modules: Sequence[Any], columns: bool) -> Tensor:
    """Weights of modules that read the same input, as one [in, outputs together]; theirs become views of it."""
    weights = [module.weight.data for module in modules]
    shape = (sum(weight.shape[0] for weight in weights), weights[0].shape[1])
    if columns:
        whole = torch.empty(shape[1], shape[0], dtype=weights[0].dtype, device=weights[0].device)
        torch.cat([weight.t() for weight in weights], dim=1, out=whole)
    else:
        whole = torch.cat(weights).t()
    start = 0
    for module, weight in zip(modules, weights, strict=True):
        module.weight.data = whole[:, start : start + weight.shape[0]].t()
        start += weight.shape[0]
    return whole


def groups_of(layers: int, hidden: int, widths: tuple[int, int], inner: int) -> list[LinearGroup]:
    """Four groups a layer. widths: of all heads together, and of the key-value heads; inner: the MLP's."""
    wide, narrow = widths
    groups = []
    for number in range(layers):
        at, mlp = f"model.layers.{number}.self_attn.", f"model.layers.{number}.mlp."
        groups += [
            LinearGroup((at + "q_proj", at + "k_proj", at + "v_proj"), hidden, (wide, narrow, narrow)),
            LinearGroup((at + "o_proj",), wide, (hidden,)),
            LinearGroup((mlp + "gate_proj", mlp + "up_proj"), hidden, (inner, inner)),
            LinearGroup((mlp + "down_proj",), inner, (hidden,)),
        ]
    return groups


Call = Callable[[Tensor, Tensor], Tensor]
Size = tuple[int, int]
"""Rows of a step, the next power of two, and threads that compute: each number of threads has its own fastest."""
Kind = tuple[int, int, bool]
"""Weights that share a choice: inputs, outputs, whether they lie by rows ([out, in]) in memory."""
Variant = tuple[str, int]
"""A call's name, and how often it computes a row: 2 = one row goes through the call's shape for two."""
PLAIN: Variant = ("plain", 1)
LAYOUT_ROWS = (1, 4)
"""The layout is chosen for one reply alone and for four side by side."""
TIMINGS = 2
"""As often at least each variant is timed."""
MARGIN = 1.1
"""What another layout or variant must be faster by: timings are short, and the machine has other work."""
STEPS, LATE = 9, 1.5
"""When the median of so many steps takes so many times what was expected, the choice is made again."""
RETRY_S = 60.0
"""But not sooner than this after the last time, and twice as long each time that it comes out the same."""


def _by_rows(y: Tensor) -> Tensor:
    """[out, rows] -> [rows, out]. One row is laid out as one: ``contiguous`` leaves it strides (1, 1), and the next
    product then takes a path that is three times slower."""
    return y.view(1, -1) if y.shape[1] == 1 else y.t().contiguous()


def _transposed(x: Tensor, weight: Tensor) -> Tensor:
    return _by_rows(torch.mm(weight.t(), x.t()))


def _halves(x: Tensor, weight: Tensor) -> Tensor:
    (rows, inputs), outputs = x.shape, weight.shape[1]
    halves = weight.t().view(2, outputs // 2, inputs)
    return _by_rows(torch.bmm(halves, x.t().expand(2, inputs, rows)).view(outputs, rows))


CALLS: dict[str, Call] = {"plain": torch.mm, "transposed": _transposed, "halves": _halves}


class MatmulLayouts:
    """Chooses a variant for each kind of weight and number of rows (powers of two only), when first needed: in one
    decode step, as long as about two, the weights of a kind take the variants in turn. Where later steps take far
    longer than that, it chooses again."""

    def __init__(
        self,
        weights: Callable[[], Sequence[Tensor]],
        step: Callable[[int], object] | None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        calls: Mapping[str, Call] = CALLS,
    ) -> None:
        """weights: what a step multiplies by, each a view [in, out]. step: makes a decode step of so many rows with
        this object, for its time alone; None: nothing is measured, every product is plain."""
        self._weights, self._step, self._clock, self._calls = weights, step, clock, calls
        self.packed_bytes = 0
        self.chosen: dict[tuple[Kind, Size], Variant] = {}
        self._cost: dict[tuple[Kind, Size], float] = {}
        self._trial: dict[Kind, dict[Variant, list[float]]] | None = None
        self._counts: Counter[Kind] = Counter()
        self._spent = 0.0
        self._recent: defaultdict[Size, deque[float]] = defaultdict(lambda: deque(maxlen=STEPS))
        self._fastest: dict[Size, float] = {}
        self._again: dict[Size, tuple[float, float]] = {}

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """``residual + x @ weight + bias``: x [rows, in], weight [in, out] -> [rows, out], contiguous and new."""
        rows, variant, kind = x.shape[0], PLAIN, kind_of(weight)
        if rows == 1:
            x = x.flatten()[None]  # strides (in, 1), whatever they were: see _by_rows
        if self._step is not None and rows <= ROWS_MAX:
            width = size_of(rows)
            if self._trial is not None:
                variant = self._timed_variant(self._trial, kind, x, weight)
            else:
                if (kind, width) not in self.chosen:
                    self._choose(width)
                variant = self.chosen[kind, width]
        started = self._clock()
        if residual is not None and variant == PLAIN:
            y = torch.addmm(residual, x, weight)
        else:
            y = self._run(variant, x, weight)
            if residual is not None:
                y.add_(residual)
        taken = self._clock() - started
        if self._trial is None:
            self._spent += taken
        else:
            self._trial[kind][variant].append(taken)
        return y if bias is None else y.add_(bias)

    @contextmanager
    def watched(self, rows: int) -> Iterator[None]:
        """Around a decode step: time its products, and choose again where the last ones took far too long."""
        if self._step is None or rows > ROWS_MAX:
            yield
            return
        width = size_of(rows)
        recent = self._recent[width]
        late = len(recent) == STEPS and median(recent) > LATE * self._expected(width)
        if late and self._clock() >= self._again[width][0]:
            self._choose(width)
        self._spent = 0.0
        yield
        recent.append(self._spent)
        if rows == width[0] and len(recent) == STEPS:  # a choice made on a busy machine expects too much time
            self._fastest[width] = min(median(recent), self._fastest.get(width, float("inf")))

    def by_columns(self) -> bool:
        """Whether weights by columns are faster with this processor and its threads now: some layers lie by rows and
        some by columns, and both are timed in the same steps."""
        for rows in LAYOUT_ROWS:
            self._choose(size_of(rows))
        self._counts.clear()  # they lie otherwise from now on
        cost = {True: 0.0, False: 0.0}
        for ((inputs, outputs, by_rows), width), seconds in self._cost.items():
            if ((inputs, outputs, not by_rows), width) in self._cost:  # the head lies by rows only
                cost[by_rows] += seconds
        return cost[False] * MARGIN < cost[True]

    def _expected(self, width: Size) -> float:
        """Seconds that the products of a step take, as they were timed at best."""
        if not self._counts:
            self._counts.update(kind_of(weight) for weight in self._weights())
        costs = (self._cost[kind, width] * count for kind, count in self._counts.items())
        return min(sum(costs), self._fastest.get(width, float("inf")))

    def _choose(self, width: Size) -> None:
        assert self._step is not None
        self._counts = Counter(kind_of(weight) for weight in self._weights())
        turns = {kind: TIMINGS * len(self._variants(kind, width[0])) for kind in self._counts}
        steps = max((-(-turns[kind] // n) for kind, n in self._counts.items() if n > 1), default=1)
        trial = self._trial = {}
        try:
            for _ in range(steps):
                self._step(width[0])
        finally:
            self._trial = None
        before = dict(self.chosen)
        for kind, timings in trial.items():
            cost = {variant: median(seconds) for variant, seconds in timings.items()}
            best, now = min(cost, key=lambda variant: cost[variant]), before.get((kind, width), PLAIN)
            as_two = best[1] > now[1]  # one row never takes longer than two: no margin for that
            if cost[now] <= MARGIN * cost[best] and not as_two:
                best = now
            self.chosen[kind, width] = best
            self._cost[kind, width] = min(cost[best], self._cost.get((kind, width), float("inf")))
        _, wait = self._again.get(width, (0.0, 0.0))
        wait = max(RETRY_S, 2 * wait) if self.chosen == before else RETRY_S
        self._again[width] = (self._clock() + wait, wait)
        self._recent[width].clear()

    def _variants(self, kind: Kind, rows: int) -> list[Variant]:
        _, outputs, by_rows = kind
        names = [name for name in self._calls if name != "halves" or (by_rows and outputs % 2 == 0)]
        return [(name, copies) for copies in ((1, 2) if rows == 1 else (1,)) for name in names]

    def _timed_variant(
        self, trial: dict[Kind, dict[Variant, list[float]]], kind: Kind, x: Tensor, weight: Tensor
    ) -> Variant:
        """The variant of a product in a timed step: the weights of a kind take turns, one that is alone takes all."""
        timings = trial.setdefault(kind, {variant: [] for variant in self._variants(kind, x.shape[0])})
        if self._counts[kind] > 1:
            return min(timings, key=lambda variant: len(timings[variant]))
        for timing in range(TIMINGS):
            for variant, seconds in timings.items():
                if timing and seconds[0] > 2 * min(first for first, *_ in timings.values()):
                    continue
                started = self._clock()
                self._run(variant, x, weight)
                seconds.append(self._clock() - started)
        return min(timings, key=lambda variant: min(timings[variant]))

    def _run(self, variant: Variant, x: Tensor, weight: Tensor) -> Tensor:
        name, copies = variant
        return self._calls[name](x.repeat(copies, 1) if copies > 1 else x, weight)[: x.shape[0]]


class HalfProducts:
    """In place of ``MatmulLayouts`` for half precision on a processor: fp32 in and out, weights in half. Those in bf16
    are kept in oneDNN's own blocked layout beside the plain one, from which it would be made again for every product:
    half of a decode step's time. The sums are the same; a torch without it multiplies plainly."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        """weights: views [in, out] of memory that lies by rows, which stays where it is."""
        self._packed: dict[int, Tensor] = {}
        if weights[0].dtype == torch.bfloat16 and can_pack():
            self._packed = {weight.data_ptr(): packed(weight.t()) for weight in weights}
        self.packed_bytes = sum(weight.nbytes for weight in weights) if self._packed else 0

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """``residual + x @ weight + bias``: x [rows, in], weight [in, out] -> [rows, out], contiguous and new."""
        there = self._packed.get(weight.data_ptr())
        if there is None:
            y = product(x, weight)
        else:  # as ``gpu.precision.times_packed``
            y = torch.ops.mkldnn._linear_pointwise(x.to(weight.dtype), there, None, "none", [], "").to(x.dtype)
        if bias is not None:
            y.add_(bias)
        return y if residual is None else y.add_(residual)

    def watched(self, rows: int) -> AbstractContextManager[None]:
        return nullcontext()


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x [rows, in] times any [in, out], in the weight's precision; in x's own -> [rows, out]."""
    return torch.mm(x.to(weight.dtype), weight).to(x.dtype)


def kind_of(weight: Tensor) -> Kind:
    """weight: a view [in, out]."""
    return weight.shape[0], weight.shape[1], weight.stride(0) == 1


def size_of(rows: int) -> Size:
    return 1 << (rows - 1).bit_length(), torch.get_num_threads()
