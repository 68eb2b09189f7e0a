"""Half precision and 4 bits: the same formula, near what PEFT says in the same precision and what fp32 says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from playground.engine.engine import Engine
from playground.engine.request import Row, Sampling
from playground.library.files import file_fingerprint
from tests.engine.models import (
    World,
    attach,
    byte_tokenizer,
    four_bits,
    furthest,
    ids_of,
    logits_of,
    run,
    said_by,
    save_adapter,
    with_adapter,
)

PROMPTS = {"": "Hello there, my order", "lora": "One", "dora": "The report says that", "ia3": "1, 2, 3, 4"}
NEAR = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.12}
"""Share of the largest logit by which a logit may be off."""


@pytest.fixture(scope="module", params=["llama-bias", "gemma3"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """One family of each path."""
    return World(tmp_path_factory.mktemp(request.param), request.param, {"lora": {}, "dora": {}, "ia3": {}})


@pytest.mark.parametrize("dtype", list(NEAR))
def test_a_precision_is_near_peft_in_the_same_and_near_fp32(world: World, dtype: torch.dtype) -> None:
    engine = world.engine(dtype=dtype)
    assert engine.loaded.dtype == dtype
    assert {p.dtype for p in engine.loaded.weights.values()} == {dtype}
    rows = [Row(prompt, name or None, Sampling(max_tokens=8), logprobs=0) for name, prompt in PROMPTS.items()]
    for state in run(engine, rows):
        assert state.completion_tokens
        assert all(there.logprob <= 0 for there in state.logprobs), "finite numbers"
    for name, prompt in PROMPTS.items():
        here = logits_of(engine, prompt, name or None).float()
        assert torch.isfinite(here).all()
        for there in (dtype, torch.float32):
            logits = world.logits(name, prompt, dtype=there)
            assert (here - logits).abs().max() < NEAR[dtype] * logits.abs().max(), (name, there)
    assert engine.check_fingerprint()[1]


def test_an_adapter_of_no_effect_is_told_from_one_with_effect_in_half_precision(world: World, tmp_path: Path) -> None:
    engine = world.engine(dtype=torch.bfloat16)
    attach(engine, save_adapter(world.base, tmp_path / "zero", "lora", 1, r=1, lora_alpha=1e-6), "tiny")
    assert engine.has_no_effect("tiny")
    assert not any(engine.has_no_effect(name) for name in world.adapters)


@pytest.mark.parametrize("saved", [False, True], ids=["squeezed as it loads", "saved in 4 bits"])
def test_four_bits_equal_peft_on_the_same_four_bits(world: World, saved: bool, tmp_path: Path) -> None:
    folder = world.base
    if saved:
        folder = tmp_path / "packed"
        four_bits(world.base).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
    engine = Engine(folder, quantised=not saved)
    assert engine.path.startswith("Hugging Face")
    before = engine.fingerprint
    for name, adapter in world.adapters.items():
        attach(engine, adapter, name)
    if saved:
        assert before == file_fingerprint(folder), "the scales of the blocks count too"
    rows = [Row(prompt, name or None, Sampling(max_tokens=8), logprobs=0) for name, prompt in PROMPTS.items()]
    for row, state in zip(rows, run(engine, rows), strict=True):
        truth = with_adapter(four_bits(world.base), world.adapters.get(row.adapter or ""))
        expected = said_by(truth, ids_of(engine, row.prompt), 8)
        assert list(state.tokens) == expected.tokens
        assert furthest(state, expected.shares) < 1e-3
    assert engine.check_fingerprint()[:2] == (before, True), "nothing is packed anew as it runs"


@pytest.mark.parametrize("quantised", [False, True])
def test_the_fingerprint_sees_a_changed_weight_and_a_changed_scale_in_four_bits(world: World, quantised: bool) -> None:
    engine = Engine(world.base, quantised=quantised)
    assert engine.fingerprint
    if quantised:
        packed = next(p for p in engine.loaded.weights.values() if getattr(p, "quant_state", None) is not None)
        packed.quant_state.state2.absmax[0] += 1
    else:
        engine.loaded.model.model.norm.weight.data[0] += 1
    assert not engine.check_fingerprint()[1]
