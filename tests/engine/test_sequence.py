"""From logits to a token, as transformers' processors have it; what a row writes; what fails in it fails alone."""

import math
import random
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from playground.data.render import encode
from playground.engine.engine import Engine
from playground.engine.request import LOGPROBS_MAX, SEED_MAX, STOP_LENGTH, TOP_K_MAX, Row, RowState, Sampling
from playground.engine.scheduler import Scheduler
from playground.engine.sequence import LIKELY, Generation, IncrementalDetokenizer, Sampler, draw, sample, shares
from tests.engine.models import at_once, llama, load_base, run, save_base
from tests.refused import refused

VOCABULARY = 1500
ENDS = (7, 3)
PROMPT = [5, 5, 9, 700, 1499]
SETTINGS = {
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
engine = pytest.fixture(lambda path, tiny_base: Engine(tiny_base, hf=path == "hf"), scope="module")


def pick(sampler, logits):
    (token,) = draw([sampler], logits[None])
    if isinstance(token, Exception):
        raise token
    return token


def feed(writer, logits, now_s):
    writer.add(*sample([writer], logits[None]), now_s)


def by_transformers(sampling, seen, drawn, logits):
    """Probabilities [vocabulary] as ``generate`` would have them."""
    import transformers as t

    steps = [t.RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty))]
    steps += [t.MinNewTokensLengthLogitsProcessor(len(seen) - drawn, sampling.min_tokens, list(ENDS), device="cpu")]
    steps += [t.TemperatureLogitsWarper(sampling.temperature)]
    steps += [t.TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    steps += [t.TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    scores = t.LogitsProcessorList(steps)(torch.tensor([seen]), logits.clone()[None])
    return scores[0].softmax(-1)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_shares_equal_those_of_transformers_at_every_step(name, spread):
    sampling = Sampling(**SETTINGS[name])
    sampler = Sampler(sampling, PROMPT, ENDS)
    generator = torch.Generator().manual_seed(0)
    seen = list(PROMPT)
    for drawn in range(6):
        logits = spread * torch.randn(VOCABULARY, generator=generator)
        before = logits.clone()
        expected = by_transformers(sampling, seen, drawn, logits)
        for blind in (False, True):
            (got,) = shares([sampler], logits[None], blind)
            assert (got - expected).abs().max() < 1e-5
            assert torch.equal(got > 0, expected > 0)
        token = pick(sampler, logits)
        assert expected[token] > 0
        assert torch.equal(logits, before), "the caller's logits stay as they are"
        seen.append(token)


def test_draws_follow_the_shares_and_greedy_takes_the_likeliest_after_the_penalty():
    assert torch.zeros(VOCABULARY).softmax(-1).topk(LIKELY).values.sum() < 0.99, "both ways of top-p are tried above"
    (equal,) = shares([Sampler(Sampling(temperature=1.0, top_k=2))], torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]]))
    assert equal.gt(0).tolist() == [True, True, True, True, False], "equal ones at the edge of top-k all stay"
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])
    sampler = Sampler(Sampling(temperature=1.0, top_p=0.9, seed=11))
    (expected,) = shares([sampler], logits[None])
    counts = torch.bincount(torch.tensor([pick(sampler, logits) for _ in range(4000)]), minlength=5) / 4000
    assert (counts - expected).abs().max() < 0.03
    assert counts[3] == 0, "what top-p left out is never drawn"
    logits = torch.tensor([1.0, 2.0, 1.9, -5.0])
    assert pick(Sampler(Sampling()), logits) == 1
    sampler = Sampler(Sampling(repetition_penalty=1.5))
    assert [pick(sampler, logits) for _ in range(3)] == [1, 2, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_same_seed_draws_the_same_tokens_whatever_the_others_do(dtype):
    generator = torch.Generator().manual_seed(1)
    steps = [torch.randn(VOCABULARY, generator=generator).to(dtype) for _ in range(8)]
    drawn = []
    for seed in (3, 3, 4):
        sampler = Sampler(Sampling(temperature=1.0, top_p=0.95, seed=seed))
        torch.manual_seed(seed * len(drawn))
        drawn.append([pick(sampler, logits) for logits in steps])
    assert drawn[0] == drawn[1] != drawn[2]


class Waits(TorchDispatchMode):
    """Counts what would make a host wait for its device, but for one ``tolist``."""

    count = 0

    def __torch_dispatch__(self, called, types, args=(), kwargs=None):
        name = called.overloadpacket._qualified_op_name.removeprefix("aten::")
        self.count += name in ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique")
        return called(*args, **(kwargs or {}))


def test_a_batch_draws_what_each_row_draws_alone_and_waits_for_its_device_once():
    """Every setting in one batch, with forms and without: on a card nothing may be read back before the tokens."""
    form = SimpleNamespace(broken=lambda: torch.arange(VOCABULARY + 9) % 3 == 0, take=lambda token, left: token)
    settings = [Sampling(), *(Sampling(**one, seed=n) for n, one in enumerate(SETTINGS.values())), Sampling()]
    for blind in (False, True):
        alone, together = (
            [Sampler(one, PROMPT, ENDS, None if n % 3 else form) for n, one in enumerate(settings)] for _ in "12"
        )
        generator, waits = torch.Generator().manual_seed(2), Waits()
        for _ in range(5):
            logits = 2.0 * torch.randn(len(settings), VOCABULARY, generator=generator)
            logits[-1, 5] = math.nan
            before = logits.clone()
            with waits:
                drawn = draw(together, logits, blind=blind)
            assert isinstance(drawn[-1], FloatingPointError)
            assert drawn[:-1] == [pick(one, row) for one, row in zip(alone[:-1], logits[:-1], strict=True)]
            assert torch.equal(logits[:-1], before[:-1]), "the caller's logits stay as they are"
        assert not blind or waits.count == 5 * (len(settings) - 2), (
            "the numbers that are drawn on the CPU, and nothing else"
        )


TEXTS = {
    "plain": "The order 1234 will arrive on Tuesday, we are sorry for the delay.",
    "emoji": "Great 👍🏽! A family 👨‍👩‍👧‍👦, a flag 🇮🇳, and a heart ❤️.",
    "hindi": "नमस्ते, आपका ऑर्डर कल पहुँच जाएगा। क्षमा करें!",
    "chinese": "您好，您的订单将于明天送达。感谢您的耐心等待！",
    "mixed": "naïve café — Ωμέγα, 日本語, עברית, emoji 🚀\n\tand  spaces   ",
    "rare": "𝕬𝖇 ﷽ 🜁 ꙮ \u200b\u200d end",
}


@pytest.fixture(scope="module")
def tokenizer(tiny_base):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base)


def written(tokenizer, tokens, sampling, ends=()):
    """A row that is made to draw these tokens; its state after each, until it is done."""
    writer = Generation(Row("", None, sampling), [1, 2, 3], tokenizer, ends)
    states = []
    for number, token in enumerate(tokens):
        logits = torch.zeros(len(tokenizer))
        logits[token] = 30.0
        feed(writer, logits, float(number))
        states.append(replace(writer.state))
        if writer.state.finish:
            break
    return states


def test_growing_text_equals_the_whole_decode_on_random_tokens(tokenizer):
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


STOPS = {
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
    **{name: (text, (), text) for name, text in TEXTS.items()},
}


@pytest.mark.parametrize("name", STOPS)
def test_growing_text_is_always_a_beginning_of_what_it_ends_as_and_a_stop_string_is_never_shown(tokenizer, name):
    text, stops, expected = STOPS[name]
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    states = written(tokenizer, tokens, Sampling(max_tokens=len(tokens), stop=stops))
    assert (states[-1].text, states[-1].finish) == (expected, ("length" if expected == text else "stop"))
    for before, state in pairwise([RowState(), *states]):
        assert expected.startswith(state.text), "what may turn out to be a stop string is held back"
        assert state.text.startswith(before.text), "what has been shown stays"
        assert state.completion_tokens == before.completion_tokens + 1


def test_a_reply_ends_with_the_model_and_says_all_that_was_held_back(tokenizer):
    end = tokenizer.eos_token_id
    one, two, half = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("One", " two", "🜁"))

    def last(tokens, **sampling):
        state = written(tokenizer, tokens, Sampling(**{"max_tokens": len(tokens)} | sampling), (end,))[-1]
        assert state.first_token_s == 0.0
        return state.text, state.finish, state.completion_tokens

    kept = {"max_tokens": 20, "stop": ("two three",)}
    assert written(tokenizer, [*one, *two], Sampling(**kept), (end,))[-1].text == "One "
    assert last([*one, *two, end], **kept) == ("One two", "stop", len(one + two))
    tokens = [*one, end, *two]
    assert last(tokens) == ("One", "stop", len(one))
    assert last(tokens, ignore_eos=True) == ("One two", "length", len(tokens))
    assert last([end]) == ("", "stop", 0), "a reply may be empty"
    assert len(half) > 1
    assert last(half[:-1])[0] == tokenizer.decode(half[:-1]), "half a character, as the tokenizer tells it"


def test_logprobs_are_the_models_own_whatever_the_sampling(engine, tiny_base):
    model = load_base(tiny_base)
    hot = Sampling(max_tokens=9, temperature=1.2, top_p=0.8, top_k=40, repetition_penalty=1.3)
    rows = [
        Row("The report says", None, Sampling(max_tokens=6), logprobs=5),
        Row("One", None, hot, logprobs=3),
        Row("Hello there, my order", None, Sampling(max_tokens=4, temperature=0.7), logprobs=0),
        Row("Hello there, my order", None, Sampling(max_tokens=4)),
    ]
    states = run(engine, rows)
    tokenizer = engine.loaded.tokenizer
    for row, state in zip(rows[:3], states[:3], strict=True):
        shares = at_once(model, tokenizer(row.prompt)["input_ids"], state.tokens)
        for place, (token, there) in enumerate(zip(state.tokens, state.logprobs, strict=True)):
            assert there.text == tokenizer.decode([token])
            assert there.logprob == pytest.approx(float(shares[place, token]), abs=1e-3)
            best = shares[place].topk(row.logprobs or 0)
            assert [value for _, value in there.top] == pytest.approx(best.values.tolist(), abs=1e-3)
            assert [text for text, _ in there.top] == [tokenizer.decode([i]) for i in best.indices.tolist()]
    assert states[3].logprobs == ()


# -- faults ------------------------------------------------------------------------------------------------------------

HELLO = "Hello there, my order"
PLAIN = Row(HELLO, None, Sampling(max_tokens=12))
TINY = [5e-324, 1e-320, 1e-310, 1e-200, 1e-45, 1e-38, 1e-30, 1e-12, 1e-7, 1e-4]
EDGES = {
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


def hostile(draw):
    return Sampling(**{name: draw.choice(values) for name, values in EDGES.items()})


def test_any_sampling_values_leave_the_row_beside_them_as_it_is_alone(engine):
    (alone,) = run(engine, [PLAIN])
    draw = random.Random(8)
    for _ in range(20):
        prompts, counts = (HELLO[: draw.randrange(1, 20)] for _ in range(3)), (None, 0, LOGPROBS_MAX)
        beside = [Row(prompt, None, hostile(draw), draw.choice(counts)) for prompt in prompts]
        place = draw.randrange(4)
        states = run(engine, [*beside[:place], PLAIN, *beside[place:]])
        assert states[place].tokens == alone.tokens, beside
        for state in states:
            assert (state.finish in ("stop", "length"), state.fault) == (True, ""), beside
            assert all(0 <= token < engine.loaded.model.config.vocab_size for token in state.tokens)
            assert all(there.logprob <= 0 for there in state.logprobs)


@pytest.mark.parametrize("seed", range(8))
def test_any_logits_give_a_token_that_has_a_share_or_say_that_there_is_none(seed):
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for _ in range(60):
        logits = draw.choice([0.0, 1.0, 30.0, 1e5, 1e30, 3e38]) * torch.randn(300, generator=generator).clamp(-1, 1)
        for value in draw.sample([math.nan, math.inf, -math.inf, 3.4e38, -3.4e38], draw.randrange(3)):
            logits[draw.sample(range(300), draw.choice([1, 5, 300]))] = value
        sampling = hostile(draw)
        sound = bool(torch.isfinite(logits.max()))  # minus infinity only rules a token out
        try:
            token = pick(Sampler(sampling, [1, 2, 299], (7,)), logits)
        except FloatingPointError:
            # the penalty may take sound logits past the largest number there is
            assert not sound or (logits.abs().max() > 1e5), sampling
        else:
            assert sound, sampling
            assert 0 <= token < 300
            assert math.isfinite(float(logits[token]))


@pytest.mark.parametrize("value", TINY)
def test_a_temperature_next_to_nothing_is_greedy_and_so_is_such_a_top_p(value):
    logits = torch.tensor([0.0, 2.0, 1.999, -5.0])
    assert Sampling(temperature=value) == Sampling(), "and the stamp says so"
    for sampling in (Sampling(temperature=value, top_p=0.5), Sampling(temperature=2.0, top_p=value)):
        sampler = Sampler(sampling)
        assert [pick(sampler, logits) for _ in range(5)] == [1] * 5


NO_NUMBERS, NOT_WHOLE = (math.nan, math.inf, -math.inf, "1", None), (1.5, math.nan, "1", None, 2**64)
WRONG = {
    "temperature": (*NO_NUMBERS, -1e-320, 3),
    "top_p": (*NO_NUMBERS, 0.0),
    "repetition_penalty": (*NO_NUMBERS, 0.0, -1.0),
    **{"max_tokens": (*NOT_WHOLE, 0), "seed": (*NOT_WHOLE, -1), "top_k": NOT_WHOLE, "min_tokens": (*NOT_WHOLE, 129)},
    "stop": (("\ud800",), ("a\udfffb",), (1,), ("",)),
}


@pytest.mark.parametrize("name", WRONG)
def test_values_that_mean_nothing_are_refused_in_words(name):
    for value in WRONG[name]:
        refused("", Sampling, **{name: value})


@pytest.mark.parametrize("prompt", ["\ud800", "Hello \udc00 there", ""])
def test_a_prompt_that_cannot_be_read_is_refused_before_it_joins(engine, prompt):
    (alone,) = run(engine, [PLAIN])
    stream = engine.stream([PLAIN])
    next(stream)
    refused("", run, engine, [Row(prompt)])
    assert list(stream)[-1][0].tokens == alone.tokens


def test_a_token_that_the_base_has_no_embedding_for_is_refused(tmp_path, path):
    """Some bases come with a tokenizer that knows more tokens than the model."""
    engine = Engine(save_base("llama", tmp_path / "short", vocab_size=258, pad_token_id=None), hf=path == "hf")
    refused("'<pad>', which the tokenizer knows and this base does not", run, engine, [Row("One <pad>")])
    assert run(engine, [Row("One", None, Sampling(max_tokens=2))])[0].completion_tokens == 2


ALLOCATOR = "[enforce fail at alloc_cpu.cpp:113] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 B."


class Failing:
    """Another's, which fails on some tokens; its template writes nothing."""

    chat_template = ""

    def __init__(self, real, fails):
        self._real, self._fails = real, fails

    def apply_chat_template(self, turns, **options):
        return ""

    def __call__(self, text, **options):
        return {"input_ids": []}

    def decode(self, tokens, **options):
        if (error := self._fails(list(tokens))) is not None:
            raise error
        return str(self._real.decode(tokens, **options))


def test_what_fails_while_a_row_is_decoded_ends_that_row_alone(tiny_base):
    engine = Engine(tiny_base)
    way = llama(engine)
    rows = [PLAIN, Row("The report says", None, Sampling(max_tokens=12)), Row(HELLO, None, Sampling(max_tokens=9))]
    alone = [run(engine, [row])[0].tokens for row in rows]
    trips = next(token for token in alone[1] if token not in alone[0])
    tripping = Failing(engine.loaded.tokenizer, lambda tokens: KeyError(trips) if trips in tokens else None)
    scheduler = Scheduler(way.model, tripping, (), engine.worker)
    prompts = [encode(engine.loaded.tokenizer, row.prompt) for row in rows]
    states = list(scheduler.submit(rows, prompts))[-1]
    assert [state.finish for state in states] == ["length", "error", "length"]
    assert [states[0].tokens, states[2].tokens] == [alone[0], alone[2]]
    assert "KeyError" in states[1].fault


def test_memory_that_runs_out_is_the_batchs_affair_and_whoever_sees_a_replys_end_sees_all_of_its_text(engine):
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(ALLOCATOR)):
        writer = Generation(PLAIN, [1], Failing(None, lambda tokens, error=error: error), ())
        refused("", feed, writer, torch.tensor([0.0, 1.0]), 0.0, error=type(error))
    ends = []
    real = engine.loaded.tokenizer
    writer = Generation(Row("", None, Sampling(max_tokens=1)), [1], Failing(real, lambda _: ends.append(seen())), ())

    def seen():
        return writer.state.finish

    feed(writer, torch.tensor([0.0, 1.0]), 0.0)
    assert set(ends) == {""}, "what is decoded last is not in the text yet"
    assert writer.state.finish == "length"


def test_whoever_waits_for_the_end_is_woken_for_begin_and_end_alone(engine):
    sampling = Sampling(max_tokens=60, ignore_eos=True)
    patient = [states[0] for states in engine.stream([Row("Once", None, sampling, pace_s=3600.0)])]
    assert len(patient) <= 3 or engine.path != "llama"  # there whoever waits computes
    *_, often = engine.stream([Row("Once", None, sampling)])
    assert patient[-1].tokens == often[0].tokens
    assert patient[-1].finish == "length"
