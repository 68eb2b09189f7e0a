from __future__ import annotations

from pathlib import Path

import pytest

from playground.methods import get_method
from playground.training.model import load_for_training
from playground.training.recompute import demanded, save_memory
from playground.training.spec import RunSpec

SPEC = RunSpec(
    run="r", name="n", method="lora", base="b", base_path="p", base_fingerprint="f", file="f", data="d", adapters_dir="a", shipped_dir="s",
    steps=10, lr=1e-3, rank=4, estimated_memory_bytes=2_000_000,
)  # fmt: skip


@pytest.mark.parametrize(
    ("needs", "limit", "free", "wanted"),
    [(5, 0, 8, False), (9, 0, 8, True), (5, 4, 8, True), (5, 6, 8, False), (5, 6, 4, True), (0, 0, 8, False)],
)
def test_only_where_memory_demands_it(needs: int, limit: int, free: int, wanted: bool) -> None:
    assert demanded(needs, limit, free) is wanted


def test_a_run_that_goes_past_its_limit_recomputes(tiny_base: Path) -> None:
    from dataclasses import replace

    model = load_for_training(tiny_base, get_method("lora"), 4, 1)
    assert not save_memory(model, SPEC)
    assert not getattr(model, "recompute", False)
    assert save_memory(model, replace(SPEC, limit_memory_bytes=1_000_000))
    assert model.recompute
    prefix = load_for_training(tiny_base, get_method("prefix"), 4, 1)
    assert not save_memory(prefix, replace(SPEC, limit_memory_bytes=1_000_000))
