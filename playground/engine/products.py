"""The base's matrix products at decode time, by whichever call is fastest for their shape on this machine.

One to sixteen rows against a large weight are bound by reading the weight, and processors differ in which call reads it at full
speed: with AVX2 alone ``weight @ x.T`` was two to four times faster than ``linear``, with AVX-512 it was up to two times slower.
So each shape is tried once, over several layers' weights, as the model really has them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

Call = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
ROWS_MAX = 16
_TRIES = 3
_WEIGHTS = 12


def _linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, weight)


def _turned(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.mm(weight, x.t()).t().contiguous()


def _halves(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    rows, inputs = x.shape
    halves = weight.view(2, weight.shape[0] // 2, inputs)
    return torch.bmm(halves, x.t().expand(2, inputs, rows)).view(weight.shape[0], rows).t().contiguous()


CALLS: dict[str, Call] = {"linear": _linear, "turned": _turned, "halves": _halves}


class Products:
    """Chooses by shape and number of rows; on anything but a CPU in fp32 it is always ``linear``."""

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        self._by_shape: dict[tuple[int, int], list[torch.Tensor]] = {}
        for weight in weights:
            self._by_shape.setdefault((weight.shape[0], weight.shape[1]), []).append(weight)
        self._tuned = weights[0].device.type == "cpu" and weights[0].dtype == torch.float32
        self.chosen: dict[tuple[int, int, int], str] = {}

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """``x @ weight.T + bias``: x [rows, in], weight [out, in] -> [rows, out], contiguous."""
        rows = x.shape[0]
        if not self._tuned or rows > ROWS_MAX:
            return functional.linear(x, weight, bias)
        key = (weight.shape[0], weight.shape[1], rows)
        name = self.chosen.get(key) or self._choose(key)
        y = CALLS[name](x, weight)
        return y if bias is None else y + bias

    def _choose(self, key: tuple[int, int, int]) -> str:
        outputs, inputs, rows = key
        weights = self._by_shape[outputs, inputs][:_WEIGHTS]
        x = torch.randn(rows, inputs)
        names = [name for name in CALLS if name != "halves" or outputs % 2 == 0]
        taken = dict.fromkeys(names, float("inf"))
        for _ in range(_TRIES):
            for name in names:
                started = time.perf_counter()
                for weight in weights:
                    CALLS[name](x, weight)
                taken[name] = min(taken[name], time.perf_counter() - started)
        self.chosen[key] = min(names, key=lambda name: taken[name])
        return self.chosen[key]
