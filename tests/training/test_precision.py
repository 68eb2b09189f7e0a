"""In what precision weights stand while they train, and what a plan counts for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from playground.engine.load import pick_device
from playground.methods import get_method
from playground.methods.shapes import weights_in
from playground.training.estimate import PROCESS_BYTES, Estimate, needs
from playground.training.model import load_for_training, training_dtype

SHAPES = {"model.embed_tokens.weight": (1000, 64), "model.layers.0.mlp.up_proj.weight": (256, 64)}


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tiny_base: Path) -> None:
    """torch says that there is a card which computes in bf16. What is imported now has seen that there is none."""
    load_for_training(tiny_base, get_method("lora"), 4, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)


def test_weights_that_move_are_never_bf16(card: None, tiny_base: Path) -> None:
    assert training_dtype() == torch.bfloat16
    whole = load_for_training(tiny_base, get_method("full"), 0, 1)
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    lora = load_for_training(tiny_base, get_method("lora"), 4, 1)
    assert {p.dtype for p in lora.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in lora.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_a_card_that_only_emulates_bf16_neither_trains_nor_decodes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert training_dtype() == torch.float32
    assert pick_device() == (torch.device("cuda"), torch.float16)


def test_why() -> None:
    """A usual step of a full fine-tune, on a weight of usual size: in bf16 nothing happens at all."""
    for dtype, moved in ((torch.float32, True), (torch.bfloat16, False)):
        weight = torch.nn.Parameter(torch.full((4,), 0.05, dtype=dtype))
        optimiser = torch.optim.AdamW([weight], lr=5e-5, weight_decay=0.0)
        for _ in range(20):
            weight.grad = torch.ones_like(weight)
            optimiser.step()
        assert bool((weight != torch.tensor(0.05, dtype=dtype)).all()) == moved


def planned(method: str, *, cuda: bool, objective: str = "sft", reward_models: int = 0) -> Estimate:
    return needs(
        objective,
        SHAPES,
        get_method(method),
        rank=4,
        steps=10,
        batch_size=2,
        tokens_p95=64,
        tokens_mean=50,
        answer_max=20,
        reward_models=reward_models,
        cuda=cuda,
    )


@pytest.mark.parametrize(("method", "less"), [("lora", 2), ("full", 0), ("qlora", 0)])
def test_on_a_card_a_base_that_stays_counts_half_and_the_process_not_at_all(method: str, less: int) -> None:
    here, there = planned(method, cuda=False), planned(method, cuda=True)
    assert here.memory_bytes - there.memory_bytes == PROCESS_BYTES + less * weights_in(SHAPES)
    assert (here.disk_bytes, here.seconds) == (there.disk_bytes, there.seconds)


def test_a_reward_model_stays_too_and_a_reference_is_as_wide_as_what_it_is_compared_with() -> None:
    weights = weights_in(SHAPES)
    for cuda, each in ((False, 4), (True, 2)):
        without, with_two = (planned("lora", cuda=cuda, objective="grpo", reward_models=count) for count in (0, 2))
        assert with_two.memory_bytes - without.memory_bytes == 2 * each * weights
    gap = (
        planned("full", cuda=False, objective="dpo").memory_bytes
        - planned("full", cuda=True, objective="dpo").memory_bytes
    )
    assert gap == PROCESS_BYTES
