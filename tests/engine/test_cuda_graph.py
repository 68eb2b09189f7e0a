"""The captured step: on a CPU its shapes and buffers with a stand-in that runs the work again, on a GPU the real
graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from playground.engine.cuda_graph import CapturedDecode, Graph, cuda_capture
from playground.engine.engine import Engine
from playground.engine.llama_backend import LlamaBackend
from playground.engine.llama_model import Segment
from playground.engine.request import AdapterFile
from tests.engine.models import Again


def same_as_plain(engine: Engine, capture: Callable[[Callable[[], None]], Graph]) -> int:
    """Steps of changing rows and adapters, captured and plain, must agree; returns how many shapes were captured."""
    captured = 0

    def counted(work: Callable[[], None]) -> Graph:
        nonlocal captured
        captured += 1
        return capture(work)

    path = engine.backend
    assert isinstance(path, LlamaBackend)
    model = path.model
    steps = CapturedDecode(model, counted)
    worlds = [(model.new_cache(), model.new_adapter_slots()) for _ in range(2)]
    lengths = [5, 9, 3]
    for cache, adapters in worlds:
        slots = [adapters.acquire(path.find(name) if name else None) for name in (None, "one", "two")]
        model.prefill(
            [Segment(row, list(range(1, n + 1)), 0, slots[row]) for row, n in enumerate(lengths)], cache, adapters
        )
    for turn in range(12):
        rows = 3 if turn < 8 else 2
        chosen = slots[:rows] if turn % 5 else [None] * rows
        tokens = [turn + 1] * rows
        cache, adapters = worlds[0]
        adapters.select(chosen)
        plain = model.decode(tokens, lengths[:rows], cache, adapters)
        fast = steps.decode(tokens, lengths[:rows], chosen, *worlds[1])
        assert (plain - fast).abs().max() < (1e-4 if model.dtype == torch.float32 else 0.25)
        lengths = [n + 1 for n in lengths]
    return captured


@pytest.fixture
def engine(tiny_base: Path, make_lora: Callable[..., Path]) -> Engine:
    built = Engine(tiny_base)
    for seed, name in enumerate(("one", "two", "scaled")):
        built.attach(AdapterFile(name, make_lora(seed + 1, use_dora=name == "scaled"), name))
    return built


def test_fixed_shapes_give_the_same_logits_and_come_again(engine: Engine) -> None:
    assert same_as_plain(engine, Again) == 4, "3 and 2 rows, with and without adapters"


def test_rows_that_scale_take_the_plain_step(engine: Engine) -> None:
    path = engine.backend
    assert isinstance(path, LlamaBackend)
    cache, adapters = path.model.new_cache(), path.model.new_adapter_slots()
    slot = adapters.acquire(path.find("scaled"))
    path.model.prefill([Segment(0, [1, 2, 3], 0, slot)], cache, adapters)

    def refuse(work: Callable[[], None]) -> Graph:
        raise AssertionError("nothing is captured")

    assert torch.isfinite(CapturedDecode(path.model, refuse).decode([4], [3], [slot], cache, adapters)).all()


@pytest.mark.parametrize("writing", [3, 5, 6, 7])
def test_padding_rows_leave_a_row_that_reads_its_prompt_alone(engine: Engine, writing: int) -> None:
    path = engine.backend
    assert isinstance(path, LlamaBackend)
    cache, adapters = path.model.new_cache(), path.model.new_adapter_slots()
    path.model.prefill([Segment(row, [5, 6, 7 + row], 0) for row in range(writing + 1)], cache, adapters)
    reader = cache.save(writing, 3)
    CapturedDecode(path.model, Again).decode([9] * writing, [3] * writing, [None] * writing, cache, adapters)
    assert torch.equal(cache.save(writing, 3), reader)


def test_a_longer_rotary_table_captures_again(engine: Engine) -> None:
    path = engine.backend
    assert isinstance(path, LlamaBackend)
    model, captured = path.model, []
    cache, adapters = model.new_cache(), model.new_adapter_slots()
    model.prefill([Segment(0, [1, 2, 3], 0)], cache, adapters)
    steps = CapturedDecode(model, lambda work: captured.append(work) or Again(work))  # type: ignore[func-returns-value]
    steps.decode([4], [3], [None], cache, adapters)
    steps.decode([5], [4], [None], cache, adapters)
    assert len(captured) == 1
    model.extend_rotary(2000)  # as scoring a long text does; a graph would go on reading the old table's memory
    steps.decode([6], [5], [None], cache, adapters)
    assert len(captured) == 2


def test_a_capture_is_ended_by_its_own_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    class Stream:
        def wait_stream(self, other: object) -> None: ...

    def graph(made: object, *, capture_error_mode: str = "global") -> contextlib.AbstractContextManager[None]:
        modes.append(capture_error_mode)
        return contextlib.nullcontext()

    for name, stand_in in (
        ("Stream", Stream),
        ("current_stream", Stream),
        ("stream", contextlib.nullcontext),
        ("CUDAGraph", object),
        ("graph", graph),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    cuda_capture(lambda: None)
    assert modes == ["thread_local"]


@pytest.mark.gpu
def test_a_real_graph_gives_the_same_logits(engine: Engine) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    assert same_as_plain(engine, cuda_capture) == 4
