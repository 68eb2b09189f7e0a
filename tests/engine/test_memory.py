"""What the engine holds and gives back, what happens without room; the worker thread; and many callers at once."""

import gc
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from playground.engine.engine import Engine, WorkerThread
from playground.engine.llama_memory import PREFIX_BYTES, AdapterSlots, KVCache, PrefixCache
from playground.engine.request import ROWS_MAX, AdapterFile, Row, Sampling, ScoreRow
from playground.engine.scheduler import CapturedDecode, Scheduler
from playground.errors import BaseUnavailableError
from tests.engine.models import Again, engine_with, llama, run, settled, text
from tests.refused import refused

BOUND_S = 30.0
PROMPT = "A beginning that is long enough to be kept for the next question, since it has more than sixteen tokens."
ROW = Row(PROMPT, None, Sampling(max_tokens=4))
either = pytest.fixture(lambda path, tiny_base: Engine(tiny_base, hf=path == "hf"))
engine = pytest.fixture(lambda tiny_base: Engine(tiny_base))


def outcome(work):
    """What it returns or raises; fails when it waits for ever."""
    done = Future()

    def run():
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.exception(BOUND_S) or done.result()


def no_room(*_):
    raise MemoryError("can't allocate memory")


def put_cache(engine, full):
    """A KV cache of which this method finds no room."""
    way, kind = settled(engine), type("Full", (KVCache,), {full: no_room})
    model = way.model
    way.kv_cache = kind(len(model.layers), model.kv_heads, model.head_dim, model.dtype, model.device)


class FullSlots(AdapterSlots):
    """Has no room after the first."""

    taken = 0

    def acquire(self, adapter):
        self.taken += 1
        return super().acquire(adapter) if self.taken == 1 else no_room()


def test_all_who_wait_hear_of_it_when_there_is_no_room_for_one(engine):
    gate, way = threading.Event(), settled(engine)
    engine.worker.post(gate.wait)
    way.slots = FullSlots(way.model.groups, way.model.dtype, way.model.device)
    handles = [way.submit([ROW], [[1, 2, 3]]) for _ in range(3)]
    gate.set()
    assert [type(outcome(lambda handle=handle: list(handle))) for handle in handles] == [MemoryError] * 3
    assert not settled(engine).busy


def test_rows_are_posted_without_the_lock_that_the_worker_thread_takes(engine):
    class Watched(WorkerThread):
        """Whoever posts must not hold what the scheduler's own thread may be waiting for."""

        look = staticmethod(lambda: None)

        def post(self, job):
            outcome(self.look)
            super().post(job)

    compute, model = Watched(), llama(engine).model
    made = compute.run(lambda: Scheduler(model, engine.loaded.tokenizer, [], compute))
    compute.look = lambda: made.busy
    assert outcome(lambda: list(made.submit([ROW], [[1, 2, 3]])))[-1][0].completion_tokens == 4


def test_room_for_many_rows_is_given_back_with_the_last_of_them(engine):
    text(engine, ROW)
    way = settled(engine)
    assert way.kv_cache.bytes > 0, "a little is kept for the next question"
    assert engine.cache_bytes == way.prefix_cache.bytes + way.kv_cache.bytes
    way.keep_bytes = way.kv_cache.bytes
    for _ in engine.stream([Row(f"{PROMPT} {n}", None, Sampling(max_tokens=3 + n)) for n in range(4)]):
        assert engine.cache_bytes <= way.prefix_cache.bytes + way.keep_bytes, "the rest is paid for by who asked"
    assert (settled(engine).kv_cache.bytes, engine.cache_bytes) == (0, way.prefix_cache.bytes)


@pytest.mark.parametrize("captured", [True, False])
def test_no_room_for_a_new_row_is_told_and_the_next_one_is_answered(engine, captured):
    """Captured steps go with the room that they were made of."""
    expected, way = text(engine, ROW), settled(engine)
    way.captured, way.keep_bytes = CapturedDecode(way.model, Again) if captured else None, 0
    for _ in range(2):
        assert text(engine, ROW) == expected
        settled(engine)
        assert way.captured is None or not way.captured.shapes
        assert way.kv_cache.bytes == 0
    put_cache(engine, "ensure")
    assert isinstance(outcome(lambda: text(engine, ROW)), MemoryError)
    assert outcome(lambda: text(engine, ROW)) == expected


def test_a_reply_does_not_fail_because_its_prefix_cannot_be_cached(engine):
    expected = text(engine, ROW)
    engine.clear_prefix_cache()
    put_cache(engine, "save")
    assert outcome(lambda: text(engine, ROW)) == expected
    assert settled(engine).prefix_cache.bytes == 0


def test_the_prefix_cache_is_cleared_when_that_is_asked_for(either):
    expected, way = text(either, ROW), settled(either) if either.path == "llama" else None
    assert way is None or way.prefix_cache.bytes > 0
    either.clear_prefix_cache()
    assert way is None or way.prefix_cache.bytes == 0
    assert text(either, ROW) == expected
    assert way is None or way.cached_tokens == 0
    either.close()
    either.clear_prefix_cache()


def test_a_closed_engine_holds_no_weight_whoever_holds_the_engine(either, make_lora):
    engine, file = either, AdapterFile("one", make_lora(1), "one")
    engine.attach(file)
    text(engine, Row(PROMPT, "one", Sampling(max_tokens=3)))
    text(engine, ROW)
    assert engine.fingerprint
    thread = engine.worker.thread
    held = [weakref.ref(weight) for weight in engine.loaded.weights.values()]
    held += [weakref.ref(module) for module in engine.loaded.model.modules()]
    if engine.path == "llama":
        held += [weakref.ref(llama(engine).model.head), weakref.ref(llama(engine).model.layers[0].qkv)]
    engine.close()
    gc.collect()
    assert ([there() for there in held if there() is not None], engine.cache_bytes) == ([], 0)
    assert thread is not None
    thread.join(BOUND_S)
    assert not thread.is_alive()
    engine.close()
    asked = [
        *(lambda name=name: text(engine, Row(PROMPT, name)) for name in (None, "one")),
        lambda: engine.attach(AdapterFile("two", file.path, "two")),
        lambda: engine.score([ScoreRow("One", " two")]),
        lambda: engine.select_ms("one"),
        engine.check_fingerprint,
    ]
    assert [type(outcome(ask)) for ask in asked] == [BaseUnavailableError] * len(asked)
    engine.detach("one")
    assert engine.attached() == {}


def test_rows_in_flight_hear_that_the_base_has_left(either):
    stream = either.stream([Row("Endless", None, Sampling(max_tokens=900))])
    next(stream)
    next(stream)
    either.close()
    assert isinstance(outcome(lambda: list(stream)), BaseUnavailableError)


def test_closing_does_what_waits_jobs_may_come_while_the_thread_ends_and_each_takes_its_share_of_cores():
    done, posted = threading.Event(), []

    def idle():
        if not posted:
            posted.append(outcome(lambda: compute.post(done.set)))

    compute = WorkerThread(idle, idle_s=0.0)
    compute.run(lambda: None)
    assert done.wait(BOUND_S)
    assert posted == [None]
    compute, gate, done = WorkerThread(), threading.Event(), []
    compute.post(gate.wait)
    compute.post(lambda: done.append("waiting"))
    thread, closing = compute.thread, threading.Thread(target=compute.close, args=(lambda: done.append("last"),))
    closing.start()
    gate.set()
    closing.join(BOUND_S)
    assert done == ["waiting", "last"]
    assert thread is not None
    thread.join(BOUND_S)
    assert not thread.is_alive()
    refused("has left memory", compute.run, lambda: None, error=BaseUnavailableError)
    compute.close(lambda: done.append("again"))
    assert done == ["waiting", "last"]
    failing = WorkerThread()
    refused("", failing.close, no_room, error=MemoryError)
    assert failing.closed, "an error of the last job is told, and the thread ends all the same"
    said = []
    compute = WorkerThread(before=lambda: said.append(("before", threading.current_thread().name)))
    for job in ("first", "second"):
        compute.run(lambda job=job: said.append((job, threading.current_thread().name)))
    compute.close(lambda: None)
    assert said[:4] == [("before", "compute"), ("first", "compute"), ("before", "compute"), ("second", "compute")]


# -- many callers ------------------------------------------------------------------------------------------------------

LONG = " ".join(f"word{number}" for number in range(150))
WITH = (None, "a1", "a2")


@pytest.fixture(scope="module")
def pair(tiny_base, make_lora):
    """An engine of each backend with the same two adapters."""
    folders = {f"a{seed}": make_lora(seed, rank=2 * seed) for seed in (1, 2)}
    return engine_with(tiny_base, folders, "llama"), engine_with(tiny_base, folders, "hf")


def test_more_rows_than_places_are_written_as_places_come_free_and_a_question_does_not_wait_for_them_all(pair):
    lengths = [Sampling(max_tokens=4 + n, ignore_eos=True) for n in range(5)]
    rows = [Row(f"Question {n}", WITH[n % 3], lengths[n % 5]) for n in range(2 * ROWS_MAX + 5)]
    expected = [text(pair[1], row) for row in rows]
    for engine in pair:
        rounds = list(engine.stream(rows))
        assert [state.text for state in rounds[-1]] == expected
        writing = [sum(state.completion_tokens > 0 and not state.finish for state in states) for states in rounds]
        assert 1 < max(writing) <= ROWS_MAX
    engine = pair[0]
    rows = [Row(f"Of many {n}", None, Sampling(max_tokens=40, ignore_eos=True)) for n in range(3 * ROWS_MAX)]
    many = engine.stream(rows)
    next(many)
    assert run(engine, [Row("One", "a1", Sampling(max_tokens=3, ignore_eos=True))])[0].finish
    assert sum(not state.finish for state in next(many)) > ROWS_MAX, "those that came first and wait still wait"
    many.close()


def test_many_callers_share_the_batch_each_gets_its_own_reply_and_stopping_one_leaves_the_others(pair):
    engine, reference = pair
    rows = [Row(f"Question {n}: {LONG[: 40 * n]}", WITH[n % 3], Sampling(max_tokens=5 + 3 * n)) for n in range(9)]
    expected = [text(reference, row) for row in rows]
    with ThreadPoolExecutor(9) as callers:
        assert list(callers.map(lambda row: text(engine, row), rows, timeout=60)) == expected
    assert not settled(engine).busy
    engine, reference = pair
    row = Row("Kept", "a1", Sampling(max_tokens=12))
    endless, kept = (engine.stream([one]) for one in (Row("Endless", None, Sampling(max_tokens=900)), row))
    next(endless)
    next(kept)
    endless.close()
    assert list(kept)[-1][0].text == text(reference, row)


def test_another_salt_copies_nothing_and_a_prefix_is_taken_over_after_the_cache_has_grown(engine):
    """The cache grew inside a forward pass, and what came after could no longer write to it."""
    run(engine, [Row(PROMPT, sampling=Sampling(max_tokens=3), cache_salt=name) for name in ("ann", "bob")])
    assert settled(engine).cached_tokens == 0
    run(engine, [Row(PROMPT, sampling=Sampling(max_tokens=3), cache_salt="ann")] * 2)
    assert settled(engine).cached_tokens > 0
    row = Row("Grow past the first room. " + LONG[:100], None, Sampling(max_tokens=300))
    grown, before = text(engine, row), settled(engine).cached_tokens
    assert text(engine, row) == grown
    assert settled(engine).cached_tokens > before


def test_past_its_limit_the_prefix_that_was_used_longest_ago_goes_and_its_bytes_are_no_longer_counted():
    """The page's thread reads the bytes while rows are written: the entries themselves may change then."""
    kept, adapter = PrefixCache(), SimpleNamespace(key="a", virtual_tokens=0)
    cache = SimpleNamespace(save=lambda row, tokens: torch.empty(PREFIX_BYTES // 4, dtype=torch.uint8))
    for number in (0, 1, 2, 3, 0, 4):
        kept.add(adapter, (number, 7, 8), cache, 0)
    assert [kept.longest("a", (number, 7))[0] for number in range(5)] == [2, 0, 2, 2, 2]
    assert kept.bytes == PREFIX_BYTES
    kept.clear()
    assert kept.bytes == 0
