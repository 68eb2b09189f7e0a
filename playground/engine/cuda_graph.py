"""The decode step captured as a CUDA graph for each shape and replayed: launching kernels costs more than running them.

Rows are padded to a power of two and attention runs over the KV cache's whole length, so that a shape comes again at
every step. Rows whose adapters scale (DoRA, IA³) or carry bottlenecks take the plain step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from playground.engine.llama_memory import AdapterSlots, KVCache
from playground.engine.llama_model import LlamaModel


class Graph(Protocol):
    def replay(self) -> None:
        """Run again what was captured."""


SHAPES_MAX = 32
Capture = Callable[[Callable[[], None]], Graph]
"""Takes work on fixed tensors; returns what runs it again."""


def cuda_capture(work: Callable[[], None]) -> Graph:
    """Capture as a CUDA graph, after a few warm-up runs on a side stream, as its documentation asks for. Only this
    thread's calls may end the capture: another may load a base meanwhile."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph


@dataclass
class _Shape:
    """One shape's fixed tensors: ids, positions and cache places [3, rows], logits [rows, vocabulary]."""

    inputs: Tensor
    logits: Tensor
    graph: Graph


class CapturedDecode:
    """In place of ``LlamaModel.decode``. At most SHAPES_MAX shapes are kept; they are dropped when the KV cache, the
    adapter slots or the rotary tables move in memory: a graph keeps pointers."""

    def __init__(self, model: LlamaModel, capture: Capture = cuda_capture) -> None:
        self._model, self._capture = model, capture
        self._memory: tuple[int, ...] = ()
        self.shapes: dict[tuple[int, int, bool], _Shape] = {}

    def clear(self) -> None:
        """Drop what was captured, and the memory that it works on."""
        self._memory, self.shapes = (), {}

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], lengths: Sequence[int], cache: KVCache, adapters: AdapterSlots) -> Tensor:
        """Logits [rows, vocabulary], valid until the next call."""
        count, model = len(tokens), self._model
        if adapters.selected.scales or adapters.selected.necks:
            return model.decode(tokens, lengths, cache, adapters)
        rows = 1 << (count - 1).bit_length()
        cache.ensure(rows, max(lengths) + 1)
        model.extend_rotary(cache.length)
        padding = rows - count
        adapted = adapters.fix(rows)
        memory = (cache.version, adapters.version, model.version)
        if self._memory != memory or len(self.shapes) >= SHAPES_MAX:
            self._memory, self.shapes = memory, {}
        places = [row * cache.length + length for row, length in enumerate(lengths)]
        zeros, scratch = [0] * padding, [cache.scratch] * padding
        inputs = torch.tensor([[*tokens, *zeros], [*lengths, *zeros], [*places, *scratch]])
        key = (rows, cache.length, adapted)
        if key not in self.shapes:
            fixed = inputs.to(model.device)
            logits = torch.empty(rows, model.head.shape[1], dtype=model.dtype, device=model.device)

            def work() -> None:
                logits.copy_(model.decode_tensors(fixed, cache.length, cache, adapters))

            self.shapes[key] = _Shape(fixed, logits, self._capture(work))
        shape = self.shapes[key]
        shape.inputs.copy_(inputs)
        shape.graph.replay()
        return shape.logits[:count]
