"""The Llama backend: every family it claims, rows that join and leave, chunks, prefixes, all against Hugging Face's own
forward."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from playground.engine.engine import Engine
from playground.engine.llama_backend import LlamaBackend
from playground.engine.llama_model import LlamaModel, unfit
from playground.engine.request import ROWS_MAX, AdapterFile, Row, RowState, Sampling
from playground.engine.scheduler import PREFILL_CHUNK, Scheduler

LONG = " ".join(f"word{number}" for number in range(150))


def tiny(family: str) -> Any:
    import transformers

    torch.manual_seed(0)
    common: dict[str, Any] = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
    }
    kinds = {
        "llama": ("LlamaConfig", {}),
        "llama3-rope": (
            "LlamaConfig",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 10000.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
        ),
        "llama-bias": ("LlamaConfig", {"attention_bias": True, "tie_word_embeddings": True}),
        "mistral": ("MistralConfig", {"sliding_window": None, "head_dim": 32}),
        "qwen2": ("Qwen2Config", {}),
        "qwen3": ("Qwen3Config", {"head_dim": 32}),
    }
    name, extra = kinds[family]
    config = getattr(transformers, name)(**common | extra)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", ["llama", "llama3-rope", "llama-bias", "mistral", "qwen2", "qwen3"])
def test_a_family_equals_hugging_face(family: str) -> None:
    from playground.engine.llama_model import Segment

    model = tiny(family)
    ids = [torch.randint(0, 128, (length,)).tolist() for length in (1, 7, 20)]
    with torch.no_grad():
        expected = [model(input_ids=torch.tensor([[*row, 5]])).logits[0, -2:] for row in ids]
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert unfit(model) == ""
    llama = LlamaModel(model)
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters()), (
        "stacking changes no value"
    )
    cache, adapters = llama.new_cache(), llama.new_adapter_slots()
    first = llama.prefill([Segment(0, ids[0], 0), Segment(1, ids[1][:3], 0), Segment(2, ids[2], 0)], cache, adapters)
    rest = llama.prefill([Segment(1, ids[1][3:], 3)], cache, adapters)
    adapters.select([None] * 3)
    then = llama.decode([5, 5, 5], [len(row) for row in ids], cache, adapters)
    for row, read in enumerate((first[0], rest[0], first[2])):
        assert (read - expected[row][0]).abs().max() < 1e-4
        assert (then[row] - expected[row][1]).abs().max() < 1e-4


@pytest.mark.parametrize(("family", "why"), [("GPT2Config", "gpt2"), ("GemmaConfig", "gemma")])
def test_another_family_takes_the_hf_backend_and_says_so(family: str, why: str) -> None:
    import transformers

    config = getattr(transformers, family)()
    assert why in unfit(type("Model", (), {"config": config})())


@pytest.fixture(scope="module")
def engine(tiny_base: Path, make_lora: Callable[..., Path]) -> Engine:
    built = Engine(tiny_base)
    for seed, rank in ((1, 2), (2, 4)):
        built.attach(AdapterFile(f"a{seed}", make_lora(seed, rank=rank), f"sha{seed}"))
    return built


@pytest.fixture(scope="module")
def reference(tiny_base: Path, make_lora: Callable[..., Path]) -> Engine:
    built = Engine(tiny_base, hf=True)
    for seed, rank in ((1, 2), (2, 4)):
        built.attach(AdapterFile(f"a{seed}", make_lora(seed, rank=rank), f"sha{seed}"))
    return built


def text(engine: Engine, row: Row) -> str:
    states: list[RowState] = []
    for states in engine.stream([row]):
        pass
    return states[0].text


def scheduler(engine: Engine) -> Scheduler:
    assert isinstance(engine.backend, LlamaBackend)
    return engine.backend.scheduler


def test_many_callers_share_the_batch_and_each_gets_its_own_reply(engine: Engine, reference: Engine) -> None:
    rows = [
        Row(f"Question {n}: {LONG[: 40 * n]}", (None, "a1", "a2")[n % 3], Sampling(max_tokens=5 + 3 * n))
        for n in range(9)
    ]
    expected = [text(reference, row) for row in rows]
    got: dict[int, str] = {}
    threads = [threading.Thread(target=lambda n=n: got.update({n: text(engine, rows[n])})) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [got[n] for n in range(9)] == expected
    engine.worker.run(lambda: None)  # the round that tells of the last reply has ended
    assert not scheduler(engine).busy


def test_a_prompt_longer_than_a_chunk_is_read_in_parts(engine: Engine, reference: Engine) -> None:
    row = Row(LONG, "a2", Sampling(max_tokens=6))
    assert len(engine.loaded.tokenizer(LONG)["input_ids"]) > PREFILL_CHUNK
    assert text(engine, row) == text(reference, row)


def test_the_same_prefix_is_read_once(engine: Engine, reference: Engine) -> None:
    before = scheduler(engine).cached_tokens
    rows = [Row(f"{LONG} Ending {n}", "a1", Sampling(max_tokens=4)) for n in range(4)]
    states: list[RowState] = []
    for states in engine.stream(rows):
        pass
    length = states[0].prompt_tokens
    assert scheduler(engine).cached_tokens - before >= 3 * (length - 10), "three of four were copied"
    assert [state.text for state in states] == [text(reference, row) for row in rows]
    again = scheduler(engine).cached_tokens
    text(engine, Row(f"{LONG} Ending 0", "a1", Sampling(max_tokens=4)))
    assert scheduler(engine).cached_tokens > again


def test_another_adapters_prefix_is_not_taken(engine: Engine, reference: Engine) -> None:
    prompt = "A beginning that only one adapter has read so far, and that is long enough to be worth a copy."
    text(engine, Row(prompt, "a1", Sampling(max_tokens=2)))
    before = scheduler(engine).cached_tokens
    row = Row(prompt, "a2", Sampling(max_tokens=8))
    assert text(engine, row) == text(reference, row)
    assert scheduler(engine).cached_tokens == before


def test_more_rows_than_places_are_written_as_places_come_free(engine: Engine, reference: Engine) -> None:
    rows = [
        Row(f"Question {n}", (None, "a1", "a2")[n % 3], Sampling(max_tokens=4 + n % 5, ignore_eos=True))
        for n in range(2 * ROWS_MAX + 5)
    ]
    expected = [text(reference, row) for row in rows]
    for one in (engine, reference):
        states: list[RowState] = []
        most = 0
        for states in one.stream(rows):
            most = max(most, sum(state.completion_tokens > 0 and not state.finish for state in states))
        assert [state.text for state in states] == expected
        assert 1 < most <= ROWS_MAX


def test_a_question_does_not_wait_for_all_that_were_asked_before_it(engine: Engine) -> None:
    many = engine.stream(
        [Row(f"Of many {n}", None, Sampling(max_tokens=40, ignore_eos=True)) for n in range(3 * ROWS_MAX)]
    )
    before = next(many)
    states: list[RowState] = []
    for states in engine.stream([Row("One", "a1", Sampling(max_tokens=3, ignore_eos=True))]):
        pass
    assert states[0].finish
    for before in many:
        break
    assert sum(not state.finish for state in before) > ROWS_MAX, "those that came first and wait still wait"
    many.close()


def test_stopping_one_leaves_the_others(engine: Engine, reference: Engine) -> None:
    endless = engine.stream([Row("Endless", None, Sampling(max_tokens=900))])
    next(endless)
    kept = engine.stream([Row("Kept", "a1", Sampling(max_tokens=12))])
    next(kept)
    endless.close()
    states: list[RowState] = []
    for states in kept:
        pass
    assert states[0].text == text(reference, Row("Kept", "a1", Sampling(max_tokens=12)))


def test_attaching_a_wider_adapter_or_detaching_does_not_touch_running_rows(
    engine: Engine, reference: Engine, make_lora: Callable[..., Path]
) -> None:
    row = Row("Running while others come and go", "a2", Sampling(max_tokens=60))
    stream = engine.stream([row])
    next(stream)
    engine.attach(AdapterFile("wide", make_lora(7, rank=16), "wide"))
    engine.detach("a2")
    other = text(engine, Row("Another", "wide", Sampling(max_tokens=3)))
    assert other
    states: list[RowState] = []
    for states in stream:
        pass
    assert states[0].text == text(reference, row)
    engine.attach(AdapterFile("a2", make_lora(2, rank=4), "sha2"))
    engine.detach("wide")


def test_a_prefix_is_taken_over_after_the_cache_has_grown(tiny_base: Path) -> None:
    """The cache grew inside a forward pass, and what came after could no longer write to it."""
    fresh = Engine(tiny_base)
    grown = text(fresh, Row("Grow the cache past its first room. " + LONG[:100], None, Sampling(max_tokens=300)))
    before = scheduler(fresh).cached_tokens
    again = text(fresh, Row("Grow the cache past its first room. " + LONG[:100], None, Sampling(max_tokens=300)))
    assert again == grown
    assert scheduler(fresh).cached_tokens > before


def test_rows_with_another_salt_neither_wait_for_nor_copy_what_was_read(tiny_base: Path) -> None:
    engine = Engine(tiny_base)
    prompt = "A prompt that is long enough to be kept for the next question, since it has more than sixteen tokens."
    list(engine.stream([Row(prompt, sampling=Sampling(max_tokens=3), cache_salt=name) for name in ("ann", "bob")]))
    assert scheduler(engine).cached_tokens == 0
    list(engine.stream([Row(prompt, sampling=Sampling(max_tokens=3), cache_salt="ann")] * 2))
    assert scheduler(engine).cached_tokens > 0
