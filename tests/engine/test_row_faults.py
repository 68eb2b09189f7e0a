"""Whatever one row asks for, and whatever goes wrong in it, the others write what they write alone."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from playground.data.render import encode
from playground.engine.engine import Engine
from playground.engine.request import LOGPROBS_MAX, SEED_MAX, STOP_LENGTH, TOP_K_MAX, Row, Sampling
from playground.engine.scheduler import Scheduler
from playground.engine.sequence import Generation, Sampler
from playground.errors import InputError
from tests.engine.models import llama, run, save_base

PROMPT = "Hello there, my order"
PLAIN = Row(PROMPT, None, Sampling(max_tokens=12))
TINY = [5e-324, 1e-320, 1e-310, 1e-200, 1e-45, 1e-38, 1e-30, 1e-12, 1e-7, 1e-4]
EDGES: dict[str, list[Any]] = {
    "temperature": [*TINY, 0, 0.0, 1e-3, 0.5, 2, 2.0],
    "top_p": [*TINY, 0.5, 1 - 1e-16, 1 - 1e-9, 1, 1.0],
    "top_k": [0, 1, 2, TOP_K_MAX - 1, TOP_K_MAX],
    "repetition_penalty": [0.1, 1, 1 + 1e-16, 1 + 1e-9, 10, 10.0],
    "seed": [0, 1, SEED_MAX],
    "min_tokens": [0, 1, 3],
    "max_tokens": [3, 7],
    "ignore_eos": [False, True],
    "stop": [(), (" ",), ("\0",), ("\n", "a", "é", "👍🏽"), ("x" * STOP_LENGTH,) * 8, ("\ufffd",), ("\U0010ffff",)],
}


def hostile(draw: random.Random) -> Sampling:
    return Sampling(**{name: draw.choice(values) for name, values in EDGES.items()})


@pytest.fixture(scope="module")
def engine(path: str, tiny_base: Path) -> Engine:
    return Engine(tiny_base, hf=path == "hf")


def test_any_sampling_values_leave_the_row_beside_them_as_it_is_alone(engine: Engine) -> None:
    (alone,) = run(engine, [PLAIN])
    draw = random.Random(8)
    for _ in range(20):
        beside = [
            Row(PROMPT[: draw.randrange(1, 20)], None, hostile(draw), draw.choice([None, 0, LOGPROBS_MAX]))
            for _ in range(3)
        ]
        place = draw.randrange(4)
        states = run(engine, [*beside[:place], PLAIN, *beside[place:]])
        assert states[place].tokens == alone.tokens, beside
        for state in states:
            assert (state.finish in ("stop", "length"), state.fault) == (True, ""), beside
            assert all(0 <= token < engine.loaded.model.config.vocab_size for token in state.tokens)
            assert all(there.logprob <= 0 for there in state.logprobs)


@pytest.mark.parametrize("seed", range(8))
def test_any_logits_give_a_token_that_has_a_share_or_say_that_there_is_none(seed: int) -> None:
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for _ in range(60):
        logits = draw.choice([0.0, 1.0, 30.0, 1e5, 1e30, 3e38]) * torch.randn(300, generator=generator).clamp(-1, 1)
        for value in draw.sample([math.nan, math.inf, -math.inf, 3.4e38, -3.4e38], draw.randrange(3)):
            logits[draw.sample(range(300), draw.choice([1, 5, 300]))] = value
        sampling = hostile(draw)
        sound = bool(torch.isfinite(logits.max()))  # minus infinity only rules a token out
        try:
            token = Sampler(sampling, [1, 2, 299], (7,)).pick(logits)
        except FloatingPointError:
            # the penalty may take sound logits past the largest number there is
            assert not sound or (logits.abs().max() > 1e5), sampling
        else:
            assert sound, sampling
            assert 0 <= token < 300
            assert math.isfinite(float(logits[token]))


@pytest.mark.parametrize("value", TINY)
def test_a_temperature_next_to_nothing_is_greedy_and_so_is_such_a_top_p(value: float) -> None:
    logits = torch.tensor([0.0, 2.0, 1.999, -5.0])
    assert Sampling(temperature=value) == Sampling(), "and the stamp says so"
    for sampling in (Sampling(temperature=value, top_p=0.5), Sampling(temperature=2.0, top_p=value)):
        sampler = Sampler(sampling)
        assert [sampler.pick(logits) for _ in range(5)] == [1] * 5


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {name: value}
            for name in ("temperature", "top_p", "repetition_penalty")
            for value in (math.nan, math.inf, -math.inf, "1", None)
        ),
        *(
            {name: value}
            for name in ("max_tokens", "seed", "top_k", "min_tokens")
            for value in (1.5, math.nan, "1", None, 2**64)
        ),
        *({"top_p": 0.0}, {"temperature": -1e-320}, {"temperature": 3}, {"max_tokens": 0}, {"seed": -1}),
        *({"repetition_penalty": 0.0}, {"repetition_penalty": -1.0}, {"min_tokens": 129}),
        *({"stop": (text,)} for text in ("\ud800", "a\udfffb", 1, "")),
    ],
    ids=str,
)
def test_values_that_mean_nothing_are_refused_in_words(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Sampling(**wrong)


@pytest.mark.parametrize("prompt", ["\ud800", "Hello \udc00 there", ""])
def test_a_prompt_that_cannot_be_read_is_refused_before_it_joins(engine: Engine, prompt: str) -> None:
    (alone,) = run(engine, [PLAIN])
    stream = engine.stream([PLAIN])
    next(stream)
    with pytest.raises(InputError):
        run(engine, [Row(prompt)])
    assert list(stream)[-1][0].tokens == alone.tokens


def test_a_token_that_the_base_has_no_embedding_for_is_refused(tmp_path: Path, path: str) -> None:
    """Some bases come with a tokenizer that knows more tokens than the model."""
    engine = Engine(save_base("llama", tmp_path / "short", vocab_size=258, pad_token_id=None), hf=path == "hf")
    with pytest.raises(InputError, match="'<pad>', which the tokenizer knows and this base does not"):
        run(engine, [Row("One <pad>")])
    assert run(engine, [Row("One", None, Sampling(max_tokens=2))])[0].completion_tokens == 2


ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:113] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
)


class Tripping:
    """The base's tokenizer, which fails on one token; what it says is no secret."""

    def __init__(self, real: Any, on: int) -> None:
        self._real, self._on = real, on

    def decode(self, tokens: Any, **options: Any) -> str:
        if self._on in list(tokens):
            raise KeyError("a token that is not in the table")
        return str(self._real.decode(tokens, **options))


def test_what_fails_while_a_row_is_decoded_ends_that_row_alone(tiny_base: Path) -> None:
    engine = Engine(tiny_base)
    way = llama(engine)
    rows = [PLAIN, Row("The report says", None, Sampling(max_tokens=12)), Row(PROMPT, None, Sampling(max_tokens=9))]
    alone = [run(engine, [row])[0].tokens for row in rows]
    trips = next(token for token in alone[1] if token not in alone[0])
    tripping = Tripping(engine.loaded.tokenizer, trips)
    scheduler = Scheduler(way.model, tripping, (), engine.worker)
    prompts = [encode(engine.loaded.tokenizer, row.prompt) for row in rows]
    states = list(scheduler.submit(rows, prompts))[-1]
    assert [state.finish for state in states] == ["length", "error", "length"]
    assert [states[0].tokens, states[2].tokens] == [alone[0], alone[2]]
    assert "KeyError" in states[1].fault


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(ALLOCATOR)]
)
def test_memory_that_runs_out_is_the_batchs_affair(error: Exception) -> None:
    class Full(Tripping):
        def decode(self, tokens: Any, **options: Any) -> str:
            raise error

    writer = Generation(PLAIN, [1], Full(None, 0), ())
    with pytest.raises(type(error)):
        writer.sample(torch.tensor([0.0, 1.0]), 0.0)
