"""From logits to a token: the same probabilities as transformers' own processors give."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from playground.engine.request import Sampling
from playground.engine.sequence import LIKELY, Sampler

VOCABULARY = 1500
ENDS = (7, 3)
PROMPT = [5, 5, 9, 700, 1499]
SETTINGS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.7},
    "hot": {"temperature": 2.0},
    "cold": {"temperature": 0.05},
    "top-k": {"temperature": 1.0, "top_k": 5},
    "top-k of 1": {"temperature": 1.3, "top_k": 1},
    "a wide top-k": {"temperature": 1.0, "top_k": 1000},
    "top-p": {"temperature": 1.0, "top_p": 0.9},
    "top-p of nearly nothing": {"temperature": 1.0, "top_p": 1e-6},
    "top-p past the likely ones": {"temperature": 2.0, "top_p": 0.99},
    "penalty": {"temperature": 1.0, "repetition_penalty": 1.3},
    "reward": {"temperature": 1.0, "repetition_penalty": 0.8},
    "no end yet": {"temperature": 1.0, "min_tokens": 4},
    "all": {"temperature": 0.8, "top_k": 60, "top_p": 0.8, "repetition_penalty": 1.2, "min_tokens": 2},
}


def by_transformers(sampling: Sampling, seen: list[int], drawn: int, logits: torch.Tensor) -> torch.Tensor:
    """Probabilities [vocabulary] as ``generate`` would have them."""
    from transformers import (
        LogitsProcessorList,
        MinNewTokensLengthLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    steps: list[Any] = []
    if sampling.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.min_tokens:
        steps.append(
            MinNewTokensLengthLogitsProcessor(len(seen) - drawn, sampling.min_tokens, list(ENDS), device="cpu")
        )
    steps.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    scores: torch.Tensor = LogitsProcessorList(steps)(torch.tensor([seen]), logits.clone()[None])
    return scores[0].softmax(-1)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_shares_equal_those_of_transformers_at_every_step(name: str, spread: float) -> None:
    sampling = Sampling(**SETTINGS[name])
    sampler = Sampler(sampling, PROMPT, ENDS)
    generator = torch.Generator().manual_seed(0)
    seen = list(PROMPT)
    for drawn in range(6):
        logits = spread * torch.randn(VOCABULARY, generator=generator)
        before = logits.clone()
        expected = by_transformers(sampling, seen, drawn, logits)
        got = sampler.shares(logits)
        assert (got - expected).abs().max() < 1e-5
        assert torch.equal(got > 0, expected > 0)
        token = sampler.pick(logits)
        assert expected[token] > 0
        assert torch.equal(logits, before), "the caller's logits stay as they are"
        seen.append(token)


def test_both_ways_of_top_p_are_tried_above() -> None:
    flat = torch.zeros(VOCABULARY).softmax(-1)
    assert flat.topk(LIKELY).values.sum() < 0.99


def test_equal_logits_at_the_edge_of_top_k_all_stay() -> None:
    logits = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.0])
    assert Sampler(Sampling(temperature=1.0, top_k=2)).shares(logits).gt(0).tolist() == [True, True, True, True, False]


def test_draws_follow_the_shares() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])
    sampler = Sampler(Sampling(temperature=1.0, top_p=0.9, seed=11))
    expected = sampler.shares(logits)
    counts = torch.bincount(torch.tensor([sampler.pick(logits) for _ in range(4000)]), minlength=5) / 4000
    assert (counts - expected).abs().max() < 0.03
    assert counts[3] == 0, "what top-p left out is never drawn"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_same_seed_draws_the_same_tokens_whatever_the_others_do(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    steps = [torch.randn(VOCABULARY, generator=generator).to(dtype) for _ in range(8)]
    drawn = []
    for seed in (3, 3, 4):
        sampler = Sampler(Sampling(temperature=1.0, top_p=0.95, seed=seed))
        torch.manual_seed(seed * len(drawn))
        drawn.append([sampler.pick(logits) for logits in steps])
    assert drawn[0] == drawn[1] != drawn[2]


def test_greedy_takes_the_likeliest_after_the_penalty() -> None:
    logits = torch.tensor([1.0, 2.0, 1.9, -5.0])
    assert Sampler(Sampling()).pick(logits) == 1
    sampler = Sampler(Sampling(repetition_penalty=1.5))
    assert [sampler.pick(logits) for _ in range(3)] == [1, 2, 1]
