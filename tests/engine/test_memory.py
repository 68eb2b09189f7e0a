"""What the engine holds between questions, what it gives back, and what happens when there is no memory for more."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from playground.engine.bank import Bank
from playground.engine.cache import RowCache
from playground.engine.compute import Compute
from playground.engine.engine import Engine
from playground.engine.graph import CapturedSteps, Graph
from playground.engine.lean_path import LeanPath
from playground.engine.packed import Packed
from playground.engine.request import AdapterFile, Row, RowState, Sampling
from playground.engine.scheduler import Scheduler
from playground.engine.scoring import ScoreRow
from playground.errors import BaseUnavailableError

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
    assert isinstance(engine._way, LeanPath)
    return engine._way.scheduler


def settled(engine: Engine) -> None:
    """The round that told of the last reply has ended."""
    engine._compute.run(lambda: None)


class FullCache(RowCache):
    """Has no room."""

    def ensure(self, rows: int, length: int) -> None:
        raise MemoryError("can't allocate memory")


class FullBank(Bank):
    """Has no room after the first."""

    def take(self, adapter: Packed | None) -> int | None:
        self.taken = getattr(self, "taken", 0) + 1
        if self.taken > 1:
            raise MemoryError("can't allocate memory")
        return super().take(adapter)


def test_no_room_for_a_new_row_is_told_and_the_next_one_is_answered(tiny_base: Path) -> None:
    engine = Engine(tiny_base)
    expected = text(engine)
    settled(engine)
    model = scheduler(engine)._model
    scheduler(engine)._cache = FullCache(len(model.layers), model.kv_heads, model.head_dim, model.dtype, model.device)
    assert isinstance(outcome(lambda: text(engine)), MemoryError)
    assert outcome(lambda: text(engine)) == expected


def test_all_who_wait_hear_of_it_when_there_is_no_room_for_one(tiny_base: Path) -> None:
    engine, gate = Engine(tiny_base), threading.Event()
    way = scheduler(engine)
    engine._compute.post(gate.wait)
    way._bank = FullBank(way._model.groups, way._model.dtype, way._model.device)
    tickets = [way.submit([ROW], [[1, 2, 3]]) for _ in range(3)]
    gate.set()
    assert [type(outcome(lambda ticket=ticket: list(ticket))) for ticket in tickets] == [MemoryError] * 3  # type: ignore[misc]
    settled(engine)
    assert not way.busy


def test_rows_are_posted_without_the_lock_that_the_computing_thread_takes(tiny_base: Path) -> None:
    class Watched(Compute):
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
    assert isinstance(engine._way, LeanPath)
    model, find = engine._way.model, engine._way._find
    made = compute.run(lambda: Scheduler(model, engine.loaded.tokenizer, [], find, compute))
    compute.look = lambda: made.busy
    assert outcome(lambda: list(made.submit([ROW], [[1, 2, 3]])))[-1][0].completion_tokens == 4
    assert not compute.stuck


def test_room_for_many_rows_is_given_back_with_the_last_of_them(tiny_base: Path) -> None:
    engine = Engine(tiny_base)
    way = scheduler(engine)
    text(engine)
    settled(engine)
    assert way._cache.bytes > 0, "a little is kept for the next question"
    assert engine.kept_bytes == way.prefixes.bytes + way._cache.bytes
    way._keep = way._cache.bytes
    for _ in engine.stream([Row(f"{PROMPT} {n}", None, Sampling(max_tokens=3 + n)) for n in range(4)]):
        assert engine.kept_bytes <= way.prefixes.bytes + way._keep, "the rest is paid for by who asked"
    settled(engine)
    assert way._cache.bytes == 0
    assert engine.kept_bytes == way.prefixes.bytes


def test_captured_steps_go_with_the_room_that_they_were_made_of(tiny_base: Path) -> None:
    class Again:
        def __init__(self, work: Callable[[], None]) -> None:
            self.replay = work

    def capture(work: Callable[[], None]) -> Graph:
        work()
        return Again(work)

    engine = Engine(tiny_base)
    expected = text(engine)
    settled(engine)
    way = scheduler(engine)
    way._captured, way._keep = CapturedSteps(way._model, capture), 0
    for _ in range(2):
        assert text(engine) == expected
        settled(engine)
        assert not way._captured._shapes
        assert way._cache.bytes == 0
    way._cache = FullCache(len(way._model.layers), way._model.kv_heads, way._model.head_dim, way._model.dtype, way._model.device)
    assert isinstance(outcome(lambda: text(engine)), MemoryError)
    assert text(engine) == expected


def test_a_reply_does_not_fail_because_its_beginning_cannot_be_kept(tiny_base: Path) -> None:
    class NoRoom(RowCache):
        def save(self, row: int, tokens: int) -> Any:
            raise MemoryError("can't allocate memory")

    engine = Engine(tiny_base)
    way = scheduler(engine)
    model = way._model
    way._cache = NoRoom(len(model.layers), model.kv_heads, model.head_dim, model.dtype, model.device)
    assert outcome(lambda: text(engine)) == text(Engine(tiny_base))
    assert way.prefixes.bytes == 0


@pytest.mark.parametrize("reference", [False, True])
def test_what_was_read_before_is_forgotten_when_that_is_asked_for(tiny_base: Path, reference: bool) -> None:
    engine = Engine(tiny_base, reference=reference)
    expected = text(engine)
    if not reference:
        settled(engine)
        assert scheduler(engine).prefixes.bytes > 0
    engine.forget()
    if not reference:
        assert scheduler(engine).prefixes.bytes == 0
    assert text(engine) == expected
    if not reference:
        assert scheduler(engine).reused_tokens == 0
    engine.close()
    engine.forget()


@pytest.mark.parametrize("reference", [False, True])
def test_a_closed_engine_holds_no_weight_whoever_holds_the_engine(
    tiny_base: Path, make_lora: Callable[..., Path], reference: bool
) -> None:
    engine = Engine(tiny_base, reference=reference)
    file = AdapterFile("one", make_lora(1), "one")
    engine.attach(file)
    text(engine, Row(PROMPT, "one", Sampling(max_tokens=3)))
    text(engine)
    assert engine.fingerprint
    way, thread = engine._way, engine._compute._thread
    held: list[Any] = [weakref.ref(weight) for weight in engine.loaded.weights.values()]
    held += [weakref.ref(module) for module in engine.loaded.model.modules()]
    if isinstance(way, LeanPath):
        held += [weakref.ref(way.model.head), weakref.ref(way.model.layers[0].qkv)]
    engine.close()
    gc.collect()
    assert [there() for there in held if there() is not None] == []
    assert engine.kept_bytes == 0
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


@pytest.mark.parametrize("reference", [False, True])
def test_rows_in_flight_hear_that_the_base_has_left(tiny_base: Path, reference: bool) -> None:
    engine = Engine(tiny_base, reference=reference)
    stream = engine.stream([Row("Endless", None, Sampling(max_tokens=900))])
    next(stream)
    next(stream)
    engine.close()
    assert isinstance(outcome(lambda: list(stream)), BaseUnavailableError)
