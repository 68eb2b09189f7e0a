"""The base's matrix products at decode time: how a weight lies in memory and which call reads it fastest, measured on this machine.

One to sixteen rows against a large weight are bound by reading the weight, and processors differ in what reads it at full speed:
with AVX2 alone ``weight @ x.T`` was two to four times faster than ``linear``; with AVX-512 a weight that lies by columns
([in, out]) is 1.2 to 1.5 times faster than one by rows at four rows and more, and no slower at one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import torch

K = TypeVar("K", bound=Hashable)
Call = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
ROWS_MAX = 16
_TRIES = 4
MARGIN = 1.1
"""What another layout or call must be faster by: a try is short, and the machine has other work."""
_SAMPLE_BYTES = 24_000_000
"""Weights that are tried together: more than a core's cache holds."""


def _plain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.mm(x, weight)


def _turned(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.mm(weight.t(), x.t()).t().contiguous()


def _halves(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    (rows, inputs), outputs = x.shape, weight.shape[1]
    halves = weight.t().view(2, outputs // 2, inputs)
    return torch.bmm(halves, x.t().expand(2, inputs, rows)).view(outputs, rows).t().contiguous()


CALLS: dict[str, Call] = {"plain": _plain, "turned": _turned, "halves": _halves}


def by_columns(shape: tuple[int, int], rows: int = 4) -> bool:
    """Whether weights are better kept by columns on this processor: both ways are tried on a weight [out, in] of this shape, the
    model's largest of a layer, at ``rows`` rows. Some tens of milliseconds."""
    outputs, inputs = shape
    count = max(1, _SAMPLE_BYTES // (4 * outputs * inputs))
    x = torch.randn(rows, inputs)
    by_row = [torch.ones(outputs, inputs).t() for _ in range(count)]
    by_column = [torch.ones(inputs, outputs) for _ in range(count)]
    arms = {("rows", name): by_row for name in _possible(by_row[0])} | {("columns", "plain"): by_column}
    taken = _fastest({arm: (arm[1], weights) for arm, weights in arms.items()}, x)
    return min(seconds for arm, seconds in taken.items() if arm[0] == "rows") * MARGIN > taken["columns", "plain"]


class Products:
    """Chooses by shape and number of rows; on anything but a CPU in fp32 it is always the plain product. Tried at powers of two only,
    since the first request that needs a choice waits for it."""

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        """weights: all that will be asked for, each a view [in, out]."""
        self._by_shape: dict[tuple[int, ...], list[torch.Tensor]] = {}
        for weight in weights:
            self._by_shape.setdefault(tuple(weight.shape), []).append(weight)
        self._tuned = weights[0].device.type == "cpu" and weights[0].dtype == torch.float32
        self.chosen: dict[tuple[int, int, int], str] = {}

    def __call__(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``residual + x @ weight + bias``: x [rows, in], weight [in, out] -> [rows, out], contiguous and new."""
        rows = x.shape[0]
        name = "plain"
        if self._tuned and rows <= ROWS_MAX:
            key = (weight.shape[0], weight.shape[1], 1 << (rows - 1).bit_length())
            name = self.chosen.get(key) or self._choose(key)
        if residual is not None and name == "plain":
            y = torch.addmm(residual, x, weight)
        else:
            y = CALLS[name](x, weight)
            if residual is not None:
                y.add_(residual)
        return y if bias is None else y.add_(bias)

    def _choose(self, key: tuple[int, int, int]) -> str:
        inputs, outputs, rows = key
        weights = self._by_shape[inputs, outputs]
        weights = weights[: max(1, _SAMPLE_BYTES // (4 * inputs * outputs))]
        x = torch.randn(rows, inputs)
        taken = _fastest({name: (name, weights) for name in _possible(weights[0])}, x)
        best = min(taken, key=lambda name: taken[name])
        self.chosen[key] = best if taken[best] * MARGIN < taken["plain"] else "plain"
        return self.chosen[key]


def _possible(weight: torch.Tensor) -> list[str]:
    by_rows = weight.t().is_contiguous()
    return [name for name in CALLS if name != "halves" or (by_rows and weight.shape[1] % 2 == 0)]


def _fastest(arms: Mapping[K, tuple[str, Sequence[torch.Tensor]]], x: torch.Tensor) -> dict[K, float]:
    """Seconds of each arm (a call, and the weights it goes through): the best of a few tries, taken in turn."""
    best = dict.fromkeys(arms, float("inf"))
    for turn in range(_TRIES + 1):
        for arm, (name, weights) in arms.items():
            started = time.perf_counter()
            for weight in weights:
                CALLS[name](x, weight)
            if turn:  # the first only warms up
                best[arm] = min(best[arm], time.perf_counter() - started)
    return best
