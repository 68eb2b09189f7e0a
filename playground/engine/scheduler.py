"""Continuous batching: rows join and leave between steps, so several people's questions share one pass over the weights.

The computing thread owns the cache and the bank. A round: (1) admit what waits, (2) read at most CHUNK prompt tokens, (3) one step for
every row that is writing, (4) let go of what is done. So a running row never waits longer than one chunk.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from playground.data.render import encode
from playground.engine.compute import GONE, Compute
from playground.engine.graph import CapturedSteps
from playground.engine.lean import LeanModel, Segment
from playground.engine.packed import Packed
from playground.engine.prefixes import PREFIX_MIN, PrefixStore, common
from playground.engine.request import ROWS_MAX, Row
from playground.engine.ticket import Ticket
from playground.engine.writer import Writer
from playground.errors import BaseUnavailableError

CHUNK = 256
KEEP_BYTES = 64 << 20
"""As much of the rows' cache may stay for the next question when no row is left."""
KEEP_CUDA_BYTES = 1 << 30
"""The same on a GPU, where captured steps go with the cache."""


@dataclass
class _Live:
    """A row in the batch. adapter: its own copy of what it was asked with, so that the adapter may be detached or replaced
    while the row goes on. slot: where that lies in the bank. read: tokens of it in the cache, after those that its adapter puts
    before the text. shared: leading tokens that rows with another cache salt may copy."""

    row: Row
    writer: Writer
    ticket: Ticket
    ids: list[int]
    adapter: Packed | None
    shared: int = 0
    slot: int | None = None
    read: int = 0

    @property
    def key(self) -> str:
        return self.adapter.key if self.adapter else ""

    @property
    def lead(self) -> int:
        return self.adapter.lead if self.adapter else 0

    @property
    def length(self) -> int:
        """What the cache holds of it."""
        return self.lead + self.read

    @property
    def writing(self) -> bool:
        return self.read >= len(self.ids)

    @property
    def cached(self) -> list[int]:
        """The text's tokens whose keys and values are in the cache."""
        return [*self.ids, *self.writer.tokens][: self.read]

    def reusable(self, other: _Live, tokens: Sequence[int]) -> int:
        """How many leading ones of ``tokens``, the other row's, this row may take over."""
        if other.key != self.key:
            return 0
        length = common(tokens, self.ids)
        return length if other.row.cache_salt == self.row.cache_salt else min(length, self.shared)


class Scheduler:
    """adapter_of: an adapter's packed weights by its id; raises AdapterError when it is not attached. compute: the thread that
    rounds run on, one job each, so that other jobs come between them."""

    def __init__(
        self, model: LeanModel, tokenizer: Any, ends: Collection[int], adapter_of: Callable[[str], Packed], compute: Compute
    ) -> None:
        self._compute = compute
        self._model, self._tokenizer, self._ends, self._adapter_of = model, tokenizer, frozenset(ends), adapter_of
        self._changed = threading.Condition()
        self._pending: list[_Live] = []
        self._live: list[_Live] = []
        self._cache = model.new_cache()
        self._bank = model.new_bank()
        self._captured = CapturedSteps(model) if model.device.type == "cuda" else None
        self._keep = KEEP_CUDA_BYTES if model.device.type == "cuda" else KEEP_BYTES
        self.prefixes = PrefixStore()
        self._going = self._closed = False
        self.reused_tokens = 0

    def submit(self, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> Ticket:
        """Queue rows; they join at the next round. Raises AdapterError for an adapter that is not attached."""
        writers = [Writer(row, prompt, self._tokenizer, self._ends) for row, prompt in zip(rows, prompts, strict=True)]
        ticket = Ticket([writer.state for writer in writers], self._changed)
        fresh = [
            _Live(
                row,
                writer,
                ticket,
                list(prompt),
                self._adapter_of(row.adapter) if row.adapter else None,
                self._shared(row, prompt),
            )
            for row, writer, prompt in zip(rows, writers, prompts, strict=True)
        ]
        with self._changed:
            if self._closed:
                raise BaseUnavailableError(GONE)
            self._pending += fresh
            starts, self._going = not self._going, True
        if starts:  # posted without the lock: the computing thread may be waiting for it
            self._compute.post(self._go)
        return ticket

    def _shared(self, row: Row, prompt: Sequence[int]) -> int:
        return common(encode(self._tokenizer, row.shared_prefix), prompt) if row.shared_prefix else 0

    @property
    def busy(self) -> bool:
        with self._changed:
            return bool(self._live or self._pending)

    @property
    def kept_bytes(self) -> int:
        """Memory that stays when no row is left: kept beginnings, and as much of the rows' cache as may be kept. What the cache takes
        beyond that is paid for by whoever asked for the rows."""
        return self.prefixes.bytes + min(self._cache.bytes, self._keep)

    @property
    def bank_bytes(self) -> int:
        return self._bank.bytes

    def drop(self, key: str) -> None:
        """An adapter is removed: its slot is emptied once no row uses it. On the computing thread."""
        self._bank.drop(key)

    def close(self) -> None:
        """Rows in flight hear of it, no others are taken, and what was kept is gone."""
        with self._changed:
            self._closed = True
        self._compute.run(lambda: self._fail(BaseUnavailableError(GONE)))
        self._compute.run(self.prefixes.clear)

    def shrink(self, keep_bytes: int = 0) -> None:
        """Give the cache's memory back while no row is in flight, if it is more than ``keep_bytes``. On the computing thread."""
        if self.busy or self._cache.bytes <= keep_bytes:
            return
        self._cache.shrink()
        if self._captured is not None:
            self._captured.clear()
            torch.cuda.empty_cache()  # a training process beside this one can use it only then

    def _go(self) -> None:
        """One round, and another after it while there are rows."""
        try:
            with torch.inference_mode():  # all of a round: the cache may grow inside a forward pass
                self._round()
        except BaseException as error:
            self._fail(error)
        with self._changed:
            again = self._going = bool(self._live or self._pending)
        if again:
            self._compute.post(self._go)

    def _fail(self, error: BaseException) -> None:
        """Everyone in the batch hears of it; the next ones start afresh."""
        with self._changed:
            for live in [*self._live, *self._pending]:
                live.ticket.error = error
            self._live, self._pending = [], []
            self._cache, self._bank = self._model.new_cache(), self._model.new_bank()
            if self._captured is not None:
                self._captured.clear()  # they were made of the old cache's memory
            self._changed.notify_all()

    def _round(self) -> None:
        self._drop_cancelled()
        self._admit()
        self._read()
        self._step()
        tickets = {id(live.ticket): live.ticket for live in self._live}.values()
        self._let_go()
        self.shrink(self._keep)
        with self._changed:
            for ticket in tickets:
                ticket.version += 1
            self._changed.notify_all()

    # (1) ---------------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        with self._changed:
            fresh = self._next(ROWS_MAX - len(self._live))
        if not fresh:
            return
        self._cache.ensure(len(self._live) + len(fresh), max(live.lead + len(live.ids) + 1 for live in fresh))
        for live in fresh:  # a row is waiting or live at any moment, so that it hears of whatever goes wrong
            live.slot = self._bank.take(live.adapter)
            with self._changed:
                self._pending = [one for one in self._pending if one is not live]
                self._live.append(live)

    def _next(self, room: int) -> list[_Live]:
        """Who joins: always the first of those who have the fewest rows in the batch, so that one question does not wait for a hundred
        that were asked together before it."""
        if room <= 0 or not self._pending:
            return []
        queues: dict[int, list[_Live]] = {}
        for live in self._pending:
            queues.setdefault(id(live.ticket), []).append(live)
        has = Counter(id(live.ticket) for live in self._live)
        chosen: list[_Live] = []
        while queues and len(chosen) < room:
            first = min(queues, key=lambda ticket: has[ticket])
            chosen.append(queues[first].pop(0))
            has[first] += 1
            if not queues[first]:
                del queues[first]
        return chosen

    # (2) ---------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        segments: list[Segment] = []
        left = CHUNK
        for place, live in enumerate(self._live):
            if live.writing or left <= 0:
                continue
            if live.read == 0 and self._waits_for_twin(place, segments):
                continue
            if live.read == 0:
                self._begin(place)
            part = live.ids[live.read : live.read + left]
            segments.append(Segment(place, part, live.length, live.slot))
            left -= len(part)
        if not segments:
            return
        logits = self._model.read(segments, self._cache, self._bank)
        for segment, row in zip(segments, logits, strict=True):
            live = self._live[segment.row]
            live.read += len(segment.ids)
            if live.writing:
                live.writer.take(row, time.perf_counter() - live.ticket.started)

    def _waits_for_twin(self, place: int, segments: Sequence[Segment]) -> bool:
        """Whether a row that is being read now begins as this one does: then its cache is copied a round later."""
        mine = self._live[place]
        reading = {segment.row for segment in segments} | {
            i for i, other in enumerate(self._live) if 0 < other.read < len(other.ids)
        }
        return any(mine.reusable(self._live[i], self._live[i].ids) >= PREFIX_MIN for i in reading if i != place)

    def _begin(self, place: int) -> None:
        """Take over the longest beginning that some row, here or gone, has read with the same adapter; else put what the adapter has
        before the text into the cache."""
        mine = self._live[place]
        wanted = mine.ids[:-1]
        best, saved = self.prefixes.longest(mine.key, wanted, mine.row.cache_salt)
        source = None
        for other, live in enumerate(self._live):
            if other != place and (length := min(mine.reusable(live, live.cached), len(wanted))) > best:
                best, source = length, other
        if best < PREFIX_MIN:
            self._cache.begin(place, mine.adapter.start if mine.adapter else None)
            return
        if source is not None:
            self._cache.move(source, place, mine.lead + best)
        elif saved is not None:
            self._cache.restore(place, saved, mine.lead + best)
        mine.read = best
        self.reused_tokens += best

    # (3) ---------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        writing = [i for i, live in enumerate(self._live) if live.writing and live.writer.tokens and not live.writer.state.finish]
        if not writing:
            return
        rows = self._live[: writing[-1] + 1]
        # a row among them that is still being read takes part with a token that its next read overwrites
        tokens = [live.writer.tokens[-1] if live.writing and live.writer.tokens else 0 for live in rows]
        lengths, slots = [live.length for live in rows], [live.slot for live in rows]
        if self._captured is not None:
            logits = self._captured.step(tokens, lengths, slots, self._cache, self._bank)
        else:
            self._bank.select(slots)
            logits = self._model.step(tokens, lengths, self._cache, self._bank)
        now = time.perf_counter()
        for place in writing:
            live = self._live[place]
            live.read += 1
            live.writer.take(logits[place], now - live.ticket.started)

    # (4) ---------------------------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        for place in range(len(self._live) - 1, -1, -1):
            state = self._live[place].writer.state
            if state.finish:
                self._remove(place, keep=not state.fault)

    def _drop_cancelled(self) -> None:
        with self._changed:
            self._pending = [live for live in self._pending if not live.ticket.cancelled]
        for place in range(len(self._live) - 1, -1, -1):
            if self._live[place].ticket.cancelled:
                self._remove(place, keep=False)

    def _remove(self, place: int, *, keep: bool) -> None:
        """Take a row out; the last one moves into its place, so that rows stay compact."""
        gone = self._live[place]
        if keep and gone.read >= PREFIX_MIN:
            with contextlib.suppress(MemoryError, RuntimeError):  # no room for it: the reply is there all the same
                self.prefixes.remember(gone.key, gone.cached, self._cache, place, gone.lead, gone.row.cache_salt)
                if gone.row.cache_salt and gone.shared >= PREFIX_MIN:
                    self.prefixes.remember(gone.key, gone.cached[: gone.shared], self._cache, place, gone.lead)
        self._bank.release(gone.slot)
        self._clear(gone, place)
        last = len(self._live) - 1
        if place != last:
            self._cache.move(last, place, self._live[last].length)
            self._live[place] = self._live[last]
            self._clear(self._live[place], last)
        self._live.pop()

    def _clear(self, live: _Live, place: int) -> None:
        """Zero what a row with an adapter leaves behind: its keys and values may be infinite, and later rows of this place read them
        under a mask that only adds minus infinity."""
        if live.adapter is not None:
            self._cache.clear(place, live.length + 1)  # and the token it took part with while it was still being read
