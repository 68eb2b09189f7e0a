"""The Llama backend: sequences that join and leave, many callers, prefixes; against the Hugging Face backend."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from playground.engine.engine import Engine
from playground.engine.request import ROWS_MAX, Row, Sampling
from tests.engine.models import engine_with, run, settled, text

LONG = " ".join(f"word{number}" for number in range(150))
Pair = tuple[Engine, Engine]


@pytest.fixture(scope="module")
def pair(tiny_base: Path, make_lora: Callable[..., Path]) -> Pair:
    """An engine of each backend with the same two adapters."""
    folders = {f"a{seed}": make_lora(seed, rank=2 * seed) for seed in (1, 2)}
    return engine_with(tiny_base, folders, "llama"), engine_with(tiny_base, folders, "hf")


def test_many_callers_share_the_batch_and_each_gets_its_own_reply(pair: Pair) -> None:
    engine, reference = pair
    rows = [
        Row(f"Question {n}: {LONG[: 40 * n]}", (None, "a1", "a2")[n % 3], Sampling(max_tokens=5 + 3 * n))
        for n in range(9)
    ]
    expected = [text(reference, row) for row in rows]
    got: dict[int, str] = {}
    threads = [threading.Thread(target=lambda n=n: got.update({n: text(engine, rows[n])})) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [got[n] for n in range(9)] == expected
    assert not settled(engine).busy


def test_more_rows_than_places_are_written_as_places_come_free(pair: Pair) -> None:
    rows = [
        Row(f"Question {n}", (None, "a1", "a2")[n % 3], Sampling(max_tokens=4 + n % 5, ignore_eos=True))
        for n in range(2 * ROWS_MAX + 5)
    ]
    expected = [text(pair[1], row) for row in rows]
    for engine in pair:
        rounds = list(engine.stream(rows))
        assert [state.text for state in rounds[-1]] == expected
        writing = [sum(state.completion_tokens > 0 and not state.finish for state in states) for states in rounds]
        assert 1 < max(writing) <= ROWS_MAX


def test_a_question_does_not_wait_for_all_that_were_asked_before_it(pair: Pair) -> None:
    engine, _ = pair
    rows = [Row(f"Of many {n}", None, Sampling(max_tokens=40, ignore_eos=True)) for n in range(3 * ROWS_MAX)]
    many = engine.stream(rows)
    next(many)
    assert run(engine, [Row("One", "a1", Sampling(max_tokens=3, ignore_eos=True))])[0].finish
    assert sum(not state.finish for state in next(many)) > ROWS_MAX, "those that came first and wait still wait"
    many.close()


def test_stopping_one_leaves_the_others(pair: Pair) -> None:
    engine, reference = pair
    endless = engine.stream([Row("Endless", None, Sampling(max_tokens=900))])
    next(endless)
    kept = engine.stream([Row("Kept", "a1", Sampling(max_tokens=12))])
    next(kept)
    endless.close()
    assert list(kept)[-1][0].text == text(reference, Row("Kept", "a1", Sampling(max_tokens=12)))


def test_a_prefix_is_taken_over_after_the_cache_has_grown(tiny_base: Path) -> None:
    """The cache grew inside a forward pass, and what came after could no longer write to it."""
    engine, row = Engine(tiny_base), Row("Grow past the first room. " + LONG[:100], None, Sampling(max_tokens=300))
    grown, before = text(engine, row), settled(engine).cached_tokens
    assert text(engine, row) == grown
    assert settled(engine).cached_tokens > before


def test_rows_with_another_salt_neither_wait_for_nor_copy_what_was_read(tiny_base: Path) -> None:
    engine = Engine(tiny_base)
    prompt = "A prompt that is long enough to be kept for the next question, since it has more than sixteen tokens."
    run(engine, [Row(prompt, sampling=Sampling(max_tokens=3), cache_salt=name) for name in ("ann", "bob")])
    assert settled(engine).cached_tokens == 0
    run(engine, [Row(prompt, sampling=Sampling(max_tokens=3), cache_salt="ann")] * 2)
    assert settled(engine).cached_tokens > 0
