"""The decode step with fixed shapes, captured once for each and replayed: on a GPU launching a thousand small kernels costs more
than running them (CUDA graphs).

Rows are padded to a power of two and attention runs over all of the cache's length, so that a shape comes again at every step.
Padding rows write to the cache's scratch place: the rows after the last writing one may be live, reading their prompts. Rows whose
adapters scale (DoRA, IA³) or carry bottlenecks take the plain step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from playground.engine.bank import Bank
from playground.engine.cache import RowCache
from playground.engine.lean import LeanModel


class Graph(Protocol):
    """Runs again what was captured."""

    def replay(self) -> None: ...


Capture = Callable[[Callable[[], None]], Graph]
"""Takes work on fixed tensors; returns what runs it again."""


def cuda_capture(work: Callable[[], None]) -> Graph:
    """Capture as a CUDA graph, after a few warm-up runs on a side stream, as its documentation asks for. Only this thread's calls may
    end the capture: another may load a base meanwhile."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    captured: Graph = graph
    return captured


@dataclass
class _Shape:
    """One shape's fixed tensors: ids, positions and cache places [3, rows], logits [rows, vocabulary]."""

    inputs: torch.Tensor
    logits: torch.Tensor
    graph: Graph


class CapturedSteps:
    """In place of ``LeanModel.step``. At most ``limit`` shapes are kept; they go when the cache, the bank or the model's rotary tables
    move in memory: a graph keeps pointers."""

    def __init__(self, model: LeanModel, capture: Capture = cuda_capture, limit: int = 32) -> None:
        self._model, self._capture, self._limit = model, capture, limit
        self._memory: tuple[int, ...] = ()
        self._shapes: dict[tuple[int, int, bool], _Shape] = {}

    def clear(self) -> None:
        """Let go of what was captured, and of the memory that it works on."""
        self._memory, self._shapes = (), {}

    @torch.inference_mode()
    def step(
        self, tokens: Sequence[int], lengths: Sequence[int], slots: Sequence[int | None], cache: RowCache, bank: Bank
    ) -> torch.Tensor:
        """Logits [rows, vocabulary]; slots: each row's adapter in ``bank``. Valid until the next call."""
        count, model = len(tokens), self._model
        bank.select(slots)
        if not bank.plain:
            return model.step(tokens, lengths, cache, bank)
        rows = 1 << (count - 1).bit_length()
        cache.ensure(rows, max(lengths) + 1)
        model.ready_for(cache.length)
        tuned = bank.select_fixed([*slots, *[None] * (rows - count)])
        memory = (cache.version, bank.version, model.version)
        if self._memory != memory or len(self._shapes) >= self._limit:
            self._memory, self._shapes = memory, {}
        padding = rows - count
        places = [row * cache.length + length for row, length in enumerate(lengths)]
        inputs = torch.tensor([[*tokens, *[0] * padding], [*lengths, *[0] * padding], [*places, *[cache.scratch] * padding]])
        key = (rows, cache.length, tuned)
        if key not in self._shapes:
            self._shapes[key] = self._captured(inputs, cache, bank)
        shape = self._shapes[key]
        shape.inputs.copy_(inputs)
        shape.graph.replay()
        return shape.logits[:count]

    def _captured(self, inputs: torch.Tensor, cache: RowCache, bank: Bank) -> _Shape:
        model = self._model
        fixed = inputs.to(model.device)
        logits = torch.empty(inputs.shape[1], model.head.shape[1], dtype=model.dtype, device=model.device)

        def work() -> None:
            logits.copy_(model.decode(fixed[0], fixed[1], fixed[2], cache.length, cache, bank))

        return _Shape(fixed, logits, self._capture(work))
