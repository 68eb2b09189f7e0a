"""Adapters that put tokens before the text: their rows' beginnings, limits and counts, and that rows without them stay
as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from playground.engine.cuda_graph import CapturedDecode
from playground.engine.engine import Engine
from playground.engine.kv_cache import PREFIX_MIN
from playground.engine.llama_backend import LlamaBackend
from playground.engine.llama_model import Segment
from playground.engine.request import Row, Sampling
from playground.engine.scheduler import PREFILL_CHUNK
from playground.errors import InputError
from tests.engine.models import (
    VIRTUAL,
    attach,
    byte_tokenizer,
    load_base,
    run,
    said_by,
    save_adapter,
    save_base,
    with_adapter,
)

KINDS = ("prefix", "deep", "prompt", "ptuning")
LONG = " ".join(f"word{number}" for number in range(60))
"""A token a letter: more than one chunk."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base("llama", tmp_path_factory.mktemp("base"), max_position_embeddings=1024)


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    made = {kind: save_adapter(base, root / kind, kind, seed) for seed, kind in enumerate(KINDS)}
    return made | {"bottleneck": save_adapter(base, root / "bottleneck", "bottleneck", 9)}


@pytest.fixture
def make(base: Path, folders: dict[str, Path]) -> Callable[[str], Engine]:
    def build(path: str = "llama") -> Engine:
        engine = Engine(base, hf=path == "hf")
        for name, folder in folders.items():
            attach(engine, folder, name)
        return engine

    return build


def llama(engine: Engine) -> LlamaBackend:
    assert isinstance(engine.backend, LlamaBackend)
    return engine.backend


def expected(base: Path, folders: dict[str, Path], name: str | None, prompt: str, tokens: int) -> list[int]:
    model = with_adapter(load_base(base), folders.get(name or ""))
    return said_by(model, byte_tokenizer()(prompt)["input_ids"], tokens).tokens


@pytest.mark.parametrize("path", ["llama", "hf"])
def test_a_prompt_longer_than_a_chunk_stands_after_them(
    path: str, make: Callable[[str], Engine], base: Path, folders: dict[str, Path]
) -> None:
    assert len(LONG) > PREFILL_CHUNK
    names = (None, *KINDS, "bottleneck")
    states = run(make(path), [Row(LONG, name, Sampling(max_tokens=6)) for name in names])
    for name, state in zip(names, states, strict=True):
        assert list(state.tokens) == expected(base, folders, name, LONG, 6), name
        assert state.prompt_tokens == len(LONG), "the text's tokens, not the adapter's"


def test_the_same_prefix_is_read_once_behind_the_same_adapter_only(
    make: Callable[[str], Engine], base: Path, folders: dict[str, Path]
) -> None:
    engine = make("llama")
    scheduler = llama(engine).scheduler
    start = LONG[:100]
    for name in KINDS:
        before = scheduler.cached_tokens
        rows = [Row(f"{start} ending {n}", name, Sampling(max_tokens=4)) for n in range(3)]
        states = run(engine, rows)
        assert scheduler.cached_tokens - before >= 2 * 100, "two of three were copied"
        for row, state in zip(rows, states, strict=True):
            assert list(state.tokens) == expected(base, folders, name, row.prompt, 4), name
        again = scheduler.cached_tokens
        assert run(engine, [rows[0]])[0].tokens == states[0].tokens, "from what was kept after the rows were gone"
        assert scheduler.cached_tokens > again
    for name in (None, "bottleneck"):
        before = scheduler.cached_tokens
        assert list(run(engine, [Row(start, name, Sampling(max_tokens=4))])[0].tokens) == expected(
            base, folders, name, start, 4
        )
        assert scheduler.cached_tokens == before


@pytest.mark.parametrize("path", ["llama", "hf"])
def test_a_row_does_not_depend_on_its_neighbours(path: str, make: Callable[[str], Engine]) -> None:
    engine = make(path)
    drawn = Sampling(temperature=0.9, top_p=0.9, max_tokens=12, seed=3)
    for name in (*KINDS, "bottleneck", None):
        alone = run(engine, [Row("Hello there", name, drawn)])[0].text
        others = [
            Row(LONG[:90], other, Sampling(max_tokens=3 + 4 * n)) for n, other in enumerate((*KINDS, "bottleneck"))
        ]
        assert run(engine, [*others, Row("Hello there", name, drawn)])[-1].text == alone, name


@pytest.mark.parametrize("path", ["llama", "hf"])
def test_they_take_room_in_the_bases_context(
    path: str, make: Callable[[str], Engine], base: Path, folders: dict[str, Path]
) -> None:
    engine = make(path)
    for name in KINDS:
        lead = VIRTUAL[name][1]["num_virtual_tokens"]
        with pytest.raises(InputError, match=f"the adapter puts {lead} before it .* this base holds 1024"):
            run(engine, [Row("x" * 1000, name, Sampling(max_tokens=25 - lead))])
        prompt = "x" * 1000
        state = run(engine, [Row(prompt, name, Sampling(max_tokens=24 - lead, ignore_eos=True))])[0]
        assert state.completion_tokens == 24 - lead, "the last place too"
    assert run(engine, [Row("x" * 1000, None, Sampling(max_tokens=24))])


def test_rows_with_them_are_the_bases_rows_otherwise(make: Callable[[str], Engine]) -> None:
    """No slot, no product: a batch of theirs costs what the base's does."""
    engine = make("llama")
    run(engine, [Row("Hello", name, Sampling(max_tokens=3)) for name in (None, *KINDS)])
    assert llama(engine).scheduler.slots.bytes == 0
    run(engine, [Row("Hello", "bottleneck", Sampling(max_tokens=3))])
    assert llama(engine).scheduler.slots.bytes > 0


def test_captured_steps_stand_after_them_and_bottlenecks_take_the_plain_step(make: Callable[[str], Engine]) -> None:
    class Again:
        def __init__(self, work: Callable[[], None]) -> None:
            self.replay = work

    path = llama(make("llama"))
    model, names = path.model, [None, *KINDS, "bottleneck"]
    captured: list[Again] = []
    steps = CapturedDecode(model, lambda work: captured.append(Again(work)) or captured[-1])
    worlds = [(model.new_cache(), model.new_adapter_slots()) for _ in range(2)]
    with torch.inference_mode():
        for cache, adapters in worlds:
            found = [path.find(name) if name else None for name in names]
            slots = [adapters.acquire(packed) for packed in found]
            lengths = [packed.virtual_tokens if packed else 0 for packed in found]
            cache.ensure(len(names), 30)
            for row, packed in enumerate(found):
                cache.restore(row, packed.prefix if packed else None)
            model.prefill([Segment(row, [5, 6, 7], at, slots[row]) for row, at in enumerate(lengths)], cache, adapters)
    assert slots[:-1] == [None] * 5
    for turn in range(6):
        rows = 6 if turn < 3 else 5
        at = [length + 3 + turn for length in lengths[:rows]]
        cache, adapters = worlds[0]
        adapters.select(slots[:rows])
        plain = model.decode([turn] * rows, at, cache, adapters)
        fast = steps.decode([turn] * rows, at, slots[:rows], *worlds[1])
        assert (plain - fast).abs().max() < 1e-4
        assert len(captured) == (0 if rows == 6 else 1)


def test_short_prefixes_are_filled_not_copied(
    make: Callable[[str], Engine], base: Path, folders: dict[str, Path]
) -> None:
    engine = make("llama")
    prompt = "x" * (PREFIX_MIN - 1)
    for _ in range(2):
        for name in KINDS:
            state = run(engine, [Row(prompt, name, Sampling(max_tokens=5))])[0]
            assert list(state.tokens) == expected(base, folders, name, prompt, 5)
