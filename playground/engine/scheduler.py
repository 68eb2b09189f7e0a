"""Continuous batching: rows join and leave between steps, so several people's questions share one pass over the weights.

One thread owns the cache and the bank. A round: (1) admit what waits, (2) read at most CHUNK prompt tokens, (3) one step for
every row that is writing, (4) let go of what is done. So a running row never waits longer than one chunk.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from playground.engine.bank import Layout, RowBank
from playground.engine.lean import LeanModel, Segment
from playground.engine.request import Row, RowState
from playground.engine.sampling import Sampler
from playground.engine.slots import LoraWeights

ROWS_MAX = 16
CHUNK = 256
PREFIX_MIN = 16
"""Shorter beginnings are not worth a copy."""
PREFIX_BYTES = 256 * 1024 * 1024


@dataclass
class Adapter:
    """What a row needs of its adapter: key stands for its weights; flat are they, packed for one layout. A row keeps its own,
    so that an adapter may be detached or replaced while the row goes on."""

    key: str
    weights: Mapping[str, LoraWeights]
    flat: torch.Tensor

    def packed(self, layout: Layout) -> Adapter:
        return Adapter(self.key, self.weights, layout.pack(self.weights, self.flat.dtype, self.flat.device))


@dataclass
class _Live:
    """A row in the batch. read: tokens of it in the cache. tokens: what it has written."""

    row: Row
    state: RowState
    ticket: Ticket
    ids: list[int]
    adapter: Adapter | None
    sampler: Sampler
    read: int = 0
    tokens: list[int] = field(default_factory=list)

    @property
    def key(self) -> str:
        return self.adapter.key if self.adapter else ""

    @property
    def writing(self) -> bool:
        return self.read >= len(self.ids)

    @property
    def cached(self) -> list[int]:
        """The tokens that its cache holds, in order."""
        return (self.ids + self.tokens)[: self.read]


class Ticket:
    """Rows that were asked for together. Iterate for their states; ``cancel`` on every way out."""

    def __init__(self, count: int, changed: threading.Condition) -> None:
        self.states = [RowState() for _ in range(count)]
        self.started = time.perf_counter()
        self.cancelled = False
        self.error: BaseException | None = None
        self._changed = changed
        self.version = 0

    def cancel(self) -> None:
        with self._changed:
            self.cancelled = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[list[RowState]]:
        """Snapshots after each round until every row is done. Raises what stopped the batch."""
        seen = -1
        while True:
            with self._changed:
                self._changed.wait_for(lambda seen=seen: self.version != seen or self.error is not None)  # type: ignore[misc]
                if self.error is not None:
                    raise self.error
                seen = self.version
                states = [replace(state) for state in self.states]
            yield states
            if all(state.finish for state in states):
                return


class Scheduler:
    """text: decodes tokens; adapter_of: gives a row's adapter under the current layout."""

    def __init__(
        self,
        model: LeanModel,
        stops: set[int],
        text: Callable[[list[int], bool], str],
        adapter_of: Callable[[str | None], Adapter | None],
        layout: Callable[[], Layout],
    ) -> None:
        self._model, self._stops, self._text = model, stops, text
        self._adapter_of, self._layout = adapter_of, layout
        self._changed = threading.Condition()
        self._pending: list[_Live] = []
        self._live: list[_Live] = []
        self._cache = model.new_cache()
        self._bank: RowBank | None = None
        self._prefixes: OrderedDict[tuple[str, tuple[int, ...]], torch.Tensor] = OrderedDict()
        self._thread: threading.Thread | None = None
        self.reused_tokens = 0

    def submit(self, rows: Sequence[Row], prompts: Sequence[Sequence[int]]) -> Ticket:
        """Queue rows; they join at the next round. Raises AdapterError for an adapter that is not attached."""
        ticket = Ticket(len(rows), self._changed)
        fresh = []
        for row, prompt, state in zip(rows, prompts, ticket.states, strict=True):
            state.prompt_tokens = len(prompt)
            fresh.append(_Live(row, state, ticket, list(prompt), self._adapter_of(row.adapter), Sampler(row.sampling)))
        with self._changed:
            self._pending += fresh
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return ticket

    @property
    def busy(self) -> bool:
        with self._changed:
            return bool(self._live or self._pending)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._pending or self._live, timeout=30):
                    self._thread = None
                    return
            try:
                with torch.inference_mode():  # all of a round: the cache may grow inside a forward pass
                    self._round()
            except BaseException as error:
                with self._changed:
                    for live in [*self._live, *self._pending]:
                        live.ticket.error = error
                    self._live, self._pending = [], []
                    self._changed.notify_all()

    def _round(self) -> None:
        self._drop_cancelled()
        self._admit()
        self._read()
        self._step()
        with self._changed:
            for ticket in {id(live.ticket): live.ticket for live in self._live}.values():
                ticket.version += 1
        self._let_go()
        with self._changed:
            self._changed.notify_all()

    # (1) ---------------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        with self._changed:
            fresh = self._pending[: ROWS_MAX - len(self._live)]
            self._pending = self._pending[len(fresh) :]
        layout = self._layout()
        if self._bank is None or self._bank.layout is not layout:
            self._bank = RowBank(layout, ROWS_MAX, self._model.dtype, self._model.device)
            for place, live in enumerate(self._live):  # a wider rank: every row's adapter is packed anew
                live.adapter = live.adapter.packed(layout) if live.adapter else None
                self._bank.put(place, live.adapter.flat if live.adapter else None)
        for live in fresh:
            if live.adapter is not None and live.adapter.flat.numel() != layout.size:
                live.adapter = live.adapter.packed(layout)
            self._cache.ensure(len(self._live) + 1, len(live.ids) + 1)
            self._bank.put(len(self._live), live.adapter.flat if live.adapter else None)
            self._live.append(live)

    # (2) ---------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self._bank is not None
        segments: list[Segment] = []
        left = CHUNK
        for place, live in enumerate(self._live):
            if live.writing or left <= 0:
                continue
            if live.read == 0 and self._waits_for_twin(place, segments):
                continue
            if live.read == 0:
                self._reuse(place)
            part = live.ids[live.read : live.read + left]
            segments.append(Segment(place, part, live.read))
            left -= len(part)
        if not segments:
            return
        logits = self._model.read(segments, self._cache, self._bank)
        for segment, row in zip(segments, logits, strict=True):
            live = self._live[segment.row]
            live.read += len(segment.ids)
            if live.writing:
                self._take(live, row)

    def _waits_for_twin(self, place: int, segments: Sequence[Segment]) -> bool:
        """Whether a row that is being read now begins as this one does: then its cache is copied a round later."""
        mine = self._live[place]
        reading = {segment.row for segment in segments} | {
            i for i, other in enumerate(self._live) if 0 < other.read < len(other.ids)
        }
        return any(
            self._live[i].key == mine.key and _common(self._live[i].ids, mine.ids) >= PREFIX_MIN for i in reading if i != place
        )

    def _reuse(self, place: int) -> None:
        """Take over the longest beginning that some row, here or gone, has read with the same adapter."""
        mine = self._live[place]
        most = len(mine.ids) - 1
        best, source = PREFIX_MIN - 1, None
        for other, live in enumerate(self._live):
            if other != place and live.key == mine.key and (common := min(most, _common(live.cached, mine.ids))) > best:
                best, source = common, other
        saved = None
        for kept, block in self._prefixes.items():
            if kept[0] == mine.key and (common := min(most, _common(kept[1], mine.ids))) > best:
                best, saved = common, (kept, block)
        if saved is not None:
            self._cache.restore(place, saved[1], best)
            self._prefixes.move_to_end(saved[0])
        elif source is not None:
            self._cache.move(source, place, best)
        else:
            return
        mine.read = best
        self.reused_tokens += best

    # (3) ---------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        writing = [place for place, live in enumerate(self._live) if live.writing and live.tokens and not live.state.finish]
        if not writing:
            return
        assert self._bank is not None
        rows = self._live[: writing[-1] + 1]
        # a row among them that is still being read takes part with a token that its next read overwrites
        tokens = [live.tokens[-1] if live.writing and live.tokens else 0 for live in rows]
        logits = self._model.step(tokens, [live.read for live in rows], self._cache, self._bank)
        for place in writing:
            self._live[place].read += 1
            self._take(self._live[place], logits[place])

    def _take(self, live: _Live, logits: torch.Tensor) -> None:
        """Draw the next token of a row and note what it says now."""
        state, now = live.state, time.perf_counter() - live.ticket.started
        token = live.sampler.pick(logits)
        state.seconds = now
        if state.first_token_s is None:
            state.first_token_s = now
        if token in self._stops:
            state.finish = "stop"
        else:
            live.tokens.append(token)
            state.completion_tokens = len(live.tokens)
            if state.completion_tokens >= live.row.sampling.max_tokens:
                state.finish = "length"
        state.text = self._text(live.tokens, bool(state.finish))

    # (4) ---------------------------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        for place in range(len(self._live) - 1, -1, -1):
            if self._live[place].state.finish:
                self._remove(place, keep=True)

    def _drop_cancelled(self) -> None:
        with self._changed:
            self._pending = [live for live in self._pending if not live.ticket.cancelled]
        for place in range(len(self._live) - 1, -1, -1):
            if self._live[place].ticket.cancelled:
                self._remove(place, keep=False)

    def _remove(self, place: int, *, keep: bool) -> None:
        """Take a row out; the last one moves into its place, so that rows stay compact."""
        assert self._bank is not None
        gone = self._live[place]
        if keep and gone.read >= PREFIX_MIN:
            self._remember(gone, place)
        last = len(self._live) - 1
        if place != last:
            moved = self._live[last]
            self._cache.move(last, place, moved.read)
            self._bank.put(place, moved.adapter.flat if moved.adapter else None)
            self._live[place] = moved
        self._live.pop()

    def _remember(self, live: _Live, place: int) -> None:
        key = (live.key, tuple(live.cached))
        self._prefixes[key] = self._cache.save(place, live.read)
        self._prefixes.move_to_end(key)
        while sum(block.numel() * block.element_size() for block in self._prefixes.values()) > PREFIX_BYTES:
            self._prefixes.popitem(last=False)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    count = 0
    for left, right in zip(a, b, strict=False):
        if left != right:
            break
        count += 1
    return count
