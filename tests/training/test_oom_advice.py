from __future__ import annotations

from dataclasses import replace

import pytest

from playground.training.failure import estimated, oom_advice, smallest_bytes
from playground.training.spec import RunSpec

SHAPES = {
    "model.embed_tokens.weight": (49152, 576),
    **{f"model.layers.{n}.mlp.{part}.weight": (1536, 576) for n in range(30) for part in ("gate", "up", "down")},
}


@pytest.fixture
def spec(plain_spec: RunSpec) -> RunSpec:
    return replace(
        plain_spec, steps=10, rank=8, batch_size=64, max_tokens=1024, rows=500, tokens_p95=800, answer_max=400
    )


def needs(spec: RunSpec) -> int:
    return estimated(spec, SHAPES, spec.method, spec.batch_size, spec.max_tokens)


def test_first_fewer_rows_a_step(spec: RunSpec) -> None:
    found = oom_advice(spec, SHAPES, needs(spec) // 3)
    assert found is not None
    assert (found.method, found.batch_size, found.max_tokens) == ("lora", 16, 1024)
    assert found.memory_bytes < needs(spec) // 3
    assert "a batch of 16 rows (--batch-size 16)" in found.words(spec)


def test_then_a_shorter_limit(spec: RunSpec) -> None:
    one = replace(spec, batch_size=1)
    found = oom_advice(one, SHAPES, int(needs(one) * 0.9))
    assert found is not None
    assert (found.batch_size, found.max_tokens) == (1, 400)
    assert "a limit of 400 tokens (--max-tokens 400)" in found.words(one)


def test_then_another_method(spec: RunSpec) -> None:
    whole = replace(spec, method="full", rank=0, batch_size=1, tokens_p95=64, answer_max=32, max_tokens=64)
    found = oom_advice(whole, SHAPES, int(estimated(whole, SHAPES, "full", 1, 16) * 0.95))
    assert found is not None
    assert found.method == "lora"
    assert "LoRA (--method lora)" in found.words(whole)


def test_nothing_fits_into_nothing(spec: RunSpec) -> None:
    assert oom_advice(spec, SHAPES, 10_000_000) is None
    assert smallest_bytes(spec, SHAPES) > 10_000_000


@pytest.mark.parametrize("there", [1.5e9, 3e9, 6e9, 12e9, 50e9])
def test_what_is_named_is_smaller_and_fits(spec: RunSpec, there: float) -> None:
    found = oom_advice(spec, SHAPES, int(there))
    assert found is None or found.memory_bytes <= 0.9 * min(there, needs(spec))


def test_a_batch_of_more_rows_than_there_are_counts_as_the_rows(spec: RunSpec) -> None:
    few = replace(spec, rows=20)
    found = oom_advice(few, SHAPES, needs(few))
    assert found is not None
    assert found.batch_size == 10
