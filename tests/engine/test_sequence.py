"""From logits to a token, with the same probabilities as transformers' own processors give; and what a row writes: stop
strings, ends, text that grows, probabilities."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from playground.engine.engine import Engine
from playground.engine.request import Row, RowState, Sampling
from playground.engine.sequence import LIKELY, Generation, IncrementalDetokenizer, Sampler
from tests.engine.models import at_once, load_base, run

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


TEXTS = {
    "plain": "The order 1234 will arrive on Tuesday, we are sorry for the delay.",
    "emoji": "Great 👍🏽! A family 👨‍👩‍👧‍👦, a flag 🇮🇳, and a heart ❤️.",
    "hindi": "नमस्ते, आपका ऑर्डर कल पहुँच जाएगा। क्षमा करें!",
    "chinese": "您好，您的订单将于明天送达。感谢您的耐心等待！",
    "mixed": "naïve café — Ωμέγα, 日本語, עברית, emoji 🚀\n\tand  spaces   ",
    "rare": "𝕬𝖇 ﷽ 🜁 ꙮ \u200b\u200d end",
}


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base)


def written(
    tokenizer: Any, tokens: list[int], sampling: Sampling, ends: tuple[int, ...] = (), **row: Any
) -> list[RowState]:
    """A row that is made to draw these tokens; its state after each, until it is done."""
    writer = Generation(Row("", None, sampling, **row), [1, 2, 3], tokenizer, ends)
    states = []
    for number, token in enumerate(tokens):
        logits = torch.zeros(len(tokenizer))
        logits[token] = 30.0
        writer.sample(logits, float(number))
        states.append(replace(writer.state))
        if writer.state.finish:
            break
    return states


@pytest.mark.parametrize("name", TEXTS)
def test_growing_text_is_always_a_beginning_of_the_whole_and_ends_as_it(tokenizer: Any, name: str) -> None:
    text = TEXTS[name]
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert name in ("plain",) or len(tokens) > len(text.split()), "some characters take several tokens"
    states = written(tokenizer, tokens, Sampling(max_tokens=len(tokens)))
    before = ""
    for state in states:
        assert text.startswith(state.text)
        assert state.text.startswith(before), "what has been shown stays"
        assert "�" not in state.text
        before = state.text
    assert states[-1].text == text
    assert states[-1].finish == "length"
    assert [state.completion_tokens for state in states] == list(range(1, len(tokens) + 1))


def test_growing_text_equals_the_whole_decode_on_random_tokens(tokenizer: Any) -> None:
    """Bytes that make no character, special tokens, anything in a row: what is shown never has to be taken back."""
    draw = random.Random(5)
    for _ in range(60):
        tokens = [draw.randrange(len(tokenizer)) if draw.random() < 0.5 else draw.randrange(300) for _ in range(30)]
        growing = IncrementalDetokenizer(tokenizer)
        for number, token in enumerate(tokens):
            before = growing.text
            growing.add(token)
            assert growing.text.startswith(before)
            whole = tokenizer.decode(tokens[: number + 1], skip_special_tokens=True)
            assert whole == growing.whole()
            assert whole.startswith(growing.text)


STOPS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "inside": ("One two three four", ("three",), "One two "),
    "spanning tokens": ("One two three four", ("wo thr",), "One t"),
    "at the very end": ("One two three", ("three",), "One two "),
    "at the very beginning": ("One two three", ("One",), ""),
    "never": ("One two three", ("five", "threes"), "One two three"),
    "begun at the end and not finished": ("One two three", ("three four",), "One two three"),
    "the first of two": ("One two three four", ("four", "two"), "One "),
    "the longer one begins first": ("One two three four", ("two three", "three"), "One "),
    "a line": ("A\nB\n\nC", ("\n\n",), "A\nB"),
    "emoji": ("Fine 👍🏽 and 🚀 more", ("🚀",), "Fine 👍🏽 and "),
    "hindi": ("नमस्ते दुनिया, कैसे हो", ("दुनिया",), "नमस्ते "),
    "repeated beginning": ("aaaaab", ("aab",), "aaa"),
}


@pytest.mark.parametrize("name", STOPS)
def test_a_stop_string_ends_the_reply_and_is_never_shown(tokenizer: Any, name: str) -> None:
    text, stops, expected = STOPS[name]
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    states = written(tokenizer, tokens, Sampling(max_tokens=len(tokens), stop=stops))
    assert states[-1].text == expected
    assert states[-1].finish == ("length" if expected == text else "stop")
    for state in states:
        assert expected.startswith(state.text), "what may turn out to be a stop string is held back"


def test_what_was_held_back_comes_when_the_model_ends(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    tokens = [*tokenizer("One two", add_special_tokens=False)["input_ids"], end]
    states = written(tokenizer, tokens, Sampling(max_tokens=20, stop=("two three",)), (end,))
    assert states[-2].text == "One "
    assert (states[-1].text, states[-1].finish, states[-1].completion_tokens) == ("One two", "stop", len(tokens) - 1)


def test_half_a_character_at_the_end_is_told_as_the_tokenizer_tells_it(tokenizer: Any) -> None:
    tokens = tokenizer("🜁", add_special_tokens=False)["input_ids"]
    assert len(tokens) > 1
    state = written(tokenizer, tokens[:-1], Sampling(max_tokens=len(tokens) - 1))[-1]
    assert state.text == tokenizer.decode(tokens[:-1])


def test_an_end_is_passed_over_when_it_is_to_be_ignored(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    one, two = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("One", " two"))
    tokens = [*one, end, *two]
    assert written(tokenizer, tokens, Sampling(max_tokens=len(tokens)), (end,))[-1].text == "One"
    ignoring = written(tokenizer, tokens, Sampling(max_tokens=len(tokens), ignore_eos=True), (end,))[-1]
    assert (ignoring.text, ignoring.finish, ignoring.tokens) == ("One two", "length", tuple(tokens))


def test_a_reply_may_be_empty(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    state = written(tokenizer, [end], Sampling(), (end,))[-1]
    assert (state.text, state.finish, state.completion_tokens, state.first_token_s) == ("", "stop", 0, 0.0)


@pytest.fixture(scope="module")
def engine(path: str, tiny_base: Path) -> Engine:
    return Engine(tiny_base, hf=path == "hf")


def test_logprobs_are_the_models_own_whatever_the_sampling(engine: Engine, tiny_base: Path) -> None:
    model = load_base(tiny_base)
    rows = [
        Row("The report says", None, Sampling(max_tokens=6), logprobs=5),
        Row(
            "One",
            None,
            Sampling(max_tokens=9, temperature=1.2, top_p=0.8, top_k=40, repetition_penalty=1.3),
            logprobs=3,
        ),
        Row("Hello there, my order", None, Sampling(max_tokens=4, temperature=0.7), logprobs=0),
        Row("Hello there, my order", None, Sampling(max_tokens=4)),
    ]
    states = run(engine, rows)
    tokenizer = engine.loaded.tokenizer
    for row, state in zip(rows[:3], states[:3], strict=True):
        shares = at_once(model, tokenizer(row.prompt)["input_ids"], state.tokens)
        assert sum(there.logprob for there in state.logprobs) == pytest.approx(
            sum(float(shares[place, token]) for place, token in enumerate(state.tokens)), abs=1e-3
        )
        for place, (token, there) in enumerate(zip(state.tokens, state.logprobs, strict=True)):
            assert there.text == tokenizer.decode([token])
            assert there.logprob == pytest.approx(float(shares[place, token]), abs=1e-3)
            best = shares[place].topk(row.logprobs or 0)
            assert [value for _, value in there.top] == pytest.approx(best.values.tolist(), abs=1e-3)
            assert [text for text, _ in there.top] == [tokenizer.decode([i]) for i in best.indices.tolist()]
            assert [value for _, value in there.top] == sorted((value for _, value in there.top), reverse=True)
    assert states[3].logprobs == ()
