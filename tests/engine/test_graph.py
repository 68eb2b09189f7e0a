"""The captured step: on a CPU its shapes and buffers with a stand-in that runs the work again, on a GPU the real graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from playground.engine.engine import Engine
from playground.engine.graph import CapturedSteps, Graph, cuda_capture
from playground.engine.lean import Segment
from playground.engine.lean_path import LeanPath
from playground.engine.request import AdapterFile


class Again:
    """A graph that runs its work anew, and counts."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.replay = work


def same_as_plain(engine: Engine, capture: Callable[[Callable[[], None]], Graph]) -> int:
    """Steps of changing rows and adapters, captured and plain, must agree; returns how many shapes were captured."""
    captured = 0

    def counted(work: Callable[[], None]) -> Graph:
        nonlocal captured
        captured += 1
        return capture(work)

    path = engine._way
    assert isinstance(path, LeanPath)
    model = path.model
    steps = CapturedSteps(model, counted)
    worlds = [(model.new_cache(), model.new_bank()) for _ in range(2)]
    lengths = [5, 9, 3]
    for cache, bank in worlds:
        slots = [bank.take(path._find(name) if name else None) for name in (None, "one", "two")]
        model.read([Segment(row, list(range(1, n + 1)), 0, slots[row]) for row, n in enumerate(lengths)], cache, bank)
    for turn in range(12):
        rows = 3 if turn < 8 else 2
        chosen = slots[:rows] if turn % 5 else [None] * rows
        tokens = [turn + 1] * rows
        cache, bank = worlds[0]
        bank.select(chosen)
        plain = model.step(tokens, lengths[:rows], cache, bank)
        fast = steps.step(tokens, lengths[:rows], chosen, *worlds[1])
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
    path = engine._way
    assert isinstance(path, LeanPath)
    cache, bank = path.model.new_cache(), path.model.new_bank()
    slot = bank.take(path._find("scaled"))
    path.model.read([Segment(0, [1, 2, 3], 0, slot)], cache, bank)

    def refuse(work: Callable[[], None]) -> Graph:
        raise AssertionError("nothing is captured")

    assert torch.isfinite(CapturedSteps(path.model, refuse).step([4], [3], [slot], cache, bank)).all()


@pytest.mark.gpu
def test_a_real_graph_gives_the_same_logits(engine: Engine) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    assert same_as_plain(engine, cuda_capture) == 4
