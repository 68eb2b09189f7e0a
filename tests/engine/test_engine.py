"""The engine against PEFT and transformers, on the tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from playground.engine.engine import Engine
from playground.engine.request import AdapterFile, Row, RowState, Sampling
from playground.errors import AdapterError, InputError

PROMPTS = ["The report says", "Hello there, my order has not arrived and I would like to know", "One"]


@pytest.fixture(scope="module", params=["llama", "hf"])
def engine(request: pytest.FixtureRequest, tiny_base: Path) -> Engine:
    """Both paths keep the same promises."""
    built = Engine(tiny_base, hf=request.param == "hf")
    assert (built.path == "llama") is (request.param == "llama")
    return built


def attach(engine: Engine, folder: Path, name: str) -> str:
    engine.attach(AdapterFile(name, folder, name))
    return name


def run(engine: Engine, rows: list[Row]) -> list[RowState]:
    states: list[RowState] = []
    for states in engine.stream(rows):
        pass
    return states


def greedy_by_peft(base: Path, folder: Path | None, prompt: str, tokens: int) -> tuple[str, torch.Tensor]:
    """(text, logits of the prompt's last position) as PEFT and generate give them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if folder is not None:
        model = PeftModel.from_pretrained(model, folder)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, -1]
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True), logits


def logits_here(engine: Engine, prompt: str, adapter: str | None) -> torch.Tensor:
    return engine.backend.logits([engine.loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]], adapter)[0]


def test_a_mixed_batch_equals_peft_one_by_one(engine: Engine, tiny_base: Path, make_lora: Callable[..., Path]) -> None:
    folders = {"one": make_lora(1), "two": make_lora(2, rank=2), "three": make_lora(3, rank=8, use_rslora=True)}
    for name, folder in folders.items():
        attach(engine, folder, name)
    rows = [
        Row(PROMPTS[index % 3], name, Sampling(max_tokens=12))
        for index, name in enumerate([None, "one", "two", "three"])
    ]
    texts = [state.text for state in run(engine, rows)]
    for row, text in zip(rows, texts, strict=True):
        expected, logits = greedy_by_peft(tiny_base, folders.get(row.adapter or ""), row.prompt, 12)
        assert text == expected
        assert (logits_here(engine, row.prompt, row.adapter) - logits).abs().max() < 1e-3
    same_prompt = [run(engine, [Row(PROMPTS[1], name, Sampling(max_tokens=12))])[0].text for name in (None, *folders)]
    assert len(set(same_prompt)) == 4, "the adapters differ from each other and from the base"


def test_a_row_does_not_depend_on_its_neighbours(engine: Engine, make_lora: Callable[..., Path]) -> None:
    attach(engine, make_lora(1), "one")
    sampling = Sampling(temperature=0.9, top_p=0.9, max_tokens=10, seed=3)
    alone = run(engine, [Row(PROMPTS[0], "one", sampling)])[0].text
    together = run(
        engine, [Row(PROMPTS[1], None, Sampling(max_tokens=3)), Row(PROMPTS[0], "one", sampling), Row(PROMPTS[2])]
    )
    assert together[1].text == alone
    assert together[0].completion_tokens == 3
    assert together[0].finish == "length"


def test_the_same_seed_gives_the_same_reply_and_another_one_another(engine: Engine) -> None:
    replies = [
        run(engine, [Row(PROMPTS[0], None, Sampling(temperature=1.0, max_tokens=12, seed=seed))])[0].text
        for seed in (1, 1, 2)
    ]
    assert replies[0] == replies[1]
    assert replies[0] != replies[2]


def test_adapters_come_and_go_and_the_base_stays(engine: Engine, make_lora: Callable[..., Path]) -> None:
    before = run(engine, [Row(PROMPTS[0], None, Sampling(max_tokens=8))])[0].text
    for round_ in range(20):
        attach(engine, make_lora(10 + round_ % 2), f"passing{round_ % 3}")
        run(engine, [Row(PROMPTS[0], f"passing{round_ % 3}", Sampling(max_tokens=2))])
        engine.detach(f"passing{round_ % 3}")
    assert run(engine, [Row(PROMPTS[0], None, Sampling(max_tokens=8))])[0].text == before
    assert engine.check_fingerprint()[:2] == (engine.fingerprint, True)


def test_the_fingerprint_sees_a_changed_weight(tiny_base: Path) -> None:
    engine = Engine(tiny_base)
    assert engine.fingerprint
    engine.loaded.model.model.norm.weight.data[0] += 1
    assert engine.check_fingerprint()[1] is False


def test_a_replaced_adapter_answers_in_its_new_form(engine: Engine, make_lora: Callable[..., Path]) -> None:
    engine.attach(AdapterFile("changing", make_lora(21), "old"))
    old = run(engine, [Row(PROMPTS[1], "changing", Sampling(max_tokens=10))])[0].text
    assert engine.attach(AdapterFile("changing", make_lora(21), "old")) == 0.0
    engine.attach(AdapterFile("changing", make_lora(22), "new"))
    assert run(engine, [Row(PROMPTS[1], "changing", Sampling(max_tokens=10))])[0].text != old


def test_an_adapter_that_changes_nothing_is_flagged(engine: Engine, make_lora: Callable[..., Path]) -> None:
    attach(engine, make_lora(30, zero=True), "nothing")
    attach(engine, make_lora(31), "something")
    assert engine.has_no_effect("nothing")
    assert not engine.has_no_effect("something")


def test_another_bases_adapter_is_refused_and_nothing_changes(
    engine: Engine, tmp_path: Path, make_lora: Callable[..., Path]
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    other = LlamaForCausalLM(
        LlamaConfig(vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    )
    other.save_pretrained(tmp_path / "other")
    there = engine.attached()
    with pytest.raises(AdapterError, match="trained on another base"):
        attach(engine, make_lora(40, base=tmp_path / "other"), "foreign")
    assert engine.attached() == there


def test_a_prompt_that_does_not_fit_is_refused_in_words(engine: Engine) -> None:
    with pytest.raises(InputError, match="this base holds 1024"):
        run(engine, [Row("word " * 1200)])


def test_closing_the_stream_leaves_the_engine_ready(engine: Engine) -> None:
    stream = engine.stream([Row(PROMPTS[0])])
    next(stream)
    next(stream)
    stream.close()
    assert run(engine, [Row(PROMPTS[0], None, Sampling(max_tokens=2))])[0].completion_tokens == 2


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"temperature": 3}, {"top_p": 0}, {"max_tokens": 0}, {"seed": -1}]
)
def test_sampling_is_checked_when_built(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Sampling(**wrong)
