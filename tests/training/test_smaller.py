from __future__ import annotations

from dataclasses import replace

import pytest

from playground.training.smaller import estimated, smaller, smallest_bytes
from playground.training.spec import RunSpec

SHAPES = {
    "model.embed_tokens.weight": (49152, 576),
    **{f"model.layers.{n}.mlp.{part}.weight": (1536, 576) for n in range(30) for part in ("gate", "up", "down")},
}
SPEC = RunSpec(
    run="r", name="n", method="lora", base="b", base_path="p", base_fingerprint="f", file="f", data="d", adapters_dir="a", shipped_dir="s",
    steps=10, lr=1e-3, rank=8, batch_size=64, max_tokens=1024, rows=500, tokens_p95=800, answer_max=400,
)  # fmt: skip


def needs(spec: RunSpec) -> int:
    return estimated(spec, SHAPES, spec.method, spec.batch_size, spec.max_tokens)


def test_first_fewer_rows_a_step() -> None:
    found = smaller(SPEC, SHAPES, needs(SPEC) // 3)
    assert found is not None
    assert (found.method, found.batch_size, found.max_tokens) == ("lora", 16, 1024)
    assert found.memory_bytes < needs(SPEC) // 3
    assert "a batch of 16 rows (--batch-size 16)" in found.words(SPEC)


def test_then_a_shorter_limit() -> None:
    one = replace(SPEC, batch_size=1)
    found = smaller(one, SHAPES, int(needs(one) * 0.9))
    assert found is not None
    assert (found.batch_size, found.max_tokens) == (1, 400)
    assert "a limit of 400 tokens (--max-tokens 400)" in found.words(one)


def test_then_another_method() -> None:
    whole = replace(SPEC, method="full", rank=0, batch_size=1, tokens_p95=64, answer_max=32, max_tokens=64)
    found = smaller(whole, SHAPES, int(estimated(whole, SHAPES, "full", 1, 16) * 0.95))
    assert found is not None
    assert found.method == "lora"
    assert "LoRA (--method lora)" in found.words(whole)


def test_nothing_fits_into_nothing() -> None:
    assert smaller(SPEC, SHAPES, 10_000_000) is None
    assert smallest_bytes(SPEC, SHAPES) > 10_000_000


@pytest.mark.parametrize("there", [1.5e9, 3e9, 6e9, 12e9, 50e9])
def test_what_is_named_is_smaller_and_fits(there: float) -> None:
    found = smaller(SPEC, SHAPES, int(there))
    assert found is None or found.memory_bytes <= 0.9 * min(there, needs(SPEC))


def test_a_batch_of_more_rows_than_there_are_counts_as_the_rows() -> None:
    few = replace(SPEC, rows=20)
    found = smaller(few, SHAPES, needs(few))
    assert found is not None
    assert found.batch_size == 10
