"""What the engine holds between questions, what it gives back, and what happens when there is no memory for more."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from playground.engine.cuda_graph import CapturedDecode, Graph
from playground.engine.engine import Engine, WorkerThread
from playground.engine.kv_cache import KVCache
from playground.engine.llama_backend import LlamaBackend
from playground.engine.llama_layout import PackedAdapter
from playground.engine.llama_slots import AdapterSlots
from playground.engine.request import AdapterFile, Row, RowState, Sampling, ScoreRow
from playground.engine.scheduler import Scheduler
from playground.errors import BaseUnavailableError
from tests.engine.models import Again

BOUND_S = 30.0
PROMPT = "A beginning that is long enough to be kept for the next question, since it has more than sixteen tokens."
ROW = Row(PROMPT, None, Sampling(max_tokens=4))


def outcome(work: Callable[[], Any]) -> Any:
    """What it returns or raises; fails when it waits for ever."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(BOUND_S)
    assert found, "it still waits"
    return found[0]


def text(engine: Engine, row: Row = ROW) -> str:
    states: list[RowState] = []
    for states in engine.stream([row]):
        pass
    return states[0].text


def scheduler(engine: Engine) -> Scheduler:
    assert isinstance(engine.backend, LlamaBackend)
    return engine.backend.scheduler


def settled(engine: Engine) -> None:
    """The round that told of the last reply has ended."""
    engine.worker.run(lambda: None)


class FullCache(KVCache):
    """Has no room."""

    def ensure(self, rows: int, length: int) -> None:
        raise MemoryError("can't allocate memory")


class FullBank(AdapterSlots):
    """Has no room after the first."""

    def acquire(self, adapter: PackedAdapter | None) -> int | None:
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken > 1:
            raise MemoryError("can't allocate memory")
        return super().acquire(adapter)


def test_no_room_for_a_new_row_is_told_and_the_next_one_is_answered(tiny_base: Path) -> None:
    engine = Engine(tiny_base)
    expected = text(engine)
    settled(engine)
    model = scheduler(engine).model
    scheduler(engine).kv_cache = FullCache(len(model.layers), model.kv_heads, model.head_dim, model.dtype, model.device)
    assert isinstance(outcome(lambda: text(engine)), MemoryError)
    assert outcome(lambda: text(engine)) == expected


def test_all_who_wait_hear_of_it_when_there_is_no_room_for_one(tiny_base: Path) -> None:
    engine, gate = Engine(tiny_base), threading.Event()
    way = scheduler(engine)
    engine.worker.post(gate.wait)
    way.slots = FullBank(way.model.groups, way.model.dtype, way.model.device)
    handles = [way.submit([ROW], [[1, 2, 3]]) for _ in range(3)]
    gate.set()
    assert [type(outcome(lambda handle=handle: list(handle))) for handle in handles] == [MemoryError] * 3  # type: ignore[misc]
    settled(engine)
    assert not way.busy


def test_rows_are_posted_without_the_lock_that_the_worker_thread_takes(tiny_base: Path) -> None:
    class Watched(WorkerThread):
        """Whoever posts must not hold what the scheduler's own thread may be waiting for."""

        look: Callable[[], Any] = staticmethod(lambda: None)
        stuck = False

        def post(self, job: Callable[[], Any]) -> None:
            looking = threading.Thread(target=lambda: self.look(), daemon=True)
            looking.start()
            looking.join(5)
            self.stuck |= looking.is_alive()
            super().post(job)

    engine, compute = Engine(tiny_base), Watched()
    assert isinstance(engine.backend, LlamaBackend)
    model, find = engine.backend.model, engine.backend.find
    made = compute.run(lambda: Scheduler(model, engine.loaded.tokenizer, [], find, compute))
    compute.look = lambda: made.busy
    assert outcome(lambda: list(made.submit([ROW], [[1, 2, 3]])))[-1][0].completion_tokens == 4
    assert not compute.stuck


def test_room_for_many_rows_is_given_back_with_the_last_of_them(tiny_base: Path) -> None:
    engine = Engine(tiny_base)
    way = scheduler(engine)
    text(engine)
    settled(engine)
    assert way.kv_cache.bytes > 0, "a little is kept for the next question"
    assert engine.cache_bytes == way.prefix_cache.bytes + way.kv_cache.bytes
    way.keep_bytes = way.kv_cache.bytes
    for _ in engine.stream([Row(f"{PROMPT} {n}", None, Sampling(max_tokens=3 + n)) for n in range(4)]):
        assert engine.cache_bytes <= way.prefix_cache.bytes + way.keep_bytes, "the rest is paid for by who asked"
    settled(engine)
    assert way.kv_cache.bytes == 0
    assert engine.cache_bytes == way.prefix_cache.bytes


def test_captured_steps_go_with_the_room_that_they_were_made_of(tiny_base: Path) -> None:
    def capture(work: Callable[[], None]) -> Graph:
        work()
        return Again(work)

    engine = Engine(tiny_base)
    expected = text(engine)
    settled(engine)
    way = scheduler(engine)
    way.captured, way.keep_bytes = CapturedDecode(way.model, capture), 0
    for _ in range(2):
        assert text(engine) == expected
        settled(engine)
        assert not way.captured.shapes
        assert way.kv_cache.bytes == 0
    way.kv_cache = FullCache(
        len(way.model.layers), way.model.kv_heads, way.model.head_dim, way.model.dtype, way.model.device
    )
    assert isinstance(outcome(lambda: text(engine)), MemoryError)
    assert text(engine) == expected


def test_a_reply_does_not_fail_because_its_prefix_cannot_be_cached(tiny_base: Path) -> None:
    class NoRoom(KVCache):
        def save(self, row: int, tokens: int) -> Any:
            raise MemoryError("can't allocate memory")

    engine = Engine(tiny_base)
    way = scheduler(engine)
    model = way.model
    way.kv_cache = NoRoom(len(model.layers), model.kv_heads, model.head_dim, model.dtype, model.device)
    assert outcome(lambda: text(engine)) == text(Engine(tiny_base))
    assert way.prefix_cache.bytes == 0


@pytest.mark.parametrize("hf", [False, True])
def test_the_prefix_cache_is_cleared_when_that_is_asked_for(tiny_base: Path, hf: bool) -> None:
    engine = Engine(tiny_base, hf=hf)
    expected = text(engine)
    if not hf:
        settled(engine)
        assert scheduler(engine).prefix_cache.bytes > 0
    engine.clear_prefix_cache()
    if not hf:
        assert scheduler(engine).prefix_cache.bytes == 0
    assert text(engine) == expected
    if not hf:
        assert scheduler(engine).cached_tokens == 0
    engine.close()
    engine.clear_prefix_cache()


@pytest.mark.parametrize("hf", [False, True])
def test_a_closed_engine_holds_no_weight_whoever_holds_the_engine(
    tiny_base: Path, make_lora: Callable[..., Path], hf: bool
) -> None:
    engine = Engine(tiny_base, hf=hf)
    file = AdapterFile("one", make_lora(1), "one")
    engine.attach(file)
    text(engine, Row(PROMPT, "one", Sampling(max_tokens=3)))
    text(engine)
    assert engine.fingerprint
    way, thread = engine.backend, engine.worker.thread
    held: list[Any] = [weakref.ref(weight) for weight in engine.loaded.weights.values()]
    held += [weakref.ref(module) for module in engine.loaded.model.modules()]
    if isinstance(way, LlamaBackend):
        held += [weakref.ref(way.model.head), weakref.ref(way.model.layers[0].qkv)]
    engine.close()
    gc.collect()
    assert [there() for there in held if there() is not None] == []
    assert engine.cache_bytes == 0
    assert thread is not None
    thread.join(BOUND_S)
    assert not thread.is_alive()
    engine.close()
    asked: list[Callable[[], Any]] = [
        lambda: text(engine),
        lambda: text(engine, Row(PROMPT, "one", Sampling(max_tokens=3))),
        lambda: engine.attach(AdapterFile("two", file.path, "two")),
        lambda: engine.score([ScoreRow("One", " two")]),
        lambda: engine.select_ms("one"),
        engine.check_fingerprint,
    ]
    assert [type(outcome(ask)) for ask in asked] == [BaseUnavailableError] * len(asked)
    engine.detach("one")
    assert engine.attached() == {}


@pytest.mark.parametrize("hf", [False, True])
def test_rows_in_flight_hear_that_the_base_has_left(tiny_base: Path, hf: bool) -> None:
    engine = Engine(tiny_base, hf=hf)
    stream = engine.stream([Row("Endless", None, Sampling(max_tokens=900))])
    next(stream)
    next(stream)
    engine.close()
    assert isinstance(outcome(lambda: list(stream)), BaseUnavailableError)
