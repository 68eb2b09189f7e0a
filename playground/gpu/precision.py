"""How much faster a processor is in bf16 than in fp32, measured; and oneDNN's packed products. One that multiplies bf16
itself (AVX512-BF16, AMX) is two to three times as fast with it; one that does not, up to a hundred times slower."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from playground.gpu.device import Gain, Widths

if TYPE_CHECKING:
    from torch import Tensor

SET_BYTES = 128_000_000
"""Weights that are read in turn, in fp32: more than a processor's caches hold."""
ROWS = (1, 4)
PRODUCTS, MOST_ROWS = 1e9, 512
"""Multiplications of the training-like product, and its rows at most."""
LIMIT_S = 0.3
PACKED_ROWS = 4
"""Rows that a packed weight is laid out for; others are as fast."""
HOPELESS = 10.0
"""Times slower with one small product: the rest is not waited for."""


def measure(widths: Widths) -> Gain:
    """Times the products of a model so wide in fp32 and bf16, in turn: processor seconds of one thread, which other
    work changes least. On a busy machine threads that wait for each other would decide it for good."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured(widths)
    finally:
        torch.set_num_threads(threads)


def _measured(widths: Widths) -> Gain:
    import torch
    from torch.nn import functional

    hidden, inner = widths
    many = max(2, SET_BYTES // (4 * hidden * inner))
    with torch.inference_mode():
        stacks = [torch.full((many, inner, hidden), 0.01, dtype=kind) for kind in (torch.float32, torch.bfloat16)]
        inputs = [[torch.ones(rows, hidden, dtype=stack.dtype) for rows in ROWS] for stack in stacks]
        tall = max(32, min(MOST_ROWS, int(PRODUCTS / (hidden * inner))))
        large = [(torch.ones(tall, hidden, dtype=stack.dtype), stack[0]) for stack in stacks]

        def plain(place: int, few: int) -> None:
            for weight in stacks[place]:
                functional.linear(inputs[place][few], weight)

        def turned(few: int) -> None:
            for weight in stacks[0]:
                torch.mm(weight, inputs[0][few].t())

        def halves(few: int) -> None:
            for weight in stacks[0]:
                x = inputs[0][few].t()
                torch.bmm(weight.view(2, -1, hidden), x.expand(2, *x.shape))

        def in_packed(few: int) -> None:
            for weight in laid:
                times_packed(inputs[1][few], weight)

        tries: list[Callable[[], object]] = [partial(functional.linear, *pair) for pair in large]
        small = [_best([partial(functional.linear, rows[:1], weight)], 10)[0] for rows, weight in large]
        if small[1] > HOPELESS * small[0]:
            return Gain(round(small[0] / small[1], 3), round(small[0] / small[1], 3))
        laid = [packed(weight) for weight in stacks[1]] if can_pack() else []
        for few in range(len(ROWS)):  # in fp32 what is faster here depends on the processor: see llama_layout
            tries += [partial(plain, 0, few), partial(turned, few), partial(halves if inner % 2 == 0 else turned, few)]
            tries += [partial(in_packed, few) if laid else partial(plain, 1, few)]
        taken = _best(tries, 3)
    tuned = taken[0] / taken[1]
    groups = [taken[place : place + 4] for place in range(2, len(taken), 4)]
    whole = sum(min(group[:3]) for group in groups), sum(group[3] for group in groups)
    return Gain(round(whole[0] / whole[1], 2), round(tuned, 2))


def can_pack() -> bool:
    """Whether this torch has oneDNN's packed products of bf16, private as they are, and they are right."""
    import torch

    with suppress(AttributeError, NotImplementedError, RuntimeError, TypeError):
        eye = torch.eye(32, dtype=torch.bfloat16)
        return bool((times_packed(eye, packed(eye)) == eye).all())
    return False


def packed(weight: Tensor) -> Tensor:
    """A weight [out, in] in oneDNN's own blocked layout."""
    import torch

    laid: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)
    return laid


def times_packed(x: Tensor, laid: Tensor) -> Tensor:
    """x [rows, in] -> [rows, out], the sums of ``linear``."""
    import torch

    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, laid, None, "none", [], "")
    return y


def _best(tries: list[Callable[[], object]], rounds: int) -> list[float]:
    """The shortest time of each, in seconds, in turn: a round at least, no new one after LIMIT_S."""
    found, began = [float("inf")] * len(tries), time.perf_counter()
    for number in range(rounds):
        if number and time.perf_counter() - began > LIMIT_S * number / (number + 1):
            break
        for place, work in enumerate(tries):
            started = time.thread_time()
            work()
            found[place] = min(found[place], time.thread_time() - started)
    return found
