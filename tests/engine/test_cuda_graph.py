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
from playground.engine.llama_model import Segment
from tests.engine.models import Again, engine_with, llama, save_adapters


def same_as_plain(engine: Engine, names: list[str | None], capture: Callable[[Callable[[], None]], Graph]) -> list[int]:
    """Steps of fewer and fewer rows, with adapters and without, captured and plain, must agree. Returns how many shapes
    had been captured after each step."""
    captured, found = 0, []

    def counted(work: Callable[[], None]) -> Graph:
        nonlocal captured
        captured += 1
        return capture(work)

    path = llama(engine)
    model, steps = path.model, CapturedDecode(path.model, counted)
    packed = [path.scheduler.find(name) if name else None for name in names]
    lengths = [one.virtual_tokens if one else 0 for one in packed]
    worlds = [(model.new_cache(), model.new_adapter_slots()) for _ in range(2)]
    for cache, adapters in worlds:
        slots = [adapters.acquire(one) for one in packed]
        cache.ensure(len(names), 30)
        for row, one in enumerate(packed):
            cache.restore(row, one.prefix if one else None)
        segments = [Segment(row, [5, 6, 7][: row + 1], lengths[row], slot) for row, slot in enumerate(slots)]
        model.prefill(segments, cache, adapters)
    lengths = [length + min(3, row + 1) for row, length in enumerate(lengths)]
    for turn in range(12):
        rows = len(names) if turn < 8 else len(names) - 1
        chosen = slots[:rows] if turn % 5 else [None] * rows
        for _, adapters in worlds:
            adapters.select(chosen)
        plain, fast = (
            way.decode([turn + 1] * rows, lengths[:rows], *world)
            for way, world in zip((model, steps), worlds, strict=True)
        )
        assert (plain - fast).abs().max() < (1e-4 if model.dtype == torch.float32 else 0.25)
        lengths = [length + 1 for length in lengths]
        found.append(captured)
    return found


@pytest.fixture
def engine(tiny_base: Path, make_lora: Callable[..., Path]) -> Engine:
    names = enumerate(("one", "two", "scaled"), 1)
    return engine_with(tiny_base, {name: make_lora(seed, use_dora=name == "scaled") for seed, name in names})


def test_fixed_shapes_give_the_same_logits_and_come_again(engine: Engine) -> None:
    assert same_as_plain(engine, [None, "one", "two"], Again)[-1] == 4, "3 and 2 rows, with and without adapters"


def test_captured_steps_stand_after_virtual_tokens_and_bottlenecks_take_the_plain_step(
    tiny_base: Path, tmp_path: Path
) -> None:
    kinds = ["prefix", "deep", "prompt", "ptuning", "bottleneck"]
    engine = engine_with(tiny_base, save_adapters(tiny_base, tmp_path, {kind: {} for kind in kinds}), "llama")
    found = same_as_plain(engine, [None, *kinds], Again)
    assert found[0] == found[-1] == 1, "one shape for the base's rows, and for those with virtual tokens"


def test_rows_that_scale_take_the_plain_step(engine: Engine) -> None:
    path = llama(engine)
    cache, adapters = path.model.new_cache(), path.model.new_adapter_slots()
    slot = adapters.acquire(path.scheduler.find("scaled"))
    path.model.prefill([Segment(0, [1, 2, 3], 0, slot)], cache, adapters)

    def refuse(work: Callable[[], None]) -> Graph:
        raise AssertionError("nothing is captured")

    adapters.select([slot])
    assert torch.isfinite(CapturedDecode(path.model, refuse).decode([4], [3], cache, adapters)).all()


@pytest.mark.parametrize("writing", [3, 5, 6, 7])
def test_padding_rows_leave_a_row_that_reads_its_prompt_alone(engine: Engine, writing: int) -> None:
    path = llama(engine)
    cache, adapters = path.model.new_cache(), path.model.new_adapter_slots()
    path.model.prefill([Segment(row, [5, 6, 7 + row], 0) for row in range(writing + 1)], cache, adapters)
    reader = cache.save(writing, 3)
    adapters.select([None] * writing)
    CapturedDecode(path.model, Again).decode([9] * writing, [3] * writing, cache, adapters)
    assert torch.equal(cache.save(writing, 3), reader)


def test_a_longer_rotary_table_captures_again(engine: Engine) -> None:
    path = llama(engine)
    model, captured = path.model, []
    cache, adapters = model.new_cache(), model.new_adapter_slots()
    model.prefill([Segment(0, [1, 2, 3], 0)], cache, adapters)
    steps = CapturedDecode(model, lambda work: captured.append(work) or Again(work))  # type: ignore[func-returns-value]
    adapters.select([None])
    steps.decode([4], [3], cache, adapters)
    steps.decode([5], [4], cache, adapters)
    assert len(captured) == 1
    model.extend_rotary(2000)  # as scoring a long text does; a graph would go on reading the old table's memory
    steps.decode([6], [5], cache, adapters)
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
    assert same_as_plain(engine, [None, "one", "two"], cuda_capture)[-1] == 4
