"""What the engine holds between questions, what it gives back, and what happens when there is no memory for more;
and the worker thread: what comes in while it ends or is closed is neither lost nor left waiting."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from playground.engine.cuda_graph import CapturedDecode, Graph
from playground.engine.engine import Engine, WorkerThread
from playground.engine.llama_backend import LlamaBackend
from playground.engine.llama_layout import PackedAdapter
from playground.engine.llama_memory import AdapterSlots, KVCache
from playground.engine.request import AdapterFile, Row, Sampling, ScoreRow
from playground.engine.scheduler import Scheduler
from playground.errors import BaseUnavailableError
from tests.engine.models import Again, llama, settled, text

BOUND_S = 30.0
PROMPT = "A beginning that is long enough to be kept for the next question, since it has more than sixteen tokens."
ROW = Row(PROMPT, None, Sampling(max_tokens=4))


def outcome(work: Callable[[], Any]) -> Any:
    """What it returns or raises; fails when it waits for ever."""
    done: Future[Any] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.exception(BOUND_S) or done.result()


@pytest.fixture
def engine(tiny_base: Path) -> Engine:
    return Engine(tiny_base)


@pytest.fixture
def either(path: str, tiny_base: Path) -> Engine:
    return Engine(tiny_base, hf=path == "hf")


def put_cache(engine: Engine, kind: type[KVCache]) -> None:
    way = settled(engine)
    model = way.model
    way.kv_cache = kind(len(model.layers), model.kv_heads, model.head_dim, model.dtype, model.device)


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


def test_no_room_for_a_new_row_is_told_and_the_next_one_is_answered(engine: Engine) -> None:
    expected = text(engine, ROW)
    put_cache(engine, FullCache)
    assert isinstance(outcome(lambda: text(engine, ROW)), MemoryError)
    assert outcome(lambda: text(engine, ROW)) == expected


def test_all_who_wait_hear_of_it_when_there_is_no_room_for_one(engine: Engine) -> None:
    gate, way = threading.Event(), settled(engine)
    engine.worker.post(gate.wait)
    way.slots = FullBank(way.model.groups, way.model.dtype, way.model.device)
    handles = [way.submit([ROW], [[1, 2, 3]]) for _ in range(3)]
    gate.set()
    assert [type(outcome(lambda handle=handle: list(handle))) for handle in handles] == [MemoryError] * 3  # type: ignore[misc]
    assert not settled(engine).busy


def test_rows_are_posted_without_the_lock_that_the_worker_thread_takes(engine: Engine) -> None:
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

    compute, model = Watched(), llama(engine).model
    made = compute.run(lambda: Scheduler(model, engine.loaded.tokenizer, [], compute))
    compute.look = lambda: made.busy
    assert outcome(lambda: list(made.submit([ROW], [[1, 2, 3]])))[-1][0].completion_tokens == 4
    assert not compute.stuck


def test_room_for_many_rows_is_given_back_with_the_last_of_them(engine: Engine) -> None:
    text(engine, ROW)
    way = settled(engine)
    assert way.kv_cache.bytes > 0, "a little is kept for the next question"
    assert engine.cache_bytes == way.prefix_cache.bytes + way.kv_cache.bytes
    way.keep_bytes = way.kv_cache.bytes
    for _ in engine.stream([Row(f"{PROMPT} {n}", None, Sampling(max_tokens=3 + n)) for n in range(4)]):
        assert engine.cache_bytes <= way.prefix_cache.bytes + way.keep_bytes, "the rest is paid for by who asked"
    assert settled(engine).kv_cache.bytes == 0
    assert engine.cache_bytes == way.prefix_cache.bytes


def test_captured_steps_go_with_the_room_that_they_were_made_of(engine: Engine) -> None:
    def capture(work: Callable[[], None]) -> Graph:
        work()
        return Again(work)

    expected, way = text(engine, ROW), settled(engine)
    way.captured, way.keep_bytes = CapturedDecode(way.model, capture), 0
    for _ in range(2):
        assert text(engine, ROW) == expected
        settled(engine)
        assert not way.captured.shapes
        assert way.kv_cache.bytes == 0
    put_cache(engine, FullCache)
    assert isinstance(outcome(lambda: text(engine, ROW)), MemoryError)
    assert text(engine, ROW) == expected


def test_a_reply_does_not_fail_because_its_prefix_cannot_be_cached(engine: Engine) -> None:
    class NoRoom(KVCache):
        def save(self, row: int, tokens: int) -> Any:
            raise MemoryError("can't allocate memory")

    expected = text(engine, ROW)
    engine.clear_prefix_cache()
    put_cache(engine, NoRoom)
    assert outcome(lambda: text(engine, ROW)) == expected
    assert settled(engine).prefix_cache.bytes == 0


def test_the_prefix_cache_is_cleared_when_that_is_asked_for(either: Engine) -> None:
    expected, way = text(either, ROW), settled(either) if either.path == "llama" else None
    assert way is None or way.prefix_cache.bytes > 0
    either.clear_prefix_cache()
    assert way is None or way.prefix_cache.bytes == 0
    assert text(either, ROW) == expected
    assert way is None or way.cached_tokens == 0
    either.close()
    either.clear_prefix_cache()


def test_a_closed_engine_holds_no_weight_whoever_holds_the_engine(
    either: Engine, make_lora: Callable[..., Path]
) -> None:
    engine, file = either, AdapterFile("one", make_lora(1), "one")
    engine.attach(file)
    text(engine, Row(PROMPT, "one", Sampling(max_tokens=3)))
    text(engine, ROW)
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
        lambda: text(engine, ROW),
        lambda: text(engine, Row(PROMPT, "one", Sampling(max_tokens=3))),
        lambda: engine.attach(AdapterFile("two", file.path, "two")),
        lambda: engine.score([ScoreRow("One", " two")]),
        lambda: engine.select_ms("one"),
        engine.check_fingerprint,
    ]
    assert [type(outcome(ask)) for ask in asked] == [BaseUnavailableError] * len(asked)
    engine.detach("one")
    assert engine.attached() == {}


def test_rows_in_flight_hear_that_the_base_has_left(either: Engine) -> None:
    stream = either.stream([Row("Endless", None, Sampling(max_tokens=900))])
    next(stream)
    next(stream)
    either.close()
    assert isinstance(outcome(lambda: list(stream)), BaseUnavailableError)


def test_a_job_may_come_while_the_thread_is_about_to_end() -> None:
    """The scheduler's ``idle`` takes a lock that others hold while they post."""
    done, stuck = threading.Event(), []

    def idle() -> None:
        if not stuck:
            posting = threading.Thread(target=compute.post, args=(done.set,), daemon=True)
            posting.start()
            posting.join(BOUND_S)
            stuck.append(posting.is_alive())

    compute = WorkerThread(idle, idle_s=0.0)
    compute.run(lambda: None)
    assert done.wait(BOUND_S)
    assert stuck == [False]


def test_closing_does_what_waits_and_then_the_thread_ends() -> None:
    compute, gate, done = WorkerThread(), threading.Event(), []
    compute.post(gate.wait)
    compute.post(lambda: done.append("waiting"))
    closing = threading.Thread(target=lambda: compute.close(lambda: done.append("last")), daemon=True)
    thread = compute.thread
    closing.start()
    gate.set()
    closing.join(BOUND_S)
    assert done == ["waiting", "last"]
    assert thread is not None
    thread.join(BOUND_S)
    assert not thread.is_alive()
    with pytest.raises(BaseUnavailableError, match="has left memory"):
        compute.run(lambda: None)
    compute.close(lambda: done.append("again"))
    assert done == ["waiting", "last"]


def test_an_error_of_the_last_job_is_told_and_the_thread_ends_all_the_same() -> None:
    compute = WorkerThread()

    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        compute.close(fails)
    assert compute.closed


def test_the_share_of_cores_is_taken_on_the_computing_thread_before_every_job() -> None:
    said: list[tuple[str, str]] = []
    compute = WorkerThread(before=lambda: said.append(("before", threading.current_thread().name)))
    for job in ("first", "second"):
        compute.run(lambda job=job: said.append((job, threading.current_thread().name)))
    compute.close(lambda: None)
    assert said[:4] == [("before", "compute"), ("first", "compute"), ("before", "compute"), ("second", "compute")]
