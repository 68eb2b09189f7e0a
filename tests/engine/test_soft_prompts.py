"""Adapters that put tokens before the text: their rows' beginnings, limits and counts, and that rows without them stay
as they were."""

from __future__ import annotations

import pytest

from playground.engine.llama_memory import PREFIX_MIN
from playground.engine.request import Row, Sampling
from playground.engine.scheduler import PREFILL_CHUNK
from playground.errors import InputError
from tests.engine.models import VIRTUAL, World, llama, run

KINDS = ("prefix", "deep", "prompt", "ptuning")
LONG = " ".join(f"word{number}" for number in range(60))
"""A token a letter: more than one chunk."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    kinds: dict[str, dict[str, object]] = {kind: {} for kind in (*KINDS, "bottleneck", "lora")}
    return World(tmp_path_factory.mktemp("world"), "llama", kinds, max_position_embeddings=1024)


def test_a_prompt_longer_than_a_chunk_stands_after_them(path: str, world: World) -> None:
    assert len(LONG) > PREFILL_CHUNK
    names = (None, *KINDS, "bottleneck", "lora")
    states = run(world.engine(path), [Row(LONG, name, Sampling(max_tokens=6)) for name in names])
    for name, state in zip(names, states, strict=True):
        assert list(state.tokens) == world.said(name, LONG, 6).tokens, name
        assert state.prompt_tokens == len(LONG), "the text's tokens, not the adapter's"


def test_the_same_prefix_is_read_once_behind_the_same_adapter_only(world: World) -> None:
    engine = world.engine("llama")
    scheduler = llama(engine).scheduler
    start = LONG[:100]
    for name in (*KINDS, "lora"):
        before = scheduler.cached_tokens
        rows = [Row(f"{start} ending {n}", name, Sampling(max_tokens=4)) for n in range(3)]
        states = run(engine, rows)
        assert scheduler.cached_tokens - before >= 2 * 100, "two of three were copied"
        for row, state in zip(rows, states, strict=True):
            assert list(state.tokens) == world.said(name, row.prompt, 4).tokens, name
        again = scheduler.cached_tokens
        assert run(engine, [rows[0]])[0].tokens == states[0].tokens, "from what was kept after the rows were gone"
        assert scheduler.cached_tokens > again
    for name in (None, "bottleneck"):
        before = scheduler.cached_tokens
        state = run(engine, [Row(start, name, Sampling(max_tokens=4))])[0]
        assert list(state.tokens) == world.said(name, start, 4).tokens
        assert scheduler.cached_tokens == before


def test_they_take_room_in_the_bases_context(path: str, world: World) -> None:
    engine = world.engine(path)
    for name in KINDS:
        lead = VIRTUAL[name][1]["num_virtual_tokens"]
        with pytest.raises(InputError, match=f"the adapter puts {lead} before it .* this base holds 1024"):
            run(engine, [Row("x" * 1000, name, Sampling(max_tokens=25 - lead))])
        prompt = "x" * 1000
        state = run(engine, [Row(prompt, name, Sampling(max_tokens=24 - lead, ignore_eos=True))])[0]
        assert state.completion_tokens == 24 - lead, "the last place too"
    assert run(engine, [Row("x" * 1000, None, Sampling(max_tokens=24))])
    with pytest.raises(InputError, match=r"The prompt is 1000 tokens and .* this base holds 1024"):
        run(engine, [Row("x" * 1000, None, Sampling(max_tokens=25))])


def test_rows_with_them_are_the_bases_rows_otherwise(world: World) -> None:
    """No slot, no product: a batch of theirs costs what the base's does."""
    engine = world.engine("llama")
    run(engine, [Row("Hello", name, Sampling(max_tokens=3)) for name in (None, *KINDS)])
    assert llama(engine).scheduler.slots.bytes == 0
    run(engine, [Row("Hello", "bottleneck", Sampling(max_tokens=3))])
    assert llama(engine).scheduler.slots.bytes > 0


def test_short_prefixes_are_filled_not_copied(world: World) -> None:
    engine = world.engine("llama")
    prompt = "x" * (PREFIX_MIN - 1)
    for _ in range(2):
        for name in KINDS:
            state = run(engine, [Row(prompt, name, Sampling(max_tokens=5))])[0]
            assert list(state.tokens) == world.said(name, prompt, 5).tokens
