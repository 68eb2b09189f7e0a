"""Continuous batching: sequences join and leave between steps, so that several questions share the weights' reading.

The worker thread owns the KV cache and the adapter slots. A round: (1) admit waiting sequences, (2) prefill at most
PREFILL_CHUNK prompt tokens, (3) one decode step, (4) remove finished sequences. So a decoding sequence never waits
longer than one chunk.

On CUDA the decode step is captured as a graph for each shape and replayed: launching kernels costs more than running
them. Rows and the tokens that attention runs over are padded to powers of two, so that a shape comes again at nearly
every step. Rows whose adapters scale (DoRA, IA³) or carry bottlenecks take the plain step.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from playground.data.render import encode
from playground.engine.constraint import Constraint
from playground.engine.llama_layout import BASE, PackedAdapter
from playground.engine.llama_memory import (
    PREFIX_MIN,
    STEP,
    AdapterSlots,
    KVCache,
    PrefixCache,
    Products,
    Selected,
    common_prefix,
)
from playground.engine.llama_model import LlamaModel, Segment
from playground.engine.request import GONE, ROWS_MAX, Row, RowState
from playground.engine.sequence import Generation, Handle, rows_of, sample, send
from playground.errors import AdapterError, BaseUnavailableError

if TYPE_CHECKING:
    from playground.engine.engine import WorkerThread

PREFILL_CHUNK = 256
"""Prompt tokens that are prefilled in one round; sequences that are decoding take a step in between."""
KEEP_BYTES = 64 << 20
"""As much of the KV cache may stay for the next question when no sequence is left."""
KEEP_CUDA_BYTES, KEEP_CUDA_SHARE = 1 << 30, 32
"""The same on a GPU, and this part of its memory at most. So much is taken with the first question: captured steps go
with the cache when it moves."""


class Graph(Protocol):
    def replay(self) -> None:
        """Run again what was captured."""


SHAPES_MAX = 32
Capture = Callable[[Callable[[], None], Graph | None], Graph]
"""Takes work on fixed tensors, and a graph to share memory with: no two of them run at once, and none leaves anything
there. Returns what runs the work again."""


def cuda_capture(work: Callable[[], None], beside: Any = None) -> Graph:
    """Capture as a CUDA graph, after a few warm-up runs on a side stream, as its documentation asks for. Only this
    thread's calls may end the capture: another may load a base meanwhile."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    pool = None if beside is None else beside.pool()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        work()
    return graph


@dataclass
class _Shape:
    """One shape's fixed tensors: ids, positions and cache places [3, rows], logits [rows, vocabulary]. memory: versions
    of what the graph has pointers to."""

    inputs: Tensor
    logits: Tensor
    graph: Graph
    memory: tuple[int, int, int]


class CapturedDecode:
    """In place of ``LlamaModel.decode``. At most SHAPES_MAX shapes are kept, those used last; one is captured again
    when it is needed and the KV cache, its adapter slots or the rotary tables have moved in memory since."""

    def __init__(self, model: LlamaModel, capture: Capture = cuda_capture) -> None:
        self._model, self._capture = model, capture
        self.shapes: dict[tuple[int, int, bool], _Shape] = {}

    def clear(self) -> None:
        """Drop what was captured, and the memory that it works on."""
        self.shapes = {}

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], lengths: Sequence[int], cache: KVCache, adapters: AdapterSlots) -> Tensor:
        """Logits [rows, vocabulary], valid until the next call."""
        count, model, selected = len(tokens), self._model, adapters.selected.selected
        if selected.scales or selected.necks:
            return model.decode(tokens, lengths, cache, adapters)
        rows, longest = 1 << (count - 1).bit_length(), max(lengths) + 1
        cache.ensure(rows, longest)
        model.extend_rotary(cache.length)
        seen = min(cache.length, max(STEP, 1 << (longest - 1).bit_length()))
        products, padding = adapters.fixed(rows), rows - count
        key = (rows, seen, products is not None)
        places = [row * cache.length + length for row, length in enumerate(lengths)]
        zeros, scratch = [0] * padding, [cache.scratch] * padding
        given = torch.tensor([[*tokens, *zeros], [*lengths, *zeros], [*places, *scratch]])
        inputs = send(given, model.device)
        shape, memory = self.shapes.pop(key, None), (cache.version, model.version, adapters.version if products else 0)
        if shape is None or shape.memory != memory:
            shape = self._captured(inputs, seen, cache, products, memory)
        self.shapes[key] = shape
        shape.inputs.copy_(inputs)
        shape.graph.replay()
        return shape.logits[:count]

    def _captured(
        self, inputs: Tensor, seen: int, cache: KVCache, products: Products | None, memory: tuple[int, int, int]
    ) -> _Shape:
        """A shape's graph. Those whose memory has moved go, and of too many the one that was used longest ago."""
        kept = [(key, one) for key, one in self.shapes.items() if one.memory[:2] == memory[:2]]
        self.shapes = dict(kept[-(SHAPES_MAX - 1) :])
        model, fixed = self._model, inputs.clone()
        logits = torch.empty(fixed.shape[1], model.head.shape[1], dtype=model.dtype, device=model.device)
        adapters = products or Products([], {}, Selected({}, {}))

        def work() -> None:
            logits.copy_(model.decode_tensors(fixed, seen, cache, adapters))

        beside = next(iter(self.shapes.values()), None)
        return _Shape(fixed, logits, self._capture(work, beside.graph if beside else None), memory)


@dataclass(eq=False)
class _Sequence:
    """A sequence in the batch. adapter: its own reference, so that it may be detached meanwhile; slot: where that lies.
    shared: leading tokens that other cache salts may copy. read: text tokens in the KV cache."""

    row: Row
    reply: Generation
    handle: Handle
    ids: list[int]
    adapter: PackedAdapter
    shared: int = 0
    slot: int | None = None
    read: int = 0

    @property
    def length(self) -> int:
        """Tokens that the KV cache holds of it."""
        return self.adapter.virtual_tokens + self.read

    @property
    def prefilled(self) -> bool:
        return self.read >= len(self.ids)

    @property
    def cached(self) -> list[int]:
        """The text's tokens whose keys and values are in the cache."""
        return [*self.ids, *self.reply.tokens][: self.read]

    def reusable(self, other: _Sequence, tokens: Sequence[int]) -> int:
        """How many leading ones of ``tokens``, the other sequence's, this one may copy."""
        if other.adapter.key != self.adapter.key:
            return 0
        length = common_prefix(tokens, self.ids)
        return length if other.row.cache_salt == self.row.cache_salt else min(length, self.shared)


class Scheduler:
    """compute: the thread that rounds run on, one job each, so that other jobs come between them. attached: adapters by
    their ids. slots_beside: of what runs beside the batch. hold: what holds a reply to a form."""

    def __init__(
        self,
        model: LlamaModel,
        tokenizer: Any,
        ends: Collection[int],
        compute: WorkerThread,
        hold: Callable[[Row], Constraint | None] = lambda row: None,
    ) -> None:
        self._hold = hold
        self.model, self._tokenizer, self._ends = model, tokenizer, frozenset(ends)
        self._compute = compute
        self.attached: dict[str, PackedAdapter] = {}
        self._lock = threading.RLock()
        self._pending: list[_Sequence] = []
        self._running: list[_Sequence] = []
        self.slots, self.slots_beside = model.new_adapter_slots(), model.new_adapter_slots()
        self.captured: CapturedDecode | None = None
        self.keep_bytes, self._reserve_bytes = KEEP_BYTES, 0
        if model.device.type == "cuda":
            total = torch.cuda.get_device_properties(model.device).total_memory
            self.captured, self.keep_bytes = CapturedDecode(model), min(KEEP_CUDA_BYTES, total // KEEP_CUDA_SHARE)
            self._reserve_bytes = self.keep_bytes
        self.kv_cache = model.new_cache(self._reserve_bytes)
        self.prefix_cache = PrefixCache()
        self._scheduled = self._closed = False
        self.cached_tokens = 0
        """Prompt tokens that were copied instead of prefilled, so far."""

    def submit(self, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> Handle:
        """Queue sequences; they join at the next round. Raises AdapterError for an adapter that is not attached."""
        handle, fresh = Handle(self._lock, min((row.pace_s for row in rows), default=0.0)), []
        for row, prompt in zip(rows, prompts, strict=True):
            held = self._hold(row) if row.sampling.format else None
            reply = Generation(row, prompt, self._tokenizer, self._ends, held)
            handle.states.append(reply.state)
            shared = common_prefix(encode(self._tokenizer, row.shared_prefix), prompt) if row.shared_prefix else 0
            fresh.append(_Sequence(row, reply, handle, list(prompt), self.find(row.adapter), shared))
        with self._lock:
            if self._closed:
                raise BaseUnavailableError(GONE)
            self._pending += fresh
            idle, self._scheduled = not self._scheduled, True
        if idle:  # posted without the lock: the worker thread may be waiting for it
            self._compute.post(self._run_round)
        return handle

    def stream(self, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> Generator[list[RowState], None, None]:
        """Every row's state after each round."""
        handle = self.submit(rows, prompts)
        try:
            yield from handle
        finally:
            handle.cancel()

    def find(self, adapter_id: str | None) -> PackedAdapter:
        """Raises AdapterError when it is not attached."""
        self._compute.check_open()
        if not adapter_id:
            return BASE
        if adapter_id not in self.attached:
            raise AdapterError(f"{adapter_id} is not attached. Attach it first.")
        return self.attached[adapter_id]

    def drop_adapters(self) -> None:
        self.attached, self.slots_beside = {}, self.model.new_adapter_slots()

    @property
    def held_bytes(self) -> int:
        """What attached adapters take, and what dropping them gives back."""
        return sum(packed.bytes for packed in list(self.attached.values()))

    @property
    def adapter_bytes(self) -> int:
        """Everything that adapters take: attached ones, and the slots of those in use."""
        return self.held_bytes + self.slots.bytes + self.slots_beside.bytes

    def clear_prefix_cache(self) -> None:
        self._compute.run(self.prefix_cache.clear)

    @property
    def busy(self) -> bool:
        with self._lock:
            return bool(self._running or self._pending)

    @property
    def cache_bytes(self) -> int:
        """Memory that stays when no sequence is left; what is taken beyond it is part of the lease of whoever asked."""
        return self.prefix_cache.bytes + min(self.kv_cache.bytes, self.keep_bytes)

    def close(self) -> None:
        """End sequences in flight with an error, take no others, and clear the prefix cache."""
        with self._lock:
            self._closed = True
        self._compute.run(lambda: self._fail(BaseUnavailableError(GONE)))
        self.clear_prefix_cache()

    def shrink(self, keep_bytes: int = 0) -> None:
        """Free the KV cache while no sequence is in flight, if it is more than ``keep_bytes``. On the worker thread."""
        if self.busy or self.kv_cache.bytes <= keep_bytes:
            return
        self.kv_cache.shrink()
        if self.captured is not None:
            self.captured.clear()
            torch.cuda.empty_cache()  # a training process beside this one can use it only then

    def _run_round(self) -> None:
        try:
            with torch.inference_mode():  # all of a round: the cache may grow inside a forward pass
                self._round()
        except BaseException as error:  # the callers wait for it on their own threads
            self._fail(error)
        with self._lock:
            again = self._scheduled = bool(self._running or self._pending)
        if again:
            self._compute.post(self._run_round)

    def _fail(self, error: BaseException) -> None:
        """Hand the error to every caller; the next sequences start with fresh memory."""
        with self._lock:
            for sequence in [*self._running, *self._pending]:
                sequence.handle.fail(error)
            self._running, self._pending = [], []
            self.kv_cache, self.slots = self.model.new_cache(self._reserve_bytes), self.model.new_adapter_slots()
            if self.captured is not None:
                self.captured.clear()  # they were made of the old cache's memory

    def _round(self) -> None:
        with self._lock:
            self._pending = [sequence for sequence in self._pending if not sequence.handle.cancelled]
        self._remove(lambda sequence: sequence.handle.cancelled)
        self._admit()  # (1)
        self._prefill()  # (2)
        self._decode()  # (3)
        handles = {id(sequence.handle): sequence.handle for sequence in self._running}.values()
        self._remove(lambda sequence: bool(sequence.reply.state.finish))  # (4)
        self.shrink(self.keep_bytes)
        for handle in handles:
            handle.tell()

    def _admit(self) -> None:
        """Who joins: always the first of the call with the fewest sequences in the batch, so that one question does not
        wait for a hundred that were asked together before it."""
        with self._lock:
            waiting = list(self._pending) if len(self._running) < ROWS_MAX else []
        if not waiting:
            return
        has = Counter(id(sequence.handle) for sequence in self._running)
        fresh: list[_Sequence] = []
        while waiting and len(self._running) + len(fresh) < ROWS_MAX:
            first = min(waiting, key=lambda sequence: has[id(sequence.handle)])
            waiting.remove(first)
            fresh.append(first)
            has[id(first.handle)] += 1
        longest = max(sequence.adapter.virtual_tokens + len(sequence.ids) + 1 for sequence in fresh)
        self.kv_cache.ensure(len(self._running) + len(fresh), longest)
        for sequence in fresh:  # pending or running at any moment, so that ``_fail`` reaches it
            sequence.slot = self.slots.acquire(sequence.adapter)
            with self._lock:
                self._pending.remove(sequence)
                self._running.append(sequence)

    def _prefill(self) -> None:
        segments, left = list[Segment](), PREFILL_CHUNK
        for place, sequence in enumerate(self._running):
            if sequence.prefilled or left <= 0:
                continue
            if sequence.read == 0:
                if self._defer_for_shared_prefix(place, segments):
                    continue
                self._reuse_prefix(place)
            part = sequence.ids[sequence.read : sequence.read + left]
            segments.append(Segment(place, part, sequence.length, sequence.slot))
            left -= len(part)
        if not segments:
            return
        logits = self.model.prefill(segments, self.kv_cache, self.slots)
        for segment in segments:
            self._running[segment.row].read += len(segment.ids)
        ready = [number for number, segment in enumerate(segments) if self._running[segment.row].prefilled]
        self._sample([self._running[segments[number].row] for number in ready], logits, ready)

    def _sample(self, sequences: Sequence[_Sequence], logits: Tensor, places: Sequence[int]) -> None:
        """One token for each of them, from its place in logits [rows, vocabulary]."""
        if not sequences:
            return
        drawn = sample([sequence.reply for sequence in sequences], rows_of(logits, places))
        now = time.perf_counter()  # the device has computed it only now
        for sequence, one in zip(sequences, drawn, strict=True):
            sequence.reply.add(one, now - sequence.handle.started)

    def _defer_for_shared_prefix(self, place: int, segments: Sequence[Segment]) -> bool:
        """Whether a sequence in prefill now shares this one's prefix: then its KV cache is copied a round later."""
        mine = self._running[place]
        reading = {segment.row for segment in segments} | {
            i for i, other in enumerate(self._running) if 0 < other.read < len(other.ids)
        }
        return any(mine.reusable(self._running[i], self._running[i].ids) >= PREFIX_MIN for i in reading if i != place)

    def _reuse_prefix(self, place: int) -> None:
        """Copy the longest prefix that is cached or running; else write the adapter's virtual tokens."""
        mine = self._running[place]
        wanted = mine.ids[:-1]
        best, saved = self.prefix_cache.longest(mine.adapter.key, wanted, mine.row.cache_salt)
        source = None
        for other, sequence in enumerate(self._running):
            if other != place and (length := min(mine.reusable(sequence, sequence.cached), len(wanted))) > best:
                best, source = length, other
        if best < PREFIX_MIN:
            self.kv_cache.restore(place, mine.adapter.prefix)
            return
        if source is not None:
            self.kv_cache.move(source, place, mine.adapter.virtual_tokens + best)
        elif saved is not None:
            self.kv_cache.restore(place, saved, mine.adapter.virtual_tokens + best)
        mine.read = best
        self.cached_tokens += best

    def _decode(self) -> None:
        decoding = [
            place
            for place, sequence in enumerate(self._running)
            if sequence.prefilled and sequence.reply.tokens and not sequence.reply.state.finish
        ]
        if not decoding:
            return
        rows = self._running[: decoding[-1] + 1]
        # a sequence among them that is still in prefill takes part with a token that its next chunk overwrites
        tokens = [row.reply.tokens[-1] if row.prefilled and row.reply.tokens else 0 for row in rows]
        self.slots.select([row.slot for row in rows])
        logits = (self.captured or self.model).decode(tokens, [row.length for row in rows], self.kv_cache, self.slots)
        for place in decoding:
            self._running[place].read += 1
        self._sample([self._running[place] for place in decoding], logits, decoding)

    def _remove(self, leaves: Callable[[_Sequence], bool]) -> None:
        """Take sequences out, the last one into the row of each; those that ended well go to the prefix cache."""
        for place in range(len(self._running) - 1, -1, -1):
            gone = self._running[place]
            if not leaves(gone):
                continue
            if gone.reply.state.finish and not gone.reply.state.fault and gone.read >= PREFIX_MIN:
                self._keep_prefix(gone, place)
            self.slots.release(gone.slot)
            self._clear(gone, place)
            last = len(self._running) - 1
            if place != last:
                self.kv_cache.move(last, place, self._running[last].length)
                self._running[place] = self._running[last]
                self._clear(self._running[place], last)
            self._running.pop()

    def _keep_prefix(self, ended: _Sequence, place: int) -> None:
        with contextlib.suppress(MemoryError, RuntimeError):  # no room for it: the reply is there all the same
            self.prefix_cache.add(ended.adapter, ended.cached, self.kv_cache, place, ended.row.cache_salt)
            if ended.row.cache_salt and ended.shared >= PREFIX_MIN:
                self.prefix_cache.add(ended.adapter, ended.cached[: ended.shared], self.kv_cache, place)

    def _clear(self, sequence: _Sequence, place: int) -> None:
        """Zero what a sequence with an adapter leaves behind: its keys and values may be infinite, and later sequences
        of this row read them under a mask that only adds minus infinity."""
        if sequence.adapter is not BASE:
            self.kv_cache.clear(place, sequence.length + 1)  # and the token it decoded while it was still in prefill
