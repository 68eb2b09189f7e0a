from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from playground.methods import get_method
from playground.training.model import load_for_training
from playground.training.objectives.sft import exceeds, save_memory
from playground.training.spec import RunSpec


@pytest.mark.parametrize(
    ("needs", "limit", "free", "wanted"),
    [(5, 0, 8, False), (9, 0, 8, True), (5, 4, 8, True), (5, 6, 8, False), (5, 6, 4, True), (0, 0, 8, False)],
)
def test_only_where_memory_demands_it(needs: int, limit: int, free: int, wanted: bool) -> None:
    assert exceeds(needs, limit, free) is wanted


def test_a_run_that_goes_past_its_limit_recomputes(plain_spec: RunSpec, tiny_base: Path) -> None:
    fits = replace(plain_spec, estimated_memory_bytes=2_000_000)
    too_large = replace(fits, limit_memory_bytes=1_000_000)
    model = load_for_training(tiny_base, get_method("lora"), 4, 1)
    assert not save_memory(model, fits)
    assert not getattr(model, "recompute", False)
    assert save_memory(model, too_large)
    assert model.recompute
    prefix = load_for_training(tiny_base, get_method("prefix"), 4, 1)
    assert not save_memory(prefix, too_large)
